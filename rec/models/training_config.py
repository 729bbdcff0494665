"""How the towers are trained: each knob of the loop, and what it is worth where measured.

The figures are NDCG@10 of `python -m tests.benchmarks.ablation`, one seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rec.errors import ConfigError

LossName = Literal["full_softmax", "sampled_softmax", "mixed_softmax", "gbce"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Say how the towers are trained."""

    num_epochs: int = 15
    """Passes over the log at most; early stopping may end before."""
    refit_epochs: int = 1
    """Passes over the whole log, the newest tenth included, after evaluation's model is found."""
    batch_size: int = 64
    """Windows of one global batch at most, over all processes."""
    batch_targets: int | None = 512
    """Places of one global batch at most, so that long histories make as many steps as short ones;
    no bound if absent. Lowering it learns more in an epoch and is slower; below 200 a sparse log
    learns badly. Validation NDCG@10 by cosine after 8 epochs without a bound / with 512: .031 /
    .046 on MovieLens (1.5 times the CPU time), .101 / .119 on a stand-in shop (the same time)."""
    learning_rate: float = 2e-3
    """Peak of AdamW's rate, after the warm-up."""
    weight_decay: float = 0.01
    """AdamW's decay; raise it on small logs."""
    warmup_share: float = 0.05
    """Share of all steps in which the rate rises from 0."""
    clip_norm: float = 1.0
    """Largest norm of a gradient; limits a single step."""
    micro_batch_size: int | None = None
    """Windows of one forward pass of one process; a larger share is taken in pieces whose gradients
    add up, which bounds memory and changes nothing else. All at once if absent."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the towers' products in training; bfloat16 is faster where the hardware has
    it. Weights, losses and what is saved stay in float32."""
    loss: Literal["auto", "full_softmax", "sampled_softmax", "mixed_softmax", "gbce"] = "auto"
    """``full_softmax`` is exact, ``sampled_softmax`` has uniform negatives, ``mixed_softmax`` adds
    targets of the batch and corrects for how often each item is drawn (logQ), ``gbce`` is
    gSASRec's. ``auto`` is exact for small catalogs and sampled for others. NDCG@10 on the synthetic
    shop, in this order: .195, .181, .181, .194; on MovieLens sampled / mixed: .035 / .038."""
    full_softmax_items: int = 2_000
    """Largest catalog for which ``auto`` is exact."""
    num_negatives: int = 512
    """Uniform negatives shared by a batch, where they are sampled."""
    num_in_batch: int = 512
    """Targets of the batch that are negatives too, with ``mixed_softmax``."""
    gbce_calibration: float = 0.75
    """gBCE's t: 0 is plain binary cross-entropy, 1 is calibrated completely."""
    cold_negatives: bool = True
    """Hold targets against items without an event, too. Without them, such items are found by
    their text as if they had always been there, and stand above more of the others: on the
    synthetic shop cold NDCG@10 .000 becomes .029, and that of warm items .229 becomes .206; on
    MovieLens all items' .035 becomes .029."""
    mask_own_items: bool = False
    """Take no item of a user's own window as a negative for it; the target itself never is. NDCG@10
    on the synthetic shop without / with: .181 / .181."""
    patience: int = 3
    """Epochs without a better validation NDCG before training stops."""
    validation_users: int = 2000
    """Users whose last training event is held out to find the best epoch."""
    event_weight: tuple[str, ...] = ()
    """Weights of targets by type, ``purchase=2``; types not named weigh 1."""
    checkpoint_batches: int = 1_000
    """Batches between two checkpoints: what a lost worker costs at most. The end of every epoch
    is one, too."""
    seed: int = 7
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        for name in (
            "num_epochs",
            "batch_size",
            "batch_targets",
            "micro_batch_size",
            "num_negatives",
            "patience",
            "validation_users",
            "checkpoint_batches",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--training.{flag} must be >= 1, got {value}")
        for name in ("refit_epochs", "num_in_batch", "seed"):
            if getattr(self, name) < 0:
                flag = name.replace("_", "-")
                raise ConfigError(f"--training.{flag} must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.gbce_calibration <= 1:
            raise ConfigError(
                f"--training.gbce-calibration must be in [0, 1], got {self.gbce_calibration}"
            )
        if self.learning_rate <= 0:
            raise ConfigError(f"--training.learning-rate must be > 0, got {self.learning_rate}")
        for pair in self.event_weight:
            name, _, weight = pair.partition("=")
            if not name or not _is_weight(weight):
                raise ConfigError(
                    f"--training.event-weight expects TYPE=WEIGHT >= 0 (purchase=2), got {pair!r}"
                )

    def loss_for(self, num_items: int) -> LossName:
        """Return the loss for a catalog of a size."""
        if self.loss != "auto":
            return self.loss
        return "full_softmax" if num_items <= self.full_softmax_items else "sampled_softmax"

    @property
    def weights(self) -> Mapping[str, float]:
        """Return the event weights by type."""
        return {name: float(weight) for name, weight in (p.split("=") for p in self.event_weight)}


def _is_weight(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False
