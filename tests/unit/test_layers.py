"""The architecture: who may import whom, and what pure code may touch. ARCHITECTURE.md has the same table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# package -> our packages that it may import beside itself
LAYERS = {
    "schemas": (),
    "udfs": ("schemas",),
    "flink_jobs": ("schemas", "udfs"),
    "model_export": ("schemas", "udfs"),
    "clients": ("schemas", "udfs"),
    "serving": ("schemas", "udfs"),
    # The command starts benchmarks, and they use its stack: the two lie at the top together.
    "tailrace": ("schemas", "udfs", "flink_jobs", "model_export", "clients", "serving", "benchmarks"),
    "benchmarks": ("schemas", "udfs", "flink_jobs", "model_export", "clients", "serving", "tailrace"),
}

# Pure packages: all that they import from outside. No engine, clock, network, environment or randomness.
PURE = {
    "schemas": {
        "__future__", "collections", "enum", "fastavro", "functools", "importlib", "itertools", "json",
        "math", "re", "struct", "typing", "xxhash",
    },
    "udfs": {
        "__future__", "bisect", "collections", "cryptography", "dataclasses", "enum", "faiss", "functools", "hashlib",
        "heapq", "itertools", "json", "math", "numba", "numpy", "onnxruntime", "operator", "re", "struct",
        "typing", "xxhash",
    },
}  # fmt: skip

# The files of pure packages that may touch the file system: a bundle is files, and so is Numba's cache.
FILE_READERS = {"udfs/model/bundle.py", "udfs/model/bundle_writer.py", "udfs/kernel_cache.py"}
FILE_MODULES = {"io", "os", "pathlib", "shutil", "tempfile"}
_FILE_CALLS = {
    "fromfile", "load", "memmap", "open", "read_bytes", "save", "savez", "tofile", "write_bytes",
    "write_text",
}  # fmt: skip
_FORBIDDEN_CALLS = {"breakpoint", "exec", "eval", "input", "print"}
# Decoders and encoders are written out per schema and compiled once.
_MAY_COMPILE = {"schemas/decoder.py", "schemas/encoder.py"}


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module that a syntax tree imports, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


def layer_breaches(name: str, source: str) -> list[str]:
    """Imports of a file that the tables forbid.

    Parameters
    ----------
    name
        Path from the project's folder, with slashes.
    """
    package = name.split("/")[0]
    allowed = {package, *LAYERS[package]}
    found = []
    for line, module in imported_modules(ast.parse(source)):
        top = module.split(".")[0]
        if top in LAYERS:
            if top not in allowed:
                found.append(
                    f"{name}:{line} imports {module}; {package} may import {', '.join(sorted(allowed))}"
                )
        elif package in PURE and top not in PURE[package]:
            if top in FILE_MODULES and name in FILE_READERS:
                continue
            found.append(f"{name}:{line} imports {module}; {package} is pure")
    return found


def impure_calls(name: str, source: str) -> list[str]:
    """Calls in a pure file that read files, the global random state or the console."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        text = ast.unparse(node.func)
        if isinstance(node.func, ast.Name) and called in _FORBIDDEN_CALLS and name not in _MAY_COMPILE:
            found.append(f"{name}:{node.lineno} calls {text}")
        if re.fullmatch(r"(np|numpy)\.random\.\w+", text) and (
            called != "default_rng" or not (node.args or node.keywords)
        ):
            found.append(f"{name}:{node.lineno} calls {text}; a seed is an argument")
        reads = called in _FILE_CALLS if isinstance(node.func, ast.Attribute) else called == "open"
        if reads and name not in FILE_READERS and not text.startswith(("json.", "Bundle.")):
            found.append(f"{name}:{node.lineno} calls {text}; files are read in {', '.join(FILE_READERS)}")
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    breaches = [
        breach
        for path in sources(package)
        for breach in layer_breaches(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert breaches == []


@pytest.mark.parametrize("package", sorted(PURE))
def test_pure_code_reads_no_file_console_or_global_random_state(package: str) -> None:
    calls = [
        call
        for path in sources(package)
        for call in impure_calls(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert calls == []


def test_every_package_of_ours_has_a_row_in_the_table() -> None:
    with_code = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and any(path.glob("*.py")) and path.name not in ("tests", "docs")
    }
    assert with_code <= set(LAYERS)


def test_architecture_md_shows_the_same_table() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)/` \| ([^|]*) \|", text, re.MULTILINE))
    assert {name: set(re.findall(r"`(\w+)`", row)) for name, row in rows.items()} == {
        name: set(below) for name, below in LAYERS.items()
    }


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("schemas/ids.py", "from udfs.step import Step"),
        ("schemas/ids.py", "import os"),
        ("udfs/bandit.py", "import random"),
        ("udfs/bandit.py", "def f():\n    import time"),
        ("udfs/model/manifest.py", "from pathlib import Path"),
        ("udfs/user_logic.py", "from pyflink.common import Row"),
        ("flink_jobs/submit.py", "from tailrace.errors import UserError"),
        ("clients/reader.py", "import flink_jobs.settings"),
        ("model_export/train.py", "from clients.producer import Producer"),
    ],
)
def test_a_planted_import_is_found(name: str, source: str) -> None:
    assert len(layer_breaches(name, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "open('x')",
        "print(1)",
        "np.random.rand(3)",
        "np.random.default_rng()",
        "numpy.load('x')",
        "Path('x').read_bytes()",
        "eval('1')",
    ],
)
def test_a_planted_call_is_found(source: str) -> None:
    assert len(impure_calls("udfs/user_logic.py", source)) == 1


def test_what_is_allowed_is_not_found() -> None:
    assert layer_breaches("udfs/model/bundle.py", "import os\nfrom schemas.ids import user_key") == []
    assert impure_calls("udfs/ranking/item_index.py", "np.random.default_rng(seed)\njson.loads(text)") == []
