import json

import numpy as np
import pytest
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet
from rec.errors import DataError
from rec.evaluation.evaluate import Evaluation, TopKModel, evaluate
from rec.evaluation.order_gate import OrderGate, order_gate
from rec.evaluation.significance import Interval, paired_bootstrap
from rec.models.baselines import Popularity, ScoredLists

NUM_ITEMS = 40


class Following:
    """Show the item after the last one of the history; 1 to the cold."""

    name = "following"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        del exclude_seen
        self.batches.append(histories.num_users)
        assert (np.diff(histories.timestamps_ms)[np.diff(histories.rows()) == 0] >= 0).all()
        lists = np.zeros((histories.num_users, k), dtype=np.int32)
        is_warm = histories.lengths > 0
        lists[:, 0] = 1
        lists[is_warm, 0] = histories.tokens[histories.offsets[1:][is_warm] - 1] % NUM_ITEMS + 1
        return lists


class Bag:
    """Show the largest item of the history plus one, whatever the order."""

    name = "bag"

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        del exclude_seen
        lists = np.zeros((histories.num_users, k), dtype=np.int32)
        np.maximum.at(lists[:, 0], histories.rows(), histories.tokens)
        lists[:, 0] += 1
        return lists


def ask(histories: list[list[int]], sets: list[list[int]]) -> EvaluationSet:
    flat = [item for history in histories for item in history]
    return EvaluationSet(
        histories=Sequences(
            user_ids=[f"u{row}" for row in range(len(histories))],
            offsets=np.cumsum([0, *map(len, histories)]),
            tokens=np.array(flat, dtype=np.int32),
            timestamps_ms=np.array([t for h in histories for t in range(len(h))], dtype=np.int64),
            event_types=np.zeros(len(flat), dtype=np.int16),
            event_type_names=("view",),
            num_items=NUM_ITEMS,
        ),
        target_offsets=np.cumsum([0, *map(len, sets)]),
        targets=np.array([item for targets in sets for item in targets], dtype=np.int32),
    )


TEST = ask(
    [[], [1, 2, 3], list(range(1, 7)), list(range(1, 31)), [4, 5]],
    [[1], [4], [7, 9], [2], [5]],
)


def judge(*, exclude_seen: bool = False, batch_size: int = 512) -> Evaluation:
    models: list[TopKModel] = [Following(), ScoredLists(Popularity(TEST.histories))]
    return evaluate(
        models, TEST, train=TEST.histories, k=3, exclude_seen=exclude_seen, batch_size=batch_size
    )


def test_means_are_those_of_the_hand_computed_lists() -> None:
    # Hits of "following": cold, 4 and one of {7, 9}; not 2 (it shows 31), not 5 (it shows 6).
    metrics = judge().metrics["following"]
    assert metrics["hit_rate@3"] == pytest.approx(3 / 5)
    assert metrics["recall@3"] == pytest.approx((1 + 1 + 1 / 2) / 5)
    assert metrics["precision@3"] == pytest.approx(3 / 3 / 5)
    assert metrics["mrr@3"] == pytest.approx(3 / 5)
    assert metrics["ndcg@3"] == pytest.approx((2 + 1 / (1 + 1 / np.log2(3))) / 5)
    assert metrics["coverage@3"] == pytest.approx(5 / NUM_ITEMS)


def test_slices_put_every_user_into_one_length_of_history() -> None:
    slices = judge().slices
    assert {name: part.num_users for name, part in slices.items()} == {
        "0": 1,
        "1-5": 2,
        "6-20": 1,
        ">20": 1,
    }
    assert slices["0"].ndcg["following"] == 1.0
    assert slices["1-5"].ndcg["following"] == 0.5
    assert slices[">20"].ndcg["following"] == 0.0


def test_comparison_is_above_zero_where_the_first_model_is_better() -> None:
    evaluation = judge()
    ours, theirs = (values["ndcg@3"] for values in evaluation.metrics.values())
    assert ours != theirs
    assert list(evaluation.comparisons) == ["popularity"]
    comparison = evaluation.comparisons["popularity"]
    assert comparison.difference == pytest.approx(ours - theirs)
    assert comparison.ratio == pytest.approx(ours / theirs)
    assert comparison.low <= comparison.difference <= comparison.high


def test_excluding_seen_items_asks_only_for_new_targets() -> None:
    # Item 2 was seen by the long user and item 5 by the last: both leave.
    evaluation = judge(exclude_seen=True)
    assert evaluation.num_users == 3
    assert evaluation.metrics["following"]["hit_rate@3"] == 1.0


def test_batch_size_changes_no_number() -> None:
    assert judge(batch_size=2).to_json() == judge().to_json()


def test_progress_tells_the_users_done_by_model() -> None:
    seen: list[tuple[str, int]] = []
    model = Following()
    evaluate(
        [model],
        TEST,
        train=TEST.histories,
        exclude_seen=False,
        batch_size=2,
        on_progress=lambda name, done: seen.append((name, done)),
    )
    assert model.batches == [2, 2, 1]
    assert seen == [("following", 2), ("following", 4), ("following", 5)]


