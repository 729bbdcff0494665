"""Static encoders: the mean of one embedding a token, no network (model2vec's format).

A folder holds ``config.json`` (``model_type`` ``model2vec``), ``tokenizer.json`` and
``model.safetensors`` with ``embeddings``, float ``(K, D)``. Flaw: a word means the same in every
sentence.

Source: Tulkens and van Dongen 2024, Model2Vec.

Shapes: N texts, K tokens of the vocabulary, D width.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from rec.encoders.checkpoints import checkpoint_fingerprint, read_checkpoint
from rec.encoders.cutting import cut_characters
from rec.errors import ConfigError


class StaticEncoder:
    """Encode text as the mean of its tokens' embeddings."""

    def __init__(self, folder: Path, *, identity: str, max_tokens: int) -> None:
        """Load a folder.

        Raises:
            ConfigError: it is not a static model.
        """
        weights = load_file(read_checkpoint(folder).weights[0])
        if "embeddings" not in weights:
            raise ConfigError(
                f"--encoder.model {folder}: expected a tensor 'embeddings', found "
                f"{', '.join(sorted(weights))}"
            )
        self._table = weights["embeddings"].astype(np.float32)  # (K, D)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._folder = folder
        self._identity = identity
        self._max_tokens = max_tokens
        self.width = int(self._table.shape[1])
        self.num_truncated = 0
        self.num_tokens = 0

    @cached_property
    def fingerprint(self) -> str:
        """Return the hash of weights, tokenizer and everything that shapes the text."""
        return checkpoint_fingerprint(self._folder, self._identity)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return L2-normalised float32 ``(N, D)``; a text without tokens is a zero row."""
        out = np.zeros((len(texts), self.width), dtype=np.float32)
        read = [cut_characters(text, self._max_tokens) for text in texts]
        for row, ids in enumerate(self._tokenise(read)):
            is_cut = len(ids) > self._max_tokens or len(read[row]) < len(texts[row])
            self.num_truncated += is_cut
            kept = ids[: self._max_tokens]
            self.num_tokens += len(kept)
            if kept:
                out[row] = self._table[kept].mean(axis=0)
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        np.divide(out, norms, out=out, where=norms > 0)
        return out

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, uncut."""
        return [len(ids) for ids in self._tokenise(texts)]

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]
