"""What `tailrace demo loop` does, step by step, on a stack that runs; the display is the command's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from flink_jobs.settings import Settings
from model_export.reversed_ranker import write_reversed
from tailrace import example_log, model_switch
from tailrace.demo_clicks import Tell
from tailrace.demo_model import ensure_bundle
from tailrace.demo_story import CUT, DATA
from tailrace.errors import UserError
from tailrace.event_replay import moment_ms
from tailrace.hidden_tastes import MINUTE_MS, HiddenTastes
from tailrace.live_shop import LiveShop, Seen
from tailrace.loop_figures import Clicks, clicks_by_variant, share_kept_up
from tailrace.loop_stack import LoopStack
from udfs.model.bundle import Bundle

MINUTES: Final = 60
STRETCH: Final = 5
"""Minutes of a point of the chart."""
GROUPS: Final = "groups"
LOOP, FROZEN, POPULAR = "loop", "frozen", "popular"
SPREAD: Final = "spread"
PLANTED: Final = ("wide:diversity=1.0", "narrow:diversity=0.0")
SHARE, LOOK_EVERY_S, SETTLE_MIN = 0.5, 2.0, 6
AT_MOST_MIN: Final = 60
"""Of event time, until a variant or a model must be decided."""
LISTS_WITHIN_S: Final = 90.0


class LoopDemo:
    """The steps, in their order.

    Parameters
    ----------
    base
        The caller's settings.
    users, seed, speed
        Of the simulated shop.
    """

    def __init__(self, base: Settings, users: int, seed: int, speed: float) -> None:
        self.figures: dict[str, Any] = {}
        self.curves: dict[str, Clicks] = {}
        self._users, self._seed, self._speed = users, seed, speed
        self._stack = LoopStack(base)
        self._settings = self._stack.settings
        self.check, self.start, self.jobs = self._stack.check, self._stack.start, self._stack.jobs
        self._shop: LiveShop | None = None

    def model(self, tell: Tell) -> str:
        """Train on the real shop's log, or take the bundle of an earlier demo; and spoil a copy of it."""
        from model_export.sources.event_log import file_sha256

        epoch, origin = ensure_bundle(self._settings, DATA, file_sha256(DATA), moment_ms(CUT), CUT, tell)
        self._epoch = epoch
        root = self._settings.model.root
        self._bundle = Bundle.open(root / str(epoch))
        write_reversed(root / str(epoch), root / str(epoch + 1), epoch + 1)
        return f"epoch {epoch}, {origin}; epoch {epoch + 1} is a copy that ranks the worst first"

    def activate(self, tell: Tell) -> str:
        """Let the model serve."""
        done = model_switch.activate(
            self._settings,
            self._epoch,
            timeout_s=240.0,
            serving_timeout_s=0.0,
            say=lambda line: tell(line, None),
        )
        return f"epoch {self._epoch} on {done.workers} workers"

    def groups(self, tell: Tell) -> str:
        """Deal users to lists that learn from them, lists that stopped learning, and lists for strangers."""
        tastes = HiddenTastes(self._bundle, self._users, self._seed)
        self._shop = LiveShop(self._settings, tastes, self._speed)
        self._start_ms = tastes.start_ms
        nothing = "shared_credits=0,exploration_floor=0"
        self._run(
            "ab", "start", GROUPS, "--variant", LOOP,
            "--variant", f"{FROZEN}:history_until_s={tastes.start_ms // 1_000},{nothing}",
            "--variant", f"{POPULAR}:history_until_s=0,{nothing}", "--expected-effect", "0.3",
        )  # fmt: skip
        tell("everybody looks around", None)
        time.sleep(2.0)
        self._shop.look_around()
        self._wait_for_lists(tell)
        return f"{self._users} users have a list: {LOOP}, {FROZEN} and {POPULAR}"

    def hour(self, tell: Tell) -> str:
        """Let an hour of the shop's time pass."""
        self._open_shop().open()
        self._until(MINUTES, tell)
        found = self._report(GROUPS)
        self.figures["groups"] = found
        self._run("ab", "stop", GROUPS)
        rates = ", ".join(f"{name} {100 * one['ctr']:.1f} %" for name, one in found["variants"].items())
        return f"lists with a click, of those settled: {rates}; {_says(found)}"

    def planted(self, tell: Tell) -> str:
        """Find the better of two variants, and give it to everybody."""
        variants = [word for one in PLANTED for word in ("--variant", one)]
        began, looks = self._open_shop().minute, 0
        self._run("ab", "start", SPREAD, *variants, "--expected-effect", "0.2")
        while True:
            time.sleep(LOOK_EVERY_S)
            found, looks = self._report(SPREAD), looks + 1
            minute = self._open_shop().minute - began
            tell(f"minute {minute:.0f}: {_lists(found):,} lists settled, {found['verdict']}", None)
            if found["verdict"] != "running" or minute > AT_MOST_MIN:
                break
        figures = {**found, "minutes": round(minute, 1), "looks": looks, "promoted": None}
        self.figures["planted"] = figures
        if found["verdict"] != "better":
            self._run("ab", "stop", SPREAD)
            return f"not decided within {minute:.0f} minutes"
        figures["promoted"] = self._run("ab", "promote", SPREAD)["promoted"]
        ordered = self._open_shop().minute
        self._until(ordered + SETTLE_MIN, tell)
        figures["categories_a_list"] = {
            name: round(
                _mean([one.categories for one in self._seen(began + 2, ordered, f"{SPREAD}={name}")]), 2
            )
            for name in (one.partition(":")[0] for one in PLANTED)
        }
        after = self._seen(ordered + SETTLE_MIN / 2, ordered + SETTLE_MIN)
        figures["categories_a_list"]["everybody after"] = round(_mean([one.categories for one in after]), 2)
        (one,) = found["comparisons"]
        return (
            f"{_says(found)} after {minute:.0f} minutes, {100 * one['delta']:+.1f} points "
            f"[{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]; promoted {figures['promoted']}"
        )

    def canary(self, tell: Tell) -> str:
        """Publish the spoiled model to half of the users, and see it taken back."""
        began = self._open_shop().minute
        epoch = self._epoch + 1
        found = self._run(
            "models", "canary", str(epoch), "--share", str(SHARE), "--force", "--most-drop", "0",
            "--every", str(LOOK_EVERY_S), fails=True,
            meanwhile=lambda: tell(f"minute {self._open_shop().minute - began:.0f}", None),
        )  # fmt: skip
        ended = self._open_shop().minute
        self._until(ended + SETTLE_MIN, tell)
        version = f"{self._bundle.model_version}-reversed"
        shown = [one.model_version == version for one in self._seen(began, ended)]
        after = [
            one.model_version == version for one in self._seen(ended + SETTLE_MIN / 2, ended + SETTLE_MIN)
        ]
        self.figures["canary"] = {
            **found,
            "minutes": round(ended - began, 1),
            "share_of_lists_while_it_ran": round(_mean(shown), 4),
            "share_of_lists_after": round(_mean(after), 4),
        }
        return (
            f"{found['ended']} after {ended - began:.0f} minutes: {found['why']}; it made {100 * _mean(shown):.0f} % "
            f"of the lists while it ran, {100 * _mean(after):.0f} % after"
        )

    def examples(self, tell: Tell) -> str:
        """Read what the feedback job made of it all."""
        self._open_shop().close()
        examples = list(example_log.from_topic(self._settings))
        self.curves = clicks_by_variant(examples, GROUPS, self._start_ms, MINUTES, STRETCH)
        counts = self._run("counts", "--job", "feedback")
        kept_up = share_kept_up(examples)
        lost = {
            name: number
            for name, number in counts["counts"].items()
            if name.startswith("impression_") and name not in ("impression_noted", "impression_joined")
        }
        self.figures |= {
            "examples": len(examples),
            "join_rate": counts["join_rate"],
            "impressions_not_joined": lost,
            "lists_made_after_the_last_click": kept_up,
            "visits": len(self._open_shop().seen),
            "visits_behind_s": round(self._open_shop().behind_s, 2),
        }
        after = "" if kept_up is None else f", {100 * kept_up:.1f} % of the lists knew the click before"
        return f"{len(examples):,} examples, join rate {100 * counts['join_rate']:.2f} %{after}"

    def down(self) -> None:
        """Let nobody come any more, and stop the stack."""
        if self._shop is not None:
            self._shop.close()
        self._stack.down()

    # --- the shop's time ----------------------------------------------------------------------------------

    def _open_shop(self) -> LiveShop:
        assert self._shop is not None
        return self._shop

    def _until(self, minute: float, tell: Tell) -> None:
        shop = self._open_shop()
        began = shop.minute
        while (now := shop.minute) < minute:
            tell(f"minute {now:.0f}, {len(shop.seen):,} visits", (now - began) / (minute - began))
            time.sleep(0.5)

    def _seen(self, first: float, last: float, variant: str | None = None) -> list[Seen]:
        """Return the lists that clients got in these minutes."""
        low_ms, high_ms = (self._start_ms + minute * MINUTE_MS for minute in (first, last))
        return [
            one
            for one in self._open_shop().seen
            if low_ms <= one.at_ms < high_ms and variant in (None, one.variant)
        ]

    def _wait_for_lists(self, tell: Tell) -> None:
        deadline_s, asked = time.monotonic() + LISTS_WITHIN_S, False
        while missing := self._open_shop().without_list(GROUPS):
            tell(f"{len(missing)} users wait for their list", None)
            if time.monotonic() > deadline_s:
                raise UserError(
                    "TR-741",
                    f"{len(missing)} of {self._users} users have no list of their group after {LISTS_WITHIN_S:.0f} s",
                    "the job does not rank, or the machine is busy",
                    f"read the logs in {self._settings.stack.home}",
                )
            if not asked and time.monotonic() > deadline_s - LISTS_WITHIN_S + 15.0:
                model_switch.send_order(
                    self._settings, "republish", reason="lists from before the experiment"
                )
                asked = True
            time.sleep(0.5)

    # --- the command line ---------------------------------------------------------------------------------

    def _report(self, name: str) -> dict[str, Any]:
        (found,) = self._run("ab", "report", name)["experiments"]
        return dict(found)

    def _run(
        self, *words: str, fails: bool = False, meanwhile: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Run a command as a person would, and return what it says; `fails`: its exit code says more than success."""
        line = [*words, "--config", str(self._stack.config), "--json"]
        with subprocess.Popen(
            [sys.executable, "-m", "tailrace.cli", *line],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                while True:
                    try:
                        said, error = process.communicate(timeout=1.0)
                        break
                    except subprocess.TimeoutExpired:
                        meanwhile()
            except BaseException:
                process.kill()  # else it is waited for: a canary that nobody visits has a day
                raise
        if process.returncode not in ((0, 1) if fails else (0,)) or not said.strip():
            raise UserError("TR-742", f"tailrace {' '.join(line)}: exit code {process.returncode}\n{error}")
        return dict(json.loads(said))


def _says(found: dict[str, Any]) -> str:
    return f"{found['variant']} is better" if found["verdict"] == "better" else str(found["verdict"])


def _lists(found: dict[str, Any]) -> int:
    return sum(one["lists"] for one in found["variants"].values())


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values) if values else 0.0
