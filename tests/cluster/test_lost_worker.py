"""The core of the chaos drills: a training worker dies, and the answer is the same."""

import os
from pathlib import Path

import pytest

from cluster.resources import TrainResources
from cluster.train.trainer import train_model
from rec.stages.train_settings import TrainSettings
from rec.stages.training import EVALUATED, SERVED, find_model, read_training_metrics
from tests.epochs import EpochWatch
from tests.processes import descendants, kill, title

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KILLED_AFTER = 2
"""The worker dies in the epoch that follows this one."""


@pytest.mark.usefixtures("ray_cluster")
def test_training_ends_the_same_when_its_worker_is_killed(
    trained_workspace: Path, train_settings: TrainSettings, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for room in ("catalog", "events", "sequences", "embeddings"):
        (workspace / room).symlink_to(trained_workspace / room)
    killed: list[int] = []

    def strike(epoch: int) -> None:
        if epoch == KILLED_AFTER:
            killed.extend(pid for pid in descendants(os.getpid()) if "RayTrainWorker" in title(pid))
            for pid in killed:
                kill(pid)

    resources = TrainResources(num_workers=1, worker_cpus=1, worker_gpus=0)
    with EpochWatch(workspace, on_epoch=strike) as watch:
        model, _ = train_model(workspace, train_settings, resources=resources, resume=False)
    assert killed
    expected = find_model(trained_workspace, train_settings)
    assert expected is not None
    rows = read_training_metrics(expected)
    # Every epoch once: what was done before the kill is not done again.
    assert watch.epochs == list(range(len(rows["fit"])))
    assert read_training_metrics(model) == rows
    for name in (EVALUATED, SERVED):
        assert (model.path / name).read_bytes() == (expected.path / name).read_bytes()
