"""What devices have learnt as a source: from versions of a line to lists, and through the bundle's checks."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bundles import assert_part_is_needed, make_bundle, snapshot, toy_items, toy_state, wrong_links
from federate_examples import KEY, SEED
from test_train import SETTINGS as TRAINING
from test_train import UNTIL, data
from typer.testing import CliRunner

from clients.edge.examples import Examples
from clients.edge.item_pairs import ItemPairs
from model_export.federated_items import TableError, read_table, write_table
from model_export.train import train
from schemas.ids import item_hash
from schemas.records import EdgeModel
from tailrace.cli import app
from udfs.federate.audit import PlainRun, device_update
from udfs.federate.line_settings import LineSettings
from udfs.federate.pair_table import PairTable, item_weights, numbers_of, pair_matrix, pair_vectors, table_of
from udfs.model.bundle import Bundle, BundleRefused
from udfs.model.manifest import DEVICE_FILES, DEVICE_SETTINGS, MANIFEST, ModelSettings
from udfs.privacy.terms import Mode
from udfs.ranking.candidates import DEVICES, RETRIEVERS
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.device_source import find_by_devices
from udfs.ranking.device_table import device_table
from udfs.ranking.explain import explain
from udfs.ranking.history import NEIGHBOUR_DECAY, empty_history
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.rank import RankSettings, prepare

__all__ = ["data"]

ITEMS = 8
IDS = tuple(f"item-{number}" for number in range(ITEMS))
SETTINGS = ModelSettings(weight_devices=0.5, share_devices=0.1, share_embedding=0.2)


def versions(
    mode: Mode, noise: float, users: int = 12, releases: int = 2
) -> tuple[list[EdgeModel], np.ndarray]:
    """Versions of a line of pairs, and how much each user took, (releases, users, items)."""
    line = LineSettings("pairs", numbers_of(ITEMS), mode, noise, 1e-5, users, users, timeout_ms=1 << 40)
    amounts = np.random.default_rng(3).poisson(1.0, (releases, users, ITEMS)).astype(float)
    run, records = PlainRun(line, SEED), []
    for version in range(releases):
        for user in range(users):
            delta = pair_vectors(amounts[version, user][None, :])[0]
            records += run.take(device_update(line, f"{version}-{user}", version, delta, KEY)).released
    return records, amounts


def test_without_noise_the_table_is_the_sum_of_what_devices_told() -> None:
    records, amounts = versions(Mode.CENTRAL, 0.0)
    table = table_of(records, IDS)
    unit = amounts / np.maximum(np.linalg.norm(amounts, axis=2, keepdims=True), 1e-12)
    np.testing.assert_allclose(table.pairs, np.einsum("vum,vun->mn", unit, unit), atol=1e-5)
    assert (table.sigma, table.epsilon, len(table.versions)) == (0.0, None, 2)


@pytest.mark.parametrize("mode", list(Mode))
def test_the_noise_of_a_table_is_what_its_versions_say(mode: Mode) -> None:
    records, amounts = versions(mode, 6.0, users=40)
    table = table_of(records, IDS)
    unit = amounts / np.maximum(np.linalg.norm(amounts, axis=2, keepdims=True), 1e-12)
    vector = np.triu_indices(ITEMS)
    scale = np.where(vector[0] == vector[1], 1.0, sqrt(2.0))
    noise = (table.pairs - np.einsum("vum,vun->mn", unit, unit))[vector] * scale
    assert 0.7 < float(noise.std()) / table.sigma < 1.4
    one = {Mode.LOCAL: sqrt(40.0), Mode.CENTRAL: 1.0, Mode.DISTRIBUTED: 1.0}[mode]
    assert table.sigma == pytest.approx(sqrt(2.0) * 6.0 * one, rel=0.01)
    assert table.epsilon is not None
    assert table.epsilon > records[0].epsilon  # two contributions cost more than one
    assert table.privacy()["versions"][1]["mode"] == str(mode)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda records: records[1:], "wanted version 1"),
        (lambda records: [], "at least one version"),
        (lambda records: [records[0], records[1]._replace(model_line="other")], "line pairs"),
        (lambda records: [records[0]._replace(weights=bytes(80)), records[1]], "finite numbers"),
    ],
)
def test_versions_that_do_not_belong_together_make_no_table(change, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        table_of(change(versions(Mode.CENTRAL, 1.0)[0]), IDS)


def test_a_device_tells_the_pairs_of_what_its_user_took() -> None:
    seen = Examples(np.array([[1, 0, 2], [0, 0, 1]], np.float32), np.ones(2, np.float32))
    delta = ItemPairs().delta(np.zeros(6), seen)
    np.testing.assert_allclose(delta, pair_vectors(np.array([[1.0, 0.0, 3.0]]))[0])
    assert float(delta @ delta) == pytest.approx(1.0)
    np.testing.assert_allclose(pair_matrix(delta, 3)[0], [0.1, 0.0, 0.3])
    with pytest.raises(ValueError, match="6 numbers for 3 items"):
        ItemPairs().delta(np.zeros(5), seen)


def test_a_table_is_the_same_after_its_file_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    table = table_of(versions(Mode.CENTRAL, 4.0)[0], IDS)
    path = tmp_path / "table.json"
    write_table(path, table)
    read = read_table(path)
    np.testing.assert_array_equal(read.pairs, table.pairs)
    assert read._replace(pairs=table.pairs) == table
    tree = json.loads(path.read_text())
    for change, says in (
        ({"item_ids": list(IDS[:-1])}, "a number for each pair"),
        ({"pairs": "zzzz" + tree["pairs"][4:]}, "SHA-256"),
        ({"versions": [{"version": 1}]}, "at least one version"),
        ({"format": 2}, "format 1"),
        ({"sigma": -1.0}, "finite"),
    ):
        path.write_text(json.dumps(tree | change))
        with pytest.raises(TableError, match=says):
            read_table(path)


def toy_table() -> PairTable:
    """Items 0, 20, 40, ... go together, and 1, 21, 41, ...; other items were never told of."""
    numbers = [*range(0, 200, 20), *range(1, 200, 20)]
    odd = np.array(numbers) % 2
    pairs = np.where(odd[:, None] == odd[None, :], 5.0, 0.0) + 10.0 * np.eye(len(numbers))
    version = dict.fromkeys(
        ("version", "cohort_size", "mode", "epsilon", "delta", "unit", "adjacency", "clip_norm", "noise_multiplier",
         "mu", "budget_epsilon", "cohort_digest", "released_time"), 1.0,
    )  # fmt: skip
    return PairTable("pairs", tuple(f"item-{number}" for number in numbers), pairs, 0.0, (version,))


def reference(
    table: ItemLinks, recent: list[int], allowed: np.ndarray, limit: int
) -> list[tuple[int, float]]:
    """What `find_by_devices` gives for one user, slowly."""
    sums: dict[int, float] = {}
    for back, row in enumerate(recent):
        for at in range(table.offsets[row], table.offsets[row + 1]):
            if allowed[table.rows[at]]:
                other = int(table.rows[at])
                sums[other] = sums.get(other, 0.0) + NEIGHBOUR_DECAY**back * float(table.scores[at])
    return sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]


def test_the_compiled_source_gives_what_the_readable_one_gives() -> None:
    rng = np.random.default_rng(5)
    n, users = 60, 40
    weights = rng.random((30, 30)) * (rng.random((30, 30)) < 0.5)
    pairs = PairTable("pairs", tuple(f"item-{k}" for k in range(30)), weights @ weights.T, 0.1, ({},))
    table = device_table(pairs, [f"item-{k}" for k in rng.permutation(n)])
    history = empty_history(users)
    for user in range(users):
        count = int(rng.integers(0, 11))
        history.recent_rows[user, :count] = rng.choice(n, count, replace=False)
        history.n_recent[user] = count
    allowed = rng.random(n) < 0.8
    found = find_by_devices(table, history, allowed, 7)
    assert found.counts.max() == 7
    for user in range(users):
        recent = history.recent_rows[user, : history.n_recent[user]].tolist()
        wanted = reference(table, recent, allowed, 7)
        count = found.counts[user]
        assert found.rows[user, :count].tolist() == [row for row, _ in wanted]
        np.testing.assert_allclose(found.score[user, :count], [score for _, score in wanted], rtol=1e-5)


def test_an_epoch_takes_of_a_table_what_it_knows() -> None:
    pairs = toy_table()
    table = device_table(pairs, ["item-20", "item-7", "item-0", "item-21"])
    assert table.offsets.tolist() == [0, 1, 1, 2, 2]
    assert table.rows.tolist() == [2, 0]
    wanted = item_weights(pairs.pairs, 0.0)[pairs.item_ids.index("item-20"), pairs.item_ids.index("item-0")]
    assert table.scores[0] == pytest.approx(wanted, rel=1e-6)


def with_table(path: Path) -> Bundle:
    items = toy_items()
    return make_bundle(path, items, settings=SETTINGS, devices=device_table(toy_table(), items.item_ids))


def test_what_devices_have_learnt_brings_candidates_and_is_named(tmp_path: Path) -> None:
    bundle = with_table(tmp_path / "7")
    shot = snapshot(toy_state([7, 20, 40]))
    prepared = prepare(bundle.items, [shot], CatalogueView(bundle), RankSettings(candidates=100), 7)
    rank = prepared.candidates.rank[0, :, DEVICES]
    brought = {bundle.items.item_ids[row] for row in prepared.candidates.rows[0, rank > 0].tolist()}
    assert brought == {f"item-{number}" for number in range(0, 200, 20)}
    told = explain(bundle, shot, "item-60", CatalogueView(bundle), RankSettings(candidates=100))
    assert "devices" in told.sources
    assert told.sources["devices"] <= 10
    assert RETRIEVERS[DEVICES] == "devices"


def test_the_blend_counts_what_devices_say(tmp_path: Path) -> None:
    items = toy_items()
    devices = device_table(toy_table(), items.item_ids)
    shot = snapshot(toy_state([7, 20, 40]))

    def blend(weight: float) -> float:
        index = ItemIndex.build(
            items,
            ModelSettings(weight_devices=weight, share_devices=0.1, share_embedding=0.2),
            devices=devices,
        )
        found = prepare(index, [shot], CatalogueView(index), RankSettings(), 7)
        place = found.finalists.rows[0].tolist().index(index.row(item_hash("item-60")))
        return float(found.finalists.score[0, place])

    candidate = blend(0.5) - blend(0.0)
    assert 0.0 < candidate <= 0.5 + 1e-6


def test_a_bundle_without_a_table_is_what_it_was_before(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "7")
    text = json.loads((tmp_path / "7" / MANIFEST).read_text())
    assert not set(DEVICE_SETTINGS) & set(text["settings"])
    assert not {name for name in text["files"] if name.startswith("device")}
    assert bundle.items.devices is None
    prepared = prepare(bundle.items, [snapshot(toy_state([2]))], CatalogueView(bundle), RankSettings(), 7)
    assert prepared.candidates.device_score.shape == (1, 0)
    assert not prepared.candidates.rank[:, :, DEVICES].any()


@pytest.mark.parametrize("name", sorted(DEVICE_FILES))
def test_a_table_that_is_not_all_there_or_was_changed_is_refused(tmp_path: Path, name: str) -> None:
    assert_part_is_needed(with_table(tmp_path / "7").path, name)


def test_a_table_with_wrong_content_is_refused(tmp_path: Path) -> None:
    items = toy_items()
    good = device_table(toy_table(), items.item_ids)
    for bad, reason in wrong_links(good):
        with pytest.raises(BundleRefused) as refused:
            make_bundle(tmp_path / "7", items, settings=SETTINGS, devices=bad)
        assert refused.value.reason == reason


def test_training_writes_the_table_and_what_it_cost_into_the_bundle(data: Path, tmp_path: Path) -> None:
    records, _ = versions(Mode.CENTRAL, 6.0)
    known = pd.read_parquet(data)["StockCode"].value_counts().index[:ITEMS]
    at_ms = 1_298_000_000_000
    table = table_of(
        [record._replace(released_time=at_ms) for record in records], [str(name) for name in known]
    )
    path = tmp_path / "table.json"
    write_table(path, table._replace(pairs=np.abs(table.pairs), sigma=0.0))
    report = train(TRAINING, data, UNTIL, 4, root=tmp_path / "models", federated=read_table(path))
    bundle = Bundle.open(report.path, report.manifest_sha256)
    assert bundle.items.devices is not None
    assert len(bundle.items.devices.rows) > 0
    assert bundle.manifest.settings.share_devices == pytest.approx(0.1)
    told = bundle.manifest.data["federated"]
    assert (told["line"], told["items"], told["contributions"]) == ("pairs", ITEMS, 24)
    assert told["before_the_measures"] is True
    assert told["epsilon_of_all_versions"] == pytest.approx(table.epsilon)
    assert [version["noise_multiplier"] for version in told["versions"]] == [6.0, 6.0]
    assert {"mode", "delta", "unit", "adjacency", "clip_norm", "epsilon"} <= set(told["versions"][0])


def test_exporting_takes_the_committed_versions_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, _ = versions(Mode.CENTRAL, 6.0)
    other = records[0]._replace(model_line="head")
    monkeypatch.setattr("tailrace.edge_models.published", lambda settings: [other, *records])
    items, out = tmp_path / "items.txt", tmp_path / "table.json"
    items.write_text("\n".join(IDS) + "\n")
    command = ["fed", "export", "pairs", "--items", str(items), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["versions"]) == 2
    np.testing.assert_array_equal(read_table(out).pairs, table_of(records, IDS).pairs)
    assert CliRunner().invoke(app, [*command, "--version", "1"]).exit_code == 0
    assert len(read_table(out).versions) == 1
    refused = CliRunner().invoke(app, [*command, "--version", "3"])
    assert refused.exit_code != 0
    assert "TR-761" in str(refused.exception)
