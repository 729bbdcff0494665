"""What the report says of whom the lists serve, by numbers that a hand can check."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet
from rec.evaluation.bilingual import history_languages, language_pairs
from rec.evaluation.popularity_bias import popularity_bias
from rec.evaluation.prefixes import prefix_curve
from rec.stages.evaluating import REPORT_FILES

ITEMS = 4
LABELS = ["en", "en", "zh", "zh"]


def ask(histories: list[list[int]], targets: list[list[int]]) -> EvaluationSet:
    tokens = np.asarray([item for one in histories for item in one], dtype=np.int32)
    return EvaluationSet(
        histories=Sequences(
            user_ids=[str(row) for row in range(len(histories))],
            offsets=np.cumsum([0, *map(len, histories)]),
            tokens=tokens,
            timestamps_ms=np.arange(len(tokens)),
            event_types=np.zeros(len(tokens), dtype=np.int16),
            event_type_names=("view",),
            num_items=ITEMS,
        ),
        target_offsets=np.cumsum([0, *map(len, targets)]),
        targets=np.asarray([item for one in targets for item in one], dtype=np.int32),
    )


class CountsEvents:
    """Put the target first once a history has two events, else nowhere."""

    name = "counts"

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        assert not exclude_seen
        lists = np.zeros((histories.num_users, k), dtype=np.int32)
        lists[histories.lengths >= 2, 0] = 4
        # The newest events are told: the first of this user's is item 1.
        assert not (histories.lengths == 2).any() or 1 not in histories.tokens
        return lists


def test_prefix_curve_asks_the_same_users_with_the_newest_events() -> None:
    test = ask([[1, 2, 3], [1, 3, 2], [1], []], [[4], [4], [4], [4]])
    curve = prefix_curve([CountsEvents()], test, k=2, exclude_seen=False)
    assert curve is not None
    # Half of those with events have three: both are asked at every point.
    assert (curve.num_users, list(curve.known)) == (2, [0, 1, 2, 3])
    assert curve.ndcg["counts"] == [0.0, 0.0, 1.0, 1.0]
    assert prefix_curve([CountsEvents()], ask([[]], [[1]]), k=2, exclude_seen=False) is None


def test_language_pairs_ask_each_history_for_each_language() -> None:
    test = ask([[1, 2, 3], [3], [4, 3], [1, 3]], [[1, 4], [4], [2], [1]])
    lists = np.array([[1, 2], [4, 3], [1, 3], [1, 2]], dtype=np.int32)
    assert history_languages(test.histories, LABELS).tolist() == ["en", "zh", "zh", ""]
    pairs = {(p.history, p.target): p for p in language_pairs({"ours": lists}, test, LABELS)}
    assert set(pairs) == {("en", "en"), ("en", "zh"), ("zh", "en"), ("zh", "zh")}
    assert [pairs[key].num_users for key in (("en", "en"), ("en", "zh"), ("zh", "en"))] == [1, 1, 1]
    assert pairs["en", "en"].ndcg["ours"] == 1.0
    assert pairs["en", "zh"].ndcg["ours"] == 0.0
    assert pairs["zh", "en"].ndcg["ours"] == 0.0
    assert pairs["zh", "zh"].ndcg["ours"] == 1.0
    assert pairs["zh", "en"].share["ours"] == 0.5
    assert language_pairs({"ours": lists}, test, ["en"] * ITEMS) == []


def test_popularity_bias_of_lists_that_show_what_is_asked_for_is_0() -> None:
    counts = np.array([5, 3, 2, 0])
    targets = np.array([1, 1, 2, 4])
    fair = popularity_bias({"fair": targets[:, None]}, targets=targets, counts=counts)
    assert fair.excess("fair") == 0
    assert sum(fair.targets) == pytest.approx(1.0)
    # Items 3, 2 and 1 end the tenths 2, 5 and 10 of the events; item 4 has none.
    assert list(fair.items) == [1, 1, 1, 1]
    assert list(fair.targets) == [0.25, 0.0, 0.25, 0.5]
    head = popularity_bias({"head": np.full((4, 1), 1, np.int32)}, targets=targets, counts=counts)
    assert head.excess("head") == 0.5


def test_report_shows_all_three(released_workspace: Path) -> None:
    room = released_workspace / "reports"
    folder = room / (room / "latest").read_text().strip()
    metrics = json.loads((folder / "metrics.json").read_text())
    prefixes, pairs = metrics["prefixes"], metrics["languages"]
    # A shop whose order tells what comes next: one event is worth more than none, and more are.
    ours = prefixes["ndcg"]["nextray"]
    assert prefixes["known"][:2] == [0, 1]
    assert ours[1] > 2 * ours[0]
    assert ours[-1] > 2 * prefixes["ndcg"]["popularity"][-1]
    # Each user of the synthetic shop meets items of one language.
    assert {(pair["history"], pair["target"]) for pair in pairs} == {("en", "en"), ("zh", "zh")}
    assert all(pair["num_users"] > 5 for pair in pairs)
    assert sum(metrics["popularity_bias"]["places"]["nextray"]) == pytest.approx(1.0)
    for language, words in (("en", ("From a cold start", "Bilingual parity", "Popularity bias")),
                            ("zh", ("从冷启动开始", "双语对等", "热度偏差"))):  # fmt: skip
        page = (folder / REPORT_FILES[language]).read_text(encoding="utf-8")
        assert all(word in page for word in words)
