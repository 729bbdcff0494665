"""What the report says beside the models' own numbers, and the comparison of two releases."""

import json
import re
import shutil
from html import escape
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet
from rec.errors import ArtifactError, ConfigError, DataError
from rec.evaluation.calibration import reliability
from rec.evaluation.comparing import compare_reports
from rec.evaluation.report_plots import draw_lengths
from rec.evaluation.report_words import WORDS
from rec.evaluation.slicing import Slice, slice_by_target
from rec.evaluation.sweeping import Scoring, sweep_penalty
from rec.ranking.current import current_release
from rec.stages.evaluating import EvaluationConfig, evaluate_index
from rec.stages.release_comparison import compare_releases

NUM_ITEMS = 6


def ask(sets: list[list[int]]) -> EvaluationSet:
    return EvaluationSet(
        histories=Sequences(
            user_ids=[str(row) for row in range(len(sets))],
            offsets=np.zeros(len(sets) + 1, dtype=np.int64),
            tokens=np.zeros(0, dtype=np.int32),
            timestamps_ms=np.zeros(0, dtype=np.int64),
            event_types=np.zeros(0, dtype=np.int16),
            event_type_names=("view",),
            num_items=NUM_ITEMS,
        ),
        target_offsets=np.cumsum([0, *map(len, sets)]),
        targets=np.asarray([item for one in sets for item in one], dtype=np.int32),
    )


def test_slice_asks_only_for_the_targets_of_its_label() -> None:
    test = ask([[1, 4], [4], [2]])
    lists = {"ours": np.array([[1, 2], [5, 4], [2, 1]], dtype=np.int32)}
    slices = slice_by_target(lists, test, ["a", "a", "a", "b", "b", ""])
    assert slices["a"].num_users == 2
    assert slices["a"].ndcg["ours"] == pytest.approx(1.0)
    assert slices["b"].num_users == 2
    assert slices["b"].ndcg["ours"] == pytest.approx((0 + 1 / np.log2(3)) / 2)
    # Steps of a scale stand in its order, whichever item comes first.
    thirds = slice_by_target(lists, test, ["rare", "cold", "a", "warm", "b", ""])
    assert list(thirds) == ["warm", "cold", "rare"]


def test_sweep_recommends_what_costs_nothing_and_covers_more() -> None:
    num_users = 400
    # Item 1 is popular and never wanted; 2 .. 6 are wanted, and lambda lets them up.
    test = ask([[2 + row % 5] for row in range(num_users)])
    relevance = np.tile(np.array([1.0, *[0.5] * 5], np.float32), (num_users, 1))
    relevance[np.arange(num_users), 1 + np.arange(num_users) % 5] += 0.1
    scoring = Scoring(
        items=np.tile(np.arange(1, 7), (num_users, 1)),
        relevance=relevance,
        penalty=np.tile(np.array([1.0, *[0.0] * 5], np.float32), (num_users, 1)),
    )
    sweep = sweep_penalty(
        scoring,
        test,
        weights=(0.1, 1.0),
        k=1,
        counts=np.array([100, 1, 1, 1, 1, 1]),
        embeddings=np.eye(NUM_ITEMS, dtype=np.float32),
        groups=[["a"], ["b"], ["b"], ["b"], ["b"], ["b"]],
    )
    assert [point.ndcg for point in sweep.points] == [0.0, 0.0, 1.0]
    assert sweep.recommended == 1.0
    assert [point.is_on_front for point in sweep.points] == [False, False, True]
    assert sweep.points[0].group_gap == pytest.approx(5 / 6)
    # The other way round: what lambda takes away was right, so 0 stays.
    wanted = ask([[1]] * num_users)
    kept = sweep_penalty(
        scoring,
        wanted,
        weights=(1.0,),
        k=1,
        counts=np.ones(NUM_ITEMS, np.int64),
        embeddings=np.eye(NUM_ITEMS, dtype=np.float32),
    )
    assert kept.recommended == 0.0


