"""Kill training, and compare with a run that nobody killed: same metrics, same bytes.

Run by ``make drills``.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.resources import TrainResources
from cluster.train.trainer import train_model
from rec.artifacts import read_artifact
from rec.stages.train_settings import TrainSettings
from rec.stages.training import EVALUATED, METRICS_FILE, SERVED
from tests.epochs import EpochWatch
from tests.processes import descendants, end_session, kill, session_pids, title, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
NUM_EPOCHS = 40
"""Enough that a worker which outlives its driver for a moment is far from the end."""
KILLED_AFTER = 2
"""The kill falls in the epoch that follows this one."""
GONE_WITHIN_S = 60
TRAIN_WITHIN_S = 240


def linked(trained: Path, workspace: Path) -> Path:
    """Return a workspace with the inputs of another and no model."""
    workspace.mkdir()
    for room in ("catalog", "events", "sequences", "embeddings"):
        (workspace / room).symlink_to(trained / room)
    return workspace


def assert_same_model(found: Path, expected: Path) -> None:
    for name in (METRICS_FILE, EVALUATED, SERVED):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_worker_changes_nothing(
    num_workers: int, trained_workspace: Path, train_settings: TrainSettings, tmp_path: Path
) -> None:
    resources = TrainResources(num_workers=num_workers, worker_cpus=1, worker_gpus=0)
    calm = linked(trained_workspace, tmp_path / "calm")
    with EpochWatch(calm) as untouched:
        expected, _ = train_model(calm, train_settings, resources=resources, resume=False)
    killed: list[int] = []

    def strike(epoch: int) -> None:
        if epoch == KILLED_AFTER:
            workers = [p for p in descendants(os.getpid()) if "RayTrainWorker" in title(p)]
            killed.append(workers[-1])
            kill(workers[-1])

    struck = linked(trained_workspace, tmp_path / "struck")
    with EpochWatch(struck, on_epoch=strike) as watch:
        model, _ = train_model(struck, train_settings, resources=resources, resume=False)
    print(f"\n{num_workers} workers, one killed after epoch {KILLED_AFTER}: {watch.epochs}")  # noqa: T201
    assert killed
    assert watch.epochs == untouched.epochs
    assert_same_model(model.path, expected.path)


@pytest.mark.usefixtures("ray_cluster")
def test_training_begins_with_the_workers_that_find_room(
    trained_workspace: Path, train_settings: TrainSettings, tmp_path: Path
) -> None:
    """Two cores, four workers wanted: two share each batch, and one is killed and replaced."""
    two = TrainResources(num_workers=2, worker_cpus=1, worker_gpus=0)
    calm = linked(trained_workspace, tmp_path / "calm")
    expected, _ = train_model(calm, train_settings, resources=two, resume=False)
    started: list[int] = []
    killed: list[int] = []

    def strike(epoch: int) -> None:
        workers = [p for p in descendants(os.getpid()) if "RayTrainWorker" in title(p)]
        started.append(len(workers))
        if epoch == KILLED_AFTER:
            killed.append(workers[-1])
            kill(workers[-1])

    struck = linked(trained_workspace, tmp_path / "struck")
    elastic = TrainResources(num_workers=4, worker_cpus=1, worker_gpus=0, min_workers=1)
    with EpochWatch(struck, on_epoch=strike) as watch:
        model, _ = train_model(struck, train_settings, resources=elastic, resume=False)
    print(f"\n1 to 4 workers on 2 cores: {started}, killed after {KILLED_AFTER}: {watch.epochs}")  # noqa: T201
    assert killed
    assert started[0] == 2
    assert watch.epochs == list(range(train_settings.training.num_epochs))
    ours, theirs = (
        read_artifact(found.path).counts["validation_ndcg@10"] for found in (model, expected)
    )
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.fixture
def train() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give what starts training jobs; none outlives the test, however it ends."""
    started: list[subprocess.Popen[str]] = []

    def start(workspace: Path, *flags: str) -> subprocess.Popen[str]:
        started.append(start_training(workspace, *flags))
        return started[-1]

    yield start
    for process in started:
        end_session(process.pid)
        process.wait()


def start_training(workspace: Path, *flags: str) -> subprocess.Popen[str]:
    """Start ``python -m jobs.train`` as the leader of a session of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "jobs.train", "smoke", "--workspace", str(workspace)),
            *("--training.num-epochs", str(NUM_EPOCHS), "--training.patience", str(NUM_EPOCHS)),
            *("--json", *flags),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=TRAIN_WITHIN_S)
    assert process.returncode == 0, out
    summary: dict[str, Any] = json.loads(out)
    return summary


def test_a_killed_job_resumes_to_the_same_model(
    trained_workspace: Path, tmp_path: Path, train: Callable[..., subprocess.Popen[str]]
) -> None:
    calm = linked(trained_workspace, tmp_path / "calm")
    expected = finish(train(calm))
    struck = linked(trained_workspace, tmp_path / "struck")
    killed: list[int] = []

    def strike(epoch: int) -> None:
        if epoch == KILLED_AFTER:
            killed.append(job.pid)
            os.killpg(job.pid, signal.SIGKILL)

    with EpochWatch(struck, on_epoch=strike) as first:
        job = train(struck)
        job.communicate(timeout=TRAIN_WITHIN_S)
        # Ray's workers are in groups of their own and must notice by themselves.
        wait_until(
            lambda: not session_pids(job.pid),
            within_s=GONE_WITHIN_S,
            what=f"the killed job's processes end: {[title(p) for p in session_pids(job.pid)]}",
        )
    assert killed
    assert job.returncode == -signal.SIGKILL
    assert not list((struck / "models").glob("*/manifest.json"))
    with EpochWatch(struck) as second:
        resumed = finish(train(struck, "--resume"))
    print(f"\njob killed after epoch {KILLED_AFTER}: {first.epochs}, then {second.epochs}")  # noqa: T201
    assert second.epochs[0] > 0
    # A checkpoint may be whole although the kill came before its epoch was reported.
    missing = set(range(NUM_EPOCHS)) - {*first.epochs, *second.epochs}
    assert missing <= {second.epochs[0] - 1}
    assert not {*first.epochs} & {*second.epochs}
    assert resumed["counts"] == expected["counts"]
    assert_same_model(Path(resumed["outputs"]["models"]), Path(expected["outputs"]["models"]))
