"""Splits: what is trained on, and whom and what an evaluation asks for.

The unit is the *target set*: all items of one user that share one timestamp (a basket, a day),
because the order inside a tie is rarely a signal. A history holds only events strictly older than
what separates it from its target. Searches are part of histories, never targets.

Shapes: U users, E events, V items; B users with a target, T items of all target sets together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """Hold users, what is known of each, and the items each turned to next.

    Attributes:
        histories: the B users that have a target; a length of 0 says that a user is cold.
        target_offsets: int64 ``(B + 1,)``; user ``b`` owns ``targets`` from ``target_offsets[b]``
            up to ``target_offsets[b + 1]``, at least one.
        targets: int32 ``(T,)``, item indexes ``1..V``, distinct and ascending for each user.
    """

    histories: Sequences
    target_offsets: NDArray[np.int64]
    targets: NDArray[np.int32]

    @property
    def num_users(self) -> int:
        """Return B."""
        return self.histories.num_users

    def select_users(self, rows: NDArray[np.int64]) -> "EvaluationSet":
        """Return only the users at ``rows``, in that order."""
        num_targets = np.diff(self.target_offsets)[rows]
        offsets = _offsets(num_targets)
        starts = np.repeat(self.target_offsets[rows] - offsets[:-1], num_targets)
        return EvaluationSet(
            histories=self.histories.select_users(rows),
            target_offsets=offsets,
            targets=self.targets[starts + np.arange(offsets[-1])],
        )

    def without_seen(self) -> "EvaluationSet":
        """Return the set for recommenders that never repeat: only targets new to their user.

        Items of the user's own history leave the target set; a user with nothing left leaves.
        """
        histories = self.histories
        rows = np.repeat(np.arange(self.num_users), np.diff(self.target_offsets))
        base = histories.num_items + 1
        is_item = histories.is_item
        seen = histories.rows()[is_item] * base + histories.tokens[is_item]
        wanted = rows * base + self.targets  # (T,), ascending: no sort of the long histories
        places = np.minimum(np.searchsorted(wanted, seen), len(wanted) - 1)
        is_new = np.ones(len(wanted), dtype=np.bool_)
        is_new[places[wanted[places] == seen]] = False
        num_targets = np.bincount(rows[is_new], minlength=self.num_users)
        kept = np.flatnonzero(num_targets)
        return EvaluationSet(
            histories=histories.select_users(kept),
            target_offsets=_offsets(num_targets[kept]),
            targets=self.targets[is_new],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Hold what may be learnt from and what is asked afterwards.

    Attributes:
        cut_ms: no target is older than this.
        train: all U users, only their training events; a user may have none.
        test: the users that have a target.
    """

    cut_ms: int
    train: Sequences
    test: EvaluationSet


def temporal_split(sequences: Sequences, *, quantile: float = 0.9) -> Split:
    """Split at one moment for all users, so that nothing from the future is learnt.

    Order the times of all n item events: the cut is the one at 0-based place
    ``floor(quantile * n)``, the last one at most. Every event with ``timestamp_ms < cut_ms`` is
    training; the rest, at least the share ``1 - quantile`` of the item events, is not. A user's
    target set is the first item event from the cut on with all item events tied with it; what
    comes later is not used. A history is the user's training events: one that begins after the
    cut is cold and has none.

    Also called a global timeline split. Flaw: users not seen after the cut are not tested, and
    one cut is one season.

    Raises:
        DataError: there is no item event.

    Source: Meng et al. 2020, Exploring data splitting strategies for the evaluation of
    recommendation models; Ji et al. 2023, A critical study on data leakage in recommender systems.

    Ann has items 1 to 4 at seconds 1 to 4, Bo item 5 at second 9: half of the five lie before
    second 3.

    >>> log = Sequences(
    ...     user_ids=["ann", "bo"],
    ...     offsets=np.array([0, 4, 5]),
    ...     tokens=np.array([1, 2, 3, 4, 5], dtype=np.int32),
    ...     timestamps_ms=np.array([1000, 2000, 3000, 4000, 9000]),
    ...     event_types=np.zeros(5, dtype=np.int16),
    ...     event_type_names=("view",),
    ...     num_items=5,
    ... )
    >>> split = temporal_split(log, quantile=0.5)
    >>> split.cut_ms, split.train.tokens.tolist(), split.test.targets.tolist()
    (3000, [1, 2], [3, 5])
    >>> split.test.histories.lengths.tolist()
    [2, 0]
    """
    is_item = sequences.is_item
    times = sequences.timestamps_ms[is_item]
    if not len(times):
        raise DataError("expected at least one item event to split, got none: add events")
    place = min(int(quantile * len(times)), len(times) - 1)
    cut_ms = int(np.partition(times, place)[place])
    is_before = sequences.timestamps_ms < cut_ms
    later = np.flatnonzero(is_item & ~is_before)
    later_rows = sequences.rows()[later]
    first = later[np.diff(later_rows, prepend=-1) != 0]
    train = sequences.select_events(is_before)
    return Split(cut_ms=cut_ms, train=train, test=_ask(train, sequences, events=first))


