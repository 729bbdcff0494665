"""Tuning as a stage: what one configuration reaches on the validation users, epoch by epoch.

Only events before the ranker's window and the test are read: what a search chooses has seen neither
the labels of the ranker nor the test.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rec.data.sequences import load_sequences
from rec.data.splits import temporal_split
from rec.errors import DataError
from rec.models.training import fit
from rec.stages.embedding import load_embeddings
from rec.stages.fitting import hold_out
from rec.stages.ranker_examples import open_window
from rec.stages.train_settings import TrainSettings
from rec.stages.training import build_model, find_inputs

Choice = Mapping[str, Any]
"""Values of fields by their flag's name, ``training.learning-rate`` -> 0.002."""


def with_choice(settings: TrainSettings, choice: Choice) -> TrainSettings:
    """Return the settings with the fields that a choice names.

    Raises:
        ConfigError: the values do not go together.
    """
    parts: dict[str, dict[str, Any]] = {}
    for flag, value in choice.items():
        part, _, name = flag.partition(".")
        parts.setdefault(part, {})[name.replace("-", "_")] = value
    changed = {part: replace(getattr(settings, part), **values) for part, values in parts.items()}
    return replace(settings, **changed) if changed else settings


def try_settings(
    workspace: Path,
    settings: TrainSettings,
    *,
    accelerator: Accelerator,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> float:
    """Return the best validation NDCG@10 of a configuration; nothing is written.

    Args:
        workspace: root of the artifacts.
        settings: what to train.
        accelerator: where.
        on_epoch: called after each epoch; may end the attempt by an exception.

    Raises:
        ArtifactError: nothing was prepared or embedded.
        DataError: no user can be held out, or training cannot go on.
    """
    inputs = find_inputs(workspace)
    sequences = load_sequences(inputs.sequences.path)
    known = temporal_split(sequences, quantile=settings.test_quantile).train
    window = open_window(known, settings.ranker) if settings.ranker.enabled else None
    known = known if window is None else window.known
    queries = load_embeddings(inputs.embeddings)[1]
    learn, validate = hold_out(known, settings, queries=queries)
    if validate is None:
        raise DataError("expected users with three training events to validate on, found none")
    config = settings.training
    model = build_model(inputs.embeddings, sequences, settings.model, seed=config.seed)
    result = fit(
        model, learn, config=config, accelerator=accelerator, validate=validate, on_epoch=on_epoch
    )
    return float(result.metrics[result.best_epoch]["ndcg"])
