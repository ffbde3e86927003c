"""The sessions protocol: its split and metrics by hand, and the command around it."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model_export.line_chart import line_chart
from model_export.protocols.quality_page import marks, write_section
from model_export.protocols.rank_metrics import ABSENT, RankMetrics, ranks_in
from model_export.protocols.session_baselines import ItemNeighbours, Popularity, SequentialRules
from model_export.protocols.session_log import Clicks, SessionLogError, read_session_log
from model_export.protocols.session_models import NeighbourModel
from model_export.protocols.session_report import periods_to_test, run
from model_export.protocols.sessions import ablation, evaluate
from tailrace.cli import app
from tailrace.errors import UserError
from udfs.online.session_ranker import SessionRankerSettings

BEGIN, END = marks("sessions")

# Period 0 knows items 1, 2, 3. In period 1 the clicks on 9 are dropped, then session 14 with its one click.
CLICKS = [
    (10, 1, 0), (10, 2, 0), (11, 1, 0), (11, 3, 0), (12, 1, 0), (12, 2, 0),
    (13, 1, 1), (14, 9, 1), (13, 2, 1), (14, 1, 1), (13, 9, 1),
    (15, 3, 1), (15, 1, 1), (16, 1, 1), (16, 3, 1),
]  # fmt: skip


def write(path: Path, clicks: list[tuple[int, int, int]]) -> Path:
    columns = list(zip(*clicks, strict=True))
    names = ("session", "item", "period")
    pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "clicks.parquet", CLICKS)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Four periods of a shop where item 2i+1 follows item 2i."""
    rng = np.random.default_rng(0)
    clicks = []
    for session in range(200):
        pair = 2 * int(rng.integers(0, 10))
        clicks += [(session, pair, session // 50), (session, pair + 1, session // 50)]
    return write(tmp_path / "shop.parquet", clicks)


def test_the_split_drops_new_items_then_sessions_of_one_click(data: Path) -> None:
    log = read_session_log(data)
    assert log.counts(1) == {"clicks": 9, "kept": 6, "sessions": 3, "predictions": 3, "known_items": 3}
    (part,) = log.clicks(1, 100, predicted_only=True)
    contexts = [
        log.item_ids[part.queries.items[start:stop]].tolist()
        for start, stop in zip(part.queries.start, part.queries.stop, strict=True)
    ]
    assert (contexts, log.item_ids[part.items].tolist()) == ([[1], [3], [1]], [2, 1, 3])


def test_metrics_equal_those_by_hand(data: Path) -> None:
    # 1 -> 2 was seen twice and is learnt once more, 1 -> 3 once; nothing followed 3: ranks 1, absent, 2.
    found = evaluate("rules", SequentialRules, read_session_log(data), "online", range(1, 2)).mean
    assert (found.predictions, found.values["recall@20"]) == (3, pytest.approx(2 / 3))
    assert found.values["mrr@20"] == pytest.approx(0.5)
    # Sessions are independent: gains less the mean are 1/2, -1/2, 0.
    assert found.errors["mrr@20"] == pytest.approx(math.sqrt(0.5) / 3)


def test_periodic_learns_nothing_inside_the_period(tmp_path: Path) -> None:
    clicks = [(1, 1, 0), (1, 2, 0), (2, 2, 1), (2, 1, 1), (3, 2, 1), (3, 1, 1)]
    log = read_session_log(write(tmp_path / "c.parquet", clicks))
    values = {
        setting: evaluate("rules", SequentialRules, log, setting, range(1, 2)).mean.values["recall@20"]
        for setting in ("online", "periodic")
    }
    assert values == {"online": 0.5, "periodic": 0.0}


class Slow(SequentialRules):
    """Learns for long, and says so."""

    def predict_and_learn(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        found = super().predict_and_learn(clicks, known)
        began_s = time.process_time()
        while time.process_time() - began_s < 0.2:
            pass
        self.learning_s += time.process_time() - began_s
        return found


def test_what_a_model_spends_on_learning_is_no_cost_of_its_predictions(shop: Path) -> None:
    log = read_session_log(shop)
    slow, plain = (evaluate("rules", make, log, "online", range(1, 4)) for make in (Slow, SequentialRules))
    clicks, predictions = 300, 150
    assert slow.mean.predictions == predictions
    assert slow.learn_us * clicks > 3 * 0.2e6 and slow.cpu_us * predictions > 3 * 0.2e6
    assert slow.predict_us * predictions < 3 * 0.2e6
    assert plain.learn_us * clicks < 3 * 0.2e6


def test_predictions_of_one_session_count_as_one_piece_of_evidence() -> None:
    ranks = np.array([1, 1, ABSENT, ABSENT], np.int32)
    one = RankMetrics.of(ranks, np.array([0, 0, 1, 1])).errors["recall@10"]
    many = RankMetrics.of(ranks, np.arange(4)).errors["recall@10"]
    assert (one, many) == (pytest.approx(math.sqrt(2) / 4), pytest.approx(0.25))


def test_the_mean_weighs_periods_alike() -> None:
    parts = [RankMetrics.of(np.full(n, r, np.int32), np.arange(n)) for n, r in ((1, 1), (99, ABSENT))]
    assert RankMetrics.mean_of(parts).values["recall@20"] == 0.5


def test_rank_11_counts_at_20_and_not_at_10() -> None:
    rows = np.arange(20, dtype=np.int32)[None, :]
    assert ranks_in(rows, np.array([10], np.int32)).tolist() == [11]
    values = RankMetrics.of(np.array([11], np.int32), np.array([0])).values
    assert (values["recall@10"], values["recall@20"], values["mrr@20"]) == (0.0, 1.0, pytest.approx(1 / 11))


@pytest.mark.parametrize("make", [SequentialRules, ItemNeighbours, lambda: Popularity(20)])
def test_baselines_find_an_obvious_pattern(shop: Path, make) -> None:  # type: ignore[no-untyped-def]
    found = evaluate("baseline", make, read_session_log(shop), "online", range(1, 4)).mean
    assert found.values["recall@20"] == 1.0  # there are but 20 items
    if make in (SequentialRules, ItemNeighbours):
        assert found.values["mrr@20"] > 0.9


def test_our_model_finds_an_obvious_pattern_in_both_settings(shop: Path) -> None:
    log = read_session_log(shop)
    report = run(log, ("online", "periodic"), range(1, 4), 0, 1.0, with_baselines=False, tell=None)
    for outcome in report.outcomes:
        assert outcome.mean.values["recall@10"] > 0.95


def test_a_sample_keeps_whole_sessions_by_seed(shop: Path) -> None:
    log, again, other = (read_session_log(shop, 0.5, seed) for seed in (1, 1, 2))
    assert len(log.items) == 2 * len(np.unique(log.sessions))
    np.testing.assert_array_equal(log.sessions, again.sessions)
    assert set(log.sessions) != set(other.sessions)


@pytest.mark.parametrize(("given", "wanted"), [("", range(1, 4)), ("2", range(2, 3)), ("1-2", range(1, 3))])
def test_periods_are_read(shop: Path, given: str, wanted: range) -> None:
    assert periods_to_test(read_session_log(shop), given) == wanted


@pytest.mark.parametrize("given", ["0-2", "2-9", "3-1", "x"])
def test_periods_that_are_not_there_are_refused(shop: Path, given: str) -> None:
    with pytest.raises(SessionLogError, match="wanted A-B between 1 and 3"):
        periods_to_test(read_session_log(shop), given)


def test_rows_that_go_back_in_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SessionLogError, match="goes back"):
        read_session_log(write(tmp_path / "c.parquet", [(1, 1, 1), (1, 2, 0)]))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"session": [1], "item": [1]}), tmp_path / "c.parquet")
    with pytest.raises(SessionLogError, match="period is missing"):
        read_session_log(tmp_path / "c.parquet")