def test_reliability_of_honest_probabilities_lies_on_the_diagonal() -> None:
    random = np.random.default_rng(0)
    chances = random.uniform(0.05, 0.95, 20_000)
    taken = random.random(20_000) < chances
    test = ask([[1] if hit else [2] for hit in taken])
    curve = reliability(
        np.ones((20_000, 1), dtype=np.int32),
        np.log(chances / (1 - chances)).astype(np.float32)[:, None],
        test,
    )
    assert curve.error < 0.02
    assert sum(curve.num_items) == 20_000
    bold = reliability(
        np.ones((20_000, 1), dtype=np.int32), np.full((20_000, 1), 4.0, np.float32), test
    )
    assert bold.error > 0.4


@pytest.mark.parametrize("protocol", ["rolling", "leave_one_out"])
def test_other_protocols_measure_the_same_model(released_workspace: Path, protocol: str) -> None:
    config = EvaluationConfig(protocol=protocol, num_folds=2, order_gate=False, sweep=())
    latest = (released_workspace / "reports" / "latest").read_bytes()
    try:
        report, _ = evaluate_index(released_workspace, config)
    finally:  # others go on with the headline report
        (released_workspace / "reports" / "latest").write_bytes(latest)
    found = json.loads((report.path / "metrics.json").read_text())
    assert found["protocol"] == protocol
    assert len(found["folds"]) == (2 if protocol == "rolling" else 1)
    metrics = found["metrics"]
    assert metrics["nextray"]["ndcg@10"] > 2 * metrics["popularity"]["ndcg@10"]
    assert found["sweep"] is None
    assert set(found["facets"]) >= {"warmth", "frequency", "language"}


def test_protocol_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="num-folds must be >= 2"):
        EvaluationConfig(num_folds=1)
    with pytest.raises(ConfigError, match="sweep must be >= 0"):
        EvaluationConfig(sweep=(0.1, -1.0))


def test_release_is_compared_user_by_user(released_workspace: Path, tmp_path: Path) -> None:
    release = current_release(released_workspace)
    same = compare_releases(released_workspace, release.name, release.name)
    assert same.better is None
    assert same.interval.difference == 0.0
    worse = tmp_path / "worse"
    worse.mkdir()
    for name in ("metrics.json", "user_ndcg.parquet"):
        shutil.copy(release / name, worse / name)
    table = pl.read_parquet(worse / "user_ndcg.parquet")
    table.with_columns(nextray=pl.col("popularity")).write_parquet(worse / "user_ndcg.parquet")
    found = compare_reports(release, worse)
    assert found.better == release.name
    assert found.interval.high < 0
    text = json.loads((worse / "metrics.json").read_text()) | {"test_set": "another"}
    (worse / "metrics.json").write_text(json.dumps(text))
    with pytest.raises(DataError, match="differ in test_set"):
        compare_reports(release, worse)
    with pytest.raises(ArtifactError, match="expected a release or report"):
        compare_releases(released_workspace, release.name, "../releases")


def test_report_shows_sweep_calibration_and_slices_in_both_languages(
    released_workspace: Path,
) -> None:
    release = current_release(released_workspace)
    pages = [(release / name).read_text() for name in ("report.html", "report.zh.html")]
    for page, words in zip(
        pages,
        (("Popularity's penalty", "Calibration", "Pareto"), ("热度惩罚", "校准", "帕累托")),
        strict=True,
    ):
        for word in words:
            assert escape(word) in page
        assert "<script" not in page
        assert "data_card" in page
    metrics = json.loads((release / "metrics.json").read_text())
    assert metrics["sweep"]["recommended"] in [p["weight"] for p in metrics["sweep"]["points"]]
    assert "user_id" not in (release / "metrics.json").read_text()


def test_last_tick_of_many_users_ends_within_the_drawing() -> None:
    labels = {"0": 7, ">20": 1779}
    slices = {
        name: Slice(num_users=number, ndcg={"nextray": 0.1}) for name, number in labels.items()
    }
    html = draw_lengths(slices, "nextray", WORDS["en"])
    assert re.search(r'<text x="720\.0" y="\d+" text-anchor="end">&gt;20 \(1,779\)<', html)
    assert re.search(r'text-anchor="middle">0 \(7\)<', html)
