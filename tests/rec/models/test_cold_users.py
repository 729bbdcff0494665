"""What users without events get: the popularity that their like turned to, unless trees know more.

Item 1 has the most events, item 2 the most of the newest ones.
"""

import numpy as np
import pytest

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet
from rec.ranking.columns import FEATURES
from rec.ranking.ranker import ColdUsers, Ranker, Trees
from rec.stages.cold_users import choose_popularity
from rec.stages.ranker_examples import Examples

SHARES = {"popularity": (0.6, 0.4), "recent_popularity": (0.3, 0.7)}


def two_candidates(targets: list[int], *, num_cold: int) -> Examples:
    """Return moments with items 1 and 2; the first ``num_cold`` are of users without events."""
    num_moments = len(targets)
    features = np.zeros((2 * num_moments, len(FEATURES)), dtype=np.float32)
    for name, shares in SHARES.items():
        features[:, FEATURES.index(name)] = np.log(np.tile(shares, num_moments))
    for name in ("current_popularity", "newest_popularity"):
        features[:, FEATURES.index(name)] = features[:, FEATURES.index("popularity")]
    features[2 * num_cold :, FEATURES.index("history_length")] = 1.0
    items = np.tile([1, 2], num_moments)
    return Examples(
        moments=EvaluationSet(
            histories=Sequences(
                user_ids=[f"u{row}" for row in range(num_moments)],
                offsets=np.zeros(num_moments + 1, dtype=np.int64),
                tokens=np.zeros(0, dtype=np.int32),
                timestamps_ms=np.zeros(0, dtype=np.int64),
                event_types=np.zeros(0, dtype=np.int16),
                event_type_names=("view",),
                num_items=2,
            ),
            target_offsets=np.arange(num_moments + 1),
            targets=np.asarray(targets, dtype=np.int32),
        ),
        num_asked=num_moments,
        rows=np.repeat(np.arange(num_moments), 2),
        items=items,
        features=features,
        is_target=items == np.repeat(targets, 2),
    )


def test_users_without_events_follow_those_before_them() -> None:
    """20 of them turn to item 2, 30 others to item 1: what the others want does not count."""
    examples = two_candidates([2] * 20 + [1] * 30, num_cold=20)
    wrong = np.tile([1.0, 0.0], 50)
    chosen = choose_popularity(examples, wrong)
    assert chosen is not None
    assert chosen.popularity == "recent_popularity"


def test_trees_order_for_them_where_they_are_better_beyond_chance() -> None:
    """Every other one turns to item 1: trees that know which beat any popularity."""
    examples = two_candidates([1, 2] * 20, num_cold=40)
    assert choose_popularity(examples, examples.is_target.astype(np.float64)) is None
    all_the_same = np.tile([0.0, 1.0], 40)
    chosen = choose_popularity(examples, all_the_same)
    assert chosen is not None, "no better than popularity"


def test_too_few_of_them_take_what_is_popular_with_everybody() -> None:
    """The trees knew the others' histories: what they say of nobody is not asked."""
    examples = two_candidates([2] * 5 + [1] * 45, num_cold=5)
    for raw in (np.tile([1.0, 0.0], 50), np.tile([0.0, 1.0], 50)):
        chosen = choose_popularity(examples, raw)
        assert chosen is not None
        assert chosen.popularity == "popularity"


def test_popularity_is_a_probability_for_users_without_events_alone() -> None:
    """Two items a basket, 0.7 of the events: it comes 1.4 times on average, e^-1.4 not at all."""
    cold_users = ColdUsers(popularity="recent_popularity", intercept=float(np.log(2)))
    trees = Trees(
        lead="popularity", booster=None, weight=1.0, cold_offset=0.0, slope=1.0, intercept=0.0,
        metrics={}, cold_users=cold_users,
    )  # fmt: skip
    features = two_candidates([1, 1], num_cold=1).features
    log_odds = Ranker(trees={"new": trees}).log_odds(features, mode="new", num_threads=1)
    assert 1 / (1 + np.exp(log_odds[:2])) == pytest.approx(np.exp([-0.6, -1.4]), rel=0.01)
    assert log_odds[2] > log_odds[3], "whoever has a history is served as before"
    searcher = features.copy()
    searcher[:, FEATURES.index("sequence")] = 0.5
    log_odds = Ranker(trees={"new": trees}).log_odds(searcher, mode="new", num_threads=1)
    assert log_odds[0] > log_odds[1], "who has searched is known by the search"