def test_json_survives_the_round_trip() -> None:
    document = judge().to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document["metrics"]["following"]) == {
        f"{name}@3"
        for name in (
            "ndcg", "recall", "mrr", "precision", "hit_rate", "coverage", "gini", "novelty",
                "f1", "debiased_ndcg", "group_auc", "roc_auc", "accuracy",
        )
    }  # fmt: skip


def test_nobody_to_ask_is_a_data_error() -> None:
    with pytest.raises(DataError, match="earlier cut"):
        evaluate([Following()], ask([], []), train=TEST.histories, exclude_seen=False)


def test_order_gate_falls_for_a_model_of_the_last_item_and_not_for_a_bag() -> None:
    generator = np.random.default_rng(0)
    starts = generator.integers(1, 30, size=200).tolist()
    test = ask([[*range(s, s + 8)] for s in starts], [[s + 8] for s in starts])
    found = order_gate(Following(), test, k=3, exclude_seen=False, seed=1)
    assert found is not None
    ordered = found.ndcg
    assert list(ordered) == ["ordered", "shuffled", "reversed", "last_only"]
    assert ordered["ordered"] == 1.0
    assert 0.05 < ordered["shuffled"] < 0.25  # the last of eight stays last by chance, 1/8
    assert ordered["reversed"] == 0.0
    assert ordered["last_only"] == 1.0
    assert (found.num_users, found.verdict) == (200, "passed")
    bag = order_gate(Bag(), test, k=3, exclude_seen=False, seed=1)
    assert bag is not None
    assert bag.ndcg["ordered"] == bag.ndcg["shuffled"] == bag.ndcg["reversed"] == 1.0
    assert bag.verdict == "failed"


def test_order_gate_last_only_hides_all_but_the_newest_event() -> None:
    gate = order_gate(Bag(), ask([[9, 3]], [[10]]), k=3, exclude_seen=False, seed=1)
    assert gate is not None
    assert gate.ndcg == {"ordered": 1.0, "shuffled": 1.0, "reversed": 1.0, "last_only": 0.0}


def test_order_gate_of_users_with_one_event_says_nothing() -> None:
    asked = ask([[1], []], [[2], [3]])
    assert order_gate(Following(), asked, k=3, exclude_seen=False, seed=1) is None


@pytest.mark.parametrize(
    ("ordered", "fall", "verdict"),
    [
        (0.2, (0.1, 0.05, 0.15), "passed"),
        (0.2, (0.0021, 0.0001, 0.004), "passed"),
        (0.2, (0.1, -0.01, 0.2), "unsure"),  # a large fall of few users
        (0.2, (0.0019, -0.001, 0.004), "failed"),
        (0.2, (0.0, 0.0, 0.0), "failed"),
        (0.2, (-0.1, -0.15, -0.05), "failed"),
        (0.2, (0.0, -0.1, 0.1), "unsure"),  # it may as well be worth half of all
        (0.0, (0.0, 0.0, 0.0), "unsure"),  # who finds nothing has nothing to lose
    ],
)
def test_order_gate_judges_only_what_its_users_can_tell(
    ordered: float, fall: tuple[float, float, float], verdict: str
) -> None:
    difference, low, high = fall
    interval = Interval(
        difference=difference, low=low, high=high, ratio=None, ratio_low=None, ratio_high=None
    )
    gate = OrderGate(num_users=9, ndcg={"ordered": ordered}, fall=interval)
    assert gate.verdict == verdict
    assert gate.to_json()["verdict"] == verdict


def test_bootstrap_interval_is_that_of_the_normal_approximation() -> None:
    generator = np.random.default_rng(3)
    theirs = generator.random(4000)
    ours = theirs + generator.normal(0.02, 0.3, 4000)
    interval = paired_bootstrap(ours, theirs)
    half = 1.96 * float((ours - theirs).std()) / np.sqrt(4000)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.08)
    assert interval.low < interval.difference < interval.high
    assert interval == paired_bootstrap(ours, theirs)


def test_bootstrap_keeps_the_pairs() -> None:
    # Users differ a lot, yet ours is better for each by 0.01: unpaired, that would drown.
    theirs = np.linspace(0, 1, 50)
    interval = paired_bootstrap(theirs + 0.01, theirs)
    assert interval.low == pytest.approx(0.01)
    assert interval.is_significant


def test_bootstrap_draws_a_pair_as_often_as_users_have_it() -> None:
    # One user in ten scores 1: the mean's standard error is sqrt(0.1 * 0.9 / 1000) = 0.0095.
    interval = paired_bootstrap(np.repeat([0.0, 1.0], [900, 100]), np.zeros(1000))
    assert interval.difference == 0.1
    assert interval.low == pytest.approx(0.1 - 1.96 * 0.0095, abs=0.002)
    assert interval.high == pytest.approx(0.1 + 1.96 * 0.0095, abs=0.002)


def test_bootstrap_against_zeros_has_no_ratio() -> None:
    interval = paired_bootstrap(np.array([0.0, 1.0]), np.zeros(2))
    assert (interval.ratio, interval.ratio_low, interval.ratio_high) == (None, None, None)
    assert (interval.low, interval.high) == (0.0, 1.0)
