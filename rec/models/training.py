"""The training loop: Accelerate around next-item prediction; it knows no Ray.

Any number of processes give the gradient of one for the same global batch: every process takes its
share of each batch's windows, and the loss is divided by the weight of the *global* batch. Every
epoch draws from its own seed, so that a run resumed at an epoch ends as if it had never stopped.

Shapes: B windows, L places, V items.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from rec.data.sequences import Sequences
from rec.errors import ConfigError, DataError
from rec.models.batches import Batch, training_batches
from rec.models.checkpoints import (
    Checkpoint,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from rec.models.losses import full_softmax, sampled_softmax
from rec.models.sequence_model import SequenceModel

_SEED_STRIDE = 100_003
"""A prime: seeds of two epochs, or of two nearby runs, do not meet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Say how the towers are trained."""

    num_epochs: int = 15
    """Passes over the log at most; early stopping may end before."""
    refit_epochs: int = 1
    """Passes over the whole log, the newest tenth included, after evaluation's model is found."""
    batch_size: int = 64
    """Windows of one global batch, over all processes."""
    learning_rate: float = 2e-3
    """Peak of AdamW's rate, after the warm-up."""
    weight_decay: float = 0.01
    """AdamW's decay; raise it on small logs."""
    warmup_share: float = 0.05
    """Share of all steps in which the rate rises from 0."""
    clip_norm: float = 1.0
    """Largest norm of a gradient; limits a single step."""
    full_softmax_items: int = 2_000
    """Largest catalog with the exact softmax; above it negatives are sampled."""
    num_negatives: int = 512
    """Uniform negatives shared by a batch, where they are sampled."""
    patience: int = 3
    """Epochs without a better validation NDCG before training stops."""
    validation_users: int = 2000
    """Users whose last training event is held out to find the best epoch."""
    event_weight: tuple[str, ...] = ()
    """Weights of targets by type, ``purchase=2``; types not named weigh 1."""
    seed: int = 7
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "num_negatives", "patience", "validation_users"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--training.{flag} must be >= 1, got {getattr(self, name)}")
        if self.refit_epochs < 0:
            raise ConfigError(f"--training.refit-epochs must be >= 0, got {self.refit_epochs}")
        if self.learning_rate <= 0:
            raise ConfigError(f"--training.learning-rate must be > 0, got {self.learning_rate}")
        for pair in self.event_weight:
            name, _, weight = pair.partition("=")
            if not name or not _is_weight(weight):
                raise ConfigError(
                    f"--training.event-weight expects TYPE=WEIGHT >= 0 (purchase=2), got {pair!r}"
                )

    @property
    def weights(self) -> Mapping[str, float]:
        """Return the event weights by type."""
        return {name: float(weight) for name, weight in (p.split("=") for p in self.event_weight)}


