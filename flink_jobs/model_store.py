"""The model bundles that one process holds: the two epochs asked for last, each verified when it was opened."""

from __future__ import annotations

import gc
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from flink_jobs.list_columns import BundleTexts
from flink_jobs.settings import Model
from udfs.item_factors import ItemFactors
from udfs.model.bundle import Bundle, BundleRefused
from udfs.ranking.onnx_ranker import NotFiniteScoreError

HELD = 2
RETRY_S = 5.0
Made = TypeVar("Made")


class _Held(NamedTuple):
    bundle: Bundle
    texts: BundleTexts


def open_epoch(model: Model, epoch: int) -> Bundle:
    """Open `<root>/<epoch>/` with every check that a worker makes.

    Raises
    ------
    BundleRefused
        Also for a bundle of another epoch: lists would name that one.
    """
    path = model.root / str(epoch)
    bundle = Bundle.open(path, trusted_keys=model.trusted_keys, clock=time.monotonic)
    if bundle.epoch != epoch:
        raise BundleRefused(
            "manifest",
            f"{path}: wanted epoch {epoch} as the folder says, got {bundle.epoch}; "
            f"move the bundle to {model.root / str(bundle.epoch)}, or train epoch {epoch}",
        )
    return bundle


class ModelStore:
    """Bundles by epoch, from `<root>/<epoch>/`.

    A bundle that is refused is not looked at again for `RETRY_S`, so that a bad one costs nothing on the hot
    path; the others keep serving.
    """

    def __init__(self, settings: Model) -> None:
        self._settings = settings
        self._bundles: OrderedDict[int, _Held] = OrderedDict()
        self._grown: dict[int, _Held] = {}
        self._refused: dict[int, tuple[float, str]] = {}

    def bundle(self, epoch: int) -> Bundle | None:
        """Give the bundle of an epoch, opened and verified once; None when it is refused or missing."""
        held = self._hold(epoch)
        return None if held is None else held.bundle

    def factors(self, epoch: int) -> ItemFactors | None:
        """Give the item factors of an epoch for folding in users; None when there is no such bundle."""
        held = self._hold(epoch)
        return None if held is None else held.bundle.items.factors

    def refusal(self, epoch: int) -> str | None:
        """Tell why an epoch cannot serve, looked at within the last `RETRY_S`; None when it can."""
        return None if self._hold(epoch) is not None else self._refused[epoch][1]

    def held(self) -> list[int]:
        """Give the epochs held, the one used last at the end."""
        return list(self._bundles)

    def texts(self, bundle: Bundle) -> BundleTexts:
        """Give the texts of a held bundle, or of one that grew by items that arrived (`CatalogueView.grown`)."""
        held = self._bundles[bundle.epoch]
        if held.bundle.items is bundle.items:
            return held.texts
        grown = self._grown.get(bundle.epoch)
        if grown is None or grown.bundle.items is not bundle.items:
            grown = _Held(bundle, BundleTexts.of(bundle))
            kept = {epoch: one for epoch, one in self._grown.items() if epoch in self._bundles}
            self._grown = {**kept, bundle.epoch: grown}
        return grown.texts

    def newest_held(self) -> Bundle | None:
        """Give the bundle used last, the one to fall back to."""
        return next(reversed(self._bundles.values())).bundle if self._bundles else None

    def rank_with(self, epoch: int, rank: Callable[[Bundle], Made]) -> Made | None:
        """Rank with an epoch, or, when it is refused or its scores are no numbers, with the one that served before.

        A bundle whose scores are no numbers is never used again by this process: it would end the job, or be shown.

        Parameters
        ----------
        rank
            Makes lists with a bundle.

        Returns
        -------
        What `rank` made; None where no bundle is left.
        """
        while (bundle := self.bundle(epoch) or self.newest_held()) is not None:
            try:
                return rank(bundle)
            except NotFiniteScoreError as error:
                self._bundles.pop(bundle.epoch)
                self._refused[bundle.epoch] = (math.inf, f"scores: {error}")
        return None

    def unfit(self) -> dict[int, str]:
        """Tell of every epoch whose scores were no numbers, and where."""
        return {epoch: reason for epoch, (until_s, reason) in self._refused.items() if until_s == math.inf}

    def _hold(self, epoch: int) -> _Held | None:
        held = self._bundles.get(epoch)
        if held is not None:
            self._bundles.move_to_end(epoch)
            return held
        again_s, _ = self._refused.get(epoch, (-math.inf, ""))
        if time.monotonic() < again_s:
            return None
        try:
            bundle = open_epoch(self._settings, epoch)
        except BundleRefused as refused:
            self._refused[epoch] = (time.monotonic() + RETRY_S, str(refused))
            return None
        self._bundles[epoch] = held = _Held(bundle, BundleTexts.of(bundle))
        while len(self._bundles) > HELD:
            self._bundles.popitem(last=False)
        # What is loaded now stays; the collector need not walk it again in the middle of a batch.
        gc.collect()
        gc.freeze()
        return held
