"""Bundles on disk, their pointers in recs.models.v1, and what the rank workers say they hold."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flink_jobs.model_views import write_items, write_model_views
from flink_jobs.settings import Model, Settings
from schemas import topics
from schemas.codec import Codec
from schemas.records import Item, ModelPointer
from schemas.redis_keys import MODEL_CURRENT, MODEL_WORKERS
from schemas.refusal import Refused
from tailrace.connections import store
from tailrace.errors import UserError
from tailrace.topic_scan import Record, TopicReader
from udfs.model.manifest import MANIFEST
from udfs.model.refusal import BundleRefused

if TYPE_CHECKING:
    from udfs.model.bundle import Bundle

MODELS, ITEMS = topics.MODELS.name, topics.ITEMS.name


@dataclass(frozen=True)
class BundleOnDisk:
    """One folder under `model.root`.

    Parameters
    ----------
    refusal
        Why it cannot serve; None: it can.
    metrics, data
        As its manifest says; empty when that cannot be read.
    """

    epoch: int
    path: Path
    model_version: str
    created_ms: int
    items: int
    refusal: str | None
    metrics: dict[str, Any]
    data: dict[str, Any]


def bundles_on_disk(model: Model) -> list[BundleOnDisk]:
    """Open every bundle under `model.root` as a worker would, and tell what came of it, lowest epoch first."""
    folders = [path for path in model.root.glob("*") if path.is_dir() and path.name.isdigit()]
    return [_look_at(model, path) for path in sorted(folders, key=lambda path: int(path.name))]


def open_bundle(settings: Settings, epoch: int) -> Bundle:
    """Open the bundle of an epoch.

    Raises
    ------
    UserError
        TR-350 when there is none, TR-351 with the reason when it is refused.
    """
    path = settings.model.root / str(epoch)
    if not path.is_dir():
        known = [bundle.name for bundle in sorted(settings.model.root.glob("[0-9]*")) if bundle.is_dir()]
        raise UserError(
            "TR-350",
            f"epoch {epoch}: there is no bundle {path}; there is {', '.join(known) or 'none'}",
            "it was not trained here, or model.root names another folder",
            "tailrace models ls; tailrace train",
        )
    try:
        return open_as_worker(settings.model, epoch)
    except BundleRefused as refused:
        raise UserError(
            "TR-351",
            f"epoch {epoch}: refused: {refused}",
            "not what training wrote, other features than this release computes, or not signed by a trusted key",
            "tailrace train, which writes the next epoch; tailrace models sign, if the reason is its signature",
        ) from refused


def open_as_worker(model: Model, epoch: int) -> Bundle:
    """Open a bundle with every check that a worker makes; `BundleRefused` says why not."""
    # Kernels and ONNX Runtime: a second that other commands need not wait.
    from flink_jobs.model_store import open_epoch

    return open_epoch(model, epoch)


def _look_at(model: Model, path: Path) -> BundleOnDisk:
    version, created_ms, items, metrics, data = "", 0, 0, {}, {}
    refusal: str | None = None
    try:
        tree = json.loads((path / MANIFEST).read_bytes())
        version, created_ms, items = tree["model_version"], tree["created_ms"], tree["items"]
        metrics, data = tree["metrics"], tree["data"]
        open_as_worker(model, int(path.name))
    except BundleRefused as refused:
        refusal = str(refused)
    except (OSError, ValueError, KeyError, TypeError) as error:
        refusal = f"{MANIFEST}: {error!r}"
    return BundleOnDisk(int(path.name), path, version, created_ms, items, refusal, metrics, data)


def pointer_of(bundle: Bundle, action: str, created_ms: int) -> ModelPointer:
    """Give the record that tells of a bundle."""
    return ModelPointer(
        bundle.model_version,
        bundle.epoch,
        str(bundle.path.resolve()),
        hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest(),
        created_ms,
        action,
    )


def read_pointers(settings: Settings) -> list[ModelPointer]:
    """Give what recs.models.v1 holds, oldest first."""
    with TopicReader(settings, MODELS) as reader:
        return decode_pointers(reader.read_all(), Codec(settings.kafka.schema_ids))


def decode_pointers(records: Iterable[Record], codec: Codec) -> list[ModelPointer]:
    """Give the pointers among the records, in their order."""
    pointers = []
    for record in records:
        try:
            pointers.append(codec.decode("ModelPointer", record.value))
        except Refused:
            continue
    return pointers  # type: ignore[return-value]


def activations(pointers: Sequence[ModelPointer]) -> list[ModelPointer]:
    """Give the activations, oldest first, repeats of the same epoch in a row as one."""
    history: list[ModelPointer] = []
    for pointer in pointers:
        if pointer.action == "activate" and (not history or history[-1].epoch != pointer.epoch):
            history.append(pointer)
    return history


def active_epoch(settings: Settings) -> int | None:
    """Give the epoch activated last by the topic; by Redis where the topic cannot be read; None for none."""
    try:
        return serving_epoch(settings)
    except UserError:
        return None


def serving_epoch(settings: Settings) -> int | None:
    """Give the same, where somebody can tell.

    Raises
    ------
    UserError
        Of the topic, as TR-300, where Redis cannot be asked either.
    """
    untold: UserError | None = None
    try:
        history = activations(read_pointers(settings))
        if history:
            return history[-1].epoch
    except UserError as error:
        untold = error
    try:
        with store(settings) as client:
            epoch = client.hget(MODEL_CURRENT, "epoch")
    except UserError:
        if untold is not None:
            raise untold from None
        return None
    return None if epoch is None else int(epoch)


class WorkerSays(NamedTuple):
    """What one rank worker last wrote to `model:workers`."""

    worker: str
    epochs: tuple[int, ...]
    refused: dict[int, str]
    active: int
    at_ms: int
    unknown_items: int = 0


def workers(client: Any) -> list[WorkerSays]:
    """Give what every worker says; workers that died without leaving are among them, with an old `at_ms`."""
    found = []
    for name, text in client.hgetall(MODEL_WORKERS).items():
        says = json.loads(text)
        found.append(
            WorkerSays(
                _text(name),
                tuple(says.get("epochs", ())),
                {int(epoch): reason for epoch, reason in says.get("refused", {}).items()},
                int(says.get("active", 0)),
                int(says["at_ms"]),
                int(says.get("unknown_items", 0)),
            )
        )
    return sorted(found)


def unknown_items(settings: Settings) -> int:
    """Give how many records of items found no place in a worker, in that with the most; 0 where none can be asked."""
    try:
        with store(settings) as client:
            return max((worker.unknown_items for worker in workers(client)), default=0)
    except UserError:
        return 0


def wait_for_workers(
    client: Any,
    epoch: int,
    wanted: int,
    since_ms: int,
    timeout_s: float,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[WorkerSays]:
    """Wait until `wanted` workers said after `since_ms` that they hold an epoch.

    Raises
    ------
    UserError
        TR-352 with the reason when one refuses, TR-353 when they do not answer in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        fresh = [worker for worker in workers(client) if worker.at_ms >= since_ms]
        for worker in fresh:
            if epoch in worker.refused:
                raise UserError(
                    "TR-352",
                    f"epoch {epoch}: worker {worker.worker} refuses it: {worker.refused[epoch]}",
                    "the worker sees other files than this command, or runs another release",
                    "copy the bundle again to the workers' model.root, then promote it again",
                )
        holding = [worker for worker in fresh if epoch in worker.epochs]
        progress(min(len(holding), wanted), wanted)
        if len(holding) >= wanted:
            return holding
        if time.monotonic() > deadline_s:
            raise UserError(
                "TR-353",
                f"epoch {epoch}: {len(holding)} of {wanted} rank workers hold it after {timeout_s:.0f} s",
                "the job does not run, or its workers cannot read model.root",
                "tailrace status; tailrace logs; or promote with --no-wait",
            )
        time.sleep(0.1)


