"""A model bundle: opened only when every byte of it is what training wrote and scores as training scored."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udfs.model.bundle_checks import CANARY_TOLERANCE, check_arrays, check_canary
from udfs.model.items import ItemArrays
from udfs.model.manifest import (
    ARRAYS,
    CATEGORY_NAMES,
    CONTENT_ARRAYS,
    CONTENT_FILES,
    CONTENT_TERMS,
    DEVICE_ARRAYS,
    DEVICE_FILES,
    FORMAT,
    ITEM_IDS,
    KNOWN_FILES,
    LIST_ARRAYS,
    LIST_FILES,
    MANIFEST,
    PART_FILES,
    RANKER,
    REQUIRED_FILES,
    RULE_ARRAYS,
    RULE_FILES,
    SEQUENCE,
    SEQUENCE_ARRAYS,
    SEQUENCE_FILES,
    Manifest,
    ModelSettings,
    parse_manifest,
)
from udfs.model.refusal import REASONS, BundleRefused
from udfs.model.signature import SIGNATURE, SIGNATURE_BYTES, check_signature
from udfs.ranking.content_table import ContentTable, ItemContent
from udfs.ranking.content_vocabulary import ContentVocabulary
from udfs.ranking.features import FEATURE_LIST_HASH, FEATURE_NAMES, N_FEATURES
from udfs.ranking.inverted_lists import InvertedLists
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.onnx_ranker import OnnxRanker
from udfs.ranking.onnx_session import PROVIDERS
from udfs.ranking.sequence_network import SequenceArrays, open_network

__all__ = [
    "CANARY_TOLERANCE",
    "FORMAT",
    "REASONS",
    "Bundle",
    "BundleLimits",
    "BundleRefused",
    "ModelSettings",
]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """How large and how slow a bundle may be before it is refused."""

    manifest_bytes: int = 4 << 20
    ranker_bytes: int = 64 << 20
    total_bytes: int = 4 << 30
    canary_s: float = 2.0  # for all canary rows; some thousand times what trees need


@dataclass(frozen=True)
class Bundle:
    """One epoch of the model, verified.

    Parameters
    ----------
    path
        The folder it was read from.
    manifest, manifest_sha256
        What it says of itself, and the hash of exactly those bytes.
    items
        The items with what retrieval and features need.
    ranker
        The learned ranker.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str
    items: ItemIndex
    ranker: OnnxRanker

    @property
    def epoch(self) -> int:
        """The epoch that snapshots name."""
        return self.manifest.epoch

    @property
    def model_version(self) -> str:
        """The version that lists name."""
        return self.manifest.model_version

    @classmethod
    def open(
        cls,
        path: Path | str,
        expected_sha256: str | None = None,
        *,
        trusted_keys: Sequence[str] = (),
        limits: BundleLimits | None = None,
        clock: Callable[[], float] | None = None,
        providers: tuple[str, ...] = PROVIDERS,
    ) -> "Bundle":
        """Read and verify a bundle.

        Parameters
        ----------
        path
            The folder ``<root>/<epoch>``.
        expected_sha256
            The manifest's hash that the pointer named; None takes any, which only offline work should.
        trusted_keys
            Public keys, as hexadecimal digits: one of them must have signed the manifest. None: anything goes.
        limits
            What is too large or too slow.
        clock
            Seconds, e.g. `time.monotonic`; None does not measure the canary's time.
        providers
            ONNX Runtime's execution providers in order of preference.

        Raises
        ------
        BundleRefused
            With the first reason found. Nothing of the bundle is used before all checks passed.
        """
        folder = Path(path)
        limits = limits or BundleLimits()
        text = _read(folder / MANIFEST, limits.manifest_bytes)
        sha256 = hashlib.sha256(text).hexdigest()
        if expected_sha256 is not None and sha256 != expected_sha256:
            raise BundleRefused(
                "hash", f"{folder / MANIFEST}: wanted SHA-256 {expected_sha256}, got {sha256}"
            )
        check_signature(trusted_keys, text, _read_signature(folder / SIGNATURE))
        manifest = parse_manifest(text)
        _check_features(manifest)
        _check_files(folder, manifest, limits)
        has_lists = manifest.files.keys() >= LIST_FILES
        has_devices = manifest.files.keys() >= DEVICE_FILES
        has_content = manifest.files.keys() >= CONTENT_FILES
        has_sequence = manifest.files.keys() >= SEQUENCE_FILES
        has_rules = manifest.files.keys() >= RULE_FILES
        parts = (
            (LIST_ARRAYS, has_lists),
            (DEVICE_ARRAYS, has_devices),
            (CONTENT_ARRAYS, has_content),
            (SEQUENCE_ARRAYS, has_sequence),
            (RULE_ARRAYS, has_rules),
        )
        present = [*ARRAYS, *(name for names, there in parts if there for name in names)]
        arrays = {name: _load(folder / f"{name}.npy", name) for name in present}
        ids = _load_json(folder / ITEM_IDS, list)
        names = _load_json(folder / CATEGORY_NAMES, dict)
        terms = _load_json(folder / CONTENT_TERMS, list) if has_content else []
        check_arrays(arrays, ids, names, manifest, terms)
        ranker = OnnxRanker((folder / RANKER).read_bytes(), N_FEATURES, providers)
        check_canary(ranker, arrays["canary_features"], arrays["canary_scores"], limits.canary_s, clock)
        network = None
        if has_sequence:
            network = open_network(
                (folder / SEQUENCE).read_bytes(),
                SequenceArrays(*(arrays[name] for name in SEQUENCE_ARRAYS)),
                manifest.items,
                providers,
            )
        items = ItemArrays(
            item_ids=ids,
            category_names={int(key): name for key, name in names.items()},
            **{name: arrays[name] for name in ITEM_ARRAYS},
        )
        ivf = InvertedLists(*(arrays[name] for name in LIST_ARRAYS)) if has_lists else None
        index = ItemIndex.build(
            items,
            manifest.settings,
            item_hashes=arrays["item_hashes"],
            gram=arrays["gram"],
            ivf=ivf,
            devices=ItemLinks(*(arrays[name] for name in DEVICE_ARRAYS)) if has_devices else None,
            content=_content(terms, arrays) if has_content else None,
            sequence=network,
            rules=ItemLinks(*(arrays[name] for name in RULE_ARRAYS)) if has_rules else None,
        )
        return cls(folder, manifest, sha256, index, ranker)


