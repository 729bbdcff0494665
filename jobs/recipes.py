"""Recipes: full, named configurations. A flag overrides any field of them."""

from dataclasses import dataclass, field
from typing import Literal

from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig
from rec.models.finetuning import FinetuningConfig
from rec.models.sequence_model import ModelConfig
from rec.models.training_config import TrainingConfig
from rec.ranking.ranker import RankerConfig
from rec.ranking.release import RankingConfig
from rec.ranking.retrieval.index_building import IndexConfig
from rec.stages.enriching import EnrichmentConfig
from rec.stages.evaluating import EvaluationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Hold the configuration of every stage."""

    profile: Literal["laptop", "cpu", "gpu"] = "laptop"
    """Resources of the stages, see cluster/resources.py."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    enrichment: EnrichmentConfig = field(default_factory=EnrichmentConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    finetuning: FinetuningConfig = field(default_factory=FinetuningConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    ranker: RankerConfig = field(default_factory=RankerConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


SMOKE = Recipe(
    encoder=EncoderConfig(model="hashing"),
    finetuning=FinetuningConfig(num_rounds=1, steps_per_round=10, batch_size=16),
    model=ModelConfig(width=32, max_length=20),
    training=TrainingConfig(num_epochs=3, validation_users=200),
)
LAPTOP = Recipe()
GPU = Recipe(
    profile="gpu",
    encoder=EncoderConfig(batch_size=512, max_tokens=128),
    finetuning=FinetuningConfig(
        num_rounds=10, steps_per_round=200, batch_size=1024, chunk_size=512, validation_users=2000
    ),
    model=ModelConfig(width=256, num_layers=4, num_heads=4, max_length=200),
    training=TrainingConfig(batch_size=1024, batch_targets=None, num_epochs=50, num_negatives=4096),
)
DEMO = Recipe(
    encoder=EncoderConfig(max_tokens=32),
    training=TrainingConfig(num_epochs=4),
    ranking=RankingConfig(exclude_seen=False),  # a grocery's customers come back for the same
)
STRIPPED = Recipe(encoder=EncoderConfig(words="content"))

RECIPES: dict[str, tuple[str, Recipe]] = {
    "smoke": ("seconds: tiny towers over hashed n-grams", SMOKE),
    "laptop": ("minutes on two cores", LAPTOP),
    "gpu": ("one or more GPUs, wider towers, longer histories", GPU),
    "demo": ("what `nextray demo` runs", DEMO),
    "stripped": (
        "laptop, but the encoder reads no stop words: the article's way, to compare",
        STRIPPED,
    ),
}
