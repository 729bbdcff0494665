"""Ray Train around the training stages: scaling, restarts after a lost worker, progress, resume."""

import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.progress import console
from cluster.resources import TrainResources
from rec.artifacts import Artifact
from rec.errors import ConfigError, DataError, RecError
from rec.stages.finetuning import FinetuneSettings, find_tuned
from rec.stages.train_settings import TrainSettings
from rec.stages.training import find_model

_POLL_S = 0.2
"""How often the driver looks for a finished epoch."""


def train_model(
    workspace: Path, settings: TrainSettings, *, resources: TrainResources, resume: bool
) -> tuple[Artifact, bool]:
    """Return the model of the newest artifacts, and whether it was there.

    Raises:
        ArtifactError: nothing was prepared or embedded.
        ConfigError: more cores or GPUs are asked for than the cluster has.
        DataError: training cannot go on; the last good checkpoint stays.
    """
    found = find_model(workspace, settings)
    if found is not None:
        return found, True
    from cluster.train.worker import train_worker  # 3 s that a skipped stage need not pay

    run_workers(
        train_worker,
        {"workspace": str(workspace.resolve()), "settings": settings, "resume": resume},
        folder=workspace / "models" / "runs",
        resources=resources,
        bar=Bar(label="training", total=settings.training.num_epochs, describe=_describe_epoch),
    )
    model = find_model(workspace, settings)
    if model is None:
        raise DataError("training ended without a model: look at the log with --verbose")
    return model, False


def finetune(
    workspace: Path, settings: FinetuneSettings, *, resources: TrainResources, resume: bool
) -> tuple[Artifact, bool]:
    """Return the encoder tuned on the newest log, and whether it was there.

    Raises:
        ArtifactError: nothing was prepared.
        ConfigError: more cores are asked for than the cluster has, or nothing that could learn.
        DataError: tuning cannot go on; the last good checkpoint stays.
    """
    found = find_tuned(workspace, settings)
    if found is not None:
        return found, True
    from cluster.train.worker import finetune_worker  # as above

    run_workers(
        finetune_worker,
        {"workspace": str(workspace.resolve()), "settings": settings, "resume": resume},
        folder=workspace / "encoders" / "runs",
        resources=resources,
        bar=Bar(
            label="fine-tuning", total=settings.finetuning.num_rounds, describe=_describe_round
        ),
    )
    tuned = find_tuned(workspace, settings)
    if tuned is None:
        raise DataError("fine-tuning ended without an encoder: look at the log with --verbose")
    return tuned, False


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """Say how the bar of a run reads the rows that the main worker writes."""

    label: str
    total: int
    describe: Callable[[Mapping[str, Any]], tuple[int, str]]
    """A row to what is done so far, and a note."""


def run_workers(
    worker: Callable[[dict[str, Any]], None],
    arguments: Mapping[str, Any],
    *,
    folder: Path,
    resources: TrainResources,
    bar: Bar,
) -> None:
    """Run one function on all training workers, restart lost ones, and show how far it is.

    Args:
        worker: what each process does, see ``cluster.train.worker``.
        arguments: what it is given, beside threads, device and the files it reports to.
        folder: where Ray Train keeps its own state for as long as the run lasts.
        resources: how many workers, and on what.
        bar: how progress reads.

    Raises:
        ConfigError: more cores are asked for than the cluster has.
        RecError: what a worker raised.
    """
    _check_room(resources)
    import ray.train.torch  # 3 s that a skipped stage need not pay
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as run:
        state = Path(run).resolve()
        progress = state / "progress.jsonl"
        progress.touch()
        trainer = ray.train.torch.TorchTrainer(
            worker,
            train_loop_config={
                **arguments,
                "num_threads": max(1, int(resources.worker_cpus)),
                "use_gpu": resources.worker_gpus > 0,
                "started": str(state / "started"),
                "progress": str(progress),
            },
            scaling_config=ScalingConfig(
                num_workers=_num_workers(resources),
                use_gpu=resources.worker_gpus > 0,
                resources_per_worker={
                    "CPU": resources.worker_cpus,
                    **({"GPU": resources.worker_gpus} if resources.worker_gpus else {}),
                },
            ),
            run_config=RunConfig(
                name="run",
                storage_path=str(state),
                failure_config=FailureConfig(max_failures=resources.max_failures),
            ),
        )
        with _showing(progress, bar):
            try:
                trainer.fit()
            except ray.train.TrainingFailedError as error:
                raise _root_cause(error) from error


def _root_cause(error: BaseException) -> RecError:
    """Return the worker's own complaint, if it made one that is the user's to mend."""
    failures = getattr(error, "worker_failures", None) or {}
    for cause in failures.values():
        inner = getattr(cause, "cause", cause)
        for candidate in (cause, inner, getattr(inner, "__cause__", None)):
            if isinstance(candidate, RecError):
                return candidate
    detail = " ".join(str(error).split())
    return DataError(f"training failed: {detail[-300:]}; --resume goes on from the last checkpoint")


def _check_room(resources: TrainResources) -> None:
    import ray

    least = resources.min_workers or resources.num_workers
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, name, each in (
        ("CPU", "cores", resources.worker_cpus),
        ("GPU", "GPUs", resources.worker_gpus),
    ):
        # A worker runs on one node: cores of two do not add up to one worker.
        room = [int(node.get(kind, 0) // each) for node in nodes] if each else [least]
        if sum(room) < least:
            has = " + ".join(f"{node[kind]:g}" for node in nodes if node.get(kind)) or "0"
            raise ConfigError(
                f"training asks for {least} workers x {each:g} {name}, the cluster has {has}: "
                "choose a smaller --profile or add nodes"
            )


def _num_workers(resources: TrainResources) -> Any:
    """Return how many workers Ray Train may start; a range, which Ray's types forget, is elastic.

    A batch is shared by those that are there, so that its gradient stays the same.
    """
    if resources.min_workers is None or resources.min_workers == resources.num_workers:
        return resources.num_workers
    return resources.min_workers, resources.num_workers


@contextmanager
def _showing(path: Path, bar: Bar) -> Iterator[None]:
    """Show rows as they come, by following the file that the main worker writes."""
    columns = (
        TextColumn("[progress.description]{task.description:>18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    stop = threading.Event()
    with Progress(*columns, console=console()) as progress:
        task = progress.add_task(bar.label, total=bar.total, note="")

        def follow() -> None:
            while not stop.wait(_POLL_S):
                if not path.exists():
                    continue
                lines = path.read_text(encoding="utf-8").splitlines()
                if lines:
                    done, note = bar.describe(json.loads(lines[-1]))
                    progress.update(task, completed=done, note=note)

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def _describe_epoch(row: Mapping[str, Any]) -> tuple[int, str]:
    ndcg = f" ndcg {row['ndcg']:.4f}" if "ndcg" in row else ""
    rate = f" {row['targets_per_s']:,.0f} targets/s"
    return int(row["epoch"]) + 1, f"loss {row['loss']:.3f}{ndcg}{rate}"


def _describe_round(row: Mapping[str, Any]) -> tuple[int, str]:
    loss = "" if row["loss"] is None else f"loss {row['loss']:.3f} "
    return int(row["round"]), f"{loss}retrieval ndcg {row['ndcg']:.4f}"
