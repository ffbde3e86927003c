"""What each feature adds to a score of the trees, exactly: from the native ranker that lies in a bundle.

Source: Lundberg, Erion and Lee, "Consistent individualized feature attribution for tree ensembles", arXiv 1802.03888
(TreeSHAP), as XGBoost computes it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import xgboost

from udfs.model.bundle import Bundle
from udfs.model.manifest import NATIVE_RANKER


class TreeContributions:
    """The trees of one bundle.

    Parameters
    ----------
    native
        As `xgboost.Booster.save_raw` gave it.
    """

    def __init__(self, native: bytes) -> None:
        self._booster = xgboost.Booster()
        self._booster.load_model(bytearray(native))
        self._booster.set_param({"nthread": 1})

    @classmethod
    def of(cls, bundle: Bundle) -> TreeContributions | None:
        """Return those of a bundle; None where it was trained without a native ranker.

        Raises
        ------
        ValueError
            For a file that is no longer what the manifest names.
        """
        entry = bundle.manifest.files.get(NATIVE_RANKER)
        if entry is None:
            return None
        native = (bundle.path / NATIVE_RANKER).read_bytes()
        if hashlib.sha256(native).hexdigest() != entry.sha256:
            raise ValueError(f"{bundle.path / NATIVE_RANKER}: wanted SHA-256 {entry.sha256}, got another")
        return cls(native)

    def __call__(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return what each feature adds to the score of each row, and the base last.

        Parameters
        ----------
        rows
            float32 (n, F)

        Returns
        -------
        float64 (n, F + 1)
            A row's sum is its score within 1e-5.
        """
        table = xgboost.DMatrix(rows, nthread=1)
        found = self._booster.predict(table, pred_contribs=True)
        return np.asarray(found, np.float64)
