"""The quality benchmark's cuts and its scorer, by hand: a leak there would be our best feature."""

import numpy as np
import polars as pl

from tests.benchmarks.quality_simple import SimplePeers
from tests.benchmarks.quality_tasks import leave_one_out, temporal

ITEMS = pl.DataFrame({"item_id": ["a", "b", "c", "d"]})


def events(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


LOG = events(
    ("ann", "a", 1), ("ann", "b", 2), ("bo", "a", 2), ("bo", "c", 3),
    ("ann", "a", 5), ("ann", "c", 5), ("cy", "b", 6), ("ann", "d", 7),
)  # fmt: skip


def test_a_temporal_task_asks_for_the_first_basket_after_the_cut() -> None:
    task = temporal("log", LOG, ITEMS, quantile=0.5, exclude_seen=False)
    assert task.train["timestamp"].max() == 3
    assert task.targets.rows() == [("ann", "a"), ("ann", "c"), ("cy", "b")]
    assert task.users == ["ann", "cy"]
    offsets, targets = task.target_sets()
    assert offsets.tolist() == [0, 2, 3]
    assert targets.tolist() == [1, 3, 2]


def test_seen_items_are_no_targets_where_lists_leave_them_out() -> None:
    task = temporal("log", LOG, ITEMS, quantile=0.5, exclude_seen=True)
    assert task.targets.rows() == [("ann", "c"), ("cy", "b")]


def test_leave_one_out_draws_the_last_of_a_tie_by_seed_and_keeps_the_rest() -> None:
    tied = events(
        ("ann", "a", 1), ("ann", "b", 2), ("ann", "c", 2), ("ann", "d", 2), ("bo", "a", 9)
    )
    drawn = set()
    for seed in range(20):
        task = leave_one_out("log", tied, ITEMS, seed=seed, exclude_seen=True)
        [(user_id, target)] = task.targets.rows()
        assert user_id == "ann"  # a user of one event has nothing to be asked by
        left = task.train.filter(pl.col("user_id") == "ann")["item_id"].to_list()
        assert sorted([*left, target]) == ["a", "b", "c", "d"]
        drawn.add(target)
    assert drawn == {"b", "c", "d"}


def test_lists_are_read_by_user_and_position_and_filled_by_popularity() -> None:
    task = temporal("log", LOG, ITEMS, quantile=0.5, exclude_seen=True)
    made = pl.DataFrame({"user_id": ["ann", "ann"], "position": [2, 1], "item_id": ["c", "d"]})
    lists = task.read_lists(made)
    assert lists[:, :3].tolist() == [[4, 3, 0], [0, 0, 0]]
    peers = SimplePeers(task, text=np.eye(4, dtype=np.float32))
    # Ann had a and b; a came twice before the cut, b and c once, d never.
    assert peers.fill(lists)[:, :5].tolist() == [[4, 3, 0, 0, 0], [1, 2, 3, 4, 0]]
