"""Making an epoch serve: checked here, loaded by every worker, acknowledged, and only then switched to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from flink_jobs.settings import Settings
from schemas.codec import encode
from schemas.records import Control, ModelPointer
from tailrace import model_epochs
from tailrace.connections import control_producer, publish, store
from tailrace.errors import ExitCode, UserError
from tailrace.experiment_orders import order_running, read_running
from tailrace.stack.flink import flink_rest

if TYPE_CHECKING:
    from udfs.model.bundle import Bundle

Say = Callable[[str], None]


class Activated(NamedTuple):
    """What an activation did.

    Parameters
    ----------
    workers
        How many said that they hold the epoch; 0 with `wait=False`.
    serving
        A worker has ranked with it. False: nobody was ranked since; the next list will be made with it.
    """

    epoch: int
    model_version: str
    manifest_sha256: str
    workers: int
    serving: bool
    views: int
    seconds: float


def send_order(settings: Settings, kind: str, epoch: int | None = None, reason: str = "") -> int:
    """Send an order to every shard, and give its offset in recs.control.v1."""
    offsets: list[int] = []
    with control_producer(settings, lambda delivery: offsets.append(delivery.offset)) as producer:
        producer.send(Control("", kind, None, None, epoch, None, 0, reason))
    return offsets[-1]


def publish_pointer(settings: Settings, bundle: Bundle, action: str) -> ModelPointer:
    """Tell of a bundle in recs.models.v1."""
    pointer = model_epochs.pointer_of(bundle, action, time.time_ns() // 1_000_000)
    # The topic is compacted and must keep every activation: a rollback looks for the one before.
    publish(settings, model_epochs.MODELS, [(f"{pointer.created_time}/{pointer.epoch}", encode(pointer))])
    return pointer


def activate(
    settings: Settings,
    epoch: int,
    *,
    wait: bool = True,
    timeout_s: float = 60.0,
    serving_timeout_s: float = 7.0,
    say: Say = lambda line: None,
    progress: Callable[[int, int], None] | None = None,
) -> Activated:
    """Make an epoch serve.

    Parameters
    ----------
    wait
        For the acknowledgement of `job.parallelism` workers before the switch, and for the first list after.
    say
        Called with a line for each step.
    progress
        Called with keys done and in all while the views are written.

    Raises
    ------
    UserError
        When the bundle is refused, here or by a worker: then nothing was switched.
    """
    began_s = time.monotonic()
    bundle = model_epochs.open_bundle(settings, epoch)
    say(f"epoch {epoch} ({bundle.model_version}): {bundle.manifest.items:,} items, verified")
    if wait:
        require_job(settings)
    known = [pointer for pointer in model_epochs.read_pointers(settings) if pointer.epoch == epoch]
    if not known or known[-1].manifest_sha256 != bundle.manifest_sha256:
        publish_pointer(settings, bundle, "publish")
    holding = 0
    with store(settings) as client:
        if wait:
            holding = preload(settings, client, epoch, timeout_s)
            say(f"{holding} of {settings.job.parallelism} rank workers hold it")
        since_ms = time.time_ns() // 1_000_000
        send_order(settings, "activate_epoch", epoch)
        publish_pointer(settings, bundle, "activate")
        _drop_promoted_epoch(settings, epoch)
        say("activated; writing similar items, trending and item features")
        views = model_epochs.write_views(settings, client, bundle, progress)
        serving = wait and model_epochs.wait_until_active(client, epoch, since_ms, serving_timeout_s)
    took_s = time.monotonic() - began_s
    return Activated(epoch, bundle.model_version, bundle.manifest_sha256, holding, serving, views, took_s)


def _drop_promoted_epoch(settings: Settings, epoch: int) -> None:
    """End an epoch that an experiment has promoted: it would stand above the one that is activated."""
    running = read_running(settings)
    if "epoch" in running.promoted:
        order_running(settings, running.without_epoch(), f"epoch {epoch} is activated")


def preload(settings: Settings, client: Any, epoch: int, timeout_s: float) -> int:
    """Have every rank worker load an epoch, and give how many said that they hold it.

    Raises
    ------
    UserError
        TR-352 when one refuses it, TR-353 when they do not answer in time.
    """
    since_ms = time.time_ns() // 1_000_000
    send_order(settings, "preload_epoch", epoch)
    wanted = settings.job.parallelism
    return len(model_epochs.wait_for_workers(client, epoch, wanted, since_ms, timeout_s))


def require_job(settings: Settings) -> None:
    """Refuse to wait for a job that does not run; a JobManager that cannot be asked is no reason.

    Raises
    ------
    UserError
        TR-354.
    """
    overview = flink_rest(settings, "/jobs/overview")
    over = ("FINISHED", "CANCELED", "FAILED")
    if overview is not None and not any(
        job["name"] == "recommend" and job["state"] not in over for job in overview["jobs"]
    ):
        raise UserError(
            "TR-354",
            "the recommend job does not run, so no worker can load the epoch",
            "it was not submitted, or it ended",
            "tailrace submit recommend; or promote with --no-wait, to be obeyed when it starts",
            ExitCode.NOT_RUNNING,
        )


def former_epoch(pointers: list[ModelPointer], wanted: int | None = None) -> int:
    """Give an epoch that was active before the one that is.

    Parameters
    ----------
    pointers
        What recs.models.v1 holds.
    wanted
        Which; None: the one before this.

    Raises
    ------
    UserError
        TR-355 when there was none, or that one never served.
    """
    history = [pointer.epoch for pointer in model_epochs.activations(pointers)]
    if wanted is None and len(history) > 1:
        return history[-2]
    if wanted in history:
        return wanted  # type: ignore[return-value]
    asked = "there is no earlier epoch" if wanted is None else f"epoch {wanted} never served: nothing"
    raise UserError(
        "TR-355",
        f"{asked} to go back to",
        f"recs.models.v1 tells of {len(history)} activations: {', '.join(map(str, history)) or 'none'}",
        "tailrace models ls; tailrace models gate EPOCH; tailrace models promote EPOCH",
    )
