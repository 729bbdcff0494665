"""The training loop: one gradient whoever shares the batch, resume in mid-epoch, bad numbers."""

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tensorboardX.proto.event_pb2 import Event
from torch import Tensor

from rec.errors import ConfigError, DataError
from rec.models.checkpoints import load_newest
from rec.models.metric_log import LINES_FILE, log_metrics
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.models.training import fit
from rec.models.training_config import TrainingConfig
from tests.heads import free_ports
from tests.rec.models.logs import ring_log, small_model

STILL = ModelConfig(width=16, num_layers=1, max_length=8, dropout=0, id_dropout=0)
"""Nothing is dropped, so that a gradient depends on the batch alone."""
ONE_STEP = TrainingConfig(
    num_epochs=1, batch_size=1000, batch_targets=None, learning_rate=0.01, num_negatives=16
)
LOSSES = ("full_softmax", "sampled_softmax", "mixed_softmax", "gbce")


def trained(config: TrainingConfig, *, model: ModelConfig = STILL, **options: Any) -> SequenceModel:
    towers = small_model(model)
    fit(towers, ring_log(), config=config, accelerator=Accelerator(cpu=True), **options)
    return towers


def gradients(config: TrainingConfig) -> dict[str, Tensor]:
    """Return the gradient of a first step over the whole log, as the optimizer saw it."""
    towers = trained(config)
    found = {name: value.grad for name, value in towers.named_parameters()}
    return {name: value for name, value in found.items() if value is not None}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert sum(float(value.square().sum()) for value in expected.values()) > 1e-3
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-5, name


