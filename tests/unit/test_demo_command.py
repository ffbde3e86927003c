"""The demo's two lanes: what fails beside the stack must not pass for done."""

from __future__ import annotations

import threading

import pytest

from tailrace.commands.demo import FIRST, MODEL, STACK, TOGETHER
from tailrace.demo_steps import Aside
from tailrace.demo_story import Demo


def test_every_step_is_one_of_the_story_and_stands_once() -> None:
    names = [name for name, _ in (*FIRST, *STACK, *MODEL, *TOGETHER)]
    assert len(names) == len(set(names))
    assert all(callable(getattr(Demo, name)) for name in names)


def test_work_aside_runs_at_the_same_time_and_join_waits_for_it() -> None:
    here, done = threading.Event(), []

    def work() -> None:
        assert here.wait(10)
        done.append(1)

    aside = Aside(work)
    here.set()
    aside.join()
    assert done == [1]


def test_join_raises_what_the_work_raised() -> None:
    def work() -> None:
        raise KeyError("no such shop")

    with pytest.raises(KeyError, match="no such shop"):
        Aside(work).join()
