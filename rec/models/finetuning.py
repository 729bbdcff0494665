"""Contrastive fine-tuning of a text encoder: the Accelerate loop; it knows no Ray.

Training goes in rounds of a fixed number of steps, whatever the size of the log. Each round draws
from its own seed and ends with a measurement and a checkpoint, so a resumed run ends as one that
never stopped. The weights of the best round are kept; round 0 is the encoder as it came.

Shapes: B pairs of a batch, T texts of it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.encoders.tuning import TunableEncoder
from rec.errors import ConfigError, DataError
from rec.models.checkpoints import (
    Checkpoint,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from rec.models.contrastive import Chunk, backward_in_chunks, info_nce
from rec.models.hard_negatives import draw_negatives, mine_neighbours
from rec.models.pair_batches import PairTexts, TextBatch, build_batch
from rec.models.pairs import PairSampler

_SEED_STRIDE = 100_003
"""A prime: seeds of two rounds, or of two nearby runs, do not meet."""
_RATES = {"full": 3e-5, "lora": 5e-4}
"""Usual peaks: adapters start at zero and take larger steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningConfig:
    """Say how the text encoder is fine-tuned."""

    method: Literal["full", "lora"] = "full"
    """All weights, or low-rank adapters (extra ``finetune``): a fraction of the memory."""
    num_rounds: int = 4
    """Rounds at most; after each one retrieval is measured."""
    steps_per_round: int = 30
    """Optimizer steps of a round; raising it costs time in proportion."""
    batch_size: int = 64
    """Pairs of one global batch, over all processes; all others are negatives of each."""
    chunk_size: int = 64
    """Texts whose graph is held at once; lower needs less memory, the gradient is the same."""
    learning_rate: float | None = None
    """Peak of AdamW's rate; 3e-5 for ``full`` and 5e-4 for ``lora`` if absent."""
    weight_decay: float = 0.01
    """AdamW's decay."""
    warmup_share: float = 0.1
    """Share of all steps in which the rate rises from 0."""
    clip_norm: float = 1.0
    """Largest norm of a gradient."""
    temperature: float = 0.05
    """What cosines are divided by in the loss; lower looks more at the hardest negatives."""
    sequence_share: float = 0.3
    """Share of pairs whose anchor is the user's rendered sequence; the others start from one item
    or one search."""
    max_events: int = 20
    """Newest events of a rendered sequence at most; fewer where the encoder reads less."""
    num_hard_negatives: int = 1
    """Hard negatives of each pair: shown and not taken where there are impressions, else mined."""
    lora_rank: int = 16
    """Width of an adapter."""
    patience: int = 2
    """Rounds without a better measurement before training stops."""
    validation_users: int = 300
    """Users whose last training event is held out to measure retrieval."""
    validation_items: int = 2048
    """Distinct texts that they are retrieved from: all targets, the rest drawn at random."""
    seed: int = 7
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        for name in (
            "num_rounds", "steps_per_round", "chunk_size", "max_events", "lora_rank", "patience",
            "validation_users", "validation_items",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--finetuning.{flag} must be >= 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ConfigError(
                f"--finetuning.batch-size must be >= 2 (negatives), got {self.batch_size}"
            )
        if self.num_hard_negatives < 0:
            raise ConfigError(
                f"--finetuning.num-hard-negatives must be >= 0, got {self.num_hard_negatives}"
            )
        for name in ("temperature", "rate", "clip_norm"):
            if getattr(self, name) <= 0:
                flag = "learning-rate" if name == "rate" else name.replace("_", "-")
                raise ConfigError(f"--finetuning.{flag} must be > 0, got {getattr(self, name)}")
        for name in ("sequence_share", "warmup_share"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--finetuning.{flag} must be in 0..1, got {getattr(self, name)}")

    @property
    def rate(self) -> float:
        """Return the peak of the learning rate."""
        return _RATES[self.method] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSource:
    """Hold what batches are made of."""

    sampler: PairSampler
    texts: PairTexts
    pool: tuple[int, ...]
    """Items that negatives are mined from."""
    exposed: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    """By user row, items that were shown and not taken."""


@dataclass(slots=True)
class TuningResult:
    """Hold the best weights that learn, and one row of metrics a round, round 0 first."""

    best: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def best_round(self) -> int:
        """Return the round whose weights are kept; 0 is the encoder as it came."""
        return int(max(self.metrics, key=lambda row: float(row["ndcg"]))["round"])


def finetune(
    encoder: TunableEncoder,
    source: PairSource,
    *,
    config: FinetuningConfig,
    accelerator: Accelerator,
    validate: Callable[[TunableEncoder], float],
    checkpoints: Path | None = None,
    resume: bool = False,
    on_round: Callable[[Mapping[str, Any]], None] | None = None,
) -> TuningResult:
    """Tune the encoder on pairs and load the best round's weights into it.

    Args:
        encoder: changed in place.
        source: what to learn from.
        config: how.
        accelerator: where; its processes share each batch.
        validate: gives the retrieval NDCG of the encoder; called on the main process.
        checkpoints: folder for one checkpoint a round; none are written where absent.
        resume: go on from the newest checkpoint of that folder, if there is one.
        on_round: called on the main process with ``round, loss, ndcg``.

    Raises:
        DataError: a loss is not finite; the last good checkpoint stays.
    """
    encoder.to(accelerator.device)
    learning = encoder.learning()
    optimizer = torch.optim.AdamW(
        learning.values(), lr=config.rate, weight_decay=config.weight_decay
    )
    names: dict[Tensor, str] = {weight: name for name, weight in learning.items()}
    result, step = TuningResult(), 0
    saved = load_newest(checkpoints) if checkpoints is not None and resume else None
    if saved is None:
        ndcg = _on_main(accelerator, lambda: validate(encoder))
        result.metrics.append({"round": 0, "loss": None, "ndcg": ndcg})
        result.best = _copy(learning)
        _report(accelerator, on_round, result.metrics[0])
    else:
        _load(learning, saved.model)
        restore_optimizer(optimizer, names, saved.optimizer)
        result = TuningResult(best=saved.best, metrics=list(saved.metrics))
        step = saved.step
    wrapped, optimizer = accelerator.prepare(encoder, optimizer)
    total_steps = config.num_rounds * config.steps_per_round
    for number in range(len(result.metrics), config.num_rounds + 1):
        if number - 1 - result.best_round >= config.patience:
            break
        losses = []
        for batch in _batches(encoder, source, number, config=config, accelerator=accelerator):
            for group in optimizer.param_groups:
                group["lr"] = _rate(step, total_steps=total_steps, config=config)
            seed = config.seed * _SEED_STRIDE + step
            wrapped.train()
            optimizer.zero_grad(set_to_none=True)
            losses.append(
                add_gradient(wrapped, batch, config=config, accelerator=accelerator, seed=seed)
            )
            accelerator.clip_grad_norm_(list(learning.values()), config.clip_norm)
            optimizer.step()
            step += 1
        loss = float(np.mean(losses))
        if not math.isfinite(loss):
            raise DataError(
                f"the loss of round {number} is not finite: lower --finetuning.learning-rate"
            )
        ndcg = _on_main(accelerator, lambda: validate(encoder))
        result.metrics.append({"round": number, "loss": loss, "ndcg": ndcg})
        if result.best_round == number:
            result.best = _copy(learning)
        if accelerator.is_main_process and checkpoints is not None:
            save_checkpoint(
                checkpoints,
                Checkpoint(
                    epoch=number,
                    batch=config.steps_per_round,
                    loss_sum=loss,
                    weight_sum=1.0,
                    step=step,
                    model=_copy(learning),
                    optimizer=optimizer_tensors(getattr(optimizer, "optimizer", optimizer), names),
                    best=result.best,
                    metrics=tuple(result.metrics),
                ),
            )
        _report(accelerator, on_round, result.metrics[-1])
        accelerator.wait_for_everyone()
    _load(learning, result.best)
    encoder.eval()
    return result


def add_gradient(
    wrapped: nn.Module,
    batch: TextBatch,
    *,
    config: FinetuningConfig,
    accelerator: Accelerator,
    seed: int,
) -> float:
    """Add this process's part of a batch's gradient to the encoder; return the batch's loss."""
    encoder: TunableEncoder = accelerator.unwrap_model(wrapped)
    device, world = accelerator.device, accelerator.num_processes
    # Dealt out in turn, so that each process has as many texts, of like lengths.
    texts = [*batch.texts, *[""] * (-len(batch.texts) % world)]
    share = len(texts) // world
    mine = encoder.tokens.read(texts[accelerator.process_index :: world])
    chunks: list[Chunk] = []
    for start in range(0, share, config.chunk_size):
        ids, mask = encoder.tokens.pad(mine[start : start + config.chunk_size])
        chunks.append((ids.to(device), mask.to(device)))
    anchors, documents = (
        torch.as_tensor((places % world) * share + places // world, device=device)
        for places in (batch.anchors, batch.documents)
    )
    is_false = torch.as_tensor(batch.is_false, device=device)

    def loss(everyone: Tensor) -> Tensor:
        return info_nce(
            everyone[anchors],
            everyone[documents],
            is_false=is_false,
            temperature=config.temperature,
        )

    return backward_in_chunks(wrapped, chunks, loss, accelerator=accelerator, seed=seed)


def _batches(
    encoder: TunableEncoder,
    source: PairSource,
    number: int,
    *,
    config: FinetuningConfig,
    accelerator: Accelerator,
) -> Iterator[TextBatch]:
    """Yield the global batches of a round, the same on every process."""
    generator = np.random.default_rng((config.seed, number))
    rounds = [
        source.sampler.draw(generator, config.batch_size) for _ in range(config.steps_per_round)
    ]
    mined: dict[int, NDArray[np.int64]] = {}
    if config.num_hard_negatives:
        targets = [pair.target for pairs in rounds for pair in pairs]
        mined = _broadcast(
            accelerator,
            lambda: mine_neighbours(
                targets, source.pool, texts=source.texts, encode=encoder.encode
            ),
        )
    for pairs in rounds:
        hard = draw_negatives(
            pairs,
            num_each=config.num_hard_negatives,
            exposed=source.exposed,
            mined=mined,
            texts=source.texts,
            generator=generator,
        )
        yield build_batch(pairs, hard, texts=source.texts)


def _rate(step: int, *, total_steps: int, config: FinetuningConfig) -> float:
    """Return the learning rate of a step: a linear rise, then a linear fall to a tenth."""
    warmup = max(1, round(total_steps * config.warmup_share))
    if step < warmup:
        return config.rate * (step + 1) / warmup
    return config.rate * (1 - 0.9 * (step - warmup) / max(1, total_steps - warmup))


def _copy(learning: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: weight.detach().clone().cpu() for name, weight in learning.items()}


def _load(learning: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in learning.items():
            weight.copy_(weights[name])


def _report(
    accelerator: Accelerator,
    on_round: Callable[[Mapping[str, Any]], None] | None,
    row: Mapping[str, Any],
) -> None:
    if accelerator.is_main_process and on_round is not None:
        on_round(row)


def _on_main(accelerator: Accelerator, compute: Callable[[], float]) -> float:
    return float(_broadcast(accelerator, compute))


def _broadcast(accelerator: Accelerator, compute: Callable[[], Any]) -> Any:
    """Return what the main process computes, on every process."""
    values: Sequence[Any] = [compute() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(values)
    return values[0]
