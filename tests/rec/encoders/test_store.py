"""A shard is there or not, and what is stored comes back in the order asked for."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from rec.encoders import EncoderConfig, load_encoder
from rec.encoders.encoder import make_spec
from rec.encoders.store import EmbeddingStore
from rec.stages.embedding_workers import EmbedBlock


def test_rows_come_back_in_the_order_of_the_hashes(tmp_path: Path) -> None:
    store = EmbeddingStore(folder=tmp_path / "store")
    store.open()
    assert store.known() == set()
    store.write(["a", "b"], np.asarray([[1, 0], [2, 0]], np.float32))
    store.write(["c"], np.asarray([[3, 0]], np.float32))
    assert store.known() == {"a", "b", "c"}
    np.testing.assert_array_equal(store.read(["c", "a", "c"])[:, 0], [3, 1, 3])


def test_block_written_twice_is_stored_once(tmp_path: Path) -> None:
    store = EmbeddingStore(folder=tmp_path)
    for _ in range(2):
        store.write(["a"], np.ones((1, 4), np.float32))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("storage", "most_bytes"), [("float32", 5e6), ("float16", 2.6e6)])
def test_half_floats_take_half_the_space_and_keep_the_direction(
    storage: str, most_bytes: float, tmp_path: Path
) -> None:
    embeddings = np.random.default_rng(0).normal(size=(2000, 512)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    store = EmbeddingStore(folder=tmp_path, storage=storage)  # type: ignore[arg-type]
    hashes = [str(n) for n in range(2000)]
    store.write(hashes, embeddings)
    found = store.read(hashes)
    assert found.dtype == np.float32
    np.testing.assert_allclose((found * embeddings).sum(axis=1), 1, atol=1e-6)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < most_bytes


def test_what_a_killed_writer_left_aside_is_no_shard_and_goes_after_an_hour(
    tmp_path: Path,
) -> None:
    fresh, stale = tmp_path / ".x.1", tmp_path / ".x.2"
    for path in (fresh, stale):
        path.write_bytes(b"half a shard")
    os.utime(stale, (time.time() - 7200,) * 2)
    store = EmbeddingStore(folder=tmp_path)
    store.open()
    assert store.known() == set()
    assert fresh.exists()
    assert not stale.exists()


def test_block_is_known_by_all_of_its_hashes_in_their_order(tmp_path: Path) -> None:
    store = EmbeddingStore(folder=tmp_path)
    store.write(["a", "b"], np.ones((2, 4), np.float32))
    assert store.holds(["a", "b"])
    assert not store.holds(["b", "a"])
    assert not store.holds(["a"])


def test_block_that_is_stored_is_not_encoded_again(tmp_path: Path) -> None:
    """A worker may be lost after it has written and before it has answered."""
    spec = make_spec(EncoderConfig(model="hashing"))
    store = EmbeddingStore(folder=tmp_path)
    block = EmbedBlock(encoder=load_encoder(spec), store=store, is_on_gpu=False)
    first = block(["red dress", "lamp"])
    assert first["tokens"] > 0
    again = block(["red dress", "lamp"])
    assert again == {"texts": 2, "tokens": 0, "truncated": 0, "cpu_s": 0, "gpu_s": 0}
    assert block(["lamp"])["tokens"] > 0