ITEM_ARRAYS = tuple(name for name in ARRAYS if name in ItemArrays.__dataclass_fields__)


def _content(terms: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> ItemContent:
    idf, components, vectors, *links = (arrays[name] for name in CONTENT_ARRAYS)
    table = ContentTable.of(ItemLinks(*links))
    return ItemContent(ContentVocabulary.of(terms, idf, components), vectors, table)


def _check_features(manifest: Manifest) -> None:
    if manifest.feature_list_hash == FEATURE_LIST_HASH and manifest.feature_names == FEATURE_NAMES:
        return
    differ = sorted(set(manifest.feature_names) ^ set(FEATURE_NAMES))
    raise BundleRefused(
        "features",
        f"this code computes feature list {FEATURE_LIST_HASH[:12]}, the model was trained on "
        f"{manifest.feature_list_hash[:12]} (differing names: {', '.join(differ) or 'none'}); train again",
    )


def _check_files(folder: Path, manifest: Manifest, limits: BundleLimits) -> None:
    """Compare names, sizes and hashes of the folder with the manifest."""
    named = set(manifest.files)
    if named - KNOWN_FILES:
        raise BundleRefused("extra_file", f"{MANIFEST} names unknown files: {sorted(named - KNOWN_FILES)}")
    in_part = any(named & group not in (frozenset(), group) for group in PART_FILES)
    if REQUIRED_FILES - named or in_part:
        raise BundleRefused("missing_file", f"{MANIFEST} does not name: {sorted(KNOWN_FILES - named)}")
    found = {entry.name for entry in folder.iterdir()} - {MANIFEST, SIGNATURE}
    if found - named:
        raise BundleRefused("extra_file", f"{folder}: not in the manifest: {sorted(found - named)}")
    if named - found:
        raise BundleRefused(
            "missing_file", f"{folder}: named in the manifest but not there: {sorted(named - found)}"
        )
    sizes = {name: (folder / name).stat().st_size for name in sorted(named)}
    total = sum(sizes.values())
    if total > limits.total_bytes or max(sizes[RANKER], sizes.get(SEQUENCE, 0)) > limits.ranker_bytes:
        raise BundleRefused(
            "too_large", f"{folder}: {total} bytes, of them {sizes[RANKER]} {RANKER}; {limits}"
        )
    for name in sorted(named):
        entry = manifest.files[name]
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise BundleRefused("extra_file", f"{folder / name}: not a plain file")
        if sizes[name] != entry.size_bytes:
            raise BundleRefused(
                "hash", f"{folder / name}: wanted {entry.size_bytes} bytes, got {sizes[name]}"
            )
        got = file_sha256(folder / name)
        if got != entry.sha256:
            raise BundleRefused("hash", f"{folder / name}: wanted SHA-256 {entry.sha256}, got {got}")


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 as hex, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(limit_bytes + 1)
    except OSError as error:
        raise BundleRefused("manifest", f"{path}: cannot be read ({error.strerror})") from error
    if len(text) > limit_bytes:
        raise BundleRefused("too_large", f"{path}: more than {limit_bytes} bytes")
    return text


def _read_signature(path: Path) -> bytes | None:
    return _read(path, SIGNATURE_BYTES) if path.exists() else None


def _load(path: Path, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        if path.stat().st_size <= 256:  # an array without rows cannot be mapped
            try:
                return np.asarray(np.load(path, allow_pickle=False))
            except (ValueError, OSError, EOFError):
                pass
        raise BundleRefused("shape", f"{path}: {name} is not a plain array: {error}") from error
    return np.asarray(array)


def _load_json(path: Path, wanted: type) -> Any:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleRefused("ids", f"{path}: not JSON: {error}") from error
    if not isinstance(value, wanted):
        raise BundleRefused("ids", f"{path}: wanted a {wanted.__name__}, got {type(value).__name__}")
    return value
