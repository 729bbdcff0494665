"""Hashed n-grams: an encoder without weights that reads every language a little.

Character n-grams of words, and single characters and pairs for Chinese, each add a few signed
entries at hashed places. Flaw: it knows spelling, not meaning; "sofa" and "couch" are strangers.

Source: Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

_PLACES = 4
"""Entries an n-gram adds: more lowers the variance of a similarity, at linear cost."""
_WORD = re.compile(r"[\u4e00-\u9fff]+|[^\W_]+")


class HashingEncoder:
    """Encode text by its n-grams; needs no training, no weights and no network."""

    def __init__(self, *, identity: str, max_tokens: int, width: int = 384) -> None:
        self.width = width
        self.num_truncated = 0
        self.num_tokens = 0
        self._max_tokens = max_tokens
        whole = f"hashing-1|{width}|{_PLACES}|{identity}"
        self.fingerprint = hashlib.sha256(whole.encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return L2-normalised float32 ``(N, D)``; a text without words is a zero row."""
        out = np.zeros((len(texts), self.width), dtype=np.float32)
        for row, text in enumerate(texts):
            words = _WORD.findall(text.lower())
            self.num_truncated += len(words) > self._max_tokens
            self.num_tokens += min(len(words), self._max_tokens)
            for word in words[: self._max_tokens]:
                for gram, weight in _ngrams(word):
                    bits = xxhash.xxh3_64_intdigest(gram.encode())
                    for _ in range(_PLACES):
                        bits, place = divmod(bits, self.width)
                        bits, sign = divmod(bits, 2)
                        out[row, place] += weight if sign else -weight
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        np.divide(out, norms, out=out, where=norms > 0)
        return out

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the words of each text, uncut."""
        return [len(_WORD.findall(text)) for text in texts]


def _ngrams(word: str) -> Iterator[tuple[str, float]]:
    """Yield n-grams and weights; the whole word counts as much as all of its parts."""
    if "\u4e00" <= word[0] <= "\u9fff":
        yield from ((char, 0.5) for char in word)
        yield from ((word[i : i + 2], 1.0) for i in range(len(word) - 1))
        return
    yield f"<{word}>", 1.0
    padded = f"<{word}>"
    parts = [padded[i : i + 4] for i in range(len(padded) - 3)]
    yield from ((part, 1.0 / len(parts)) for part in parts)
