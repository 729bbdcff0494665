import numpy as np
import pytest
from numpy.typing import NDArray

from rec.evaluation.ranking_metrics import (
    coverage_at_k,
    gini_at_k,
    hit_rate_at_k,
    hits,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    precision_at_k,
    recall_at_k,
)

NUM_ITEMS = 30


def draw(
    num_users: int, k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32], list[set[int]]]:
    """Return distinct lists, some with empty places at the end, and 1 to 14 targets a user."""
    generator = np.random.default_rng(5)
    orders = np.argsort(generator.random((num_users, NUM_ITEMS)), axis=1) + 1
    lists = orders[:, :k].astype(np.int32)
    lists[np.arange(k) >= generator.integers(k // 2, k + 1, (num_users, 1))] = 0
    wanted = np.argsort(generator.random((num_users, NUM_ITEMS)), axis=1) + 1
    lengths = generator.integers(1, 15, num_users)
    sets = [row[:length] for row, length in zip(wanted, lengths, strict=True)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return lists, offsets, np.concatenate(sets).astype(np.int32), [set(s.tolist()) for s in sets]


def test_ndcg_equals_sklearn_on_a_thousand_random_lists() -> None:
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    lists, offsets, targets, sets = draw(1000, 10)
    relevance = np.zeros((1000, NUM_ITEMS))
    scores = np.zeros((1000, NUM_ITEMS))
    for row, wanted in enumerate(sets):
        relevance[row, [item - 1 for item in wanted]] = 1
        shown = [item for item in lists[row].tolist() if item]
        # Where the list has empty places, sklearn sees irrelevant items: there are always enough.
        rest = sorted(set(range(1, NUM_ITEMS + 1)) - set(shown), key=lambda item: item in wanted)
        for place, item in enumerate([*shown, *rest]):
            scores[row, item - 1] = -place
    expected = [
        ndcg_score(relevance[row : row + 1], scores[row : row + 1], k=10) for row in range(1000)
    ]
    assert ndcg_at_k(lists, offsets, targets) == pytest.approx(expected, abs=1e-12)


def test_set_metrics_equal_plain_counting_on_random_lists() -> None:
    lists, offsets, targets, sets = draw(300, 6)
    found = [
        [item in wanted for item in row] for row, wanted in zip(lists.tolist(), sets, strict=True)
    ]
    assert hits(lists, offsets, targets).tolist() == found
    arguments = (lists, offsets, targets)
    expected = [sum(row) / len(wanted) for row, wanted in zip(found, sets, strict=True)]
    assert recall_at_k(*arguments).tolist() == expected
    assert precision_at_k(*arguments).tolist() == [sum(row) / 6 for row in found]
    assert hit_rate_at_k(*arguments).tolist() == [float(any(row)) for row in found]
    firsts = [1 / (row.index(True) + 1) if any(row) else 0.0 for row in found]
    assert mrr_at_k(*arguments).tolist() == firsts


def test_list_full_of_targets_has_ndcg_one_even_if_more_targets_are_wanted() -> None:
    lists = np.array([[3, 1], [3, 1]], dtype=np.int32)
    offsets, targets = np.array([0, 2, 5]), np.array([1, 3, 1, 2, 3], dtype=np.int32)
    assert ndcg_at_k(lists, offsets, targets).tolist() == [1.0, 1.0]
    assert recall_at_k(lists, offsets, targets).tolist() == pytest.approx([1.0, 2 / 3])


def test_repeated_item_is_paid_once() -> None:
    lists = np.array([[7, 7, 7]], dtype=np.int32)
    arguments = (lists, np.array([0, 1]), np.array([7], dtype=np.int32))
    assert hits(*arguments).tolist() == [[True, False, False]]
    assert recall_at_k(*arguments).tolist() == [1.0]


def test_another_users_target_is_no_hit() -> None:
    lists = np.array([[2], [1]], dtype=np.int32)
    assert not hits(lists, np.array([0, 1, 2]), np.array([1, 2], dtype=np.int32)).any()


def test_no_users_and_no_targets_are_no_error() -> None:
    nobody = (np.zeros((0, 5), np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32))
    aimless = (np.array([[1, 2]], np.int32), np.zeros(2, np.int64), np.zeros(0, np.int32))
    for metric in (ndcg_at_k, recall_at_k, precision_at_k, hit_rate_at_k, mrr_at_k):
        assert metric(*nobody).shape == (0,)
        assert metric(*aimless).tolist() == [0.0]


def test_equal_exposure_has_gini_zero_and_one_item_for_all_has_the_largest() -> None:
    assert gini_at_k(np.array([[1, 2], [3, 4]], np.int32), num_items=4) == pytest.approx(0.0)
    assert gini_at_k(np.array([[3], [3], [3]], np.int32), num_items=4) == pytest.approx(0.75)


def test_empty_places_show_nothing() -> None:
    nothing = np.zeros((3, 2), np.int32)
    assert coverage_at_k(nothing, num_items=4) == 0.0
    assert gini_at_k(nothing, num_items=4) == 0.0
    assert novelty_at_k(nothing, counts=np.array([1, 2, 3, 4])) == 0.0


def test_novelty_is_the_mean_of_bits_with_one_added() -> None:
    # p = (1 + 1) / (6 + 2) = 1/4 and (5 + 1) / 8 = 3/4, shown twice and once.
    lists = np.array([[1, 2], [1, 0]], np.int32)
    expected = (2 * 2 + np.log2(4 / 3)) / 3
    assert novelty_at_k(lists, counts=np.array([1, 5])) == pytest.approx(expected)
