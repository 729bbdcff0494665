"""Embedding: every item text and search query to one embedding, encoded once, ever.

Embeddings are kept in a store, keyed by the hash of the rendered text and the encoder's
fingerprint: change 1 % of the titles and 1 % is encoded; a killed run loses the blocks in flight.
The manifest keeps the books: what was encoded, how much of it was cut, what it cost and why it was
this encoder on this backend.

Shapes: N texts, V items, Q queries, D width.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rec.artifacts import (
    Artifact,
    config_hash,
    find_artifact,
    latest_artifact,
    point_latest,
    to_plain,
    write_artifact,
)
from rec.data.items import load_items
from rec.data.sequences import load_sequences
from rec.encoders import (
    Choice,
    EncoderConfig,
    EncoderSpec,
    choose_encoder,
    fingerprint_of,
    load_encoder,
)
from rec.encoders.images import ImageEmbeddings, read_image_embeddings
from rec.encoders.probe import sample, settle_backend
from rec.encoders.prompts import render_items
from rec.encoders.store import EmbeddingStore, text_hash
from rec.encoders.vision import vision_fingerprint
from rec.spread import Spread, in_process
from rec.stages.embedding_workers import spread_probe, worker_factory
from rec.stages.enriching import with_generated_fields
from rec.stages.finetuned import FINETUNED, find_finetuned
from rec.stages.image_embedding import embed_images

EMBEDDINGS_FILE = "embeddings.safetensors"
IMAGES_FILE = "images.safetensors"
"""Only where the catalog has image embeddings."""
BLOCK_TEXTS = 256
"""Texts of one task at least: what a killed worker loses, and a moving progress bar."""
BLOCK_BATCHES = 8
"""Batches of one task at least, so that a GPU is not emptied between tasks."""
LOCAL_IMAGES = 500
"""Items up to which pictures are encoded in this process: as many as workers start for."""
LOCAL_S = 60.0
"""Expected CPU-seconds of encoding up to which no worker processes are started: importing torch in
each and starting the pool takes about 20."""
_log = logging.getLogger(__name__)


def embed(
    workspace: Path,
    *,
    config: EncoderConfig,
    spread: Spread = in_process,
    local: Spread | None = None,
    num_threads: int | None = None,
) -> tuple[Artifact, bool]:
    """Return the embeddings of the newest catalog and its queries, and whether they were there.

    Args:
        workspace: root of the artifacts.
        config: which encoder.
        spread: who encodes.
        local: who encodes instead where the work is small, in this process; ``None`` where this
            process has not the hardware of the workers (it probes no backend either then).
        num_threads: torch threads of one worker; torch's choice if absent.

    Raises:
        ArtifactError: nothing was prepared, or a worker has other model files.
        ConfigError: the encoder cannot be loaded.
        DataError: an image embedding that is none.
    """
    catalog = latest_artifact(workspace, "catalog", made_by="prepare")
    sequences = latest_artifact(workspace, "sequences", made_by="prepare")
    items = load_items(catalog.path)
    queries = list(load_sequences(sequences.path).queries)
    choice = _choose(workspace, config, texts=[*items["title"].to_list(), *queries])
    items, enriched = with_generated_fields(
        workspace, items, catalog=catalog.name, template=choice.spec.template
    )
    texts = [*render_items(items, choice.spec.template), *queries]
    hashes = [text_hash(text) for text in texts]
    wanted = dict(zip(hashes, texts, strict=True))
    room = workspace / "embeddings"
    probe = spread_probe(spread if local is None else in_process, num_threads)
    spec, decision = settle_backend(
        config, choice.spec, list(wanted.values()), memory=room / "backends", probe=probe
    )
    fingerprint = fingerprint_of(spec)
    parents = {"catalog": catalog.name, "sequences": sequences.name, **enriched}
    settings = {"fingerprint": fingerprint, "encoder": asdict(spec)}
    if config.image_model is not None:
        settings["images"] = vision_fingerprint(config.image_model)
    found = find_artifact(workspace, "embeddings", config_hash("embeddings", settings, parents))
    if found is not None:
        point_latest(workspace, "embeddings", found.name)
        return found, True
    few = local if items.height <= LOCAL_IMAGES else None
    images, image_counts = _embed_images(
        items, config, room=room, spread=spread if few is None else few
    )
    folder = room / "store" / f"{fingerprint}-{spec.storage}"
    store = EmbeddingStore(folder=folder, storage=spec.storage)
    store.open()
    missing = [wanted[key] for key in wanted.keys() - store.known()]
    blocks = _blocks(missing, size=max(BLOCK_TEXTS, BLOCK_BATCHES * spec.batch_size))
    make = worker_factory(spec, store, num_threads, fingerprint=fingerprint)
    is_local = local is not None and _expected_s(spec, missing, decision.texts_per_s) <= LOCAL_S
    start, cpu = time.perf_counter(), time.process_time()
    who = local if is_local and local is not None else spread
    done = list(who(make, blocks, label="encoding texts"))
    wall = time.perf_counter() - start
    # Threads of one process share its clock: their own readings would count each other.
    spent = {"cpu_s": time.process_time() - cpu} if is_local else {}
    with write_artifact(workspace, "embeddings", config=settings, parents=parents) as draft:
        matrix = store.read(hashes)
        tensors = {"items": matrix[: items.height], "queries": matrix[items.height :]}
        save_file(tensors, draft.path / EMBEDDINGS_FILE)
        if images is not None:
            save_file(
                {"embeddings": images.embeddings, "is_present": images.is_present},
                draft.path / IMAGES_FILE,
            )
            draft.counts["images"] = int(images.is_present.sum())
        draft.counts |= image_counts
        books = _books(done) | spent
        _warn_of_truncation(int(books["truncated"]), int(books["texts"]), spec)
        draft.counts |= {
            "items": items.height,
            "queries": len(queries),
            "distinct_texts": len(wanted),
            "encoded": int(books["texts"]),
            "cached": len(wanted) - len(missing),
            "tokens": int(books["tokens"]),
            "truncated": int(books["truncated"]),
            "width": int(matrix.shape[1]),
        }
        draft.details |= {
            "encoder_reason": choice.reason,
            "backend": to_plain(decision),
            "cost": {
                "wall_s": round(wall, 2),
                "cpu_s": round(books["cpu_s"], 2),
                "gpu_s": round(books["gpu_s"], 2),
                "texts_per_s": round(books["texts"] / wall, 1) if done else 0.0,
                "is_local": is_local,
            },
        }
    made = find_artifact(workspace, "embeddings", config_hash("embeddings", settings, parents))
    assert made is not None
    return made, False


def load_embeddings(artifact: Artifact) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return item ``(V, D)`` and query ``(Q, D)`` embeddings, float32."""
    tensors = load_file(artifact.path / EMBEDDINGS_FILE)
    return tensors["items"], tensors["queries"]


