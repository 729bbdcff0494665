"""Score candidates: ``score(i) = relevance(u, i) - sum_k weight_k * penalty_k(i)``.

The article calls the second term ``lambda * noise(i)``. It is a *penalty* here: chosen, named and
standardised, not random. A raw count would drown the cosine at any useful lambda. Every term lies
within +-3: popularity and staleness in standard deviations over the catalog, repetition and group
exposure in doublings.

Shapes: V items, B users, C candidates, E events, X pairs of a user and an item.
"""

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences

MAX_Z = 3.0
"""Bound of a standardised term: no item is pushed further than three deviations."""
TAKEN = frozenset({"purchase", "buy", "order", "transaction", "rate", "rating"})
"""Event types that say that the user took the item; after one, earlier looks do not count."""


def popularity_penalty(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the standardised log popularity of each item, float32 ``(V,)``, within +-3.

    Items of average popularity get 0, popular ones a positive penalty. A catalog without events
    gets zeros.

    Source: article, section 3.4; the log z-score is our choice, raw counts destroy the order.

    >>> popularity_penalty(np.array([0, 0, 0, 0]))
    array([0., 0., 0., 0.], dtype=float32)
    >>> popularity_penalty(np.array([0, 1, 3])).round(2).tolist()
    [-1.2200000286102295, 0.0, 1.2200000286102295]
    """
    return _standardise(np.log1p(counts.astype(np.float64)))


def staleness_penalty(
    counts: NDArray[np.int64], recent_counts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return how little of an item's events is recent, standardised, float32 ``(V,)``, within +-3.

    Minus the log of the recent share, each item starting with one event of the log's own share.
    Items that are out of fashion get a positive penalty, those on the rise a negative one, and an
    item without events 0.

    Of two items with ten events, one had them all lately and one none.

    >>> staleness_penalty(np.array([10, 10, 0]), np.array([10, 0, 0])).round(2).tolist()
    [-1.0, 1.0, 0.0]
    """
    has_any = counts > 0
    prior = recent_counts.sum() / max(1, int(counts.sum()))
    shares = (recent_counts[has_any] + prior) / (counts[has_any] + 1)
    penalty = np.zeros(len(counts), dtype=np.float32)
    if prior > 0:
        penalty[has_any] = _standardise(-np.log(shares))
    return penalty


def repetition_penalty(
    items: NDArray[np.int64], histories: Sequences, *, shown: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return how often a user was offered an item and did not take it, in doublings, ``(B, C)``.

    ``min(log2(1 + n), 3)``: 0 for never, 1 for once, 3 for seven times and more. ``n`` counts the
    impressions in ``shown`` and, where the log has events that take (``TAKEN``), the user's other
    events on the item since they last took it: seen but not bought. Also called fatigue.

    Args:
        items: int64 ``(B, C)``, candidates; 0 is none.
        histories: B users.
        shown: int64 ``(3, X)``: user row, item index, times shown and not taken.

    Ann looked at item 1 three times; of item 2 she looked once and bought it.

    >>> ann = Sequences(
    ...     user_ids=["ann"],
    ...     offsets=np.array([0, 5]),
    ...     tokens=np.array([1, 1, 1, 2, 2], dtype=np.int32),
    ...     timestamps_ms=np.arange(5),
    ...     event_types=np.array([1, 1, 1, 1, 0], dtype=np.int16),
    ...     event_type_names=("purchase", "view"),
    ...     num_items=3,
    ... )
    >>> shown = np.array([[0], [3], [1]])
    >>> repetition_penalty(np.array([[1, 2, 3]]), ann, shown=shown).tolist()
    [[2.0, 0.0, 1.0]]
    """
    base = histories.num_items + 1
    keys = [shown[0] * base + shown[1]]
    times = [shown[2]]
    is_taking = np.asarray([name in TAKEN for name in histories.event_type_names], dtype=np.bool_)
    if is_taking.any():
        own = histories.select_events(histories.is_item)
        event_keys = own.rows() * base + own.tokens
        takes = is_taking[np.maximum(own.event_types, 0)] & (own.event_types >= 0)
        order = np.argsort(event_keys, kind="stable")
        sorted_keys, sorted_takes = event_keys[order], takes[order]
        place = np.arange(len(order))
        last_take = np.maximum.accumulate(np.where(sorted_takes, place, -1))
        ends = np.flatnonzero(np.diff(sorted_keys, append=-1) != 0)
        starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        keys.append(sorted_keys[ends])
        times.append(ends - np.maximum(last_take[ends], starts - 1))
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    if not len(unique):
        return np.zeros(items.shape, dtype=np.float32)
    totals = np.bincount(inverse, weights=np.concatenate(times), minlength=len(unique))
    wanted = np.arange(len(items))[:, None] * base + items
    found = np.minimum(np.searchsorted(unique, wanted), len(unique) - 1)
    counts = np.where((unique[found] == wanted) & (items > 0), totals[found], 0.0)
    penalty: NDArray[np.float32] = np.minimum(np.log2(1 + counts), MAX_Z).astype(np.float32)
    return penalty


def _standardise(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return z-scores within +-3; zeros where all values are equal."""
    deviation = float(values.std()) if len(values) else 0.0
    if deviation == 0.0:
        return np.zeros(len(values), dtype=np.float32)
    standard = (values - values.mean()) / deviation
    penalty: NDArray[np.float32] = np.clip(standard, -MAX_Z, MAX_Z).astype(np.float32)
    return penalty