def leave_one_out(sequences: Sequences) -> Split:
    """Split off each user's last item event, with all item events tied with it.

    Everything of the user that is not older than the target, searches too, leaves training. A
    user without item events keeps all. A user whose item events are one tie is tested with what
    searches came before, or cold.

    Flaw: it leaks. Each user has their own cut, so training holds what others did after a user's
    target (trends, items that did not exist yet) and numbers come out too high. For comparison
    with papers; report :func:`temporal_split`.

    Raises:
        DataError: there is no item event.

    Source: Rendle et al. 2009, BPR; the leak: Ji et al. 2023, A critical study on data leakage in
    recommender systems.

    Ann's last two items are tied; Bo has one item, which is asked of a cold user.

    >>> log = Sequences(
    ...     user_ids=["ann", "bo"],
    ...     offsets=np.array([0, 3, 4]),
    ...     tokens=np.array([1, 3, 2, 5], dtype=np.int32),
    ...     timestamps_ms=np.array([1000, 2000, 2000, 9000]),
    ...     event_types=np.zeros(4, dtype=np.int16),
    ...     event_type_names=("view",),
    ...     num_items=5,
    ... )
    >>> split = leave_one_out(log)
    >>> split.train.tokens.tolist(), split.test.targets.tolist()
    ([1], [2, 3, 5])
    >>> split.test.target_offsets.tolist()
    [0, 2, 3]
    """
    last = _last_item_events(sequences)
    if not len(last):
        raise DataError("expected at least one item event to split, got none: add events")
    train = sequences.select_events(_is_before(sequences, events=last))
    return Split(
        cut_ms=int(sequences.timestamps_ms[last].min()),
        train=train,
        test=_ask(train, sequences, events=last),
    )


def hold_out_last(
    train: Sequences, *, max_users: int, seed: int
) -> tuple[Sequences, EvaluationSet]:
    """Return the training sequences without some users' last item events, and those as a set.

    Users whose item events have at least two distinct times can be asked; ``max_users`` of them,
    or all if they are fewer, are drawn by ``seed``. Of a drawn user everything not older than the
    target leaves training; other users keep all their events. The set is empty if nobody can be
    asked.

    Flaw: as with :func:`leave_one_out`, training holds what others did later. Good enough to stop
    and choose by; not to report.

    Ann has items 1 and 2, then item 3; Bo has one time only and is not asked.

    >>> log = Sequences(
    ...     user_ids=["ann", "bo"],
    ...     offsets=np.array([0, 3, 5]),
    ...     tokens=np.array([1, 2, 3, 4, 5], dtype=np.int32),
    ...     timestamps_ms=np.array([1000, 2000, 3000, 4000, 4000]),
    ...     event_types=np.zeros(5, dtype=np.int16),
    ...     event_type_names=("view",),
    ...     num_items=5,
    ... )
    >>> kept, validation = hold_out_last(log, max_users=9, seed=0)
    >>> kept.tokens.tolist(), validation.histories.user_ids, validation.targets.tolist()
    ([1, 2, 4, 5], ['ann'], [3])
    """
    last = _last_item_events(train)
    rows = train.rows()
    items = np.flatnonzero(train.is_item)
    first = items[np.diff(rows[items], prepend=-1) != 0]
    last = last[train.timestamps_ms[first] < train.timestamps_ms[last]]
    if len(last) > max_users:
        generator = np.random.default_rng(seed)
        last = np.sort(generator.choice(last, size=max_users, replace=False))
    kept = train.select_events(_is_before(train, events=last))
    return kept, _ask(kept, train, events=last)


