"""What users have had: their events summed up by user, and by user and item.

A moment is what a user had at one time: a basket where events tie.

Shapes: B users, P pairs of a user and an item they have had.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.models.transitions import ties_back

FADES = (0.8, 0.5)
"""Decays by which events fade beside that of the source ``personal``: habits may be short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnItems:
    """Hold sums over item events: of users ``(B,)``, and of pairs ``(P,)`` by user, then item.

    A place counts moments back from the user's newest one, which is 0.

    Attributes:
        events: int64 ``(B,)``.
        moments: int64 ``(B,)``.
        distinct: int64 ``(B,)``, items.
        oldest_ms: int64 ``(B,)``, 0 without events.
        newest_ms: int64 ``(B,)``, 0 without events.
        keys: int64 ``(P,)``, row times V plus 0-based item, ascending.
        pair_events: int64 ``(P,)``.
        pair_moments: int64 ``(P,)``.
        pair_oldest: int64 ``(P,)``, place of the oldest event.
        pair_newest: int64 ``(P,)``, place of the newest.
        pair_oldest_ms: int64 ``(P,)``.
        pair_newest_ms: int64 ``(P,)``.
        pair_type: int16 ``(P,)``, event type of the newest.
        pair_faded: float64 ``(P,)`` by decay: every event weighs the decay to the power of its
            place, summed.
    """

    events: NDArray[np.int64]
    moments: NDArray[np.int64]
    distinct: NDArray[np.int64]
    oldest_ms: NDArray[np.int64]
    newest_ms: NDArray[np.int64]
    keys: NDArray[np.int64]
    pair_events: NDArray[np.int64]
    pair_moments: NDArray[np.int64]
    pair_oldest: NDArray[np.int64]
    pair_newest: NDArray[np.int64]
    pair_oldest_ms: NDArray[np.int64]
    pair_newest_ms: NDArray[np.int64]
    pair_type: NDArray[np.int16]
    pair_faded: Mapping[float, NDArray[np.float64]]


def find_own(histories: Sequences) -> OwnItems:
    """Return the sums of histories; searches are no events here."""
    own = histories.select_events(histories.is_item)
    num_users, num_items = own.num_users, own.num_items
    places = ties_back(own)
    has_any = own.lengths > 0
    first, last = own.offsets[:-1][has_any], own.offsets[1:][has_any] - 1
    moments, oldest_ms, newest_ms = (np.zeros(num_users, dtype=np.int64) for _ in range(3))
    moments[has_any] = places[first] + 1
    oldest_ms[has_any] = own.timestamps_ms[first]
    newest_ms[has_any] = own.timestamps_ms[last]
    by_event = own.rows() * num_items + own.tokens - 1
    order = np.argsort(by_event, kind="stable")  # within a pair the oldest is first
    ordered, places = by_event[order], places[order]
    is_first = np.diff(ordered, prepend=-1) != 0
    is_moment = is_first | (np.diff(places, prepend=-1) != 0)
    starts = np.flatnonzero(is_first)
    ends = np.append(starts, len(ordered))[1:] - 1
    keys = ordered[starts]
    before = np.concatenate([[0], np.cumsum(is_moment)])
    return OwnItems(
        events=own.lengths,
        moments=moments,
        distinct=np.bincount(keys // num_items, minlength=num_users),
        oldest_ms=oldest_ms,
        newest_ms=newest_ms,
        keys=keys,
        pair_events=ends + 1 - starts,
        pair_moments=before[ends + 1] - before[starts],
        pair_oldest=places[starts],
        pair_newest=places[ends],
        pair_oldest_ms=own.timestamps_ms[order[starts]],
        pair_newest_ms=own.timestamps_ms[order[ends]],
        pair_type=own.event_types[order[ends]],
        pair_faded={
            decay: np.add.reduceat(decay**places, starts) if len(starts) else np.zeros(0)
            for decay in FADES
        },
    )