def wait_until_active(client: Any, epoch: int, since_ms: int, timeout_s: float) -> bool:
    """Wait until a worker ranked with the epoch; False when none did in time."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if any(worker.active == epoch and worker.at_ms >= since_ms for worker in workers(client)):
            return True
        time.sleep(0.1)
    return False


def write_views(
    settings: Settings, client: Any, bundle: Bundle, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write the bundle's views, then what the catalogue topic says of its items; give the keys written."""
    items, names = bundle.items, bundle.items.category_names
    keys = write_model_views(
        client,
        item_ids=items.item_ids,
        categories=[names.get(category, "") for category in items.columns.category.tolist()],
        prices=items.prices,
        # As in the file: the index keeps logarithms.
        trending=np.load(bundle.path / "trending.npy", allow_pickle=False),
        neighbour_offsets=items.columns.neighbour_offsets,
        neighbour_rows=items.columns.neighbour_rows,
        neighbour_scores=items.columns.neighbour_scores,
        current={
            "epoch": bundle.epoch,
            "model_version": bundle.model_version,
            "manifest_sha256": bundle.manifest_sha256,
            "since_ms": time.time_ns() // 1_000_000,
        },
        hash_tags=settings.redis.hash_tags,
        cluster=settings.redis.cluster,
        progress=progress,
    )
    return keys + write_items(
        client,
        read_catalogue(settings),
        hash_tags=settings.redis.hash_tags,
        cluster=settings.redis.cluster,
    )


def read_catalogue(settings: Settings) -> list[Item]:
    """Give every item of recs.items.v1 as published last."""
    codec = Codec(settings.kafka.schema_ids)
    items: dict[tuple[str, str], Item] = {}
    with TopicReader(settings, ITEMS) as reader:
        for record in reader.read_all():
            try:
                item = codec.decode("Item", record.value)
            except Refused:
                continue
            assert isinstance(item, Item)
            items[item.tenant, item.item_id] = item
    return list(items.values())


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
