"""Why a bundle may not serve."""

REASONS = (
    "manifest",  # missing, not JSON, a field missing or of the wrong type
    "format",  # written by another version of the format
    "missing_file",
    "extra_file",
    "hash",  # a file, or the manifest itself, is not what was signed
    "signature",  # none, or by a key that is not trusted here
    "too_large",
    "features",  # another feature list than this code computes
    "operators",  # an ONNX operator, function or part outside the allow-list
    "external_data",  # ONNX weights in another file
    "shape",
    "order",  # item hashes or neighbour offsets not ascending
    "ids",  # an item id that does not hash to its row
    "not_finite",
    "ranker",  # ONNX Runtime cannot load or run it
    "canary",  # scores differ from those of training
    "too_slow",
)


class BundleRefused(ValueError):  # noqa: N818 - a refusal is the outcome of a check, as `Refused` is
    """A bundle that must not serve.

    Parameters
    ----------
    reason
        One of `REASONS`; a metric's label.
    detail
        Where, wanted, got.
    """

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}, known: {REASONS}")
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
