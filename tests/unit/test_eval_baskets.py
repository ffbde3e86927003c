"""The baskets protocol: repeats and new items by hand, the same figures as training, and the command around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from model_export import sources
from model_export.als import AlsSettings
from model_export.item_side import ItemSideSettings
from model_export.moments import MomentSettings
from model_export.popularity_balance import raise_tail
from model_export.protocols import baskets
from model_export.protocols.ablation_report import AblationReport
from model_export.protocols.basket_ablation import SOURCES, WHOLE, ablate, feature_groups, variant_names
from model_export.protocols.basket_lists import OURS, PERSONAL, POPULAR, SERVED, parts_of, wanted_of
from model_export.protocols.baskets import BasketOutcome, BasketReport, evaluate
from model_export.protocols.quality_page import write_section
from model_export.ranker import RankerSettings, RankingExamples
from model_export.sources import complete_journey
from model_export.train import train
from model_export.train_settings import TrainSettings
from tailrace.cli import app
from tailrace.errors import UserError
from udfs.ranking.candidates import RETRIEVERS
from udfs.ranking.features import FEATURE_NAMES

ONLINE_RETAIL = Path(__file__).parents[2] / "datasets/online-retail/online_retail.parquet"
UNTIL = "2011-04-01"
SETTINGS = TrainSettings(
    items=ItemSideSettings(AlsSettings(dimension=16, iterations=5)),
    moments=MomentSettings(sessions=300),
    ranker=RankerSettings(trees=10),
    stretch_days=21.0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = pd.read_parquet(ONLINE_RETAIL)
    slice_ = lines[(lines["InvoiceDate"] < "2011-04-20") & (lines["CustomerID"] % 3 == 0)]
    path = tmp_path_factory.mktemp("data") / "slice.parquet"
    slice_.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def outcome(data: Path) -> BasketOutcome:
    return evaluate("slice", data, UNTIL, SETTINGS, 0)


def receipts(folder: Path) -> Path:
    """Two households; the second basket has a line without a quantity."""
    rows = [
        (7, 2, 500, 1, 2.0, "2017-01-02 10:00:05"),
        (7, 1, 500, 2, 3.0, "2017-01-01 10:00:05"),
        (7, 1, 501, 1, 1.0, "2017-01-01 10:00:05"),
        (8, 3, 501, 0, 0.0, "2017-01-01 10:00:05"),
        (8, 3, 502, 1, 5.0, "2017-01-01 10:00:05"),
    ]
    table = pd.DataFrame(rows, columns=list(complete_journey.COLUMNS))
    table["transaction_timestamp"] = pd.to_datetime(table["transaction_timestamp"])
    table.to_parquet(folder / "transactions.parquet")
    products = {
        "product_id": [500, 501],
        "product_category": ["BREAD", None],
        "product_type": ["BUN", "MILK"],
        "package_size": ["8 CT", None],
    }
    pd.DataFrame(products).to_parquet(folder / "products.parquet")
    return folder / "transactions.parquet"


def test_receipts_become_purchases_in_order_of_time(tmp_path: Path) -> None:
    log = sources.read(receipts(tmp_path))
    assert (log.name, log.skipped) == ("complete-journey", {"quantity_not_positive": 1})
    events = [(event.user_id, event.item_id, event.session_id, event.value) for event in log]
    assert sorted(events[:3]) == [("7", "500", "1", 3.0), ("7", "501", "1", 1.0), ("8", "502", "3", 5.0)]
    assert events[3] == ("7", "500", "2", 2.0)
    own = [event.event_time for event in log if event.user_id == "7"]
    assert np.diff(own).tolist()[0] == 1  # one receipt, one second: consecutive milliseconds


def test_products_have_names_categories_and_the_price_of_a_piece(tmp_path: Path) -> None:
    path = receipts(tmp_path)
    items = {item.item_id: item for item in sources.catalogue(path)}
    assert (items["500"].title, items["500"].category, items["500"].price) == ("BUN 8 CT", "BREAD", 1.75)
    assert (items["501"].title, items["501"].category) == ("MILK", "")
    assert items["502"].title == "502"
    before = sources.catalogue(path, sources.event_log.midnight_ms("2017-01-02"))
    assert {item.item_id: item.price for item in before}["500"] == 1.5


def test_repeats_and_new_items_are_the_first_ten_of_either_kind() -> None:
    ranking, own = list(range(30)), frozenset(range(0, 30, 2))
    found = parts_of(ranking, own)
    assert found["all"] == list(range(10))
    assert found["repeats"] == list(range(0, 20, 2))
    assert found["new items"] == list(range(1, 20, 2))
    assert parts_of([1, 3], own) == {"all": [1, 3], "repeats": [], "new items": [1, 3]}


def test_what_is_wanted_is_told_apart_in_the_same_way() -> None:
    wanted, own = [frozenset({1, 2}), frozenset({3})], [frozenset({2}), frozenset({3})]
    assert wanted_of("repeats", wanted, own) == [{2}, {3}]
    assert wanted_of("new items", wanted, own) == [{1}, frozenset()]
    assert wanted_of("all", wanted, own) == wanted


def test_figures_are_those_that_training_reports(outcome: BasketOutcome, data: Path, tmp_path: Path) -> None:
    after = train(SETTINGS, data, UNTIL, 1, root=tmp_path).metrics["after_cut"]
    models = {found.model: found.parts for found in outcome.models}
    for name, key in ((OURS, "model"), (POPULAR, "popular_28_days"), (PERSONAL, "personal_frequency")):
        for part in ("all", "repeats", "new items"):
            trained, here = after[key][part.replace(" ", "_")], models[name][part]
            assert here.lists == trained["lists"]
            for metric in ("precision", "recall", "hit_rate", "ndcg"):
                assert here.values[metric] == pytest.approx(trained[metric], abs=6e-5), (name, part, metric)
                assert here.errors[metric] == pytest.approx(trained[f"{metric}_error"], abs=6e-5)
    assert models[SERVED]["all"].values["precision"] == pytest.approx(after["served"]["precision"], abs=6e-5)
    assert outcome.counts.repeats_share == pytest.approx(after["share_of_repeats"], abs=6e-5)


def test_our_lists_beat_popularity(outcome: BasketOutcome) -> None:
    models = {found.model: found.parts["all"].values for found in outcome.models}
    assert models[OURS]["precision"] > models[POPULAR]["precision"]
    assert models[POPULAR]["coverage"] < models[OURS]["coverage"]
    assert models[POPULAR]["similarity"] == pytest.approx(1.0)


def test_the_section_has_a_table_a_data_set(outcome: BasketOutcome, tmp_path: Path) -> None:
    write_section(tmp_path / "q.md", BasketReport((outcome, outcome), 0), "tailrace eval baskets", "abc")
    text = (tmp_path / "q.md").read_text(encoding="utf-8")
    assert "**slice, cut 2011-04-01**" in text
    assert text.count("| personal frequency, 45 days | new items |") == 1  # one title, one table
    assert outcome.sha256 in text


def test_the_command_prints_one_line_of_json(
    outcome: BasketOutcome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str, str, int]] = []

    def instead(
        name: str, path: Path, until: str, settings: TrainSettings, seed: int, tell: object
    ) -> BasketOutcome:
        asked.append((name, path.name, until, seed))
        return outcome

    monkeypatch.setattr(baskets, "evaluate", instead)
    arguments = ["eval", "baskets", "--data", "online-retail", "--seed", "3", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "q.md")])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    found = json.loads(line)["data"]["slice"]["models"]
    assert {"all", "repeats", "new_items"} == set(found["tailrace"])
    assert asked == [("online-retail", "online_retail.parquet", "2011-11-01", 3)]
    text = (tmp_path / "q.md").read_text(encoding="utf-8")
    assert "`tailrace eval baskets --data online-retail --seed 3`" in text


@pytest.mark.parametrize(
    ("options", "number"),
    [(["--data", "a.parquet"], "TR-701"), (["--data", "a.parquet", "--until", "2011-01-01"], "TR-700")],
)
def test_what_cannot_be_used_is_refused_with_a_number(options: list[str], number: str) -> None:
    result = CliRunner().invoke(app, ["eval", "baskets", *options])
    assert isinstance(result.exception, UserError)
    assert result.exception.number == number


def test_a_cut_behind_all_sessions_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="give an earlier day"):
        evaluate("slice", data, "2011-05-01", SETTINGS, 0)


def test_every_feature_is_in_one_group_and_every_source_of_a_bundle_is_left_out_once() -> None:
    groups = feature_groups()
    assert [name for names in groups.values() for name in names] == list(FEATURE_NAMES)
    assert all(groups.values())
    assert set(SOURCES) == {*RETRIEVERS} - {"popular", "devices"}
    for source, starts in SOURCES.items():
        assert all(any(name.startswith(start) for name in FEATURE_NAMES) for start in starts), source


@pytest.fixture(scope="module")
def ablated_slice(data: Path) -> AblationReport:
    return ablate("slice", data, UNTIL, SETTINGS, 0)


def test_the_ablation_measures_the_same_baskets_without_each_part(ablated_slice: AblationReport) -> None:
    found = {variant.name: variant for variant in ablated_slice.variants}
    assert len(found) == 1 + 6 + 4 + 6 + 2 + 1 and next(iter(found)) == WHOLE
    whole = found[WHOLE]
    assert {variant.per_list.shape for variant in found.values()} == {whole.per_list.shape}
    assert {variant.new.shape for variant in found.values()} == {whole.new.shape}
    assert {variant.within.shape for variant in found.values()} == {whole.within.shape}
    assert len(whole.within) > 20 and not np.array_equal(
        found["without source sessions"].within, whole.within
    )
    # Repeats are most of what can be foreseen: without their source fewer of them are candidates.
    assert found["without source repeat"].candidate_recall < whole.candidate_recall
    hidden = found["without features of user and item"]
    assert not np.array_equal(hidden.per_list, whole.per_list)
    assert hidden.candidate_recall == whole.candidate_recall
    assert found["taken beyond the popular: 2 grades more"].head < whole.head
    assert 0.1 < ablated_slice.head_taken < 0.9
    assert ablated_slice.to_dict()["variants"][WHOLE]["ndcg"] > 0.0


def test_parts_of_an_ablation_are_asked_for_by_a_word_of_their_names() -> None:
    assert variant_names(SETTINGS.with_rules(), ("rules", "beyond"))[0] == "without source rules"
    assert len(variant_names(SETTINGS, ("beyond",))) == 2
    with pytest.raises(ValueError, match="'rules'"):
        variant_names(SETTINGS, ("rules",))


def test_what_is_taken_beyond_the_popular_counts_more_and_nothing_else() -> None:
    features = np.zeros((4, len(FEATURE_NAMES)), np.float32)
    features[:, FEATURE_NAMES.index("popularity_rank")] = np.log2(1 + np.array([10, 11, 90, 91]))
    examples = RankingExamples(features, np.array([1, 1, 0, 2], np.int32), np.array([4]))
    assert raise_tail(examples, 100, 2).labels.tolist() == [1, 3, 0, 4]
    assert raise_tail(examples, 100, 0) is examples


def test_the_ablation_has_a_section_of_its_own(ablated_slice: AblationReport, tmp_path: Path) -> None:
    write_section(tmp_path / "q.md", ablated_slice, "tailrace eval baskets --ablation", "abc")
    text = (tmp_path / "q.md").read_text(encoding="utf-8")
    assert (
        text.count("| without ") == 13
        and text.count("| taken beyond") == 2
        and "<!-- tailrace eval baskets --ablation: begin -->" in text
    )
