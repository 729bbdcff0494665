"""The article's reading, as an ablation: no stop words, no punctuation.

A pretrained model has learned from whole sentences, and Chinese gets spaces that nobody writes. It
is here so that what this costs can be measured (``tests.benchmarks.ablation --words all content``).

Shapes: N texts, D width.

Source: article, the preprocessing before the language model; checklist S-11.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rec.data.lexical import lexical_tokens
from rec.encoders.protocol import Encoder


class ContentWordsEncoder:
    """Let another encoder read the content words of a text instead of the text."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def fingerprint(self) -> str:
        """Return that of the encoder, whose identity names this reading."""
        return self._encoder.fingerprint

    @property
    def width(self) -> int:
        """Return D."""
        return self._encoder.width

    @property
    def num_truncated(self) -> int:
        """Return the texts that were cut so far."""
        return self._encoder.num_truncated

    @property
    def num_tokens(self) -> int:
        """Return the tokens read so far."""
        return self._encoder.num_tokens

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return L2-normalised float32 ``(N, D)``.

        Raises:
            ConfigError: a text is Chinese and jieba (extra ``zh``) is not installed.
        """
        return self._encoder.encode([content_words(text) for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of what is read of each text, uncut."""
        return self._encoder.count_tokens([content_words(text) for text in texts])


def content_words(text: str) -> str:
    """Return a text as the article hands it to the model.

    >>> content_words("The dress that is not for the office!")
    'dress not office'
    """
    return " ".join(lexical_tokens(text))
