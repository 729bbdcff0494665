"""Search: the items whose text is nearest to a query's, those nearer to the user first.

The query is compared with the items' *text* embeddings, where an encoder's own training holds; the
user's say is a second term and orders only what the text has found.

Shapes: B searches, V items, C candidates, T text width, D width, k places.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.errors import ConfigError
from rec.ranking.retrieval.index import ExactIndex


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundTexts:
    """Hold the lists of many searches; empty places have item 0, all ``(B, k)``.

    Attributes:
        items: int64 item indexes.
        scores: float32, falling along k.
        text: float32, cosine of query and item text.
        personal: float32, ``cos(e_u, e_i)``; 0 for a user without events.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    text: NDArray[np.float32]
    personal: NDArray[np.float32]


class TextSearch:
    """Search a release's item texts."""

    def __init__(self, *, text: Tensor, embeddings: Tensor) -> None:
        """Hold ``text`` float32 ``(V, T)`` and ``embeddings`` (e_i) float32 ``(V, D)``."""
        self._index = ExactIndex(text)
        self._embeddings = embeddings

    def search(
        self,
        queries: NDArray[np.float32],
        users: Tensor,
        *,
        weights: NDArray[np.float32],
        k: int,
        num_candidates: int,
        excluded: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None,
    ) -> FoundTexts:
        """Return the lists.

        Args:
            queries: float32 ``(B, T)`` by the encoder of the item texts.
            users: float32 ``(B, D)``, e_u; zeros for a user without events.
            weights: float32 ``(B,)`` >= 0, what ``cos(e_u, e_i)`` is multiplied by.
            k: places of each list.
            num_candidates: items found by text that the second term orders, at least k.
            excluded: int64 ``(2, X)``, pairs of row and item index.
            allowed: bool ``(V,)`` or ``(B, V)``; all if absent.

        Raises:
            ConfigError: a weight is negative or no number.
        """
        if not (weights >= 0).all():
            raise ConfigError(f"personal_weight must be >= 0, got {float(weights.min())}")
        items, text = self._index.search(
            torch.from_numpy(queries),
            k=max(k, num_candidates),
            excluded=torch.from_numpy(excluded),
            allowed=None if allowed is None else torch.from_numpy(allowed),
        )  # (B, C)
        near = self._embeddings[(items - 1).clamp(min=0)]  # (B, C, D)
        personal = (near @ users.unsqueeze(2)).squeeze(2)
        scores = text + torch.from_numpy(weights).unsqueeze(1) * personal
        # Stable, so that equal scores keep the order of retrieval.
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        return FoundTexts(
            items=items.gather(1, order).numpy(),
            scores=scores.gather(1, order).numpy(),
            text=text.gather(1, order).numpy(),
            personal=personal.gather(1, order).numpy(),
        )
