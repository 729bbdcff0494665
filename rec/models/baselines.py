"""Baselines: counting popularity, neighbours, transitions and habits.

Each is fitted on training sequences and scores histories: ``score`` gives float32 ``(B, V)``.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.data.sequences import Sequences
from rec.models.scoring import top_k_in_blocks
from rec.models.transitions import keep_largest, recency_weights

DAY_MS = 24 * 3600 * 1000
_BLOCK_ENTRIES = 1 << 22
"""Cosines held at once: about 50 MB."""


class Scorer(Protocol):
    """Score the whole catalog for some histories."""

    name: str

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return float32 ``(B, V)``."""
        ...


class ScoredLists:
    """Make lists from any scorer.

    Where a scorer says nothing, its lists would be filled by the order of the catalog; backed by
    popularity, it is as good a peer as it can be for cold users too.
    """

    def __init__(self, scorer: Scorer, *, backing: NDArray[np.int64] | None = None) -> None:
        """Hold the scorer.

        Args:
            scorer: of any scale; with a backing, scores above 0 are proposals.
            backing: int64 ``(V,)``, events of the items, by which those that are not proposed
                are ordered, behind all that are.
        """
        self.name = scorer.name
        self._scorer = scorer
        self._backing: NDArray[np.float32] | None = None
        if backing is not None:
            self._backing = (backing / (1 + backing.max(initial=0)) - 1).astype(np.float32)

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        """Return int32 ``(B, k)`` item indexes, 0 where none is left."""
        return top_k_in_blocks(self._score, histories, k=k, exclude_seen=exclude_seen)

    def _score(self, histories: Sequences) -> NDArray[np.float32]:
        scores = self._scorer.score(histories)
        if self._backing is None:
            return scores
        return np.where(scores > 0, scores, self._backing)


class Popularity:
    """Score an item by its events, of the whole log or of its newest days."""

    def __init__(self, train: Sequences, *, last_days: int | None = None) -> None:
        self.name = "popularity" if last_days is None else f"popularity_{last_days}_days"
        self._counts = count_items(train, last_days=last_days).astype(np.float32)

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the same counts for every user; an item's all-time rank breaks no ties."""
        return np.broadcast_to(self._counts, (histories.num_users, len(self._counts))).copy()


class ItemKNN:
    """Score an item by its cosine to the items of the history, over the users who had both.

    Each item keeps its ``num_neighbors`` nearest. Also called item-based collaborative filtering.
    Flaw: blind to order and time.

    Source: Sarwar et al. 2001, Item-based collaborative filtering recommendation algorithms.
    """

    name = "item_knn"

    def __init__(
        self, train: Sequences, *, num_neighbors: int = 100, max_events: int | None = None
    ) -> None:
        """Fit on each user's newest ``max_events`` events, all if absent."""
        users = user_items(train if max_events is None else train.newest(max_events))
        norms = np.sqrt(np.asarray(users.multiply(users).sum(axis=0)).ravel())
        scaled = users @ sparse.diags_array(1 / np.maximum(norms, 1e-12))
        self.neighbors = _nearest(scaled.tocsr(), num_neighbors)

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the summed similarities, float32 ``(B, V)``."""
        scores: NDArray[np.float32] = (user_items(histories) @ self.neighbors).toarray()
        return scores.astype(np.float32)


class Markov:
    """Score an item by how often it followed the history's last item.

    Items tied with the last one all count. Flaw: forgets everything before.
    """

    name = "markov"

    def __init__(self, train: Sequences) -> None:
        is_item = train.is_item
        items = train.select_events(is_item)
        same = np.diff(items.rows()) == 0
        before, after = items.tokens[:-1][same] - 1, items.tokens[1:][same] - 1
        ones = np.ones(len(before), dtype=np.float32)
        shape = (train.num_items, train.num_items)
        self._follows = sparse.csr_array((ones, (before, after)), shape=shape)

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the counts of transitions, float32 ``(B, V)``."""
        items = histories.select_events(histories.is_item)
        last = np.zeros(items.num_users, dtype=np.int64)
        has_any = items.lengths > 0
        last[has_any] = items.timestamps_ms[items.offsets[1:][has_any] - 1]
        is_last = items.timestamps_ms == last[items.rows()]
        scores: NDArray[np.float32] = (
            user_items(items.select_events(is_last)) @ self._follows
        ).toarray()
        return scores.astype(np.float32)


class PersonalFrequency:
    """Score an item by how often the user had it; the one to beat where repeats rule.

    Flaw: says nothing about anything new; with seen items left out only popularity is left.
    """

    name = "personal_frequency"

    def __init__(self, train: Sequences, *, decay: float = 1.0) -> None:
        """Fit; an event weighs ``decay`` to the number of the user's later moments."""
        self._decay = decay
        self._popularity = count_items(train).astype(np.float32)
        self._popularity /= max(1.0, float(self._popularity.max(initial=0))) * 2

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the user's own counts, ties broken by popularity, float32 ``(B, V)``."""
        own = recency_weights(histories, decay=self._decay)
        scores: NDArray[np.float32] = own.toarray() + self._popularity
        return scores.astype(np.float32)


def count_items(sequences: Sequences, *, last_days: int | None = None) -> NDArray[np.int64]:
    """Return the events of each item, int64 ``(V,)``, of the newest days if asked."""
    keep = sequences.is_item
    if last_days is not None and sequences.num_events:
        since = int(sequences.timestamps_ms.max()) - last_days * DAY_MS
        keep = keep & (sequences.timestamps_ms > since)
    return np.bincount(sequences.tokens[keep] - 1, minlength=sequences.num_items)


def count_user_items(sequences: Sequences) -> sparse.csr_array:
    """Return how often who had what, float32 sparse ``(B, V)``."""
    items = sequences.select_events(sequences.is_item)
    ones = np.ones(items.num_events, dtype=np.float32)
    counts = sparse.csr_array(
        (ones, (items.rows(), items.tokens - 1)), shape=(sequences.num_users, sequences.num_items)
    )
    counts.sum_duplicates()
    return counts


def user_items(sequences: Sequences) -> sparse.csr_array:
    """Return who had what, 0 or 1, float32 sparse ``(B, V)``."""
    matrix = count_user_items(sequences)
    matrix.data[:] = 1.0
    return matrix


def _nearest(scaled: sparse.csr_array, num_neighbors: int) -> sparse.csr_array:
    """Return each item's largest cosines, sparse ``(V, V)``, a block of items at a time.

    Args:
        scaled: ``(B, V)``, each item's column of length 1.
        num_neighbors: entries kept in a row.
    """
    by_item = scaled.T.tocsr()
    # An item meets at most the items of all its users: this bounds a block's entries.
    most = np.cumsum(by_item.sign() @ np.diff(scaled.indptr))
    blocks, start = [sparse.csr_array((0, scaled.shape[1]), dtype=np.float32)], 0
    while start < scaled.shape[1]:
        used = most[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(most, used + _BLOCK_ENTRIES, side="right")))
        block = (by_item[start:stop] @ scaled).tocoo()
        is_other = block.row + start != block.col
        pairs = (block.row[is_other], block.col[is_other])
        others = sparse.csr_array((block.data[is_other], pairs), shape=block.shape)
        blocks.append(keep_largest(others, num_neighbors))
        start = stop
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))
