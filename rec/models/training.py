"""The training loop: Accelerate around next-item prediction; it knows no Ray.

Any number of processes give the gradient of one for the same global batch: every process takes its
share of each batch's windows, in pieces that fit its memory, and the loss is divided by the weight
of the *global* batch. Every batch draws from its own seed, so that a run resumed in the middle of
an epoch ends as if it had never stopped.

Shapes: B windows, L places, V items.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.data.sequences import Sequences
from rec.errors import ConfigError, DataError
from rec.models.batches import Batch, group_windows, training_batches
from rec.models.checkpoints import (
    Checkpoint,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from rec.models.negatives import NegativeSampler, negative_catalog, target_frequencies
from rec.models.sequence_model import SequenceModel
from rec.models.training_config import TrainingConfig
from rec.models.training_step import TrainingStep

_RANK_SEED = 31
"""Keeps the dropout of one process apart from that of another."""
_NAMED_USERS = 5
"""Users of a bad batch that an error names."""


@dataclass(slots=True)
class FitResult:
    """Hold what training has found: the best weights, and one row of metrics per epoch."""

    best: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Return the epoch (0-based) whose weights are kept."""
        return int(max(self.metrics, key=_quality)["epoch"])


@dataclass(slots=True)
class _Position:
    """Where a run stands: ``batch`` of ``epoch`` is next, and what the epoch has added up to."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class _Run:
    """Hold what does not change while a model is trained."""

    sequences: Sequences
    config: TrainingConfig
    accelerator: Accelerator
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    sampler: NegativeSampler
    type_weights: NDArray[np.float32]
    total_steps: int


def fit(
    model: SequenceModel,
    sequences: Sequences,
    *,
    config: TrainingConfig,
    accelerator: Accelerator,
    validate: Callable[[SequenceModel], float] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> FitResult:
    """Train the towers on sequences and load the best epoch's weights into ``model``.

    Args:
        model: the towers; changed in place.
        sequences: what to learn from.
        config: how.
        accelerator: where; its processes share each batch.
        validate: gives the validation NDCG of a model; the last epoch is best where absent.
        checkpoints: folder for the newest checkpoints; none are written where absent.
        resume: go on from the newest checkpoint of that folder, if there is one.
        on_epoch: called on the main process with ``epoch, loss, ndcg, num_targets`` and the
            timings ``wall_s, cpu_s, targets_per_s, learning_rate``.

    Raises:
        DataError: no user has two events, or a loss is not finite; the last good checkpoint stays.
    """
    if not (sequences.lengths >= 2).any():
        raise DataError("expected at least one user with two events to learn from, found none")
    torch.manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    # Tensors hash by identity: this is how the optimizer's state finds its names.
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    result, at = FitResult(), _Position()
    saved = load_newest(checkpoints) if checkpoints is not None and resume else None
    if saved is not None:
        model.load_state_dict(dict(saved.model))
        restore_optimizer(optimizer, names, saved.optimizer)
        result = FitResult(best=saved.best, metrics=list(saved.metrics))
        at = _Position(
            epoch=saved.epoch,
            batch=saved.batch,
            step=saved.step,
            loss_sum=saved.loss_sum,
            weight_sum=saved.weight_sum,
        )
    run = _prepare(model, sequences, config=config, accelerator=accelerator, optimizer=optimizer)

    def save() -> None:
        if checkpoints is not None and accelerator.is_main_process:
            save_checkpoint(
                checkpoints,
                Checkpoint(
                    epoch=at.epoch,
                    batch=at.batch,
                    step=at.step,
                    loss_sum=at.loss_sum,
                    weight_sum=at.weight_sum,
                    model=model.state_dict(),
                    optimizer=optimizer_tensors(_inner(run.optimizer), names),
                    best=result.best,
                    metrics=tuple(result.metrics),
                ),
            )

    while at.epoch < config.num_epochs and not _is_exhausted(result, config.patience):
        start, cpu, before = time.perf_counter(), time.process_time(), at.weight_sum
        _run_epoch(run, at, save=save)
        seconds = time.perf_counter() - start
        row: dict[str, Any] = {
            "epoch": at.epoch,
            "loss": at.loss_sum / max(at.weight_sum, 1.0),
            "num_targets": at.weight_sum,
        }
        timings = {
            "wall_s": round(seconds, 3),
            "cpu_s": round(time.process_time() - cpu, 3),
            "targets_per_s": round((at.weight_sum - before) / max(seconds, 1e-9), 1),
            "learning_rate": _rate(at.step - 1, total_steps=run.total_steps, config=config),
        }
        if validate is not None:
            row["ndcg"] = _on_main(accelerator, lambda: validate(model))
        result.metrics.append(row)
        if result.best_epoch == at.epoch:
            result.best = {key: value.detach().clone() for key, value in model.state_dict().items()}
        at.epoch, at.batch, at.loss_sum, at.weight_sum = at.epoch + 1, 0, 0.0, 0.0
        save()
        if accelerator.is_main_process and on_epoch is not None:
            on_epoch(row | timings)
        accelerator.wait_for_everyone()
    model.load_state_dict(dict(result.best))
    model.eval()
    return result


def _prepare(
    model: SequenceModel,
    sequences: Sequences,
    *,
    config: TrainingConfig,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
) -> _Run:
    loss = config.loss_for(sequences.num_items)
    catalog = negative_catalog(sequences, with_cold=config.cold_negatives)
    step = TrainingStep(
        model,
        loss=loss,
        gbce_calibration=config.gbce_calibration,
        masks_own_items=config.mask_own_items,
        is_bfloat16=config.precision == "bfloat16",
        catalog=torch.from_numpy(catalog),
    )
    wrapped, optimizer = accelerator.prepare(step, optimizer)
    return _Run(
        sequences=sequences,
        config=config,
        accelerator=accelerator,
        wrapped=wrapped,
        optimizer=optimizer,
        sampler=NegativeSampler(
            catalog=catalog,
            frequencies=target_frequencies(sequences),
            num_uniform=0 if loss == "full_softmax" else config.num_negatives,
            num_in_batch=config.num_in_batch if loss == "mixed_softmax" else 0,
        ),
        type_weights=_type_weights(sequences, config),
        total_steps=_count_batches(sequences, config, model) * config.num_epochs,
    )


def _run_epoch(run: _Run, at: _Position, *, save: Callable[[], None]) -> None:
    """Take the steps of an epoch that are left; ``at`` moves along."""
    config = run.config
    model: SequenceModel = run.accelerator.unwrap_model(run.wrapped).model
    batches = training_batches(
        run.sequences,
        max_length=model.config.max_length,
        batch_size=config.batch_size,
        batch_targets=config.batch_targets,
        generator=np.random.default_rng((config.seed, at.epoch)),
        first=at.batch,
    )
    run.wrapped.train()
    for batch in batches:
        if at.batch and at.batch % config.checkpoint_batches == 0:
            save()
        rate = _rate(at.step, total_steps=run.total_steps, config=config)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        loss, weight = _train_step(run, batch, at)
        at.loss_sum, at.weight_sum = at.loss_sum + loss, at.weight_sum + weight
        at.batch, at.step = at.batch + 1, at.step + 1


def _train_step(run: _Run, batch: Batch, at: _Position) -> tuple[float, float]:
    """Take one optimizer step; return the global loss and weight of the batch.

    Raises:
        DataError: loss or gradient is not finite; the weights are as before the step.
    """
    accelerator, config = run.accelerator, run.config
    seed = (config.seed, at.epoch, at.batch)
    weights = run.type_weights[batch.target_types] * (batch.targets > 0)
    total = float(weights.sum())
    if total == 0:
        return 0.0, 0.0
    negatives = run.sampler.draw(batch, np.random.default_rng((*seed, 1)))
    shared = [
        torch.as_tensor(value, device=accelerator.device)
        for value in (negatives.items, negatives.log_expected)
    ]
    drops = np.random.SeedSequence((*seed, 2, accelerator.process_index * _RANK_SEED))
    torch.manual_seed(int(drops.generate_state(1)[0]))
    run.optimizer.zero_grad(set_to_none=True)
    pieces = _pieces(batch, weights, accelerator, size=config.micro_batch_size)
    loss_sum = torch.zeros((), device=accelerator.device)
    for number, piece in enumerate(pieces, start=1):
        tensors = [torch.as_tensor(value, device=accelerator.device) for value in piece]
        is_last = number == len(pieces)
        with nullcontext() if is_last else accelerator.no_sync(run.wrapped):
            loss = run.wrapped(*tensors, *shared)
            # DDP averages over processes: times their number, divided by the global weight.
            accelerator.backward(loss * (accelerator.num_processes / total))
        loss_sum += loss.detach()
    norm = accelerator.clip_grad_norm_(run.wrapped.parameters(), config.clip_norm)
    found = float(accelerator.reduce(loss_sum, reduction="sum"))
    if not (math.isfinite(found) and math.isfinite(float(norm))):
        raise DataError(_not_finite(run.sequences, batch, at, loss=found))
    run.optimizer.step()
    return found, total


def _pieces(
    batch: Batch, weights: NDArray[np.float32], accelerator: Accelerator, *, size: int | None
) -> list[list[NDArray[Any]]]:
    """Return this process's windows in pieces: as many as any other process has.

    Each has at least one window, if only without targets.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    num_windows = len(batch.tokens)
    share = -(-num_windows // world)
    arrays: list[NDArray[Any]] = [
        batch.tokens,
        batch.timestamps_s,
        batch.event_types,
        batch.targets,
        weights.astype(np.float32),
        batch.sources,
    ]
    pieces = []
    for rows in np.array_split(np.arange(rank, num_windows, world), -(-share // (size or share))):
        piece = [array[rows if len(rows) else [0]] for array in arrays]
        if len(rows) == 0:
            piece[3], piece[4] = np.zeros_like(piece[3]), np.zeros_like(piece[4])
        pieces.append(piece)
    return pieces


def _not_finite(sequences: Sequences, batch: Batch, at: _Position, *, loss: float) -> str:
    users = [sequences.user_ids[int(row)] for row in np.unique(batch.users)]
    more = f" and {len(users) - _NAMED_USERS} more" if len(users) > _NAMED_USERS else ""
    return (
        f"batch {at.batch} of epoch {at.epoch} gave a loss of {loss:.4g} or a gradient that is not "
        f"finite (users {', '.join(users[:_NAMED_USERS])}{more}); the last good checkpoint stays: "
        "look at the embeddings of their items, or lower --training.learning-rate"
    )


def _type_weights(sequences: Sequences, config: TrainingConfig) -> NDArray[np.float32]:
    """Return the weight of a target by the code + 1 of its event type."""
    known = config.weights
    unknown = set(known) - set(sequences.event_type_names)
    if unknown:
        raise ConfigError(
            f"--training.event-weight names {', '.join(sorted(unknown))}; the log has "
            f"{', '.join(sequences.event_type_names)}"
        )
    weights = [1.0, *(known.get(name, 1.0) for name in sequences.event_type_names)]
    return np.asarray(weights, dtype=np.float32)


def _count_batches(sequences: Sequences, config: TrainingConfig, model: SequenceModel) -> int:
    """Return about how many batches an epoch has; sets the shape of the schedule."""
    num_inputs, width = np.maximum(sequences.lengths - 1, 0), model.config.max_length
    whole, rest = int((num_inputs // width).sum()), np.sort(num_inputs % width)
    lengths = np.concatenate([rest[rest > 0], np.full(whole, width)])
    ends = group_windows(lengths, batch_size=config.batch_size, batch_targets=config.batch_targets)
    return max(1, len(ends))


def _rate(step: int, *, total_steps: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step: a linear rise, then a half cosine down to a tenth."""
    warmup = max(1, round(total_steps * config.warmup_share))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def _quality(row: Mapping[str, Any]) -> float:
    return float(row.get("ndcg", row["epoch"]))


def _is_exhausted(result: FitResult, patience: int) -> bool:
    if not result.metrics or "ndcg" not in result.metrics[-1]:
        return False
    return int(result.metrics[-1]["epoch"]) - result.best_epoch >= patience


def _on_main(accelerator: Accelerator, compute: Callable[[], float]) -> float:
    """Return a number that the main process computes and the others receive."""
    values = [compute() if accelerator.is_main_process else 0.0]
    if accelerator.num_processes > 1:
        broadcast_object_list(values)
    return values[0]


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner
