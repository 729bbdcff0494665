"""Neighbours that know time, and neighbours that know text: two baselines over item pairs.

Shapes: B users, V items, D width of the texts.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.data.sequences import Sequences
from rec.models.transitions import follow_counts, keep_largest, recency_weights


class WindowedKNN:
    """Score an item by how often it stood near the newest items, in either direction.

    Item-kNN that forgets: a pair counts by one over its distance, up to ``window`` events apart,
    and the history's items count less the older they are. The counts are divided by the root of
    both items' totals, as in a cosine. An item stands near itself when it is repeated.

    Source: Ludewig and Jannach 2018, Evaluation of session-based recommendation algorithms (the
    decays of its session-based kNN, over item pairs).
    """

    name = "windowed_knn"

    def __init__(
        self, train: Sequences, *, window: int = 10, decay: float = 0.8, num_neighbors: int = 200
    ) -> None:
        """Fit; ``decay`` is the weight of an item per later moment of the history."""
        follows = follow_counts(train, window=window)
        near = (follows + follows.T) / 2
        scale = sparse.diags_array(1 / np.sqrt(np.maximum(near.sum(axis=1), 1e-9)))
        self.neighbors = keep_largest((scale @ near @ scale).tocsr(), num_neighbors)
        self._decay = decay

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the summed similarities, float32 ``(B, V)``."""
        newest = recency_weights(histories, decay=self._decay, max_events=100)
        scores: NDArray[np.float32] = (newest @ self.neighbors).toarray().astype(np.float32)
        return scores


class ContentKNN:
    """Score an item by the cosine of its text to the texts of the newest items.

    It learns nothing from the log, so that an item without events is as near as any other. Flaw:
    it shows what is like the history, hardly what goes with it.

    Source: Pazzani and Billsus 2007, Content-based recommendation systems.
    """

    name = "content_knn"

    def __init__(self, text: NDArray[np.float32], *, decay: float = 0.8) -> None:
        """Centre the item texts, float32 ``(V, D)``, so that cosines tell them apart."""
        self._text = _normalise(text - text.mean(axis=0))
        self._decay = decay

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the cosines, float32 ``(B, V)``; zeros for a user without items."""
        read = recency_weights(histories, decay=self._decay, max_events=20) @ self._text
        scores: NDArray[np.float32] = _normalise(read) @ self._text.T
        return scores


def _normalise(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    result: NDArray[np.float32] = (rows / norms).astype(np.float32)
    return result
