"""Files of strangers run no code, and what the project writes names no secret."""

import json
import logging
import os
import pickle
from pathlib import Path

import polars as pl
import pytest

from rec.artifacts import read_artifact
from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig, choose_encoder, load_encoder
from rec.errors import ArtifactError, RecError
from rec.ranking.release import MODEL_FILE
from rec.stages.erasing import erase
from rec.stages.exporting import export_user
from rec.stages.preparation import KEY_FILE, prepare
from tests.releases import make_release


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


def bomb(mark: Path) -> bytes:
    content = pickle.dumps(Bomb(mark))
    pickle.loads(content)
    assert mark.exists()  # it would work
    mark.unlink()
    return content


def checkpoint(folder: Path, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    return folder


def load(folder: Path) -> None:
    load_encoder(choose_encoder(EncoderConfig(model=str(folder)), texts=["red lamp"]).spec)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_that_are_a_pickle_are_refused(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    folder = checkpoint(tmp_path / "model")
    (folder / name).write_bytes(bomb(mark))
    with pytest.raises(RecError):
        load(folder)
    assert not mark.exists()


def test_model_that_brings_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = checkpoint(
        tmp_path / "model",
        model_type="surprise",
        auto_map={"AutoConfig": "surprise.Config", "AutoModel": "surprise.Model"},
    )
    (folder / "surprise.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(RecError):
        load(folder)
    assert not mark.exists()


def test_release_with_another_model_is_refused_before_it_is_read(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    release = make_release(tmp_path / "workspace")
    read_artifact(release, verify=True)
    os.unlink(release / MODEL_FILE)  # noqa: PTH108 - a second name of the index's file
    (release / MODEL_FILE).write_bytes(bomb(mark))
    with pytest.raises(ArtifactError, match="sha256 differs"):
        read_artifact(release, verify=True)
    assert not mark.exists()


def test_key_stands_in_no_log_and_in_no_file_but_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The canary is the workspace's key; whoever has it can name every user."""
    canary = "c0ffee" * 10 + "beef"
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / KEY_FILE).touch(mode=0o600)
    (workspace / KEY_FILE).write_text(canary)
    items = [f"item-{number}" for number in range(5)]
    pl.DataFrame({"item_id": items, "title": items}).write_csv(tmp_path / "items.csv")
    rows = {
        "user_id": ["alice", "bob"] * 5,
        "item_id": items * 2,
        "timestamp": [1_700_000_000] * 10,
    }
    pl.DataFrame(rows).write_csv(tmp_path / "events.csv")
    with caplog.at_level(logging.DEBUG):
        prepare(
            workspace,
            events=[str(tmp_path / "events.csv")],
            items=[str(tmp_path / "items.csv")],
            config=CleaningConfig(),
            num_partitions=2,
        )
        export_user(workspace, "alice", output=tmp_path / "alice.json")
        erase(workspace, ["alice"])
        (workspace / KEY_FILE).chmod(0o644)
        with pytest.raises(ArtifactError) as refused:
            erase(workspace, ["bob"])
    raw = bytes.fromhex(canary)
    holders = {
        path.name
        for path in tmp_path.rglob("*")
        if path.is_file() and (canary.encode() in (content := path.read_bytes()) or raw in content)
    }
    assert holders == {KEY_FILE}
    assert canary not in caplog.text
    assert canary not in str(refused.value)
