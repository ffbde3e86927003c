"""The manifest of a bundle: what its files are, what the model was made from, how it ranks.

A bundle is a folder ``<root>/<epoch>/`` of plain arrays (``.npy``, never pickled), two JSON files, one ONNX
graph and ``manifest.json``, which names every file with its SHA-256. Nothing else may lie in the folder.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from udfs.model.refusal import BundleRefused

FORMAT = 1
MANIFEST = "manifest.json"
RANKER = "ranker.onnx"
NATIVE_RANKER = "ranker.ubj"  # the trees as the trainer keeps them, for explanations; workers do not read it
ITEM_IDS = "item_ids.json"
CATEGORY_NAMES = "category_names.json"
NEIGHBOURS_PER_ITEM = 50
NPROBE = 16  # of 2 sqrt(n) lists: found .95 to .98 of the true 80 best of a made-up shop
MAX_DIMENSION = 64  # what the user state holds

# name -> dtype, shape in n items, d dimensions, z neighbours, m canary rows, f features, c cells
ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "item_hashes": ("<u8", ("n",)),
    "factors": ("<f4", ("n", "d")),
    "gram": ("<f4", ("d", "d")),
    "categories": ("<u4", ("n",)),
    "prices": ("<f4", ("n",)),
    "popularity": ("<f4", ("n",)),
    "trending": ("<f4", ("n",)),
    "neighbour_offsets": ("<i8", ("n+1",)),
    "neighbour_rows": ("<i4", ("z",)),
    "neighbour_scores": ("<f4", ("z",)),
    "rebuy_days": ("<f4", ("n",)),
    "repeat_rate": ("<f4", ("n",)),
    "canary_features": ("<f4", ("m", "f")),
    "canary_scores": ("<f4", ("m",)),
}
MAY_BE_NAN = frozenset({"prices", "rebuy_days"})  # nan: not known
# Inverted lists of a large catalogue: all three or none.
LIST_ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ivf_centroids": ("<f4", ("c", "d")),
    "ivf_offsets": ("<i8", ("c+1",)),
    "ivf_rows": ("<i4", ("n",)),
}
# What devices have learnt of items that go together: all three or none.
DEVICE_ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "device_offsets": ("<i8", ("n+1",)),
    "device_rows": ("<i4", ("y",)),
    "device_scores": ("<f4", ("y",)),
}
# What is said of the items, and who is like whom by it (v terms, e components, x links): all and the terms, or none.
CONTENT_ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "content_idf": ("<f4", ("v",)),
    "content_components": ("<f4", ("v", "e")),
    "content_vectors": ("<f4", ("n", "e")),
    "content_offsets": ("<i8", ("n+1",)),
    "content_rows": ("<i4", ("x",)),
    "content_scores": ("<f4", ("x",)),
}
CONTENT_TERMS = "content_terms.json"
# A network that reads what users did last (w items, h wide, q canaries of l items): all and the graph, or none.
SEQUENCE_ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sequence_rows": ("<i4", ("w",)),
    "sequence_vectors": ("<f4", ("w", "h")),
    "sequence_canary_tokens": ("<i8", ("q", "l")),
    "sequence_canary_lengths": ("<i4", ("q",)),
    "sequence_canary_states": ("<f4", ("q", "h")),
}
SEQUENCE = "sequence.onnx"
# What followed an item (r rules): all or none.
RULE_ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rule_offsets": ("<i8", ("n+1",)),
    "rule_rows": ("<i4", ("r",)),
    "rule_scores": ("<f4", ("r",)),
}
ALL_ARRAYS = ARRAYS | LIST_ARRAYS | DEVICE_ARRAYS | CONTENT_ARRAYS | SEQUENCE_ARRAYS | RULE_ARRAYS
REQUIRED_FILES = frozenset({f"{name}.npy" for name in ARRAYS} | {RANKER, ITEM_IDS, CATEGORY_NAMES})
LIST_FILES = frozenset(f"{name}.npy" for name in LIST_ARRAYS)
DEVICE_FILES = frozenset(f"{name}.npy" for name in DEVICE_ARRAYS)
CONTENT_FILES = frozenset({f"{name}.npy" for name in CONTENT_ARRAYS} | {CONTENT_TERMS})
SEQUENCE_FILES = frozenset({f"{name}.npy" for name in SEQUENCE_ARRAYS} | {SEQUENCE})
RULE_FILES = frozenset(f"{name}.npy" for name in RULE_ARRAYS)
PART_FILES = (LIST_FILES, DEVICE_FILES, CONTENT_FILES, SEQUENCE_FILES, RULE_FILES)
"""Each of them is in a bundle as a whole or not at all."""
KNOWN_FILES = REQUIRED_FILES.union(*PART_FILES, {NATIVE_RANKER})
DEVICE_SETTINGS = ("weight_devices", "share_devices")
"""Left out of a manifest without a table of devices, which is so the same as before there was one."""
CONTENT_SETTINGS = ("weight_content", "share_content")
"""Left out of a manifest without a vocabulary."""
SEQUENCE_SETTINGS = ("weight_sequence", "share_sequence")
"""Left out of a manifest without a network."""
RULE_SETTINGS = ("weight_rules", "share_rules")
"""Left out of a manifest without rules."""
_SETTINGS_OF_PARTS = (
    (DEVICE_FILES, DEVICE_SETTINGS),
    (CONTENT_FILES, CONTENT_SETTINGS),
    (SEQUENCE_FILES, SEQUENCE_SETTINGS),
    (RULE_FILES, RULE_SETTINGS),
)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How this model retrieves and blends; training may choose them, so they stand in the manifest.

    The first stage is a linear blend of the sources' scores by their weights,
    each score scaled to [0, 1] within a user's candidates (see `udfs.ranking.first_stage`).
    """

    weight_embedding: float = 0.35
    weight_neighbours: float = 0.35
    weight_repeat: float = 0.20
    weight_sessions: float = 0.30
    weight_trending: float = 0.06
    weight_popular: float = 0.04
    weight_devices: float = 0.0
    weight_content: float = 0.0
    weight_sequence: float = 0.0
    weight_rules: float = 0.0
    share_embedding: float = 0.30  # of the candidates each source may bring
    share_neighbours: float = 0.20
    share_repeat: float = 0.10
    share_sessions: float = 0.20
    share_trending: float = 0.10  # the rest comes from the most popular
    share_devices: float = 0.0
    share_content: float = 0.0
    share_sequence: float = 0.0
    share_rules: float = 0.0
    learnt_sessions: int = (
        0  # 1: the session source's order and scores are those of the ranker learnt in the stream
    )
    reserve: int = 4  # best of each source that reach the ranker whatever the blend says
    reserve_new: int = 0  # finalists at least that the user has not had
    nprobe: int = NPROBE  # inverted lists searched, for a bundle with inverted lists
    fold_in_alpha: float = 10.0  # implicit ALS: confidence = 1 + alpha * weight
    fold_in_regularization: float = 0.05

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"settings.{entry.name}: wanted a finite number, got {value!r}")
            if value < 0:
                raise ValueError(f"settings.{entry.name}: wanted zero or more, got {value!r}")
        shares = (
            self.share_embedding,
            self.share_neighbours,
            self.share_repeat,
            self.share_sessions,
            self.share_trending,
            self.share_devices,
            self.share_content,
            self.share_sequence,
            self.share_rules,
        )
        if sum(shares) > 1.0 + 1e-9:
            raise ValueError("settings.share_*: together at most 1, so that popular items fill the rest")
        if self.nprobe < 1 or self.fold_in_regularization <= 0:
            raise ValueError("settings: nprobe at least 1 and fold_in_regularization above 0")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size and SHA-256 (hex) of one file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json`, parsed.

    `data` says what the model was trained on (hash, rows, cut), `metrics` what it reached, `canary` how its
    known answers were made; all three are for people and are kept as written.
    """

    epoch: int
    model_version: str
    created_ms: int
    feature_names: tuple[str, ...]
    feature_list_hash: str
    files: Mapping[str, FileEntry]
    items: int
    dimension: int
    settings: ModelSettings = field(default_factory=ModelSettings)
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    canary: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the file's bytes: sorted keys, so that equal manifests have equal hashes."""
        tree = dataclasses.asdict(self) | {"format": FORMAT}
        for files, names in _SETTINGS_OF_PARTS:
            if not self.files.keys() >= files:
                for name in names:
                    del tree["settings"][name]
        return (json.dumps(tree, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


_TYPES: dict[str, type] = {
    "epoch": int,
    "model_version": str,
    "created_ms": int,
    "feature_names": list,
    "feature_list_hash": str,
    "files": dict,
    "items": int,
    "dimension": int,
    "settings": dict,
    "data": dict,
    "metrics": dict,
    "canary": dict,
}


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest; every field is required and no other is taken.

    Raises
    ------
    BundleRefused
        ``format`` for another version, ``manifest`` for anything else.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleRefused("manifest", f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise BundleRefused("manifest", f"{MANIFEST} must be an object, got {type(tree).__name__}")
    written = tree.pop("format", None)
    if type(written) is not int or written != FORMAT:
        raise BundleRefused(
            "format", f"{MANIFEST}: this code reads format {FORMAT}, got {written!r}; train again"
        )
    if set(tree) != set(_TYPES):
        wrong = sorted(set(tree) ^ set(_TYPES))
        raise BundleRefused("manifest", f"{MANIFEST}: fields missing or unknown: {', '.join(wrong)}")
    for name, wanted in _TYPES.items():
        if type(tree[name]) is not wanted:
            got = type(tree[name]).__name__
            raise BundleRefused("manifest", f"{MANIFEST}: {name} must be {wanted.__name__}, got {got}")
    if tree["epoch"] < 0 or tree["items"] < 1 or not 1 <= tree["dimension"] <= MAX_DIMENSION:
        raise BundleRefused(
            "manifest", f"{MANIFEST}: epoch, items or dimension (1 to {MAX_DIMENSION}) out of range"
        )
    try:
        files = {name: _file_entry(entry) for name, entry in tree.pop("files").items()}
        settings = ModelSettings(**tree.pop("settings"))
        names = tuple(str(name) for name in tree.pop("feature_names"))
    except (TypeError, ValueError, KeyError) as error:
        raise BundleRefused("manifest", f"{MANIFEST}: {error}") from error
    return Manifest(files=files, settings=settings, feature_names=names, **tree)


def _file_entry(entry: Any) -> FileEntry:
    result = FileEntry(**entry)
    if not isinstance(result.sha256, str) or type(result.size_bytes) is not int or result.size_bytes < 0:
        raise ValueError(f"files: wanted a SHA-256 and a size, got {entry!r}")
    return result
