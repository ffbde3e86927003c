"""What the documentation says of the code is what the code says."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from flink_jobs.settings import Settings
from schemas.definitions import TODAY
from schemas.records import EVENT_TYPES
from schemas.refusal import REASONS
from schemas.stored_list import META_FIELDS
from schemas.topics import TOPICS
from tests.document_blocks import blocks, commands, documents
from udfs.item_factors import FOLD_IN_FROM, INTERACTION_WEIGHTS
from udfs.user_state import MAX_STATE_BYTES

ROOT = Path(__file__).parents[2]
PAGES = documents(ROOT)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([\w-]+))?\)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[list[str]]:
    """Rows of the table whose first header cell is `heading`."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for target, anchor in LINK.findall(text):
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "schemas|udfs|flink_jobs|model_export|clients|tailrace|benchmarks|tests|docs|deploy|datasets"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]+\.(?:py|md|avsc|lua|lock|uids|yaml|parquet))`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_settings_md_is_current() -> None:
    specification = importlib.util.spec_from_file_location(
        "generate_settings", ROOT / "docs/generate_settings.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert read("docs/settings.md") == module.settings_page(), "run: python docs/generate_settings.py"


def test_every_setting_that_a_page_names_exists() -> None:
    sections = {name: field.annotation.model_fields for name, field in Settings.model_fields.items()}
    wrong = []
    for page in PAGES:
        for section, key in re.findall(
            r"`(kafka|redis|job|model|stack)\.(\w+)(?: = [^`]*)?`", page.read_text(encoding="utf-8")
        ):
            if key not in sections[section]:
                wrong.append(f"{page.name}: {section}.{key}")
    assert wrong == []


def test_the_defaults_in_the_operations_table_are_those_of_the_code() -> None:
    defaults = Settings()
    in_units = {"kafka.retention_ms": 86_400_000, "redis.ttl_s": 86_400}
    for cell, shown, _ in table(read("docs/operations.md"), "setting"):
        for name, number in zip(names(cell), re.findall(r"[\d.]+", shown), strict=True):
            section, key = name.split(".")
            assert getattr(getattr(defaults, section), key) / in_units.get(name, 1) == float(number), name


def test_the_reasons_are_those_of_the_code() -> None:
    rows = table(read("docs/produce.md"), "reason")
    assert {names(row[0])[0]: row[1] for row in rows} == REASONS


def test_the_event_table_has_the_fields_of_the_schema() -> None:
    rows = [names(row[0])[0] for row in table(read("docs/produce.md"), "field")]
    assert rows == [field["name"] for field in TODAY["Event"].schema["fields"]]


def test_the_event_types_and_weights_are_those_of_the_code() -> None:
    weights: dict[str, float] = {}
    for cell, weight, *_ in table(read("docs/produce.md"), "event type"):
        weights.update(dict.fromkeys(names(cell), float(weight)))
    assert weights == dict(zip(EVENT_TYPES, INTERACTION_WEIGHTS.tolist(), strict=True))


def test_the_fingerprint_is_that_of_today_s_schema() -> None:
    assert f"today's is `{TODAY['Event'].fingerprint.hex()}`" in read("docs/produce.md")


def test_every_topic_has_its_guarantee() -> None:
    rows = table(read("ARCHITECTURE.md"), "topic")
    assert {names(row[0])[0] for row in rows} == {topic.name for topic in TOPICS}


def test_the_meta_fields_are_those_of_the_store() -> None:
    named = [name for row in table(read("docs/read.md"), "meta field") for name in names(row[0])]
    assert set(named) == {*META_FIELDS, "_erased"}


def test_the_largest_state_is_the_one_that_the_pages_name() -> None:
    text = f"at most {MAX_STATE_BYTES:,} bytes"
    assert text in read("ARCHITECTURE.md")
    assert text in read("docs/operations.md")


def test_adr_11_names_the_limit_of_the_code() -> None:
    heading = "interactions with known items and a weight"
    rows = table(read("docs/adr/0011-when-a-user-is-known.md"), heading)
    assert [row[0] for row in rows] == [f"{FOLD_IN_FROM} or more", f"1 to {FOLD_IN_FROM - 1}", "none"]


def test_every_adr_stands_in_the_index() -> None:
    pages = {path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    assert set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", read("docs/adr/README.md"))) == pages


def known_commands() -> dict[str, set[str]]:
    """Each command with its options, groups as `group command`."""
    from tailrace.cli import app

    def walk(group: typer.main.TyperGroup, prefix: str) -> dict[str, set[str]]:
        found = {}
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                found.update(walk(command, f"{prefix}{name} "))
            else:
                options = {
                    text
                    for parameter in command.params
                    for text in (*parameter.opts, *parameter.secondary_opts)
                }
                found[prefix + name] = {*options, "--help"}
        return found

    return walk(typer.main.get_command(app), "")


def shell_lines(page: Path) -> list[str]:
    """Lines of a page's shell and console blocks that call `tailrace`."""
    found = []
    for block in blocks(page.read_text(encoding="utf-8"), page.name):
        if block.language == "console":
            found += commands(block)
        elif block.language == "sh":
            found += block.text.replace("\\\n", " ").splitlines()
    return [line for line in found if line.startswith("tailrace ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_shows_exists_with_its_options(page: Path) -> None:
    known = known_commands()
    groups = [[name.split()[0]] for name in known if " " in name]
    wrong = []
    inline = re.findall(r"`(tailrace [a-z][^`]*)`", page.read_text(encoding="utf-8"))
    for line in [*shell_lines(page), *inline]:
        words = shlex.split(line, comments=True)[1:]
        name = next((name for name in known if words[: len(name.split())] == name.split()), None)
        if name is None:
            if words not in groups:
                wrong.append(line)
            continue
        wrong += [f"{line}: {word}" for word in words if word.startswith("-") and word not in known[name]]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_are_python_and_import_what_exists(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), page.name):
        if block.language != "python" or block.text.startswith(">>>"):  # doctests run by themselves
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{block.name}: {node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_a_page_shows_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    shown = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown <= targets
