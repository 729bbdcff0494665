"""The store: embeddings in shards, keyed by the hash of their text, one folder a fingerprint.

A shard is written aside and renamed, so a killed writer leaves nothing that a reader could see, and
it is named by its content, so a block that is encoded twice is stored once.

Shapes: N texts, D width.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

_STALE_S = 3600
"""A shard is written in seconds: what still lies aside after an hour was left by a killed run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingStore:
    """Keep the embeddings of one encoder."""

    folder: Path
    storage: Literal["float32", "float16"] = "float32"

    def open(self) -> None:
        """Make the folder, and clear away what killed writers left aside."""
        self.folder.mkdir(parents=True, exist_ok=True)
        oldest = time.time() - _STALE_S
        for aside in self.folder.glob(".*"):
            if aside.stat().st_mtime < oldest:
                aside.unlink(missing_ok=True)

    def known(self) -> set[str]:
        """Return the hashes of the texts that are stored."""
        shards = self._shards()
        if not shards:
            return set()
        return set(pl.read_parquet(shards, columns=["text_hash"])["text_hash"].to_list())

    def write(self, hashes: Sequence[str], embeddings: NDArray[np.float32]) -> None:
        """Add one shard, all or nothing; embeddings are float32 ``(N, D)``."""
        stored = embeddings.astype(self.storage)
        table = pa.table(
            {
                "text_hash": pa.array(hashes, type=pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(
                    pa.array(stored.reshape(-1)), stored.shape[1]
                ),
            }
        )
        shard = self._shard(hashes)
        aside = self.folder / f".{shard.stem}.{uuid.uuid4().hex[:8]}"
        pq.write_table(table, aside)
        aside.replace(shard)

    def holds(self, hashes: Sequence[str]) -> bool:
        """Return whether :meth:`write` was called with exactly these hashes in this order."""
        return self._shard(hashes).is_file()

    def read(self, hashes: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``(N, D)``, a row a hash, of length one; all must be stored.

        Rounding to float16 changes lengths a little, reading mends them.
        """
        keys: list[str] = []
        parts: list[NDArray[np.float32]] = []
        for shard in self._shards():
            table = pq.read_table(shard).combine_chunks()
            keys += table["text_hash"].to_pylist()
            column = table["embedding"].combine_chunks()
            values = column.flatten().to_numpy().reshape(len(column), -1)
            parts.append(_normal(values.astype(np.float32)) if self._is_rounded else values)
        table = np.concatenate(parts)
        row_of = {key: row for row, key in enumerate(keys)}
        return np.ascontiguousarray(table[[row_of[key] for key in hashes]])

    @property
    def _is_rounded(self) -> bool:
        return self.storage == "float16"

    def _shard(self, hashes: Sequence[str]) -> Path:
        return self.folder / f"{xxhash.xxh3_128_hexdigest(''.join(hashes).encode())}.parquet"

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))


def text_hash(text: str) -> str:
    """Return the key of a text in the store.

    >>> text_hash("red dress") == text_hash("red dress ")
    False
    """
    return xxhash.xxh3_128_hexdigest(text.encode())


def _normal(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows at length one; a zero row stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    normal: NDArray[np.float32] = np.divide(rows, norms, out=rows, where=norms > 0)
    return normal