def next_moments(
    sequences: Sequences, *, since_ms: int, per_user: int, max_moments: int, seed: int
) -> EvaluationSet:
    """Return moments from a time on: what a user's history was, and the items that came next.

    Each user's first item event from ``since_ms`` on is one, with its ties, as in
    :func:`temporal_split`; up to ``per_user - 1`` later ones are drawn by ``seed``. A history holds
    everything older than its moment, so later ones know what came earlier in the window. A user
    stands in the result once per moment.

    Ann has items 1 to 3 at seconds 1 to 3 and two moments from second 2 on; Bo is cold.

    >>> log = Sequences(
    ...     user_ids=["ann", "bo"],
    ...     offsets=np.array([0, 3, 4]),
    ...     tokens=np.array([1, 2, 3, 4], dtype=np.int32),
    ...     timestamps_ms=np.array([1000, 2000, 3000, 9000]),
    ...     event_types=np.zeros(4, dtype=np.int16),
    ...     event_type_names=("view",),
    ...     num_items=4,
    ... )
    >>> moments = next_moments(log, since_ms=2000, per_user=9, max_moments=9, seed=0)
    >>> moments.histories.user_ids, moments.histories.lengths.tolist(), moments.targets.tolist()
    (['ann', 'ann', 'bo'], [1, 2, 0], [2, 3, 4])
    """
    generator = np.random.default_rng(seed)
    rows = sequences.rows()
    items = np.flatnonzero(sequences.is_item & (sequences.timestamps_ms >= since_ms))
    is_new = np.ones(len(items), dtype=np.bool_)
    is_new[1:] = (np.diff(rows[items]) != 0) | (np.diff(sequences.timestamps_ms[items]) != 0)
    firsts = items[is_new]  # one item event of every moment
    owners = rows[firsts]
    noise = generator.random(len(firsts))
    noise[np.diff(owners, prepend=-1) != 0] = -1  # the first of a user is always taken
    order = np.lexsort((noise, owners))
    place = np.arange(len(order)) - np.searchsorted(owners, owners)
    picked = np.sort(firsts[order[place < per_user]])
    if len(picked) > max_moments:
        picked = np.sort(generator.choice(picked, size=max_moments, replace=False))
    owners, limits = rows[picked], sequences.timestamps_ms[picked]
    copies = sequences.select_users(owners)  # one row per moment
    copied_limits = np.repeat(limits, copies.lengths)
    is_target = copies.is_item & (copies.timestamps_ms == copied_limits)
    base = sequences.num_items + 1
    target_rows, targets = np.divmod(
        np.unique(copies.rows()[is_target] * base + copies.tokens[is_target]), base
    )
    return EvaluationSet(
        histories=copies.select_events(copies.timestamps_ms < copied_limits),
        target_offsets=_offsets(np.bincount(target_rows, minlength=len(picked))),
        targets=targets.astype(np.int32),
    )


def _last_item_events(sequences: Sequences) -> NDArray[np.int64]:
    items = np.flatnonzero(sequences.is_item)
    last: NDArray[np.int64] = items[np.diff(sequences.rows()[items], append=-1) != 0]
    return last


def _limits(sequences: Sequences, *, events: NDArray[np.int64], default: int) -> NDArray[np.int64]:
    """Return for every event the time of its user's one event in ``events``, int64 ``(E,)``."""
    limits = np.full(sequences.num_users, default, dtype=np.int64)
    limits[sequences.rows()[events]] = sequences.timestamps_ms[events]
    return np.repeat(limits, sequences.lengths)


def _is_before(sequences: Sequences, *, events: NDArray[np.int64]) -> NDArray[np.bool_]:
    limits = _limits(sequences, events=events, default=np.iinfo(np.int64).max)
    is_before: NDArray[np.bool_] = sequences.timestamps_ms < limits
    return is_before


def _ask(known: Sequences, all_events: Sequences, *, events: NDArray[np.int64]) -> EvaluationSet:
    """Ask the owners of ``events``, knowing ``known``, for these events and their ties."""
    limits = _limits(all_events, events=events, default=np.iinfo(np.int64).min)
    rows = all_events.rows()
    is_target = all_events.is_item & (all_events.timestamps_ms == limits)
    base = all_events.num_items + 1
    owners, targets = np.divmod(
        np.unique(rows[is_target] * base + all_events.tokens[is_target]), base
    )
    asked = rows[events]
    num_targets = np.bincount(owners, minlength=all_events.num_users)[asked]
    return EvaluationSet(
        histories=known.select_users(asked),
        target_offsets=_offsets(num_targets),
        targets=targets.astype(np.int32),
    )


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
