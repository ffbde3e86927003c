"""The demo's model: trained once, and kept in the cache for the next run and the next state home."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from flink_jobs.settings import Model, Settings
from tailrace.model_epochs import open_as_worker
from udfs.model.manifest import MANIFEST
from udfs.model.refusal import BundleRefused


def ensure_bundle(
    settings: Settings,
    data: Path,
    file_sha256: str,
    cut_ms: int,
    until: str,
    tell: Callable[[str, float], None],
) -> tuple[int, str]:
    """Give the epoch of a bundle learnt from this file until this day, and where it came from.

    Returns
    -------
    epoch
        Its folder stands under `model.root`.
    origin
        `present`, `cache` or `trained`.
    """
    root = settings.model.root
    for path in sorted(root.glob("[0-9]*"), key=lambda path: -int(path.name) if path.name.isdigit() else 0):
        if _is_of(path, file_sha256, cut_ms):
            return int(path.name), "present"
    cache = settings.stack.cache.expanduser() / "models" / f"{file_sha256[:16]}-{until}"
    for path in sorted(cache.glob("[0-9]*")):
        if not (root / path.name).exists() and _is_of(path, file_sha256, cut_ms):
            _copy(path, root / path.name)
            return int(path.name), "cache"
    taken = [int(path.name) for path in root.glob("[0-9]*") if path.name.isdigit()]
    epoch = max(taken, default=0) + 1
    _train(settings, data, until, epoch, tell)
    shutil.rmtree(cache, ignore_errors=True)
    _copy(root / str(epoch), cache / str(epoch))
    return epoch, "trained"


def _train(
    settings: Settings, data: Path, until: str, epoch: int, tell: Callable[[str, float], None]
) -> None:
    from flink_jobs.first_ranking import rank_nobody
    from flink_jobs.rank_settings import rank_settings
    from model_export.train import train
    from tailrace.commands.train import train_settings
    from udfs.model.bundle import Bundle
    from udfs.ranking.catalogue import CatalogueView

    now_ms = time.time_ns() // 1_000_000
    train(
        train_settings(settings),
        data,
        until,
        epoch,
        root=settings.model.root,
        created_ms=now_ms,
        tell=tell,
    )
    bundle = Bundle.open(settings.model.root / str(epoch))
    rank_nobody(bundle, CatalogueView(bundle), rank_settings(settings))  # workers load what this compiles


def _is_of(path: Path, file_sha256: str, cut_ms: int) -> bool:
    """Tell whether a bundle was learnt from these data and serves under this release."""
    try:
        learnt = json.loads((path / MANIFEST).read_bytes())["data"]
        if (learnt.get("file_sha256"), learnt.get("cut_ms")) != (file_sha256, cut_ms):
            return False
        open_as_worker(Model(root=path.parent), int(path.name))
    except (OSError, ValueError, KeyError, BundleRefused):
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    building = target.with_name(f".copy-{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, building)
    building.rename(target)
