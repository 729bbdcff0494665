"""Fatigue: how often a user was shown an item of late without taking notice of it.

Read from the impressions that every replica finds in one log, so all of them count the same. Any
event of the user on an item, a click as well as a purchase, starts its count anew: it took notice.
What the count does to a score is ``rec.ranking.lists.penalties.repetition_penalty``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rec.data.events import Event

MAX_LISTS = 50
"""Newest lists of a user that count: the penalty ends to grow at seven."""
WITHIN_MS = 14 * 24 * 3_600_000
"""Older lists are forgotten: what was ignored two weeks ago may be shown again."""


class ShownList(NamedTuple):
    """Name the items that one answer held."""

    timestamp_ms: int
    item_ids: Sequence[str]


def count_shown(
    lists: Sequence[ShownList], history: Sequence[Event], *, now_ms: int
) -> dict[str, int]:
    """Return item id -> times it was shown since the user's newest event on it.

    Args:
        lists: what the user was shown, in any order; those older than ``WITHIN_MS`` do not count.
        history: the user's events.
        now_ms: the time of the request.

    Tea and cups were shown twice; in between the user looked at the tea.

    >>> look = Event(user_id="ann", event_type="view", timestamp_ms=15, item_id="tea")
    >>> shown = [ShownList(10, ["tea", "cup"]), ShownList(20, ["cup", "tea"])]
    >>> count_shown(shown, [look], now_ms=30)
    {'cup': 2, 'tea': 1}
    """
    noticed: dict[str, int] = {}
    for event in history:
        if event.item_id is not None:
            noticed[event.item_id] = max(event.timestamp_ms, noticed.get(event.item_id, 0))
    counts = Counter(
        item_id
        for shown in lists
        if shown.timestamp_ms > now_ms - WITHIN_MS
        for item_id in dict.fromkeys(shown.item_ids)
        if shown.timestamp_ms > noticed.get(item_id, -1)
    )
    return dict(sorted(counts.items()))
