"""What `tailrace demo` does, step by step; the display is the command's."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient

from clients.reader import Recommendations
from flink_jobs.settings import Settings
from schemas.redis_keys import MODEL_CURRENT, MODEL_WORKERS, stats_key
from schemas.topics import EVENTS
from tailrace import flink_client, model_switch
from tailrace.commands.replay import publish_catalogue, read_file
from tailrace.connections import QUIET, ensure_topics, reader, store
from tailrace.demo_choice import choose_customer
from tailrace.demo_clicks import LIST_WITHIN_S, Tell, tell_story
from tailrace.demo_model import ensure_bundle
from tailrace.doctor.machine import check_machine
from tailrace.errors import ExitCode, UserError
from tailrace.event_replay import choose, moment_ms, replay, shift_to
from tailrace.job_counts import sum_counts
from tailrace.model_epochs import activations, read_pointers
from tailrace.stack.local import LocalStack
from tailrace.topic_scan import TopicReader

DATA = Path(__file__).resolve().parent.parent / "datasets" / "online-retail" / "online_retail.parquet"
CUT = "2011-11-01"
CAUGHT_UP_WITHIN_S = 180.0
STALLED_S = 60.0
WORKERS_WITHIN_S = 120.0


@dataclass
class Memory:
    """What an earlier demo left in this Kafka, in `<stack.home>/demo.json`.

    Parameters
    ----------
    cluster
        Kafka's own id: another broker holds none of it.
    sent
        Events of the shop sent so far, from the cut on.
    shift_ms
        By which they were moved to now.
    catalogue
        The items were published.
    runs
        Demos that came to their end.
    job_id
        Of the recommend job that a demo submitted last.
    """

    cluster: str = ""
    data: str = ""
    sent: int = 0
    shift_ms: int | None = None
    catalogue: bool = False
    runs: int = 0
    job_id: str = ""


class Demo:
    """The steps, in their order; each may be repeated, and does only what is missing.

    Parameters
    ----------
    events
        At most this many of the shop's events after the cut; None: all.
    """

    def __init__(self, settings: Settings, config: Path | None, events: int | None = None) -> None:
        self.settings = settings
        self.config = config
        self.limit = events
        self.stack = LocalStack(settings)
        self.epoch = 0
        self.submitted = False
        self.memory = Memory()
        self._memory_file = self.stack.home / "demo.json"

    def check(self, tell: Tell) -> str:
        """Look for what would make a later step fail."""
        for finding in check_machine(self.settings):
            if finding.severity == "error":
                raise UserError(
                    finding.number, finding.what, finding.cause, finding.fix, ExitCode.ENVIRONMENT
                )
        if not DATA.is_file():
            raise UserError(
                "TR-370", f"{DATA} is missing", "the demo runs in a clone of the repository", "git checkout ."
            )
        return "Java, store, ports, disk and memory will do"

    def start(self, tell: Tell) -> str:
        """Bring the stack up."""
        started = self.stack.up(progress=lambda line: tell(line, None))
        return "Kafka, the store and Flink run" if started else "was running"

    def topics(self, tell: Tell) -> str:
        """Create the topics and find out what an earlier demo left in them."""
        # The shop's weeks are older than what topics keep by default, and a job must be able to read them again.
        reports = ensure_topics(self.settings, retention_ms=-1)
        created = sum(report.state == "created" for report in reports)
        servers = self.settings.kafka.bootstrap_servers
        cluster = AdminClient({"bootstrap.servers": servers, **QUIET}).list_topics(timeout=10).cluster_id
        self.memory = self._recall(str(cluster))
        return f"{created} created" if created else "there"

    def read(self, tell: Tell) -> str:
        """Read the shop's file."""
        tell("a gift shop's invoices", None)
        log, self.items = read_file(DATA, None, True)
        self.file_sha256 = log.file_sha256
        self.log = choose(log, from_ms=moment_ms(CUT), limit=self.limit)
        self.customer = choose_customer(self.log)
        return f"{len(log):,} purchases, {len(self.log):,} of them from {CUT} on; {len(self.items):,} items"

    def model(self, tell: Tell) -> str:
        """Train on what lies before the cut, or take the bundle that was trained before."""
        self.epoch, origin = ensure_bundle(
            self.settings,
            DATA,
            self.file_sha256,
            moment_ms(CUT),
            CUT,
            lambda phase, share: tell(phase, share),
        )
        words = {"present": "trained before", "cache": "from the cache", "trained": f"trained until {CUT}"}
        return f"epoch {self.epoch}, {words[origin]}"

    def job(self, tell: Tell) -> str:
        """Submit the recommend job if it does not run, from where the demo's last one ended."""
        target = flink_client.local_jobmanager(self.settings)
        running = list(flink_client.running_jobs(target, "recommend"))
        if running:
            self.memory.job_id = running[0]
            return "was running"
        checkpoint = self._last_checkpoint()
        if checkpoint is not None:
            try:
                return f"goes on as {self._submit(target, str(checkpoint), tell)}"
            except UserError:  # written by other code or another number of shards: the topics hold it all
                for job_id in flink_client.running_jobs(target, "recommend"):
                    flink_client.cancel(target, job_id)
        with store(self.settings) as client:  # of a job that is gone: this one counts from the first event
            client.delete(self._stats_key(), MODEL_WORKERS)
        return f"runs as {self._submit(target, None, tell)}"

    def _stats_key(self) -> str:
        return stats_key("recommend", self.settings.kafka.topic_prefix)

    def _submit(self, target: str, checkpoint: str | None, tell: Tell) -> str:
        tell("flink run", None)
        job_id = flink_client.submit(self.settings, "recommend", target, self.config, checkpoint)
        flink_client.wait_until_running(target, job_id, progress=lambda line: tell(line, None))
        self.submitted = True
        self.memory.job_id = job_id
        self._remember()
        return job_id

    def _last_checkpoint(self) -> Path | None:
        """Give the newest checkpoint of the job that the demo submitted last."""
        found = (self.stack.home / "checkpoints" / (self.memory.job_id or "-")).glob("chk-*/_metadata")
        newest = max(found, key=lambda path: int(path.parent.name.removeprefix("chk-")), default=None)
        return None if newest is None else newest.parent

    def catalogue(self, tell: Tell) -> str:
        """Publish the shop's items."""
        if self.memory.catalogue:
            return "published before"
        count = publish_catalogue(self.settings, self.items)
        self.memory.catalogue = True
        self._remember()
        return f"{count:,} items"

    def activate(self, tell: Tell) -> str:
        """Let the model serve, once every worker has it."""
        history = activations(read_pointers(self.settings))
        with store(self.settings) as client:
            shown = client.hget(MODEL_CURRENT, "epoch")
            if history and history[-1].epoch == self.epoch and shown == str(self.epoch):
                if self.submitted:  # new workers load the model now, and not while somebody clicks
                    tell("the new workers load it", None)
                    model_switch.preload(self.settings, client, self.epoch, WORKERS_WITHIN_S)
                return f"epoch {self.epoch} serves"
        done = model_switch.activate(
            self.settings,
            self.epoch,
            timeout_s=WORKERS_WITHIN_S,
            serving_timeout_s=0.0,
            say=lambda line: tell(line, None),
            progress=lambda at, of: tell("similar items, trending", at / of if of else 1.0),
        )
        return f"epoch {self.epoch} on {done.workers} workers"

    def history(self, tell: Tell) -> str:
        """Replay the shop's events after the cut, moved to now, and wait until the job has seen them all."""
        if self.memory.shift_ms is None:
            self.memory.shift_ms = shift_to(self.log, time.time_ns() // 1_000_000)
        rest = self.log.part(min(self.memory.sent, len(self.log)))
        report = replay(
            self.settings,
            rest,
            shift_ms=self.memory.shift_ms,
            progress=lambda done: tell("sending", 0.3 * done / max(1, len(rest))),
        )
        self.memory.sent += report.delivered + sum(report.refused.values())
        self._remember()
        if report.interrupted:
            raise KeyboardInterrupt
        if not report.complete:
            raise UserError(
                "TR-371", f"events were not delivered: {report.last_error}", fix="tailrace status"
            )
        began_s = time.monotonic()
        seen = self._wait_until_caught_up(tell)
        if not len(rest):
            return f"replayed before, nothing sent again; the job has read {seen:,} events"
        rate = len(rest) / (report.seconds + time.monotonic() - began_s)
        return f"{len(rest):,} events through in {len(rest) / rate:.1f} s, {rate:,.0f} events/s"

    def list_before(self, tell: Tell) -> str:
        """Wait for the customer's list."""
        tell(f"customer {self.customer.user_id}", None)
        self.before = self._list_of_customer()
        return f"customer {self.customer.user_id}: {len(self.before.items)} items"

    def clicks(self, tell: Tell) -> str:
        """Let the customer click three items of one category, and wait for the list that the third makes."""
        self.story = tell_story(self.settings, self.epoch, self.customer, self.before, self.memory.runs, tell)
        self.memory.runs += 1
        self._remember()
        took = f"event → Redis {self.story.event_to_list_ms:.0f} ms"
        return f"{len(self.story.clicks)} clicks on {self.story.category}; {took}"

    # --- waiting ------------------------------------------------------------------------------------------

    def _wait_until_caught_up(self, tell: Tell) -> int:
        """Wait until the job has read what the topic holds, or reads no more; give how many it has."""
        with TopicReader(self.settings, EVENTS.name) as topic:
            wanted = sum(high - low for low, high in map(topic.bounds, topic.partitions()))
        deadline_s = time.monotonic() + CAUGHT_UP_WITHIN_S
        seen, moved_s = -1, time.monotonic()
        with store(self.settings) as client:
            while time.monotonic() < deadline_s:
                now = sum_counts(client.hgetall(self._stats_key())).events
                if now != seen:
                    seen, moved_s = now, time.monotonic()
                if seen >= wanted or (seen > 0 and time.monotonic() - moved_s > STALLED_S):
                    return seen
                tell(
                    f"the job has read {max(seen, 0):,} of {wanted:,}",
                    0.3 + 0.7 * max(seen, 0) / max(1, wanted),
                )
                time.sleep(0.2)
        raise UserError(
            "TR-372",
            f"the job has read {seen:,} of {wanted:,} events after {CAUGHT_UP_WITHIN_S:.0f} s",
            "it restarts again and again, or the machine is busy",
            "tailrace status; tailrace logs taskmanager-1",
        )

    def _list_of_customer(self) -> Recommendations:
        """Give the customer's list; where the store lost it, have it written again."""
        deadline_s, asked = time.monotonic() + LIST_WITHIN_S, False
        with reader(self.settings) as lists:
            while time.monotonic() < deadline_s:
                found = lists.get(self.customer.user_id)
                if found.source != "popular":
                    return found
                if not asked and time.monotonic() > deadline_s - LIST_WITHIN_S + 8.0:
                    model_switch.send_order(self.settings, "republish", reason="the demo found no list")
                    asked = True
                time.sleep(0.1)
        raise UserError(
            "TR-373",
            f"customer {self.customer.user_id} got no list within {LIST_WITHIN_S:.0f} s",
            "the job does not rank: its workers refuse the model, or the store takes nothing",
            "tailrace counts; tailrace models ls; tailrace logs taskmanager-1",
        )

    # --- memory -------------------------------------------------------------------------------------------

    def _recall(self, cluster: str) -> Memory:
        fresh = Memory(cluster, f"{DATA.name} from {CUT}")
        try:
            found = Memory(**json.loads(self._memory_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return fresh
        return found if (found.cluster, found.data) == (fresh.cluster, fresh.data) else fresh

    def _remember(self) -> None:
        partial = self._memory_file.with_suffix(".new")
        partial.write_text(json.dumps(asdict(self.memory)), encoding="utf-8")
        partial.rename(self._memory_file)
