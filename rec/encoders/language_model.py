"""A causal language model from a local checkpoint: greedy continuations, nothing from elsewhere.

safetensors of an allowed family, or one GGUF file (extra ``enrich``), which holds numbers and no
code. Greedy decoding: the same weights give the same words.

Shapes: B prompts, T tokens.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rec.artifacts import file_sha256
from rec.encoders.checkpoints import DECODER_ONLY, check_folder, find_checkpoint, read_checkpoint
from rec.encoders.networks import load_network
from rec.encoders.transformer import default_device
from rec.errors import ConfigError

MAX_PROMPT_TOKENS = 512
"""Of a longer prompt the end is read: it holds the question."""


class LanguageModel:
    """Continue prompts."""

    def __init__(
        self, model: str, *, batch_size: int, flag: str = "--enrichment.generator"
    ) -> None:
        """Load a model.

        Args:
            model: ``package:NAME``, a folder, or a name on the Hugging Face hub.
            batch_size: prompts continued at once.
            flag: that named the model, for what goes wrong.

        Raises:
            ConfigError: it is not there, of a family that is not allowed, or in a format that may
                run code.
        """
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        folder, gguf = _find(model, flag)
        self._tokenizer = AutoTokenizer.from_pretrained(
            folder,
            trust_remote_code=False,
            padding_side="left",
            truncation_side="left",
            **({"gguf_file": gguf.name} if gguf else {}),
        )
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        loaded: Any = (
            AutoModelForCausalLM.from_pretrained(
                folder, trust_remote_code=False, dtype=torch.float32, gguf_file=gguf.name
            )
            if gguf
            else load_network(folder, AutoModelForCausalLM)
        )
        self._model = loaded.to(default_device()).eval()
        self._batch_size = batch_size

    def continue_texts(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Return the words that follow each prompt, greedily."""
        return self._continue(prompts, max_new_tokens=max_new_tokens)

    def continue_lines(
        self, prompts: Sequence[str], *, max_new_tokens: int, max_seconds: float
    ) -> list[str]:
        """Return what follows each prompt up to the end of the line, or what time left of it."""
        return self._continue(
            prompts,
            max_new_tokens=max_new_tokens,
            max_time=max(0.0, max_seconds),
            eos_token_id=self._line_ends,
        )

    @cached_property
    def _line_ends(self) -> list[int]:
        """Return the tokens that end a line, and the one that ends a text."""
        tokens = {
            number: self._tokenizer.convert_tokens_to_string([token])
            for token, number in self._tokenizer.get_vocab().items()
        }
        ends = {number for number, text in tokens.items() if "\n" in text}
        return sorted(ends | {self._tokenizer.eos_token_id})

    @torch.inference_mode()
    def _continue(self, prompts: Sequence[str], **options: Any) -> list[str]:
        found: list[str] = []
        for start in range(0, len(prompts), self._batch_size):
            batch = self._tokenizer(
                list(prompts[start : start + self._batch_size]),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=MAX_PROMPT_TOKENS,
            ).to(self._model.device)
            ids = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
                **options,
            )
            new = ids[:, batch["input_ids"].shape[1] :]
            found += self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return found


def language_model_fingerprint(model: str) -> str:
    """Return the hash of a model's weights and tokenizer, without loading it.

    Raises:
        ConfigError: as :class:`LanguageModel`.
    """
    folder, gguf = _find(model, "--enrichment.generator")
    files = [gguf] if gguf else sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    digests = "|".join(file_sha256(path) for path in files)
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def _find(model: str, name: str) -> tuple[Path, Path | None]:
    """Return a model's folder, and its GGUF file where it is one."""
    flag = f"{name} {model}"
    for folder in _folders(model):
        files = sorted(folder.glob("*.gguf"))
        if len(files) > 1:
            raise ConfigError(f"{flag}: expected one GGUF file, found {len(files)}: keep one")
        if files:
            if find_spec("gguf") is None:
                raise ConfigError(
                    f"{flag}: package gguf is not installed: pip install 'nextray[enrich]'"
                )
            check_folder(folder, flag)
            return folder, files[0]
    folder = find_checkpoint(model, name)
    model_type = read_checkpoint(folder).model_type
    if model_type not in DECODER_ONLY:
        raise ConfigError(
            f"{flag}: model_type {model_type!r} does not write text, expected one of "
            f"{', '.join(sorted(DECODER_ONLY))}"
        )
    return folder, None


def _folders(model: str) -> list[Path]:
    if model.startswith("package:"):
        found = find_spec(model.removeprefix("package:"))
        return [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    return [Path(model)] if Path(model).is_dir() else []