@dataclass(slots=True)
class FitResult:
    """Hold what training has found: the best weights, and one row of metrics per epoch."""

    best: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Return the epoch (0-based) whose weights are kept."""
        return int(max(self.metrics, key=_quality)["epoch"])


class TrainingStep(nn.Module):
    """Compute one process's share of a batch's loss; the module that DDP wraps."""

    def __init__(self, model: SequenceModel, *, config: TrainingConfig, weights: Tensor) -> None:
        super().__init__()
        self.model = model
        self.is_exact = model.items.num_items <= config.full_softmax_items
        self.event_weights = nn.Buffer(weights, persistent=False)  # by event type code + 1

    def forward(
        self,
        tokens: Tensor,
        timestamps_s: Tensor,
        event_types: Tensor,
        targets: Tensor,
        target_weights: Tensor,
        sources: Tensor,
        negatives: Tensor,
    ) -> Tensor:
        """Return the weighted sum of the losses of all targets, a scalar."""
        users = self.model(tokens, timestamps_s, event_types)  # (B, L, D)
        users = users.gather(1, sources.unsqueeze(-1).expand(-1, -1, users.shape[-1]))
        is_target = targets > 0
        users, items, weights = users[is_target], targets[is_target], target_weights[is_target]
        tower, scale = self.model.items, self.model.scale
        if self.is_exact:
            catalog = torch.arange(1, tower.num_items + 1, device=tokens.device)
            losses = full_softmax(users, tower(catalog), items, scale=scale)
        else:
            losses = sampled_softmax(
                users, tower(items), tower(negatives), items, negatives, scale=scale
            )
        return (losses * weights).sum()


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
        checkpoints: folder for one checkpoint an epoch; none are written where absent.
        resume: go on from the newest checkpoint of that folder, if there is one.
        on_epoch: called on the main process with ``epoch, loss, ndcg, num_targets``.

    Raises:
        DataError: no user has two events, or a loss is not finite; the last good checkpoint stays.
    """
    if not (sequences.lengths >= 2).any():
        raise DataError("expected at least one user with two events to learn from, found none")
    torch.manual_seed(config.seed)
    step_module = TrainingStep(model, config=config, weights=_type_weights(sequences, config))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    # Tensors hash by identity: this is how the optimizer's state finds its names.
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    result = FitResult()
    step = first_epoch = 0
    saved = load_newest(checkpoints) if checkpoints is not None and resume else None
    if saved is not None:
        model.load_state_dict(dict(saved.model))
        restore_optimizer(optimizer, names, saved.optimizer)
        result = FitResult(best=saved.best, metrics=list(saved.metrics))
        step, first_epoch = saved.step, saved.epoch + 1
    wrapped, optimizer = accelerator.prepare(step_module, optimizer)
    num_batches = _count_batches(sequences, config, model)
    total_steps = num_batches * config.num_epochs
    for epoch in range(first_epoch, config.num_epochs):
        if _is_exhausted(result, config.patience):
            break
        epoch_seed = config.seed * _SEED_STRIDE + epoch
        torch.manual_seed(epoch_seed + accelerator.process_index * 31)
        generator = np.random.default_rng(epoch_seed)
        wrapped.train()
        loss_sum, weight_sum = 0.0, 0.0
        for batch in training_batches(
            sequences,
            max_length=model.config.max_length,
            batch_size=config.batch_size,
            generator=generator,
        ):
            rate = _rate(step, total_steps=total_steps, config=config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, weight = _train_step(
                wrapped,
                optimizer,
                batch,
                config=config,
                accelerator=accelerator,
                generator=generator,
            )
            loss_sum, weight_sum, step = loss_sum + loss, weight_sum + weight, step + 1
        row = {"epoch": epoch, "loss": loss_sum / max(weight_sum, 1.0), "num_targets": weight_sum}
        if not math.isfinite(row["loss"]):
            raise DataError(
                f"the loss of epoch {epoch} is not finite: lower --training.learning-rate"
            )
        if validate is not None:
            row["ndcg"] = _on_main(accelerator, lambda: validate(model))
        result.metrics.append(row)
        if result.best_epoch == epoch:
            result.best = {key: value.detach().clone() for key, value in model.state_dict().items()}
        if accelerator.is_main_process:
            if checkpoints is not None:
                save_checkpoint(
                    checkpoints,
                    Checkpoint(
                        epoch=epoch,
                        step=step,
                        model=model.state_dict(),
                        optimizer=optimizer_tensors(_inner(optimizer), names),
                        best=result.best,
                        metrics=tuple(result.metrics),
                    ),
                )
            if on_epoch is not None:
                on_epoch(row)
        accelerator.wait_for_everyone()
    model.load_state_dict(dict(result.best))
    model.eval()
    return result


def _train_step(
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    config: TrainingConfig,
    accelerator: Accelerator,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Take one optimizer step; return the global loss and weight of the batch."""
    step_module: TrainingStep = accelerator.unwrap_model(wrapped)
    num_items = step_module.model.items.num_items
    negatives = generator.integers(1, num_items + 1, size=config.num_negatives)
    weights = step_module.event_weights.cpu().numpy()
    batch_weights = weights[batch.target_types] * (batch.targets > 0)
    total = float(batch_weights.sum())
    if total == 0:
        return 0.0, 0.0
    mine = _share(batch, batch_weights, accelerator)
    tensors = [torch.as_tensor(value, device=accelerator.device) for value in mine]
    loss_sum = wrapped(*tensors, torch.as_tensor(negatives, device=accelerator.device))
    optimizer.zero_grad(set_to_none=True)
    # DDP averages over processes: times their number, divided by the global weight.
    accelerator.backward(loss_sum * (accelerator.num_processes / total))
    accelerator.clip_grad_norm_(wrapped.parameters(), config.clip_norm)
    optimizer.step()
    return float(accelerator.reduce(loss_sum.detach(), reduction="sum")), total


def _share(
    batch: Batch, weights: np.ndarray[Any, Any], accelerator: Accelerator
) -> list[np.ndarray[Any, Any]]:
    """Return this process's windows; each process gets at least one, if only without targets."""
    rank, world = accelerator.process_index, accelerator.num_processes
    arrays: list[np.ndarray[Any, Any]] = [
        batch.tokens,
        batch.timestamps_s,
        batch.event_types,
        batch.targets,
        weights.astype(np.float32),
        batch.sources,
    ]
    mine = [array[rank::world] for array in arrays]
    if len(mine[0]) == 0:
        mine = [array[:1] for array in arrays]
        mine[3], mine[4] = np.zeros_like(mine[3]), np.zeros_like(mine[4])
    return mine


def _type_weights(sequences: Sequences, config: TrainingConfig) -> Tensor:
    known = config.weights
    unknown = set(known) - set(sequences.event_type_names)
    if unknown:
        raise ConfigError(
            f"--training.event-weight names {', '.join(sorted(unknown))}; the log has "
            f"{', '.join(sequences.event_type_names)}"
        )
    return torch.tensor([1.0] + [known.get(name, 1.0) for name in sequences.event_type_names])


def _count_batches(sequences: Sequences, config: TrainingConfig, model: SequenceModel) -> int:
    """Return about how many batches an epoch has; sets the shape of the schedule."""
    num_inputs = np.maximum(sequences.lengths - 1, 0)
    windows = int(-(-num_inputs // model.config.max_length).sum())
    return max(1, -(-windows // config.batch_size))


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


def _is_weight(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False
