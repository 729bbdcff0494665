"""Ray Train around the training stage: scaling, restarts after a lost worker, progress, resume."""

import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.progress import console
from cluster.resources import TrainResources
from rec.artifacts import Artifact
from rec.errors import ConfigError, DataError, RecError
from rec.stages.training import TrainSettings, find_model

_POLL_S = 0.2
"""How often the driver looks for a finished epoch."""


def train_model(
    workspace: Path, settings: TrainSettings, *, resources: TrainResources, resume: bool
) -> tuple[Artifact, bool]:
    """Return the model of the newest artifacts, and whether it was there.

    Raises:
        ArtifactError: nothing was prepared or embedded.
        ConfigError: more cores are asked for than the cluster has.
        DataError: training cannot go on; the last good checkpoint stays.
    """
    found = find_model(workspace, settings)
    if found is not None:
        return found, True
    _check_cores(resources)
    _fit(workspace, settings, resources=resources, resume=resume)
    model = find_model(workspace, settings)
    if model is None:
        raise DataError("training ended without a model: look at the log with --verbose")
    return model, False


def _fit(
    workspace: Path, settings: TrainSettings, *, resources: TrainResources, resume: bool
) -> None:
    import ray.train.torch  # 3 s that a skipped stage need not pay
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from cluster.train.worker import train_worker

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    runs = workspace / "models" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, ignore_cleanup_errors=True) as folder:
        progress = Path(folder) / "progress.jsonl"
        progress.touch()
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={
                "workspace": str(workspace.resolve()),
                "settings": settings,
                "num_threads": max(1, int(resources.worker_cpus)),
                "use_gpu": resources.worker_gpus > 0,
                "resume": resume,
                "started": str(Path(folder).resolve() / "started"),
                "progress": str(progress.resolve()),
                "result": str(Path(folder).resolve() / "model.txt"),
            },
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=resources.worker_gpus > 0,
                resources_per_worker={
                    "CPU": resources.worker_cpus,
                    **({"GPU": resources.worker_gpus} if resources.worker_gpus else {}),
                },
            ),
            run_config=RunConfig(
                name="run",
                storage_path=str(Path(folder).resolve()),
                failure_config=FailureConfig(max_failures=resources.max_failures),
            ),
        )
        with _bar(progress, num_epochs=settings.training.num_epochs):
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


def _check_cores(resources: TrainResources) -> None:
    import ray

    wanted = resources.num_workers * resources.worker_cpus
    present = ray.cluster_resources().get("CPU", 0)
    if wanted > present:
        raise ConfigError(
            f"training asks for {resources.num_workers} workers x {resources.worker_cpus:g} cores, "
            f"the cluster has {present:g}: choose a smaller --profile or add nodes"
        )


@contextmanager
def _bar(path: Path, *, num_epochs: int) -> Iterator[None]:
    """Show epochs as they end, by following the file that the main worker writes."""
    columns = (
        TextColumn("[progress.description]{task.description:>18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    stop = threading.Event()
    with Progress(*columns, console=console()) as progress:
        bar = progress.add_task("training", total=num_epochs, note="")

        def follow() -> None:
            while not stop.wait(_POLL_S):
                if not path.exists():
                    continue
                lines = path.read_text(encoding="utf-8").splitlines()
                if lines:
                    row = json.loads(lines[-1])
                    ndcg = f" ndcg {row['ndcg']:.4f}" if "ndcg" in row else ""
                    note = f"loss {row['loss']:.3f}{ndcg}"
                    progress.update(bar, completed=row["epoch"] + 1, note=note)

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
