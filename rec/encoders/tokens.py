"""Texts to token ids: cut, counted and padded; what a transformer reads, for use and for tuning.

Shapes: B texts of a batch, T tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from rec.encoders.cutting import cut_characters


class TextTokenizer:
    """Read texts with a checkpoint's tokenizer, and keep count of what was read and cut."""

    def __init__(
        self, folder: Path, *, prefix: str = "", max_tokens: int = 64, is_left: bool = False
    ) -> None:
        """Load a tokenizer.

        Args:
            folder: as ``save_pretrained`` writes it.
            prefix: stands before every text; counts towards ``max_tokens``.
            max_tokens: tokens read of a text.
            is_left: pad on the left.
        """
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # The mask hides padding, so any token will do.
        padding = self._tokenizer.pad_token_id
        self._padding_id = int(self._tokenizer.eos_token_id or 0) if padding is None else padding
        self._prefix = prefix
        self._max_tokens = max_tokens
        self._is_left = is_left
        self.num_truncated = 0
        self.num_tokens = 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, uncut, with prefix and special ones."""
        if not texts:
            return []
        found = self._tokenizer([self._prefix + text for text in texts])["input_ids"]
        return [len(ids) for ids in found]

    def read(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, cut to the limit; cut texts are counted."""
        full = [self._prefix + text for text in texts]
        read = [cut_characters(text, self._max_tokens) for text in full]
        tokens = self._tokenizer(
            read, truncation=True, max_length=self._max_tokens, return_overflowing_tokens=True
        )
        # Of a cut text only the first piece is read; the others just tell that it was cut.
        owners = np.asarray(tokens["overflow_to_sample_mapping"])
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))
        rows = [tokens["input_ids"][int(first)] for first in firsts]
        is_cut = np.bincount(owners) > 1
        is_cut |= np.asarray([len(r) < len(f) for r, f in zip(read, full, strict=True)])
        self.num_truncated += int(is_cut.sum())
        self.num_tokens += sum(len(row) for row in rows)
        # An empty text of a family without special tokens still needs one token to look at.
        return [row or [self._padding_id] for row in rows]

    def pad(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, int64 ``(B, T)``."""
        length = max(len(row) for row in rows)
        ids = np.full((len(rows), length), self._padding_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for number, row in enumerate(rows):
            place = slice(length - len(row), length) if self._is_left else slice(0, len(row))
            ids[number, place] = row
            mask[number, place] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)