def test_a_chart_has_a_line_for_each_series_and_escapes_names() -> None:
    chart = line_chart("r", [1, 2, 3], {"a<b": [0.1, 0.2, 0.3], "c": [0.3, 0.2, 0.1]})
    assert (chart.count("<polyline"), "a&lt;b" in chart) == (2, True)


def test_the_command_prints_one_line_of_json(shop: Path, tmp_path: Path) -> None:
    arguments = ["eval", "sessions", "--data", str(shop), "--json", "--plot", str(tmp_path / "p.svg")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert found["protocol"] == "sessions"
    assert len(found["data_sha256"]) == 64
    assert set(found["baselines"]) >= {"popularity", "VMIS-kNN per click"}
    for setting in ("online", "periodic"):
        assert {"recall@20", "mrr@20", "recall@10", "mrr@10"} <= set(found[setting])
        a_prediction, a_click, in_all = (
            found[setting][f"cpu_us_per_{name}"]
            for name in ("prediction", "click_learned", "prediction_and_learning")
        )
        assert 0.0 < a_prediction < in_all and a_click > 0.0
        # In the shop half of the clicks are predicted.
        assert in_all == pytest.approx(a_prediction + 2 * a_click, rel=1e-3)
    assert (tmp_path / "p.svg").read_text(encoding="utf-8").startswith("<svg")


def test_the_command_prints_the_caution_and_writes_its_section_once(shop: Path, tmp_path: Path) -> None:
    page = tmp_path / "quality.md"
    page.write_text("# Quality\n\nBefore.\n", encoding="utf-8")
    arguments = ["eval", "sessions", "--data", str(shop), "--no-baselines", "--out", str(page)]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert (text.count(BEGIN), text.count(END), "Before." in text) == (1, 1, True)
    assert "says little about a real stream" in " ".join(result.stdout.split())
    assert str(shop.parent) not in text


@pytest.mark.parametrize(
    ("options", "number"),
    [
        (["--setting", "weekly"], "TR-701"),
        (["--sample", "0"], "TR-701"),
        (["--plot", "x.png"], "TR-701"),
        (["--publish", "0"], "TR-701"),
        (["--periods", "7"], "TR-700"),
    ],
)
def test_options_that_cannot_be_used_are_refused_with_a_number(
    shop: Path, options: list[str], number: str
) -> None:
    result = CliRunner().invoke(app, ["eval", "sessions", "--data", str(shop), *options])
    assert isinstance(result.exception, UserError)
    assert result.exception.number == number


def test_a_section_is_made_in_a_new_file(shop: Path, tmp_path: Path) -> None:
    report = run(read_session_log(shop), ("online",), range(1, 2), 0, 1.0, with_baselines=False, tell=None)
    write_section(tmp_path / "docs" / "q.md", report, "tailrace eval sessions", "abc")
    assert (tmp_path / "docs" / "q.md").read_text(encoding="utf-8").startswith("# Recommendation quality")


def test_the_ablation_has_a_section_beside_that_of_the_figures(shop: Path, tmp_path: Path) -> None:
    log, page = read_session_log(shop), tmp_path / "q.md"
    for ablated in (False, True, True):
        report = run(
            log, ("online",), range(3, 4), 0, 1.0, with_baselines=False, with_ablation=ablated, tell=None
        )
        write_section(page, report, "tailrace eval sessions", "abc")
    text = page.read_text(encoding="utf-8")
    assert [text.count(f"## Session clicks: {title}") for title in ("the continual", "what each")] == [1, 1]


def test_published_at_once_is_as_good_and_a_version_that_never_comes_is_the_first_order(shop: Path) -> None:
    log = read_session_log(shop)
    report = run(
        log, ("online",), range(3, 4), 0, 1.0, with_baselines=False, publish_clicks=(64, 10**9), tell=None
    )
    found = report.to_dict()
    assert list(found["published"]) == [
        "published every 64 clicks", "published every 1,000,000,000 clicks", "published as in the job",
    ]  # fmt: skip
    at_once, never = list(found["published"].values())[:2]
    plain = NeighbourModel(SessionRankerSettings().scan, 20, SessionRankerSettings().limits)
    first_order = evaluate("x", lambda: plain, log, "online", range(3, 4)).mean.values
    assert never["mrr@20"] == pytest.approx(first_order["mrr@20"], abs=1e-4)
    assert at_once["recall@10"] == pytest.approx(found["online"]["recall@10"], abs=0.02)
    assert report.title().endswith("published last")


def test_the_ablation_leaves_each_part_out_and_nothing_else(shop: Path) -> None:
    log = read_session_log(shop)
    report = run(log, ("online",), range(3, 4), 0, 1.0, with_baselines=False, with_ablation=True, tell=None)
    found = report.to_dict()
    assert found["protocol"] == "sessions" and len(found["ablation"]) == 7 and not found["baselines"]
    assert all(outcome["recall@10"] > 0.9 for outcome in found["ablation"].values())
    left_out = [make().ranker.settings for name, make in ablation(log, 0).items() if name != "without ranker"]
    assert len(set(left_out)) == len(left_out) == 6
    assert SessionRankerSettings() not in left_out


def test_a_network_beside_ours_finds_an_obvious_pattern(shop: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: the extra `sequence`")
    log = read_session_log(shop)
    report = run(log, ("online",), range(3, 4), 0, 1.0, with_baselines=False, with_network=True, tell=None)
    found = report.to_dict()
    assert report.protocol == "sessions --sequence"
    assert list(found["network"]) == ["network alone", "network beside tailrace"]
    assert all(outcome["recall@10"] > 0.9 for outcome in found["network"].values())


def test_without_pytorch_the_network_is_refused_with_what_to_install(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["eval", "sessions", "--data", str(shop), "--sequence"])
    assert isinstance(result.exception, UserError)
    assert "TR-500" in str(result.exception) and "tailrace[sequence]" in str(result.exception.fix)
