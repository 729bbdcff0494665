"""Transformer encoders: any allowed Hugging Face family, masked pooling, safetensors only.

An embedding never depends on the batch it came in: padding is masked in attention and in pooling.
Encoder-only families pool by mean (or cls), decoder-only ones by the last token, of
encoder-decoder families the encoder half is used (mean).

Shapes: N texts, B texts of a batch, T tokens, D width.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rec.artifacts import file_sha256
from rec.errors import ConfigError

ENCODER_ONLY = frozenset({"bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "modernbert"})
DECODER_ONLY = frozenset({"gpt2", "llama", "qwen2", "qwen3", "mistral", "gpt_neox"})
ENCODER_DECODER = frozenset({"t5", "mt5", "umt5"})
_IDENTITY_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
)


class TransformerEncoder:
    """Encode text with a Hugging Face checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        pooling: str,
        max_tokens: int,
        batch_size: int,
        fingerprint: str,
        device: str,
    ) -> None:
        self._model = model.to(device).eval()
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._device = device
        self.fingerprint = fingerprint
        config: Any = model.config  # its fields depend on the architecture
        self.width = int(getattr(config, "hidden_size", 0) or config.d_model)
        self.num_truncated = 0
        self.num_tokens = 0

    @classmethod
    def load(
        cls,
        model: str,
        *,
        pooling: str,
        max_tokens: int,
        batch_size: int,
        template: str,
        device: str | None = None,
    ) -> "TransformerEncoder":
        """Return the encoder of a folder or a hub name.

        Raises:
            ConfigError: nothing there, a ``model_type`` outside the allow-list, or no
                safetensors weights.
        """
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        folder = _fetch(model)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        allowed = ENCODER_ONLY | DECODER_ONLY | ENCODER_DECODER
        if config.model_type not in allowed:
            raise ConfigError(
                f"--encoder.model {model}: model_type {config.model_type!r} is not allowed, "
                f"expected one of {', '.join(sorted(allowed))}"
            )
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise ConfigError(f"--encoder.model {model}: no *.safetensors in {folder}")
        auto = AutoModelForTextEncoding if config.model_type in ENCODER_DECODER else AutoModel
        network = auto.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if tokenizer.pad_token is None:
            # The mask hides padding, so any token will do.
            tokenizer.pad_token = tokenizer.eos_token
        chosen = _pooling(pooling, config.model_type)
        identity = {
            "files": [file_sha256(path) for path in weights]
            + [file_sha256(folder / name) for name in _IDENTITY_FILES if (folder / name).is_file()],
            "pooling": chosen,
            "template": template,
            "max_tokens": max_tokens,
            "normalised": True,
            "dtype": "float32",
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return cls(
            network,
            tokenizer,
            pooling=chosen,
            max_tokens=max_tokens,
            batch_size=batch_size,
            fingerprint=digest[:16],
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return L2-normalised float32 ``(N, D)`` in the order of the texts.

        Texts are sorted by length first, so that a batch holds little padding.
        """
        out = np.zeros((len(texts), self.width), dtype=np.float32)
        if not texts:
            return out
        tokens = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._max_tokens,
            return_overflowing_tokens=True,
        )
        # Of a cut text only the first piece is read; the others just tell that it was cut.
        owners = np.asarray(tokens["overflow_to_sample_mapping"])
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))
        rows = [tokens["input_ids"][int(first)] for first in firsts]
        self.num_truncated += int((np.bincount(owners) > 1).sum())
        self.num_tokens += sum(len(row) for row in rows)
        order = np.argsort([-len(row) for row in rows], kind="stable")
        for start in range(0, len(order), self._batch_size):
            picks = order[start : start + self._batch_size]
            batch = self._tokenizer.pad(
                {"input_ids": [rows[int(pick)] for pick in picks]}, return_tensors="pt"
            ).to(self._device)
            states = self._model(**batch).last_hidden_state  # (B, T, D)
            pooled = pool(states, batch["attention_mask"], pooling=self._pooling)
            normal = nn.functional.normalize(pooled.float(), dim=-1)
            out[picks] = normal.cpu().numpy()
        return out


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
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    places = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "cls":
        picks = torch.where(mask.bool(), places, mask.shape[1]).amin(dim=1)
    else:
        picks = torch.where(mask.bool(), places, -1).amax(dim=1).clamp(min=0)
    return states[torch.arange(len(states), device=mask.device), picks]


def _pooling(asked: str, model_type: str) -> str:
    if asked != "auto":
        return asked
    return "last" if model_type in DECODER_ONLY else "mean"


def _fetch(model: str) -> Path:
    """Return the local folder of a model; a hub name is downloaded (safetensors only)."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # only for hub names

    try:
        return Path(
            snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"])
        )
    except Exception as error:
        detail = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"--encoder.model {model}: no such folder, and the hub did not give it ({detail}): "
            "name a local folder or package:NAME"
        ) from error
