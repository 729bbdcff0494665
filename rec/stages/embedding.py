"""Embedding: every item text and search query to one embedding, encoded once, ever.

Embeddings are kept in a store of shards, keyed by the hash of the rendered text and the encoder's
fingerprint: change 1 % of the titles and 1 % is encoded. A shard is written aside and renamed, so
a killed run loses at most the blocks in flight.

Shapes: N texts, V items, Q queries, D width.
"""

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rec.artifacts import (
    Artifact,
    config_hash,
    find_artifact,
    latest_artifact,
    point_latest,
    write_artifact,
)
from rec.data.items import load_items
from rec.data.sequences import load_sequences
from rec.encoders import (
    EncoderConfig,
    EncoderSpec,
    choose_encoder,
    fingerprint_of,
    load_encoder,
)
from rec.encoders.prompts import render_items
from rec.spread import Spread, in_process

EMBEDDINGS_FILE = "embeddings.safetensors"
BLOCK_TEXTS = 512
"""Texts of one task: what a killed worker loses, and small enough for a moving progress bar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedBlock:
    """Encode blocks of texts into shards of the store; one instance a worker process."""

    encode: Callable[[Sequence[str]], NDArray[np.float32]]
    counters: Callable[[], tuple[int, int]]
    store: Path

    def __call__(self, texts: Sequence[str]) -> dict[str, int]:
        """Return the counts of a block: texts, tokens read and texts cut."""
        tokens, cut = self.counters()
        embeddings = self.encode(texts)
        hashes = [text_hash(text) for text in texts]
        width = embeddings.shape[1]
        values = pa.array(embeddings.reshape(-1), type=pa.float32())
        table = pa.table(
            {
                "text_hash": pa.array(hashes, type=pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(values, width),
            }
        )
        name = xxhash.xxh3_128_hexdigest("".join(hashes).encode())
        aside = self.store / f".{name}.{uuid.uuid4().hex[:8]}"
        pq.write_table(table, aside)
        aside.replace(self.store / f"{name}.parquet")
        tokens_now, cut_now = self.counters()
        return {"texts": len(texts), "tokens": tokens_now - tokens, "truncated": cut_now - cut}


def embed(
    workspace: Path,
    *,
    config: EncoderConfig,
    spread: Spread = in_process,
    num_threads: int | None = None,
) -> tuple[Artifact, bool]:
    """Return the embeddings of the newest catalog and its queries, and whether they were there.

    Args:
        workspace: root of the artifacts.
        config: which encoder.
        spread: who encodes.
        num_threads: torch threads of one worker; torch's choice if absent.

    Raises:
        ArtifactError: nothing was prepared.
        ConfigError: the encoder cannot be loaded.
    """
    catalog = latest_artifact(workspace, "catalog", made_by="prepare")
    sequences = latest_artifact(workspace, "sequences", made_by="prepare")
    items = load_items(catalog.path)
    queries = list(load_sequences(sequences.path).queries)
    titles = items["title"].to_list()
    choice = choose_encoder(config, texts=[*titles, *queries])
    spec = choice.spec
    fingerprint = fingerprint_of(spec)
    texts = [*render_items(items, spec.template), *queries]
    parents = {"catalog": catalog.name, "sequences": sequences.name}
    settings = {"fingerprint": fingerprint, "encoder": asdict(spec)}
    found = find_artifact(workspace, "embeddings", config_hash("embeddings", settings, parents))
    if found is not None:
        point_latest(workspace, "embeddings", found.name)
        return found, True
    store = workspace / "embeddings" / "store" / fingerprint
    store.mkdir(parents=True, exist_ok=True)
    hashes = [text_hash(text) for text in texts]
    wanted = dict(zip(hashes, texts, strict=True))
    missing = [wanted[key] for key in wanted.keys() - _known_hashes(store)]
    # Neighbours of like length share a block, and blocks do not depend on the order of a set.
    missing.sort(key=lambda text: (len(text), text))
    blocks = [missing[start : start + BLOCK_TEXTS] for start in range(0, len(missing), BLOCK_TEXTS)]
    done = list(spread(_worker_factory(spec, store, num_threads), blocks, label="encoding texts"))
    matrix = _gather(store, hashes)
    with write_artifact(workspace, "embeddings", config=settings, parents=parents) as draft:
        tensors = {"items": matrix[: items.height], "queries": matrix[items.height :]}
        save_file(tensors, draft.path / EMBEDDINGS_FILE)
        draft.counts |= {
            "items": items.height,
            "queries": len(queries),
            "distinct_texts": len(wanted),
            "encoded": sum(block["texts"] for block in done),
            "cached": len(wanted) - len(missing),
            "tokens": sum(block["tokens"] for block in done),
            "truncated": sum(block["truncated"] for block in done),
            "width": int(matrix.shape[1]),
        }
        draft.details["encoder_reason"] = choice.reason
    made = find_artifact(workspace, "embeddings", config_hash("embeddings", settings, parents))
    assert made is not None
    return made, False


def load_embeddings(artifact: Artifact) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return item ``(V, D)`` and query ``(Q, D)`` embeddings, float32."""
    tensors = load_file(artifact.path / EMBEDDINGS_FILE)
    return tensors["items"], tensors["queries"]


def text_hash(text: str) -> str:
    """Return the key of a text in the store.

    >>> text_hash("red dress") == text_hash("red dress ")
    False
    """
    return xxhash.xxh3_128_hexdigest(text.encode())


def _worker_factory(
    spec: EncoderSpec, store: Path, num_threads: int | None
) -> Callable[[], Callable[[Sequence[str]], dict[str, int]]]:
    values: dict[str, Any] = asdict(spec)

    def make() -> Callable[[Sequence[str]], dict[str, int]]:
        if num_threads is not None:
            import torch  # only the worker process needs it here

            torch.set_num_threads(num_threads)
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        encoder = load_encoder(values)
        return EmbedBlock(
            encode=encoder.encode,
            counters=lambda: (encoder.num_tokens, encoder.num_truncated),
            store=store,
        )

    return make


def _known_hashes(store: Path) -> set[str]:
    known: set[str] = set()
    for shard in sorted(store.glob("*.parquet")):
        known.update(pq.read_table(shard, columns=["text_hash"])["text_hash"].to_pylist())
    return known


def _gather(store: Path, hashes: Sequence[str]) -> NDArray[np.float32]:
    """Return the stored embeddings of the hashes, float32 ``(N, D)``."""
    keys: list[str] = []
    parts: list[NDArray[np.float32]] = []
    for shard in sorted(store.glob("*.parquet")):
        table = pq.read_table(shard).combine_chunks()
        keys += table["text_hash"].to_pylist()
        column = table["embedding"].combine_chunks()
        parts.append(column.flatten().to_numpy().reshape(len(column), -1))
    table = np.concatenate(parts)
    row_of = {key: row for row, key in enumerate(keys)}
    return np.ascontiguousarray(table[[row_of[key] for key in hashes]])
