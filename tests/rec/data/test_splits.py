from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet, hold_out_last, leave_one_out, temporal_split
from rec.errors import DataError

NUM_ITEMS = 4  # tokens 5 and 6 are searches


class Act(NamedTuple):
    time: int
    token: int


Log = list[list[Act]]

acts = st.builds(Act, st.integers(0, 9), st.integers(1, NUM_ITEMS + 2))
logs = st.lists(st.lists(acts, max_size=8), min_size=1, max_size=6).map(
    lambda users: [sorted(user, key=lambda act: act.time) for user in users]
)


def build(log: Log) -> Sequences:
    flat = [act for user in log for act in user]
    return Sequences(
        user_ids=[f"u{row}" for row in range(len(log))],
        offsets=np.cumsum([0, *map(len, log)]),
        tokens=np.array([act.token for act in flat], dtype=np.int32),
        timestamps_ms=np.array([act.time for act in flat], dtype=np.int64),
        event_types=np.array([act.token % 2 for act in flat], dtype=np.int16),
        event_type_names=("view", "cart"),
        num_items=NUM_ITEMS,
        queries=("red", "blue"),
    )


def unbuild(sequences: Sequences) -> dict[str, list[Act]]:
    assert all(sequences.event_types == sequences.tokens % 2)
    acts = [*map(Act, sequences.timestamps_ms.tolist(), sequences.tokens.tolist())]
    bounds = sequences.offsets.tolist()
    return {
        user: acts[bounds[row] : bounds[row + 1]] for row, user in enumerate(sequences.user_ids)
    }


def target_sets(test: EvaluationSet) -> dict[str, list[int]]:
    bounds = test.target_offsets.tolist()
    return {
        user: test.targets[bounds[row] : bounds[row + 1]].tolist()
        for row, user in enumerate(test.histories.user_ids)
    }


def item_times(user: list[Act]) -> list[int]:
    return [act.time for act in user if act.token <= NUM_ITEMS]


def items_at(user: list[Act], time: int) -> list[int]:
    return sorted({act.token for act in user if act.time == time and act.token <= NUM_ITEMS})


def split_plainly(
    log: Log, ends: dict[str, int], targets_at: dict[str, int]
) -> tuple[dict[str, list[Act]], dict[str, list[Act]], dict[str, list[int]]]:
    """Return training, histories and target sets; events up to ``ends`` are known."""
    train, sets = {}, {}
    for row, user in enumerate(log):
        name = f"u{row}"
        train[name] = [act for act in user if act.time < ends[name]]
        if name in targets_at:
            sets[name] = items_at(user, targets_at[name])
    return train, {name: train[name] for name in sets}, sets


@given(log=logs, quantile=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
def test_temporal_split_equals_plain_reference(log: Log, quantile: float) -> None:
    times = sorted(time for user in log for time in item_times(user))
    if not times:
        with pytest.raises(DataError, match="item event"):
            temporal_split(build(log), quantile=quantile)
        return
    cut = times[min(int(quantile * len(times)), len(times) - 1)]
    later = {f"u{row}": [t for t in item_times(user) if t >= cut] for row, user in enumerate(log)}
    train, histories, sets = split_plainly(
        log, dict.fromkeys(later, cut), {name: min(found) for name, found in later.items() if found}
    )
    split = temporal_split(build(log), quantile=quantile)
    assert split.cut_ms == cut
    assert unbuild(split.train) == train
    assert unbuild(split.test.histories) == histories
    assert target_sets(split.test) == sets


@given(log=logs)
def test_leave_one_out_equals_plain_reference(log: Log) -> None:
    last = {f"u{row}": max(item_times(user)) for row, user in enumerate(log) if item_times(user)}
    if not last:
        with pytest.raises(DataError, match="item event"):
            leave_one_out(build(log))
        return
    train, histories, sets = split_plainly(
        log, {f"u{row}": last.get(f"u{row}", 99) for row in range(len(log))}, last
    )
    split = leave_one_out(build(log))
    assert unbuild(split.train) == train
    assert unbuild(split.test.histories) == histories
    assert target_sets(split.test) == sets


@given(log=logs, max_users=st.integers(0, 7), seed=st.integers(0, 3))
def test_hold_out_last_equals_plain_reference_for_the_users_it_draws(
    log: Log, max_users: int, seed: int
) -> None:
    last = {
        f"u{row}": max(item_times(user))
        for row, user in enumerate(log)
        if len(set(item_times(user))) >= 2
    }
    kept, validation = hold_out_last(build(log), max_users=max_users, seed=seed)
    drawn = {name: last[name] for name in validation.histories.user_ids}
    assert len(drawn) == min(max_users, len(last))
    train, histories, sets = split_plainly(
        log, {f"u{row}": drawn.get(f"u{row}", 99) for row in range(len(log))}, drawn
    )
    assert unbuild(kept) == train
    assert unbuild(validation.histories) == histories
    assert target_sets(validation) == sets


def test_hold_out_last_draws_by_seed() -> None:
    log = build([[Act(1, 1), Act(2, 2)] for _ in range(50)])

    def draw(seed: int) -> list[str]:
        return list(hold_out_last(log, max_users=10, seed=seed)[1].histories.user_ids)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@given(log=logs)
def test_without_seen_leaves_only_new_targets_and_their_users(log: Log) -> None:
    if not any(item_times(user) for user in log):
        return
    test = leave_one_out(build(log)).test
    histories = unbuild(test.histories)
    expected = {}
    for name, targets in target_sets(test).items():
        seen = {act.token for act in histories[name]}
        if new := [item for item in targets if item not in seen]:
            expected[name] = new
    unseen = test.without_seen()
    assert target_sets(unseen) == expected
    assert unbuild(unseen.histories) == {name: histories[name] for name in expected}
    assert unseen.num_users == len(expected)


def test_basket_at_the_cut_is_one_target_set_and_its_search_is_none() -> None:
    log = build([[Act(1, 1), Act(2, 5), Act(3, 2), Act(3, 6), Act(3, 4), Act(3, 2), Act(4, 3)]])
    split = temporal_split(log, quantile=0.3)
    assert split.cut_ms == 3
    assert target_sets(split.test) == {"u0": [2, 4]}
    assert unbuild(split.test.histories) == {"u0": [Act(1, 1), Act(2, 5)]}


def test_set_of_nobody_stays_empty_without_seen_items() -> None:
    kept, validation = hold_out_last(build([[Act(1, 1)]]), max_users=3, seed=0)
    assert validation.without_seen().num_users == validation.num_users == 0
    assert unbuild(kept) == {"u0": [Act(1, 1)]}
