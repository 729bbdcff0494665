"""Two encoders never meet: embed, train, index and serve refuse, and say what to do."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from safetensors.numpy import load_file, save_file

from cluster.serve.encoder import Encoder
from rec.artifacts import MANIFEST, latest_artifact, write_json
from rec.encoders import EncoderConfig
from rec.errors import ArtifactError
from rec.ranking.release import RELEASE_FILE, RankingConfig
from rec.spread import in_process
from rec.stages.embedding import EMBEDDINGS_FILE, embed, warn_of_other_encoder
from rec.stages.indexing import index
from rec.stages.train_settings import TrainSettings
from rec.stages.training import train
from tests.rec.encoders.tiny import write_bert
from tests.releases import make_release


@pytest.fixture
def workspace(trained_workspace: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_workspace, tmp_path / "workspace"))


def test_embed_refuses_a_worker_with_other_model_files(workspace: Path, tmp_path: Path) -> None:
    model = write_bert(tmp_path / "model", ["red", "dress"])

    def on_another_node(
        make_worker: Callable[[], Callable[[Any], Any]], tasks: Sequence[Any], *, label: str
    ) -> Iterator[Any]:
        weights = load_file(Path(model) / "model.safetensors")
        save_file(
            {name: 2 * value for name, value in weights.items()}, Path(model) / "model.safetensors"
        )
        return in_process(make_worker, tasks, label=label)

    store = workspace / "embeddings" / "store"
    before = sorted(store.rglob("*.parquet"))
    config = EncoderConfig(model=model, backend="torch")
    with pytest.raises(ArtifactError, match=r"every node the same model files.*jobs\.embed"):
        embed(workspace, config=config, spread=on_another_node)
    assert sorted(store.rglob("*.parquet")) == before


def test_train_refuses_embeddings_of_another_encoder(
    workspace: Path, train_settings: TrainSettings
) -> None:
    folder = latest_artifact(workspace, "embeddings", made_by="embed").path
    ours = load_file(folder / EMBEDDINGS_FILE)
    turned = {name: np.ascontiguousarray(rows[:, ::-1]) for name, rows in ours.items()}
    save_file(turned, folder / EMBEDDINGS_FILE)
    with pytest.raises(ArtifactError, match=r"expected the embeddings of encoder .*jobs\.embed"):
        train(workspace, train_settings, accelerator=Accelerator(cpu=True), resume=False)


def test_an_encoder_that_the_embeddings_are_not_of_is_named(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = latest_artifact(workspace, "embeddings", made_by="embed")
    used = made.manifest["config"]["encoder"]["model"]
    warn_of_other_encoder(made, EncoderConfig(model="auto"))
    warn_of_other_encoder(made, EncoderConfig(model=used))
    assert not caplog.text
    warn_of_other_encoder(made, EncoderConfig(model="package:another"))
    assert "--encoder.model package:another is not used" in caplog.text
    assert f"of encoder {used}" in caplog.text


def test_index_refuses_a_model_of_another_encoder(workspace: Path) -> None:
    path = latest_artifact(workspace, "embeddings", made_by="embed").path / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["config"]["fingerprint"] = "0123456789abcdef"
    write_json(path, manifest)
    with pytest.raises(ArtifactError, match=r"0123456789abcdef: run `python -m jobs\.train"):
        index(workspace, ranking=RankingConfig())


def test_serve_refuses_a_release_of_another_encoder(tmp_path: Path) -> None:
    release = make_release(tmp_path)
    settings = json.loads((release / RELEASE_FILE).read_text(encoding="utf-8"))
    write_json(release / RELEASE_FILE, settings | {"fingerprint": "0123456789abcdef"})
    with pytest.raises(ArtifactError, match=r"0123456789abcdef.*rerun jobs\.pipeline"):
        Encoder(str(release), 1)
