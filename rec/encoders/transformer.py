"""Transformer encoders: any allowed Hugging Face family, masked pooling, safetensors only.

An embedding never depends on the batch it came in: padding is masked in attention and in pooling,
and positions count real tokens only. Encoder-only families pool by mean (or cls), decoder-only ones
by the last token, of encoder-decoder families the encoder half is used (mean).

Shapes: N texts, B texts of a batch, T tokens, D width.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForTextEncoding

from rec.encoders.backends import BackendName, make_backend
from rec.encoders.checkpoints import ENCODER_DECODER, checkpoint_fingerprint, read_checkpoint
from rec.encoders.networks import load_network
from rec.encoders.tokens import TextTokenizer

_CHUNK_BATCHES = 16
"""Batches that are tokenised and sorted by length together, while the chunk before is computed."""


class TransformerEncoder:
    """Encode text with a Hugging Face checkpoint."""

    def __init__(
        self,
        folder: Path,
        *,
        identity: str = "",
        pooling: Literal["mean", "cls", "last"] = "mean",
        prefix: str = "",
        max_tokens: int = 64,
        batch_size: int = 32,
        backend: BackendName = "torch",
        padding_side: Literal["left", "right"] = "right",
        device: str | None = None,
    ) -> None:
        """Load a folder.

        Args:
            folder: model and tokenizer, as ``save_pretrained`` writes them.
            identity: what fixes the space beside the files.
            pooling: token states to one embedding.
            prefix: stands before every text; counts towards ``max_tokens``.
            max_tokens: tokens read of a text.
            batch_size: texts of one forward pass.
            backend: what computes.
            padding_side: makes no difference to an embedding.
            device: a GPU where there is one, if absent.

        Raises:
            ConfigError: a ``model_type`` outside the allow-list, code of its own, no safetensors
                weights, or a backend that is not installed.
        """
        self._device = device or default_device()
        model = load_transformer(folder)
        self.width = width_of(model)
        self._tokens = TextTokenizer(
            folder, prefix=prefix, max_tokens=max_tokens, is_left=padding_side == "left"
        )
        self._forward = make_backend(backend, model, device=self._device)
        self._folder = folder
        self._identity = identity
        self._pooling = pooling
        self._batch_size = batch_size

    @cached_property
    def fingerprint(self) -> str:
        """Return the hash of weights, tokenizer and everything that shapes the text."""
        return checkpoint_fingerprint(self._folder, self._identity)

    @property
    def num_truncated(self) -> int:
        """Return the texts that were cut so far."""
        return self._tokens.num_truncated

    @property
    def num_tokens(self) -> int:
        """Return the tokens read so far."""
        return self._tokens.num_tokens

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return L2-normalised float32 ``(N, D)`` in the order of the texts.

        Texts are sorted by length, so that a batch holds little padding, and tokenised in a
        thread of their own, so that a GPU need not wait.
        """
        out = np.zeros((len(texts), self.width), dtype=np.float32)
        size = _CHUNK_BATCHES * self._batch_size
        chunks = [texts[start : start + size] for start in range(0, len(texts), size)]
        if len(chunks) <= 1:
            for chunk in chunks:
                self._encode_rows(self._tokens.read(chunk), out)
            return out
        with ThreadPoolExecutor(max_workers=1) as pool_of_one:
            ahead = pool_of_one.submit(self._tokens.read, chunks[0])
            for number in range(len(chunks)):
                rows = ahead.result()
                if number + 1 < len(chunks):
                    ahead = pool_of_one.submit(self._tokens.read, chunks[number + 1])
                self._encode_rows(rows, out[number * size : (number + 1) * size])
        return out

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, uncut, with prefix and special ones."""
        return self._tokens.count_tokens(texts)

    @torch.inference_mode()
    def _encode_rows(self, rows: Sequence[list[int]], out: NDArray[np.float32]) -> None:
        """Write the embeddings of tokenised texts into ``out``, ``(B, D)``."""
        order = np.argsort([-len(row) for row in rows], kind="stable")
        for start in range(0, len(order), self._batch_size):
            picks = order[start : start + self._batch_size]
            ids, mask = self._tokens.pad([rows[int(pick)] for pick in picks])
            states = self._forward(ids.to(self._device), mask.to(self._device))  # (B, T, D)
            pooled = pool(states.float(), mask.to(states.device), pooling=self._pooling)
            out[picks] = nn.functional.normalize(pooled, dim=-1).cpu().numpy()


def load_transformer(folder: Path) -> nn.Module:
    """Return a checkpoint's model in float32: of an encoder-decoder family the encoder half.

    Raises:
        ConfigError: as :func:`rec.encoders.networks.load_network`.
    """
    is_half = read_checkpoint(folder).model_type in ENCODER_DECODER
    return load_network(folder, AutoModelForTextEncoding if is_half else AutoModel)


def width_of(model: nn.Module) -> int:
    """Return D."""
    config: Any = model.config  # its fields depend on the architecture
    return int(getattr(config, "hidden_size", 0) or config.d_model)


def pool(states: Tensor, mask: Tensor, *, pooling: str) -> Tensor:
    """Return one state per text, ``(B, D)``, from token states ``(B, T, D)`` and a mask.

    >>> states = torch.tensor([[[1.0], [3.0], [99.0]]])
    >>> pool(states, torch.tensor([[1, 1, 0]]), pooling="mean").item()
    2.0
    >>> pool(states, torch.tensor([[1, 1, 0]]), pooling="last").item()
    3.0
    """
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        # Where, not times: padding of a backend may be NaN, and NaN times zero is NaN.
        kept = torch.where(weights > 0, states, 0.0)
        return kept.sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    places = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "cls":
        picks = torch.where(mask.bool(), places, mask.shape[1]).amin(dim=1)
    else:
        picks = torch.where(mask.bool(), places, -1).amax(dim=1).clamp(min=0)
    return states[torch.arange(len(states), device=mask.device), picks]


def default_device() -> str:
    """Return the device that an encoder is put on."""
    return "cuda" if torch.cuda.is_available() else "cpu"
