"""A disk that is full or read-only: one line, exit code 2, nothing half written, and on it goes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from jobs import ingest
from jobs import prepare as prepare_job
from jobs.disk_errors import disk_error
from jobs.shell import BAD_INPUT
from rec.artifacts import ROOMS, read_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.events import Event
from rec.encoders import EncoderConfig
from rec.errors import ArtifactError
from rec.models.sequence_model import ModelConfig
from rec.models.training_config import TrainingConfig
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.ranker import RankerConfig
from rec.stages.embedding import embed
from rec.stages.preparation import prepare
from rec.stages.train_settings import TrainSettings
from rec.stages.training import train
from tests.small_disk import SmallDisk, small_disk

SETTINGS = TrainSettings(
    model=ModelConfig(width=16, num_layers=1, max_length=12),
    training=TrainingConfig(num_epochs=1, batch_size=64, validation_users=50),
    ranker=RankerConfig(num_trees=5, moments_per_user=1),
    test_quantile=0.9,
    exclude_seen=True,
    num_candidates=20,
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size="64m") as found:
        yield found


def artifacts(workspace: Path) -> set[Path]:
    """Return the finished artifacts, each compared with its manifest; nothing may lie aside."""
    folders = [path for room in ROOMS for path in (workspace / room).glob("*") if path.is_dir()]
    assert not [path for path in folders if path.name.startswith(".")]
    found = {path for path in folders if re.fullmatch("[0-9a-f]{16}", path.name)}
    for path in found:
        read_artifact(path, verify=True)
    return found


def test_stages_refuse_a_full_disk_whole_and_work_once_there_is_space(
    disk: SmallDisk, shop_files: tuple[Path, Path, Path]
) -> None:
    torch.set_num_threads(1)
    workspace = disk.path / "workspace"
    workspace.mkdir()
    events, items, _ = (str(path) for path in shop_files)
    stages: list[Callable[[], object]] = [
        lambda: prepare(
            workspace, events=[events], items=[items], config=CleaningConfig(), num_partitions=2
        ),
        lambda: embed(workspace, config=EncoderConfig(model="hashing")),
        lambda: train(workspace, SETTINGS, accelerator=Accelerator(cpu=True), resume=False),
    ]
    for stage in stages:
        before = artifacts(workspace)
        disk.fill()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - every library has its own
            stage()
        assert "the disk is full" in str(disk_error(caught.value, workspace)), caught.value
        assert artifacts(workspace) == before
        disk.free()
        stage()
        assert artifacts(workspace) > before


def filled_log(workspace: Path) -> None:
    log = EventLog(workspace / LOG_FILE)
    log.append(
        [
            Event(
                user_id="u", event_type="view", timestamp_ms=n, item_id="i" * 200, event_id=f"{n}"
            )
            for n in range(2_000)
        ]
    )
    log.close()


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_job_on_such_a_disk_says_so_in_one_line(
    disk: SmallDisk, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    workspace = disk.path / "workspace"
    filled_log(workspace)
    disk.fill() if trouble == "full" else disk.make_read_only()
    with pytest.raises(SystemExit) as stop:
        ingest.main(["smoke", "--workspace", str(workspace)])
    assert stop.value.code == BAD_INPUT
    [line] = capsys.readouterr().err.splitlines()
    assert {"full": "disk is full", "read-only": "read-only"}[trouble] in line.lower(), line
    assert not list((workspace / "feedback").rglob("*.parquet"))
    if trouble == "full":
        disk.free()
        ingest.main(["smoke", "--workspace", str(workspace), "--json"])
        assert '"events": 2000' in capsys.readouterr().out


def test_log_on_a_read_only_disk_is_refused(disk: SmallDisk) -> None:
    workspace = disk.path / "workspace"
    filled_log(workspace)
    disk.make_read_only()
    with pytest.raises(ArtifactError, match="cannot open the event log"):
        EventLog(workspace / LOG_FILE)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_prepare_on_a_full_disk_says_so_in_one_line(
    disk: SmallDisk, shop_files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = disk.path / "workspace"
    workspace.mkdir()
    events, items, _ = (str(path) for path in shop_files)
    disk.fill()
    words = ["smoke", "--events", events, "--items", items, "--workspace", str(workspace)]
    with pytest.raises(SystemExit) as stop:
        prepare_job.main(words)
    assert stop.value.code == BAD_INPUT
    [line] = capsys.readouterr().err.splitlines()
    assert f"cannot write to {workspace}: the disk is full: free some space" in line
