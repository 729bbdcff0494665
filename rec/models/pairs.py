"""Pairs of a log: what a user did, and the item that followed. An encoder learns from them.

Three kinds of anchors, all of the same user and none younger than the target: an item taken shortly
before (or in the same basket), the search right before, or the whole rendered sequence so far.

Shapes: U users, E events, V items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.errors import DataError

NEAR_EVENTS = 3
"""Events before a target among which an item counts as taken together with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Name one pair by events of the log.

    Attributes:
        user: row of the user.
        start: first event of the anchor.
        stop: the event after its last; one event, or a whole history.
        is_sequence: the anchor is the rendered history, not one text.
        target: item index 1..V.
    """

    user: int
    start: int
    stop: int
    is_sequence: bool
    target: int


class PairSampler:
    """Draw pairs, every item event with something before it as often as any other."""

    def __init__(self, sequences: Sequences, *, sequence_share: float, max_events: int) -> None:
        """Find the events that can be targets.

        Args:
            sequences: the log; nothing after a cut may be in it.
            sequence_share: chance that an anchor is a rendered history.
            max_events: newest events of a history at most.

        Raises:
            DataError: no user has two events with an item at the end.
        """
        rows = sequences.rows()
        self._sequences = sequences
        self._users = rows
        self._sequence_share = sequence_share
        self._max_events = max_events
        is_later = np.zeros(sequences.num_events, dtype=np.bool_)
        is_later[1:] = np.diff(rows) == 0
        self._targets = np.flatnonzero(is_later & sequences.is_item)
        if not len(self._targets):
            raise DataError("expected a user with an event before an item, found none: add events")
        is_first = np.ones(sequences.num_events, dtype=np.bool_)
        is_first[1:] = (np.diff(rows) != 0) | (np.diff(sequences.timestamps_ms) != 0)
        self._tie_starts: NDArray[np.int64] = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]

    @property
    def num_targets(self) -> int:
        """Return the events that a pair can end with."""
        return len(self._targets)

    def draw(self, generator: np.random.Generator, size: int) -> list[Pair]:
        """Return ``size`` pairs; a target whose item was the anchor itself is drawn again."""
        pairs: list[Pair] = []
        misses = 0
        while len(pairs) < size:
            event = int(generator.choice(self._targets))
            pair = self._pair(event, generator)
            if pair is not None:
                pairs.append(pair)
            elif (misses := misses + 1) > 100 * size:
                raise DataError("expected users who take different items, found only repeats")
        return pairs

    def _pair(self, event: int, generator: np.random.Generator) -> Pair | None:
        sequences, user = self._sequences, int(self._users[event])
        first, older = int(sequences.offsets[user]), int(self._tie_starts[event])
        target = int(sequences.tokens[event])
        if older > first and generator.random() < self._sequence_share:
            start = max(first, older - self._max_events)
            return Pair(user=user, start=start, stop=older, is_sequence=True, target=target)
        if older > first and sequences.tokens[older - 1] > sequences.num_items:
            one = older - 1
        else:
            # The order inside a tie is no order: any other event of the basket is near.
            near = np.arange(max(first, min(older, event - NEAR_EVENTS)), event)
            near = near[sequences.is_item[near] & (sequences.tokens[near] != target)]
            if not len(near):
                return None
            one = int(generator.choice(near[-NEAR_EVENTS:]))
        return Pair(user=user, start=one, stop=one + 1, is_sequence=False, target=target)