def share_steps(rank: int, port: int, configs: Mapping[str, TrainingConfig], folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    for name, config in configs.items():
        found = gradients(config)
        if rank == 0:
            save_file(found, folder / name)
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    losses: tuple[Any, ...] = ("full_softmax", "mixed_softmax")
    configs = {
        loss: replace(ONE_STEP, loss=loss, mask_own_items=True, micro_batch_size=7)
        for loss in losses
    }
    context = multiprocessing.get_context("spawn")
    [port] = free_ports(1)
    workers = [
        context.Process(target=share_steps, args=(rank, port, configs, tmp_path))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
        assert worker.exitcode == 0
    for name, config in configs.items():
        assert_same(load_file(tmp_path / name), gradients(config))


@pytest.mark.parametrize("loss", LOSSES)
def test_pieces_add_up_to_the_whole_batch(loss: Any) -> None:
    config = replace(ONE_STEP, loss=loss)
    assert_same(gradients(replace(config, micro_batch_size=5)), gradients(config))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_the_ring(loss: Any) -> None:
    rows: list[Mapping[str, Any]] = []
    config = TrainingConfig(num_epochs=20, batch_size=16, learning_rate=5e-3, loss=loss)
    model = ModelConfig(width=32, num_layers=1, max_length=12, dropout=0, id_dropout=0)
    towers = trained(config, model=model, on_epoch=rows.append)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    log = ring_log(num_users=20)
    tokens = torch.from_numpy(log.tokens.reshape(20, -1).astype(np.int64))
    with torch.inference_mode():
        users = towers(tokens, torch.arange(12).expand(20, -1) * 60, torch.ones_like(tokens))
        best = (users[:, -1] @ towers.items(torch.arange(1, 31)).T).argmax(1) + 1
    assert (best == tokens[:, -1] % 30 + 1).float().mean() > 0.9


def test_bfloat16_trains_float32_weights_to_nearly_the_same() -> None:
    rows: dict[str, list[Mapping[str, Any]]] = {"float32": [], "bfloat16": []}
    for precision, found in rows.items():
        config = replace(ONE_STEP, precision=precision, num_epochs=8, batch_size=16)
        towers = trained(config, on_epoch=found.append)
        assert all(value.dtype == torch.float32 for value in towers.state_dict().values())
    assert rows["bfloat16"][-1]["loss"] == pytest.approx(rows["float32"][-1]["loss"], rel=0.03)
    assert rows["bfloat16"][-1]["loss"] != rows["float32"][-1]["loss"]


class StoppedError(Exception):
    """What a lost worker looks like from inside."""


DROPPING = ModelConfig(width=16, num_layers=1, max_length=4)
OFTEN = TrainingConfig(num_epochs=3, batch_size=16, checkpoint_batches=2, loss="mixed_softmax")


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give what makes training stop before its n-th batch, and counts batches."""
    from rec.models import training

    original, taken = training._train_step, []

    def arm(number: int | None) -> list[Any]:
        taken.clear()

        def step(run: Any, batch: Any, at: Any) -> Any:
            if len(taken) == number:
                raise StoppedError
            taken.append((at.epoch, at.batch))
            return original(run, batch, at)

        monkeypatch.setattr(training, "_train_step", step)
        return taken

    return arm


def test_training_resumes_in_the_middle_of_an_epoch(tmp_path: Path, stop_after: Any) -> None:
    taken = stop_after(None)
    rows: list[Any] = []
    expected = trained(OFTEN, model=DROPPING, on_epoch=rows.append)
    num_batches = len(taken) // 3
    assert num_batches > 5
    stop_after(num_batches + 5)
    with pytest.raises(StoppedError):
        trained(OFTEN, model=DROPPING, checkpoints=tmp_path)
    taken, resumed = stop_after(None), []
    found = trained(
        OFTEN, model=DROPPING, checkpoints=tmp_path, resume=True, on_epoch=resumed.append
    )
    assert taken[0] == (1, 4)  # the checkpoint before the batch that was lost
    assert [row["loss"] for row in resumed] == [row["loss"] for row in rows[1:]]
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def newest_folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_changed_byte_falls_back_to_the_checkpoint_before(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, stop_after: Any
) -> None:
    expected = trained(OFTEN, model=DROPPING)
    stop_after(9)
    with pytest.raises(StoppedError):
        trained(OFTEN, model=DROPPING, checkpoints=tmp_path)
    before, newest = newest_folders(tmp_path)
    damaged = bytearray((newest / file).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / file).write_bytes(damaged)
    stop_after(None)
    found = trained(OFTEN, model=DROPPING, checkpoints=tmp_path, resume=True)
    assert newest.name in caplog.text
    assert "using the one before it" in caplog.text
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert before.name != newest.name


def test_a_checkpoint_holds_the_last_and_the_best_weights(tmp_path: Path) -> None:
    scores = iter([0.1, 0.5, 0.3])
    towers = trained(OFTEN, model=DROPPING, checkpoints=tmp_path, validate=lambda _: next(scores))
    saved = load_newest(tmp_path)
    assert saved is not None
    assert (saved.epoch, saved.batch) == (3, 0)
    assert [row["ndcg"] for row in saved.metrics] == [0.1, 0.5, 0.3]
    name = (
        "user.layers.0.down.weight"
        if "user.layers.0.down.weight" in saved.best
        else "layers.0.down.weight"
    )
    assert torch.equal(saved.best[name], towers.state_dict()[name])
    assert not torch.equal(saved.model[name], saved.best[name])


def test_an_item_without_an_embedding_stops_training_and_names_its_users(tmp_path: Path) -> None:
    config = replace(OFTEN, num_epochs=1, batch_size=4, checkpoint_batches=1, loss="full_softmax")
    log = ring_log()
    towers = small_model(STILL)
    fit(towers, log, config=config, accelerator=Accelerator(cpu=True), checkpoints=tmp_path)
    good = [path.name for path in newest_folders(tmp_path)]
    towers.items.text[4] = float("nan")
    more = replace(config, num_epochs=2)
    with pytest.raises(
        DataError, match=r"batch 0 of epoch 1 .* \(users user-\d+, .*checkpoint"
    ) as e:
        fit(
            towers, log, config=more, accelerator=Accelerator(cpu=True), checkpoints=tmp_path,
            resume=True,
        )  # fmt: skip
    assert "\n" not in str(e.value)
    assert [path.name for path in newest_folders(tmp_path)] == good
    saved = load_newest(tmp_path)
    assert saved is not None
    assert all(torch.isfinite(value).all() for value in saved.model.values())


def test_early_stopping_waits_for_its_patience() -> None:
    rows: list[Any] = []
    scores = iter([0.2, 0.1, 0.1, 0.9])
    config = replace(ONE_STEP, num_epochs=9, patience=2)
    trained(config, validate=lambda _: next(scores), on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [0, 1, 2]


def test_progress_says_how_fast_it_goes() -> None:
    rows: list[Any] = []
    trained(ONE_STEP, on_epoch=rows.append)
    [row] = rows
    assert row["num_targets"] == ring_log().num_events - ring_log().num_users
    # ``wall_s`` is told in milliseconds, and one step takes some ten of them.
    assert row["num_targets"] / row["targets_per_s"] == pytest.approx(row["wall_s"], abs=6e-4)
    assert 0 < row["learning_rate"] <= 0.01
    json.dumps(row)


@pytest.mark.parametrize(
    "values",
    [
        {"micro_batch_size": 0}, {"num_in_batch": -1}, {"gbce_calibration": 1.5}, {"seed": -1},
        {"checkpoint_batches": 0},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    flag = next(iter(values)).replace("_", "-")
    with pytest.raises(ConfigError, match=rf"--training\.{flag} must be"):
        TrainingConfig(**values)


def test_metrics_are_left_as_lines_and_for_tensorboard(tmp_path: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    scores = iter([0.25, 0.5])
    config = replace(ONE_STEP, num_epochs=2)
    log = log_metrics(tmp_path / "logs", then=seen.append)
    trained(config, validate=lambda _: next(scores), on_epoch=log)
    lines = (tmp_path / "logs" / LINES_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == seen
    assert [row["ndcg"] for row in seen] == [0.25, 0.5]
    curve = {}
    for path in (tmp_path / "logs").glob("events.out.tfevents.*"):
        for event in tensorboard_events(path.read_bytes()):
            for value in event.summary.value:
                if value.tag == "ndcg":
                    curve[event.step] = value.simple_value
    assert curve == {0: 0.25, 1: 0.5}


def tensorboard_events(content: bytes) -> Iterator[Event]:
    """Read the records: a length of 8 bytes, its checksum, the event, its checksum."""
    while content:
        length = int.from_bytes(content[:8], "little")
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
