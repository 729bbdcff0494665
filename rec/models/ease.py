"""EASE: the item-to-item weights that best rebuild every user from their other items.

Shapes: B users, V items, N items with weights.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.models.baselines import count_items, user_items


class EASE:
    """Score an item by a linear model of the history's items, fitted in closed form.

    ``weights = I - P / diag(P)`` with ``P = (XᵀX + l2 I)⁻¹``: ridge regression of each item on all
    others. The inverse costs the cube of N, so only the ``max_items`` most frequent items take
    part; the others are never shown. Flaw: blind to order and time.

    Source: Steck 2019, Embarrassingly shallow autoencoders for sparse data, equation 8.
    """

    name = "ease"

    def __init__(self, train: Sequences, *, l2: float = 100.0, max_items: int = 5000) -> None:
        """Fit; raising ``l2`` trusts rare pairs less."""
        counts = count_items(train)
        known = np.sort(np.argsort(-counts, kind="stable")[:max_items])
        self._known = known[counts[known] > 0]
        users = user_items(train)[:, self._known]
        gram = torch.from_numpy((users.T @ users).toarray().astype(np.float32))
        gram.diagonal().add_(l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = inverse / -inverse.diagonal()  # each column by its own entry of the diagonal
        weights.fill_diagonal_(0)
        self.weights: NDArray[np.float32] = weights.numpy()

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the rebuilt rows, float32 ``(B, V)``; ``-inf`` where an item has no weights."""
        scores = np.full((histories.num_users, histories.num_items), -np.inf, dtype=np.float32)
        scores[:, self._known] = user_items(histories)[:, self._known] @ self.weights
        return scores
