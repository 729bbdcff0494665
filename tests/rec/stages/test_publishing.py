"""A release on an object store: whole or not at all, each file once, and nobody's data."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow.fs as pa_fs
import pytest
from moto.server import ThreadedMotoServer

from jobs.fetch import main as fetch_main
from jobs.publish import main as publish_main
from rec.data.events import Event
from rec.data.sequences import load_sequences
from rec.encoders import EncoderConfig
from rec.encoders.store import text_hash
from rec.errors import ArtifactError, ConfigError
from rec.ranking.current import current_release, read_current
from rec.ranking.recommender import Recommender
from rec.ranking.release import RELEASE_FILE
from rec.ranking.requests import Request
from rec.stages.embedding import embed
from rec.stages.publishing import fetch, publish


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    store = pa_fs.S3FileSystem(
        endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True
    )
    store.create_dir("shop")
    yield "s3://shop/releases"
    server.stop()


def test_a_release_goes_over_an_object_store_and_answers_the_same(
    bucket: str, released_workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_main(["--workspace", str(released_workspace), "--store", bucket, "--json"])
    published = json.loads(capsys.readouterr().out)
    assert published["copied"] == published["files"] > 5
    words = ["--store", bucket, "--cache", str(tmp_path / "cache"), "--json"]
    fetch_main([*words, "--workspace", str(tmp_path / "one")])
    assert json.loads(capsys.readouterr().out) == published
    assert answer(tmp_path / "one") == answer(released_workspace)
    # Keys will lie in it: as any workspace it stays out of git and of what a job uploads.
    assert (tmp_path / "one" / ".gitignore").read_text() == "*\n"
    # A second workspace of the same machine fetches nothing and takes no space.
    fetch_main([*words, "--workspace", str(tmp_path / "two")])
    assert json.loads(capsys.readouterr().out) == {**published, "copied": 0}
    files = [
        next((tmp_path / name / "releases").glob("*/model.safetensors")) for name in ("one", "two")
    ]
    assert files[0].samefile(files[1])
    # Nor does publishing again write anything but pointers.
    assert publish(released_workspace, bucket).copied == 0


def test_fetched_embeddings_are_encoded_by_nobody(released_workspace: Path, tmp_path: Path) -> None:
    publish(released_workspace, str(tmp_path / "store"))
    workspace = tmp_path / "other"
    for room in ("catalog", "sequences"):
        shutil.copytree(released_workspace / room, workspace / room)
    fetch(workspace, str(tmp_path / "store"), cache=tmp_path / "cache")
    made, _ = embed(workspace, config=EncoderConfig(model="hashing"))
    # Searches' texts are their users': they stay behind, and are all that is encoded here.
    assert made.counts["cached"] >= made.counts["items"] * 0.9
    assert made.counts["encoded"] == made.counts["distinct_texts"] - made.counts["cached"]


def test_no_text_of_a_search_is_published(released_workspace: Path, tmp_path: Path) -> None:
    [sequences] = (released_workspace / "sequences").glob("*/manifest.json")
    queries = load_sequences(sequences.parent).queries
    publish(released_workspace, str(tmp_path / "store"))
    [shard] = [
        pl.read_parquet(path)
        for path in (tmp_path / "store" / "files").iterdir()
        if path.read_bytes()[:4] == b"PAR1" and "text_hash" in pl.read_parquet_schema(path)
    ]
    assert queries
    assert not {text_hash(query) for query in queries} & set(shard["text_hash"])


def test_what_was_changed_in_the_store_is_refused_and_nothing_is_left(
    released_workspace: Path, tmp_path: Path
) -> None:
    store, workspace = tmp_path / "store", tmp_path / "fetched"
    release = publish(released_workspace, str(store)).release
    manifest = json.loads((store / "releases" / f"{release}.json").read_text())
    digest = manifest["files"][RELEASE_FILE]["sha256"]
    (store / "files" / digest).write_text("{}")
    with pytest.raises(ArtifactError, match="sha256 differs"):
        fetch(workspace, str(store), cache=tmp_path / "cache")
    assert not read_current(workspace)
    assert not list((workspace / "releases").iterdir())


def test_a_damaged_cache_is_fetched_again(released_workspace: Path, tmp_path: Path) -> None:
    store, cache = str(tmp_path / "store"), tmp_path / "cache"
    publish(released_workspace, store)
    fetch(tmp_path / "one", store, cache=cache)
    broken = next(path for path in cache.rglob("*") if path.is_file())
    broken.unlink()
    broken.write_bytes(b"torn")
    assert fetch(tmp_path / "two", store, cache=cache).copied == 1


@pytest.mark.parametrize("name", ["../../../outside", "/etc/outside"])
def test_a_manifest_may_not_name_files_outside(
    released_workspace: Path, tmp_path: Path, name: str
) -> None:
    store = tmp_path / "store"
    release = publish(released_workspace, str(store)).release
    path = store / "releases" / f"{release}.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = manifest["files"].pop(RELEASE_FILE)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="outside"):
        fetch(tmp_path / "fetched", str(store), cache=tmp_path / "cache")


def test_a_store_without_a_release_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nextray publish"):
        fetch(tmp_path / "fetched", str(tmp_path / "empty"), cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match="https"):
        fetch(tmp_path / "fetched", "https://shop.example/", cache=tmp_path / "cache")


def answer(workspace: Path) -> list[tuple[str, float]]:
    """Return what a service on a workspace answers: ids and scores."""
    recommender = Recommender.load(current_release(workspace))
    history = tuple(
        Event(
            user_id="u", item_id=item_id, event_type="view", timestamp_ms=1_700_000_000_000 + turn
        )
        for turn, item_id in enumerate(recommender.item_ids[:5])
    )
    [made] = recommender.recommend([Request(history=history, k=10)])
    return [(item.item_id, item.score) for item in made.items]
