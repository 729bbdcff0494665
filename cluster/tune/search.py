"""Ray Tune around :func:`rec.stages.tuning.try_settings`: many configurations beside each other.

Attempts that fall behind others after the same number of epochs end early (ASHA). The first attempt
is the recipe's own configuration, so that a search never ends below it on the validation users.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.resources import TrainResources
from rec.artifacts import config_hash, write_json
from rec.errors import ConfigError, DataError
from rec.stages.train_settings import TrainSettings
from rec.stages.training import find_inputs
from rec.stages.tuning import Choice, try_settings, with_choice

METRIC = "best_ndcg"
GRACE_EPOCHS = 3
"""Epochs that every attempt gets before it is compared."""
RESULTS = "tuning"


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """Say how long to search."""

    num_trials: int = 12
    """Configurations to try, the recipe's own among them."""
    seed: int = 7
    """Fixes which are drawn."""

    def __post_init__(self) -> None:
        if self.num_trials < 1:
            raise ConfigError(f"--tune.num-trials must be >= 1, got {self.num_trials}")


def search(
    workspace: Path, settings: TrainSettings, config: TuneConfig, *, resources: TrainResources
) -> tuple[Path, Mapping[str, Any], bool]:
    """Return the file of results, its content, and whether it was there.

    The content: ``best`` by flag, its ``flags`` as words, its ``ndcg``, and ``trials``, best first.

    Raises:
        ArtifactError: nothing was prepared or embedded.
        DataError: no attempt came to an end.
    """
    parents = find_inputs(workspace).parents
    name = config_hash("tuning", {"settings": settings, "tune": config}, parents)
    path = workspace / "models" / RESULTS / f"{name}.json"
    if path.is_file():
        known: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return path, known, True
    trials = _run(workspace.resolve(), settings, config, resources=resources)
    best = trials[0]["flags"]
    found = {
        "best": best,
        "flags": " ".join(f"--{flag} {value}" for flag, value in best.items()),
        "ndcg": trials[0]["ndcg"],
        "trials": trials,
    }
    write_json(path, found)
    return path, found, False


def _run(
    workspace: Path, settings: TrainSettings, config: TuneConfig, *, resources: TrainResources
) -> Sequence[Mapping[str, Any]]:
    from ray import tune  # 3 s that a known result need not pay
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    def attempt(choice: Choice) -> None:
        import torch
        from accelerate import Accelerator

        torch.set_num_threads(max(1, int(resources.worker_cpus)))
        best = 0.0

        def report(row: Mapping[str, Any]) -> None:
            nonlocal best
            best = max(best, row["ndcg"])
            tune.report({METRIC: best, "epoch": row["epoch"] + 1})

        has_gpu = resources.worker_gpus > 0
        try_settings(
            workspace,
            with_choice(settings, choice),
            accelerator=Accelerator(cpu=not has_gpu),
            on_epoch=report,
        )

    room = {"CPU": resources.worker_cpus, "GPU": resources.worker_gpus}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        results = tune.Tuner(
            tune.with_resources(attempt, tune.PlacementGroupFactory([room])),
            param_space=_space(),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                num_samples=config.num_trials,
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=[_own(settings)], random_state=config.seed
                ),
                scheduler=ASHAScheduler(
                    time_attr="epoch",
                    max_t=settings.training.num_epochs,
                    grace_period=min(GRACE_EPOCHS, settings.training.num_epochs),
                ),
            ),
            run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0),
        ).fit()
        trials = [
            {"ndcg": row[METRIC], "epochs": row["epoch"], "flags": row["config"]}
            for row in (results[number].metrics or {} for number in range(len(results)))
            if METRIC in row
        ]
    if not trials:
        raise DataError("no attempt of the search came to an end: look at it with --verbose")
    return sorted(trials, key=lambda trial: (-trial["ndcg"], json.dumps(trial["flags"])))


def _space() -> dict[str, Any]:
    """Return what is searched, by the flags' names."""
    from ray import tune  # as above

    return {
        "training.learning-rate": tune.loguniform(5e-4, 8e-3),
        "training.weight-decay": tune.loguniform(1e-3, 1e-1),
        "training.loss": tune.choice(["auto", "mixed_softmax"]),
        "model.width": tune.choice([32, 64, 128]),
        "model.num-layers": tune.choice([1, 2, 3]),
        "model.dropout": tune.choice([0.1, 0.2, 0.3, 0.4]),
        "model.id-dropout": tune.choice([0.0, 0.25, 0.5]),
    }


def _own(settings: TrainSettings) -> dict[str, Any]:
    """Return the recipe's own values of what is searched."""
    values = {}
    for flag in _space():
        part, _, name = flag.partition(".")
        values[flag] = getattr(getattr(settings, part), name.replace("-", "_"))
    return values


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Tune's tables away: the summary says what was found."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
