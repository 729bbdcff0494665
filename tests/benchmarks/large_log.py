"""What the `laptop` recipe costs on a shop of 50 k users, 17 k items and 400 k events.

    python -m tests.benchmarks.large_log [--scale 0.1] [--workspace DIR]

Every stage runs in this process, without Ray, so that the CPU-seconds are the stage's own. The
targets are 15 CPU-minutes for training and 2 for the lists of all users.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator

from jobs.recipes import LAPTOP
from rec.stages.embedding import embed
from rec.stages.evaluating import evaluate_index
from rec.stages.indexing import index
from rec.stages.preparation import prepare
from rec.stages.recommending import recommend
from rec.stages.releasing import promote
from rec.stages.train_settings import TrainSettings
from rec.stages.training import train
from tests.benchmarks.fair import machine
from tests.benchmarks.quality_logs import sparse_shop, write_log


def laptop_settings(num_epochs: int) -> TrainSettings:
    """Return what `jobs.train laptop --training.num-epochs N` trains."""
    return TrainSettings(
        model=LAPTOP.model,
        training=replace(LAPTOP.training, num_epochs=num_epochs),
        ranker=LAPTOP.ranker,
        test_quantile=LAPTOP.evaluation.test_quantile,
        exclude_seen=LAPTOP.ranking.exclude_seen,
        num_candidates=LAPTOP.ranking.num_candidates,
    )


def run(folder: Path, *, scale: float, num_epochs: int) -> dict[str, Any]:
    """Return each stage's seconds, in the order of the loop."""
    stages: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        stages[name] = {
            "wall_s": round(time.perf_counter() - wall, 1),
            "cpu_s": round(time.process_time() - cpu, 1),
        }
        print(json.dumps({name: stages[name]}), flush=True)  # noqa: T201

    log = sparse_shop(scale=scale)
    events, items = write_log(log, folder / "files")
    workspace = folder / "workspace"
    timed(
        "prepare",
        lambda: prepare(
            workspace,
            events=[str(events)],
            items=[str(items)],
            config=LAPTOP.cleaning,
            num_partitions=2,
        ),
    )
    timed("embed", lambda: embed(workspace, config=LAPTOP.encoder))
    timed(
        "train",
        lambda: train(
            workspace,
            laptop_settings(num_epochs),
            accelerator=Accelerator(cpu=True),
            resume=False,
            on_epoch=lambda row: print(json.dumps(row), flush=True),  # noqa: T201
        ),
    )
    timed("index", lambda: index(workspace, ranking=LAPTOP.ranking))
    timed("evaluate", lambda: evaluate_index(workspace, LAPTOP.evaluation))
    promote(workspace)
    timed("recommend", lambda: recommend(workspace, k=10, output=folder / "lists.parquet"))
    return {
        "events": log.events.height,
        "users": log.events["user_id"].n_unique(),
        "items": log.items.height,
        "stages": stages,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure, print, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--workspace", type=Path, help="keep the files here")
    parser.add_argument("--epochs", type=int, default=LAPTOP.training.num_epochs)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = {"machine": machine("lightgbm")}
    with TemporaryDirectory() as aside:
        figures |= run(
            arguments.workspace or Path(aside), scale=arguments.scale, num_epochs=arguments.epochs
        )
    arguments.figures.mkdir(parents=True, exist_ok=True)
    path = arguments.figures / "large_log.json"
    path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
