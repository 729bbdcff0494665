"""The flow: every stage in order on one connection to Ray, each with its own figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.memory import MemoryMeter
from cluster.resources import PROFILES
from cluster.runtime import connect
from jobs.recipes import Recipe
from jobs.stages import (
    Fields,
    run_embed,
    run_evaluate,
    run_index,
    run_prepare,
    run_promote,
    run_train,
)
from jobs.tables import evaluation_progress, print_metrics


def run_stages(
    recipe: Recipe,
    workspace: Path,
    *,
    name: str,
    events: tuple[str, ...],
    items: tuple[str, ...],
    users: tuple[str, ...],
    resume: bool,
) -> list[dict[str, Any]]:
    """Run prepare, embed, train, index, evaluate, promote; return their summaries."""
    profile = PROFILES[recipe.profile]

    def evaluate() -> Fields:
        with evaluation_progress() as on_progress:
            return run_evaluate(recipe, workspace, on_progress=on_progress)

    steps: dict[str, Callable[[], Fields]] = {
        "prepare": lambda: run_prepare(
            recipe, profile, workspace, events=events, items=items, users=users
        ),
        "embed": lambda: run_embed(recipe, profile, workspace),
        "train": lambda: run_train(recipe, profile, workspace, resume=resume),
        "index": lambda: run_index(recipe, workspace),
        "evaluate": evaluate,
        "promote": lambda: run_promote(workspace),
    }
    summaries = []
    with connect(profile):
        for job, step in steps.items():
            with MemoryMeter() as meter:
                fields = step()
            summaries.append(
                {
                    "job": job,
                    "recipe": name,
                    "workspace": str(workspace),
                    **fields,
                    **meter.read(),
                }
            )
    print_metrics(summaries[-2]["metrics"])
    return summaries
