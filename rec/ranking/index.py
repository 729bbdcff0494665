"""Retrieval: the exact nearest items of a user, with masks inside the search.

Filters and exclusions are applied before the cut to k, so that k results come back whenever the
catalog has k that are allowed.

Shapes: B users, V items, D width, k places.
"""

import torch
from torch import Tensor

_BLOCK_CELLS = 1 << 25
"""Scores held at once: 128 MB of float32."""


class ExactIndex:
    """Search all items by inner product; right for up to about a million items."""

    def __init__(self, items: Tensor) -> None:
        """Index ``items``, float32 ``(V, D)`` normalised; row ``i`` is item index ``i + 1``."""
        self.items = items.contiguous()

    def search(
        self, users: Tensor, *, k: int, excluded: Tensor, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the best items and their scores, int64 and float32 ``(B, min(k, V))``.

        Places that cannot be filled hold item 0 and ``-inf``.

        Args:
            users: float32 ``(B, D)`` normalised, so that scores are cosines.
            k: places.
            excluded: int64 ``(2, X)``, pairs of user row and item index that must not appear.
            allowed: bool ``(V,)`` or ``(B, V)``, items that may appear; all if absent.
        """
        num_items = len(self.items)
        width = min(k, num_items)
        size = max(1, _BLOCK_CELLS // max(1, num_items))
        found, scores = [], []
        for start in range(0, len(users), size):
            block = users[start : start + size] @ self.items.T  # (b, V)
            if allowed is not None:
                mask = allowed[start : start + size] if allowed.dim() == 2 else allowed
                block = block.masked_fill(~mask, float("-inf"))
            mine = (excluded[0] >= start) & (excluded[0] < start + size)
            block[excluded[0][mine] - start, excluded[1][mine] - 1] = float("-inf")
            best, picks = block.topk(width, dim=1)
            found.append(torch.where(best.isfinite(), picks + 1, 0))
            scores.append(best)
        empty = torch.zeros((0, width))
        return torch.cat([empty.long(), *found]), torch.cat([empty, *scores])
