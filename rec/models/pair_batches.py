"""Batches of pairs as texts: each distinct text once, and who is no negative of whom.

Shapes: B anchors, C documents (the B targets first, then hard negatives), T distinct texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.encoders.prompts import Prompt
from rec.encoders.sequence_text import render_history
from rec.models.pairs import Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBatch:
    """Hold the texts of one global batch."""

    texts: tuple[str, ...]
    """T distinct ones, the longest first."""
    anchors: NDArray[np.int64]
    """``(B,)``, places in ``texts``."""
    documents: NDArray[np.int64]
    """``(C,)``, places in ``texts``; anchor ``b`` belongs to document ``b``."""
    is_false: NDArray[np.bool_]
    """``(B, C)``, documents that are no negatives of an anchor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTexts:
    """Give the texts of pairs."""

    sequences: Sequences
    documents: Sequence[str]
    """Rendered items, item index 1 first: what the catalog is embedded by."""
    titles: Sequence[str]
    """Their names in a rendered sequence."""
    prompt: Prompt
    max_tokens: int
    count_tokens: Callable[[Sequence[str]], Sequence[int]]

    def anchor(self, pair: Pair) -> str:
        """Return the text of what came before."""
        sequences = self.sequences
        if pair.is_sequence:
            return render_history(
                sequences,
                slice(pair.start, pair.stop),
                names=("", *self.titles, *sequences.queries),
                count_tokens=self.count_tokens,
                max_tokens=self.max_tokens,
                prompt=self.prompt,
            )
        return self.text_of(int(sequences.tokens[pair.start]))

    def text_of(self, token: int) -> str:
        """Return the text of an item or a search query."""
        num_items = self.sequences.num_items
        if token > num_items:
            return self.sequences.queries[token - num_items - 1]
        return self.documents[token - 1]

    def items_of(self, user: int) -> NDArray[np.int32]:
        """Return the item indexes that a user has taken, distinct and ascending."""
        own = self.sequences.tokens[self.sequences.offsets[user] : self.sequences.offsets[user + 1]]
        return np.unique(own[own <= self.sequences.num_items])


def build_batch(pairs: Sequence[Pair], hard: Sequence[int], *, texts: PairTexts) -> TextBatch:
    """Return the batch of B pairs and any number of hard negatives (item indexes).

    No negative of an anchor are: a document with the text of its own or of the anchor itself, and
    an item that the anchor's user has taken at any time.
    """
    anchors = [texts.anchor(pair) for pair in pairs]
    items = np.asarray([*(pair.target for pair in pairs), *hard])
    documents = [texts.text_of(int(item)) for item in items]
    distinct = sorted({*anchors, *documents}, key=lambda text: (-len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    anchor_places = np.asarray([place[text] for text in anchors])
    document_places = np.asarray([place[text] for text in documents])
    own = document_places[: len(pairs)]
    is_false = own[:, None] == document_places[None, :]
    is_false |= anchor_places[:, None] == document_places[None, :]
    is_false |= np.stack([np.isin(items, texts.items_of(pair.user)) for pair in pairs])
    return TextBatch(
        texts=tuple(distinct),
        anchors=anchor_places,
        documents=document_places,
        is_false=is_false,
    )
