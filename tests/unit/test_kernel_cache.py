"""A kernel compiled once is found again wherever its source lies, and never after it changed."""

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numba.core.config
import pytest
from numba import njit
from numba.core.caching import CacheImpl

from udfs.kernel_cache import ContentLocator, content_stamp

SOURCE = """
from udfs.kernel_cache import kernel

FACTOR = {factor}

@kernel
def inner(x):
    return x * FACTOR

@kernel
def outer(x):
    return inner(x) + 1.0
"""
CALLER = """
from kernel_callee import {name}
from udfs.kernel_cache import kernel

@kernel
def caller(x):
    return {expression}
"""
CALLS_KERNEL = CALLER.format(name="inner", expression="inner(x)")
USES_CONSTANT = CALLER.format(name="FACTOR", expression="x * FACTOR")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path) -> Iterator[Path]:
    """Set by the variable: Numba reads it again in the middle of a compilation when it has changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
        numba.core.config.reload_config()
        yield tmp_path / "cache"
    numba.core.config.reload_config()


def load(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Write a module into a new folder and import it from there, as a job start does."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def cache_files(folder: Path) -> Counter[str]:
    return Counter(path.suffix for path in folder.rglob("*.nb?"))


def test_a_copy_in_another_folder_hits_the_cache(tmp_path, cache_folder, monkeypatch):
    first = load(tmp_path / "first", "kernels", SOURCE.format(factor=2.0), monkeypatch)
    assert first.outer(3.0) == 7.0
    before = cache_files(cache_folder)
    assert before[".nbi"] == 2 and before[".nbc"] == 2, "two kernels were compiled and stored"

    second = load(tmp_path / "second", "kernels", SOURCE.format(factor=2.0), monkeypatch)
    assert second.outer(3.0) == 7.0
    assert sum(second.outer.stats.cache_hits.values()) == 1
    assert not second.outer.stats.cache_misses
    assert cache_files(cache_folder) == before, "nothing was compiled again"


def test_a_changed_source_is_compiled_again(tmp_path, cache_folder, monkeypatch):
    assert load(tmp_path / "a", "kernels", SOURCE.format(factor=2.0), monkeypatch).outer(3.0) == 7.0
    assert load(tmp_path / "b", "kernels", SOURCE.format(factor=5.0), monkeypatch).outer(3.0) == 16.0


def test_a_change_in_a_called_file_reaches_the_caller(tmp_path, cache_folder, monkeypatch):
    for factor, wanted in ((2.0, 6.0), (5.0, 15.0)):
        load(tmp_path / str(factor), "kernel_callee", SOURCE.format(factor=factor), monkeypatch)
        caller = load(tmp_path / "caller", "kernel_caller", CALLS_KERNEL, monkeypatch)
        assert caller.caller(3.0) == wanted


def test_the_stamp_covers_constants_imported_from_another_file(tmp_path, monkeypatch):
    stamps = set()
    for factor in (2.0, 5.0):
        load(tmp_path / str(factor), "kernel_callee", f"FACTOR = {factor}\n", monkeypatch)
        stamps.add(
            content_stamp(
                load(tmp_path / "caller", "kernel_caller", USES_CONSTANT, monkeypatch).caller.py_func
            )
        )
    assert len(stamps) == 2


def test_the_locator_stands_first_and_leaves_other_libraries_alone():
    assert CacheImpl._locator_classes[0] is ContentLocator

    def foreign(x):
        return x

    assert ContentLocator.from_function(foreign, __file__) is None
    assert njit(foreign)(1) == 1


def test_a_folder_that_cannot_be_written_is_left_to_the_next_locator(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path / "file"))
    module = load(tmp_path / "a", "kernels", SOURCE.format(factor=2.0), monkeypatch)
    assert module.outer(3.0) == 7.0


def test_another_field_order_of_a_named_tuple_is_another_kernel(tmp_path, monkeypatch):
    source = (
        "from named_argument import Pair\nfrom udfs.kernel_cache import kernel\n\n"
        "@kernel\ndef first(pair: Pair):\n    return pair.a\n"
    )
    answers = []
    for order in ("a: float\n    b: float", "b: float\n    a: float"):
        named = f"from typing import NamedTuple\n\nclass Pair(NamedTuple):\n    {order}\n"
        pair = load(tmp_path / str(len(answers)), "named_argument", named, monkeypatch).Pair(a=1.0, b=2.0)
        answers.append(load(tmp_path / "kernel", "named_kernel", source, monkeypatch).first(pair))
    assert answers == [1.0, 1.0]
