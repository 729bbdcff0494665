"""Transitions: which items follow which within a few events, as sparse item-to-item tables.

First-order Markov looks one event ahead; here the next ``window`` events count, each by one over
its distance, so that sparse logs and baskets say something too. Events tied in time have no order
and count in both directions.

Shapes: V items, B users, E events.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.data.sequences import Sequences


def follow_counts(train: Sequences, *, window: int) -> sparse.csr_array:
    """Return how often an item (row) is followed by another (column), float32 sparse ``(V, V)``.

    A pair that lies ``d`` events apart counts ``1 / d``, up to ``d = window``. The diagonal holds
    repeats.

    One user has items 1, 2, 3 one after the other:

    >>> log = Sequences(
    ...     user_ids=["ann"], offsets=np.array([0, 3]), tokens=np.array([1, 2, 3], dtype=np.int32),
    ...     timestamps_ms=np.array([1, 2, 3]), event_types=np.zeros(3, dtype=np.int16),
    ...     event_type_names=("view",), num_items=3,
    ... )
    >>> follow_counts(log, window=2).toarray().tolist()
    [[0.0, 1.0, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    items = train.select_events(train.is_item)
    rows, times, tokens = items.rows(), items.timestamps_ms, items.tokens - 1
    shape = (train.num_items, train.num_items)
    total = sparse.csr_array(shape, dtype=np.float32)
    for distance in range(1, window + 1):
        same = np.flatnonzero(rows[distance:] == rows[:-distance])
        if not len(same):
            break
        before, after = tokens[same], tokens[same + distance]
        is_tie = times[same] == times[same + distance]
        weights = np.full(len(same) + int(is_tie.sum()), 1 / distance, dtype=np.float32)
        pairs = (
            np.concatenate([before, after[is_tie]]),
            np.concatenate([after, before[is_tie]]),
        )
        total = total + sparse.csr_array((weights, pairs), shape=shape)
    return total


def neighbor_table(
    counts: sparse.csr_array, *, num_neighbors: int, popularity_power: float = 0.0
) -> sparse.csr_array:
    """Return each item's strongest followers, rows summing to at most 1, float32 ``(V, V)``.

    Args:
        counts: of :func:`follow_counts`.
        num_neighbors: entries kept in a row.
        popularity_power: divide by the follower's own total to this power: 0 keeps the
            probability of the follower, 1 would say how much likelier it is than by chance.
    """
    out = np.asarray(counts.sum(axis=1)).ravel()
    into = np.asarray(counts.sum(axis=0)).ravel()
    scaled = sparse.diags_array(1 / np.maximum(out, 1e-9)) @ counts
    if popularity_power > 0:
        scaled = scaled @ sparse.diags_array(1 / np.maximum(into, 1e-9) ** popularity_power)
    return keep_largest(scaled.tocsr(), num_neighbors)


def recency_weights(
    histories: Sequences, *, decay: float, max_events: int | None = None
) -> sparse.csr_array:
    """Return what each history holds, weighed by recency, float32 sparse ``(B, V)``.

    The newest tie in time weighs 1, the one before ``decay``, and so on; an item that occurs
    several times sums up. Only the newest ``max_events`` item events count, all if absent.

    >>> log = Sequences(
    ...     user_ids=["ann"], offsets=np.array([0, 3]), tokens=np.array([1, 2, 3], dtype=np.int32),
    ...     timestamps_ms=np.array([1, 2, 2]), event_types=np.zeros(3, dtype=np.int16),
    ...     event_type_names=("view",), num_items=3,
    ... )
    >>> recency_weights(log, decay=0.5).toarray().tolist()
    [[0.5, 1.0, 1.0]]
    """
    items = histories.select_events(histories.is_item)
    weights = (decay ** ties_back(items)).astype(np.float32)
    rows = items.rows()
    if max_events is not None:
        is_new = items.offsets[1:][rows] - np.arange(items.num_events) <= max_events
        rows, tokens, weights = rows[is_new], items.tokens[is_new], weights[is_new]
    else:
        tokens = items.tokens
    return sparse.csr_array(
        (weights, (rows, tokens - 1)), shape=(histories.num_users, histories.num_items)
    )


def ties_back(sequences: Sequences) -> NDArray[np.int64]:
    """Return for every event how many distinct later times its user has, int64 ``(E,)``."""
    rows = sequences.rows()
    is_new = np.ones(sequences.num_events, dtype=np.bool_)
    is_new[1:] = (np.diff(rows) != 0) | (np.diff(sequences.timestamps_ms) != 0)
    group = np.cumsum(is_new)
    newest = np.zeros(sequences.num_users, dtype=np.int64)
    has_any = sequences.lengths > 0
    newest[has_any] = group[sequences.offsets[1:][has_any] - 1]
    back: NDArray[np.int64] = newest[rows] - group
    return back


def keep_largest(table: sparse.csr_array, num_neighbors: int) -> sparse.csr_array:
    """Return a sparse table with only the largest entries of each row, the first of equals.

    >>> keep_largest(sparse.csr_array([[1.0, 3.0, 2.0], [0.0, 0.0, 1.0]]), 2).toarray().tolist()
    [[0.0, 3.0, 2.0], [0.0, 0.0, 1.0]]
    """
    lengths = np.diff(table.indptr)
    rows = np.repeat(np.arange(table.shape[0]), lengths)
    keep = np.ones(table.nnz, dtype=np.bool_)
    crowded = np.flatnonzero((lengths > num_neighbors)[rows])  # sorting the others is needless
    order = crowded[np.lexsort((-table.data[crowded], rows[crowded]))]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(rows[order])) + 1]).astype(np.int64)
    place = np.arange(len(order))
    if len(order):
        place -= np.repeat(starts, np.diff([*starts, len(order)]))
    keep[order] = place < num_neighbors
    return sparse.csr_array(
        (table.data[keep], (rows[keep], table.indices[keep])), shape=table.shape, dtype=np.float32
    )
