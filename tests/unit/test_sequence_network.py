"""The sequential network: its graph against a readable pass, its refusals, and what it reads and brings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import make_bundle, snapshot, toy_items, toy_state
from test_train import SETTINGS as TRAINING
from test_train import UNTIL, data
from typer.testing import CliRunner

from model_export.gru import GruWeights, gru_graph, reference_state
from model_export.interactions import Interactions
from model_export.sequence_pieces import cut_pieces, pieces_of
from model_export.sequence_training import FittedSequence, SequenceSettings, fit_sequence
from model_export.train import train
from schemas.ids import item_hash
from tailrace.cli import app
from udfs.model.bundle import Bundle
from udfs.model.manifest import MANIFEST, ModelSettings
from udfs.model.manifest import SEQUENCE as SEQUENCE_GRAPH
from udfs.model.refusal import BundleRefused
from udfs.ranking.candidates import SEQUENCE
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.explain import explain
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.prepare import prepare
from udfs.ranking.rank import RankSettings, rank_batch
from udfs.ranking.retrieval import find_history
from udfs.ranking.sequence_network import GROUP, LENGTH, SequenceArrays, SequenceNetwork
from udfs.ranking.sequence_source import find_by_sequence, read_tokens
from udfs.ranking.snapshot import decode_states

__all__ = ["data"]

KNOWN, WIDTH = 30, 8


def tiny_weights(seed: int = 0, known: int = KNOWN) -> GruWeights:
    """Draw a network that nobody trained."""
    rng = np.random.default_rng(seed)
    shapes = (known + 1, WIDTH), (3 * WIDTH, WIDTH), (3 * WIDTH, WIDTH), (3 * WIDTH,), (3 * WIDTH,)
    weights = GruWeights(*((0.5 * rng.standard_normal(shape)).astype(np.float32) for shape in shapes))
    weights.table[0] = 0.0
    return weights


def tiny_network(rows: np.ndarray, items: int) -> SequenceNetwork:
    weights = tiny_weights(known=len(rows))
    return SequenceNetwork(gru_graph(weights), rows.astype(np.int32), weights.table[1:], items)


def users_of(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw what users did last: tokens (U, 20) and how many."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, LENGTH + 1, count).astype(np.int32)
    tokens = rng.integers(1, KNOWN + 1, (count, LENGTH))
    return np.where(np.arange(LENGTH) < lengths[:, None], tokens, 0), lengths


def test_the_graph_answers_what_the_readable_pass_answers() -> None:
    weights = tiny_weights()
    tokens, lengths = users_of(2 * GROUP + 5)
    wanted = np.array([reference_state(weights, row[:n]) for row, n in zip(tokens, lengths, strict=True)])
    got = tiny_network(np.arange(KNOWN), KNOWN).states(tokens, lengths)
    assert np.abs(got - wanted).max() < 1e-5
    assert np.abs(wanted).max() > 0.1


def test_a_users_vector_is_bit_equal_whoever_is_ranked_beside() -> None:
    network = tiny_network(np.arange(KNOWN), KNOWN)
    tokens, lengths = users_of(37)
    together = network.states(tokens, lengths)
    for user in range(len(lengths)):
        alone = network.states(tokens[user : user + 1], lengths[user : user + 1])
        np.testing.assert_array_equal(alone[0], together[user])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tokens, lengths, wanted: (tokens, lengths, wanted + 1e-4), "canary"),
        (lambda tokens, lengths, wanted: (tokens, lengths, np.full_like(wanted, np.nan)), "canary"),
        (lambda tokens, lengths, wanted: (tokens + KNOWN, lengths, wanted), "order"),
        (lambda tokens, lengths, wanted: (tokens, lengths + LENGTH, wanted), "order"),
    ],
)
def test_known_answers_that_do_not_come_are_refused(change, reason: str) -> None:
    network = tiny_network(np.arange(KNOWN), KNOWN)
    tokens, lengths = users_of(20)
    wanted = network.states(tokens, lengths)
    assert network.check(tokens, lengths, wanted) == 0.0
    with pytest.raises(BundleRefused) as refused:
        network.check(*change(tokens, lengths, wanted))
    assert refused.value.reason == reason


def test_a_graph_with_another_operator_and_rows_out_of_order_are_refused() -> None:
    weights = tiny_weights()
    model = onnx.load_model_from_string(gru_graph(weights))
    model.graph.node.append(onnx.helper.make_node("Relu", ["state"], ["more"]))
    rows = np.arange(KNOWN, dtype=np.int32)
    with pytest.raises(BundleRefused, match="Relu"):
        SequenceNetwork(model.SerializeToString(), rows, weights.table[1:], KNOWN)
    for wrong in (rows[::-1].copy(), rows + 1):
        with pytest.raises(BundleRefused, match="ascend"):
            SequenceNetwork(gru_graph(weights), wrong, weights.table[1:], KNOWN)


def test_the_source_reads_the_newest_known_items_oldest_first_and_brings_the_best() -> None:
    items = toy_items()
    index = ItemIndex.build(items)
    known = np.sort([index.row(item_hash(f"item-{number}")) for number in range(KNOWN)])
    network = tiny_network(known, len(index))
    bought = [[1, 150, 2, 3], [151], list(range(KNOWN))]
    shots = [snapshot(toy_state(numbers)) for numbers in bought]
    states = decode_states(shots)
    history = find_history(index, states)
    tokens, lengths = read_tokens(states, history, network.tokens)
    for user, numbers in enumerate(bought):
        wanted = [network.tokens[index.row(item_hash(f"item-{n}"))] for n in numbers if n < KNOWN][-LENGTH:]
        assert lengths[user] == len(wanted)
        assert tokens[user].tolist() == wanted + [0] * (LENGTH - len(wanted))
    allowed = np.ones(len(index), bool)
    allowed[known[::3]] = False
    found = find_by_sequence(network, states, history, allowed, 5)
    assert found.counts.tolist() == [5, 0, 5]
    for user in (0, 2):
        state = network.states(tokens[user : user + 1], lengths[user : user + 1])[0]
        logits = np.where(allowed[known], network.vectors @ state, -np.inf)
        best = np.argsort(-logits, kind="stable")[:5]
        assert found.rows[user].tolist() == known[best].tolist()
        np.testing.assert_allclose(found.score[user], np.exp(logits[best] - logits.max()), rtol=1e-5)


def arrays_of(network: SequenceNetwork) -> SequenceArrays:
    tokens, lengths = users_of(20)
    tokens = np.minimum(tokens, len(network.rows))
    return SequenceArrays(network.rows, network.vectors, tokens, lengths, network.states(tokens, lengths))


def bundle_with_network(path: Path, change=lambda arrays: arrays) -> Bundle:
    items = toy_items()
    rows = np.arange(0, 90, 3)
    network, weights = tiny_network(rows, len(items.item_ids)), tiny_weights(known=len(rows))
    given = gru_graph(weights), change(arrays_of(network))
    settings = ModelSettings(weight_sequence=0.5, share_sequence=0.1, share_embedding=0.2)
    return make_bundle(path, items, settings=settings, sequence=given)


def test_a_bundle_with_a_network_serves_it_as_a_source_of_its_own(tmp_path: Path) -> None:
    bundle = bundle_with_network(tmp_path / "7")
    known = bundle.items.sequence.rows.tolist()
    numbers = [int(bundle.items.item_ids[row].removeprefix("item-")) for row in known[:4]]
    shot = snapshot(toy_state(numbers))
    found = prepare(bundle.items, [shot], CatalogueView(bundle), RankSettings(candidates=100), 7)
    rank = found.candidates.rank[0, :, SEQUENCE]
    brought = found.candidates.rows[0, rank > 0].tolist()
    assert 1 <= len(brought) <= 10 and set(brought) <= set(known)
    assert found.candidates.sequence_score[0, rank == 1] == 1.0
    name = bundle.items.item_ids[int(found.candidates.rows[0, rank == 1][0])]
    told = explain(bundle, shot, name, CatalogueView(bundle), RankSettings(candidates=100))
    assert told.sources["sequence"] == 1
    lists = rank_batch(bundle, [shot], CatalogueView(bundle), RankSettings())
    assert len(lists[0].items) == 10


def test_a_network_whose_known_answers_do_not_come_makes_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="vectors differ"):
        bundle_with_network(
            tmp_path / "7", lambda arrays: arrays._replace(canary_states=arrays.canary_states + 1)
        )


def test_a_changed_graph_and_a_part_that_is_missing_are_refused(tmp_path: Path) -> None:
    bundle_with_network(tmp_path / "7")
    graph = tmp_path / "7" / SEQUENCE_GRAPH
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleRefused, match="SHA-256"):
        Bundle.open(tmp_path / "7")
    graph.unlink()
    with pytest.raises(BundleRefused, match="missing_file"):
        Bundle.open(tmp_path / "7")


def test_a_bundle_without_a_network_has_no_trace_of_one(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "7")
    text = (tmp_path / "7" / MANIFEST).read_text()
    assert "sequence" not in json.dumps(json.loads(text)["settings"]) and "sequence.onnx" not in text
    assert bundle.items.sequence is None
    found = prepare(bundle.items, [snapshot(toy_state([2]))], CatalogueView(bundle), RankSettings(), 7)
    assert not found.candidates.rank[:, :, SEQUENCE].any() and not found.candidates.sequence_score.any()


def log_of(rows: list[tuple[int, int]], items: int) -> Interactions:
    users, touched = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows), np.float32)
    numbers = np.zeros(len(rows), np.int32)
    return Interactions(users, touched, np.arange(len(rows)), ones, numbers, int(users.max()) + 1, items)


def test_pieces_of_a_long_history_overlap_by_one_and_lose_nothing() -> None:
    tokens = pieces_of(np.zeros(50, np.int64), np.arange(1, 51, dtype=np.int32))
    assert tokens.shape == (3, LENGTH + 1)
    assert [row[row > 0][0] for row in tokens] == [1, 21, 41]
    assert [row[row > 0][-1] for row in tokens] == [21, 41, 50]
    assert pieces_of(np.array([0, 1, 2]), np.ones(3, np.int32)).shape == (0, LENGTH + 1)


def test_rare_items_and_the_least_frequent_are_not_known() -> None:
    rows = [(0, 5)] * 4 + [(0, 2)] * 3 + [(0, 7)] * 2 + [(0, 1)]
    assert cut_pieces(log_of(rows, 9), most_items=2, least_events=1).rows.tolist() == [2, 5]
    assert cut_pieces(log_of(rows, 9), most_items=9, least_events=2).rows.tolist() == [2, 5, 7]


def circle(users: int = 60, items: int = 24, steps: int = 25) -> Interactions:
    """Users who go through the items in order from a place of their own."""
    first = np.random.default_rng(2).integers(items, size=users)
    return log_of([(user, (first[user] + k) % items) for user in range(users) for k in range(steps)], items)


def test_training_learns_what_comes_next_and_repeats_bit_for_bit() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: the extra `sequence`")
    settings = SequenceSettings(width=16, epochs=30, batch_pieces=16, least_events=1, device="cpu")
    found: FittedSequence = fit_sequence(circle(), settings, seed=3)
    again = fit_sequence(circle(), settings, seed=3)
    assert found.model == again.model
    assert found.max_difference <= 1e-5
    network = found.network(24)
    tokens = np.zeros((1, LENGTH), np.int64)
    tokens[0, :3] = network.tokens[[10, 11, 12]]
    logits = network.vectors @ network.states(tokens, np.array([3], np.int32))[0]
    assert network.rows[int(np.argmax(logits))] == 13


def untrained(data: Interactions, settings: SequenceSettings, seed: int, tell=None) -> FittedSequence:
    """What `fit_sequence` gives, of a network that has learnt nothing."""
    pieces = cut_pieces(data, settings.most_items, settings.least_events)
    weights = tiny_weights(seed, len(pieces.rows))
    network = SequenceNetwork(gru_graph(weights), pieces.rows, weights.table[1:], data.n_items)
    return FittedSequence(gru_graph(weights), arrays_of(network), 0.0)


def test_a_training_with_a_network_makes_a_bundle_that_serves_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_export.training_steps.fit_sequence", untrained)
    report = train(TRAINING.with_sequence(SequenceSettings(most_items=300)), data, UNTIL, 3, root=tmp_path)
    bundle = Bundle.open(report.path, report.manifest_sha256)
    assert report.metrics["sequence"] == {"max_difference": 0.0, "items": 300}
    assert bundle.items.sequence is not None and len(bundle.items.sequence.rows) == 300
    assert bundle.manifest.settings.share_sequence > 0.0


def test_a_network_that_is_not_known_and_one_without_pytorch_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = tmp_path / "tailrace.toml"
    config.write_text(f"[model]\nroot = '{tmp_path}'\n")
    arguments = ["train", "--data", "x.csv", "--until", UNTIL, "--epoch", "1", "--config", str(config)]
    unknown = CliRunner().invoke(app, [*arguments, "--sequence", "lstm"])
    assert "TR-501" in str(unknown.exception) and "gru" in str(unknown.exception)
    without = CliRunner().invoke(app, [*arguments, "--sequence", "gru"])
    assert "TR-500" in str(without.exception) and "tailrace[sequence]" in str(without.exception)
