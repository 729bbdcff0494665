"""Matrix factorization of who had what, by alternating least squares (also called iALS).

Shapes: B users, V items, D width, L items of a user.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from rec.data.sequences import Sequences
from rec.models.baselines import count_user_items

_BLOCK_CELLS = 1 << 22
"""Factors gathered at once: 16 MB."""


class ImplicitALS:
    """Score an item by the inner product of a user's and its factors.

    Every user-item pair is a wish of 1 or 0, trusted by ``1 + alpha * events``. A user's factors
    are solved from the history at hand, so that new users and events need no refit. Flaw: blind
    to order and time.

    Source: Hu, Koren and Volinsky 2008, Collaborative filtering for implicit feedback datasets.
    """

    name = "ials"

    def __init__(
        self,
        train: Sequences,
        *,
        width: int = 64,
        alpha: float = 10.0,
        l2: float = 10.0,
        num_sweeps: int = 10,
        seed: int = 7,
    ) -> None:
        """Fit.

        Args:
            train: whose events.
            width: D.
            alpha: raising it trusts what happened more, against all that did not.
            l2: raising it keeps factors of rare users and items small.
            num_sweeps: times that users and items are solved in turn.
            seed: of the first factors.
        """
        self._alpha, self._l2 = alpha, l2
        users = count_user_items(train)
        items = users.T.tocsr()
        generator = torch.Generator().manual_seed(seed)
        self.items = torch.randn(train.num_items, width, generator=generator) / width
        self.items[torch.from_numpy(np.diff(items.indptr) == 0)] = 0  # never met: nothing to say
        for _ in range(num_sweeps):
            factors = self._solve(users, self.items)
            self.items = self._solve(items, factors)

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the products, float32 ``(B, V)``; zeros for a user without items."""
        scores: NDArray[np.float32] = (self.user_factors(histories) @ self.items.T).numpy()
        return scores

    def user_factors(self, histories: Sequences) -> Tensor:
        """Return float32 ``(B, D)``, solved from the histories."""
        return self._solve(count_user_items(histories), self.items)

    def _solve(self, table: sparse.csr_array, other: Tensor) -> Tensor:
        """Return each row's factors given the columns', ``(rows, D)``."""
        padded = torch.cat([other, torch.zeros(1, other.shape[1])])
        base = other.T @ other + self._l2 * torch.eye(other.shape[1])
        factors = torch.zeros(table.shape[0], other.shape[1])
        for rows, columns, counts in _blocks(table, width=other.shape[1]):
            met = padded[columns]  # (B, L, D), zeros beyond a row's end
            trust = self._alpha * counts.unsqueeze(-1)
            normal = base + met.transpose(1, 2) @ (trust * met)
            wish = ((1 + trust) * met).sum(dim=1).unsqueeze(-1)
            factors[rows] = torch.cholesky_solve(wish, torch.linalg.cholesky(normal)).squeeze(-1)
        return factors


def _blocks(table: sparse.csr_array, *, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield rows of like length with their columns and counts, ``(B,), (B, L), (B, L)``.

    Places beyond a row's end hold column ``table.shape[1]`` and count 0. Empty rows are left out.
    """
    lengths = np.diff(table.indptr)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        # Rows stand by length: the longest of a block is its last.
        cells = (np.arange(len(order) - start) + 1) * lengths[order[start:]] * width
        stop = start + max(1, int(np.searchsorted(cells, _BLOCK_CELLS, side="right")))
        rows = order[start:stop]
        places = np.arange(lengths[rows].max())
        is_in = places < lengths[rows][:, None]
        picks = (table.indptr[rows][:, None] + places)[is_in]
        columns = np.full(is_in.shape, table.shape[1], dtype=np.int64)
        columns[is_in] = table.indices[picks]
        counts = np.zeros(is_in.shape, dtype=np.float32)
        counts[is_in] = table.data[picks]
        yield torch.from_numpy(rows), torch.from_numpy(columns), torch.from_numpy(counts)
        start = stop
