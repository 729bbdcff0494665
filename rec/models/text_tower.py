"""The text tower: ``e_u = LLM(sequence rendered as text)``, with nothing to train.

The encoder that reads the items reads a user's events as one sentence, and the catalog is ordered
by ``cos(e_u, e_i)``. It needs no log to learn from and no item's history; flaw: it says what is
like the history and cannot learn what follows it.

Shapes: B users, V items, D width of the encoder.

Source: article, section on user embeddings.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.encoders import Encoder, EncoderSpec
from rec.encoders.sequence_text import embed_sequences_as_text


class TextTower:
    """Score the catalog by what a history says."""

    name = "text_tower"

    def __init__(
        self,
        encoder: Encoder,
        spec: EncoderSpec,
        *,
        titles: Sequence[str],
        items: NDArray[np.float32],
    ) -> None:
        """Hold the encoder of the items.

        Args:
            encoder: its space is that of ``items``.
            spec: its specification.
            titles: text of each item, by item index from 1.
            items: float32 ``(V, D)``, the items' text embeddings.
        """
        self._encoder = encoder
        self._spec = spec
        self._titles = titles
        self._items = items

    def score(self, histories: Sequences) -> NDArray[np.float32]:
        """Return the cosines, float32 ``(B, V)``; zeros for a user without events."""
        users = embed_sequences_as_text(self._encoder, self._spec, histories, titles=self._titles)
        scores: NDArray[np.float32] = users @ self._items.T
        return scores
