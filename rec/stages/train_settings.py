"""What fixes a model: the settings that its name is the hash of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rec.models.sequence_model import ModelConfig
from rec.models.training_config import TrainingConfig
from rec.ranking.ranker import RankerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Bundle what fixes a model: its name is the hash of this."""

    model: ModelConfig
    training: TrainingConfig
    ranker: RankerConfig
    test_quantile: float
    exclude_seen: bool
    num_candidates: int
    init_from: str | None = None
    """Release whose towers go on learning, see :mod:`rec.stages.incremental`; anew if absent."""


def settings_from(values: Mapping[str, Any]) -> TrainSettings:
    """Return the settings that a manifest holds."""
    training = dict(values["training"])
    training["event_weight"] = tuple(training["event_weight"])
    return TrainSettings(
        model=ModelConfig(**values["model"]),
        training=TrainingConfig(**training),
        ranker=RankerConfig(**values["ranker"]),
        test_quantile=values["test_quantile"],
        exclude_seen=values["exclude_seen"],
        num_candidates=values["num_candidates"],
        init_from=values.get("init_from"),
    )