def warn_of_other_encoder(artifact: Artifact, config: EncoderConfig) -> None:
    """Say so where a configuration names another encoder than the one the embeddings are of.

    What comes after embedding reads the embeddings and not the configuration: without a word a
    user would believe in an encoder that was never used.
    """
    used = artifact.manifest["config"]["encoder"]["model"]
    if config.model in ("auto", FINETUNED, used):
        return
    _log.warning(
        "--encoder.model %s is not used here: the embeddings are of encoder %s; run jobs.embed "
        "with the same flag first to change that",
        config.model,
        used,
    )


def load_images(artifact: Artifact) -> ImageEmbeddings | None:
    """Return the image embeddings of the items, ``None`` where the catalog has none."""
    path = artifact.path / IMAGES_FILE
    if not path.is_file():
        return None
    tensors = load_file(path)
    return ImageEmbeddings(embeddings=tensors["embeddings"], is_present=tensors["is_present"])


def _embed_images(
    items: pl.DataFrame, config: EncoderConfig, *, room: Path, spread: Spread
) -> tuple[ImageEmbeddings | None, dict[str, int]]:
    """Return the items' image embeddings: a vision model's, or those that came with the catalog."""
    if config.image_model is None:
        return read_image_embeddings(items), {}
    return embed_images(
        items,
        model=config.image_model,
        fingerprint=vision_fingerprint(config.image_model),
        folder=None if config.image_folder is None else Path(config.image_folder),
        room=room / "store",
        spread=spread,
    )


def _choose(workspace: Path, config: EncoderConfig, *, texts: Sequence[str]) -> Choice:
    """Return the workspace's own encoder where ``auto`` finds one, else what the catalog wants."""
    if config.model in ("auto", FINETUNED):
        spec = find_finetuned(workspace, config, is_required=config.model == FINETUNED)
        if spec is not None:
            return Choice(spec=spec, reason="fine-tuned on this log by jobs.finetune")
    return choose_encoder(config, texts=texts)


def _blocks(texts: Sequence[str], *, size: int) -> list[list[str]]:
    """Return blocks of neighbours in length, the longest first: the last to end are short.

    They depend on the set of texts alone, not on its order.
    """
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _expected_s(spec: EncoderSpec, texts: Sequence[str], texts_per_s: float | None) -> float:
    """Return the CPU-seconds that encoding will take, measured on a few texts if need be."""
    if not texts:
        return 0.0
    if texts_per_s is None:
        encode, few = load_encoder(spec).encode, sample(texts)
        start = time.process_time()
        encode(few)
        texts_per_s = len(few) / max(time.process_time() - start, 1e-3)
    return len(texts) / texts_per_s


def _warn_of_truncation(num_cut: int, num_texts: int, spec: EncoderSpec) -> None:
    """Say how many texts an embedding tells the beginning of only."""
    if num_cut:
        _log.warning(
            "%d of %d texts are longer than %d tokens and were cut: raise --encoder.max-tokens "
            "to have more of them read",
            num_cut,
            num_texts,
            spec.max_tokens,
        )


def _books(done: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = ("texts", "tokens", "truncated", "cpu_s", "gpu_s")
    return {name: sum(block[name] for block in done) for name in names}
