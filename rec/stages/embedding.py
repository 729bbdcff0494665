"""Embedding: every item text and search query to one embedding, encoded once, ever.

Embeddings are kept in a store, keyed by the hash of the rendered text and the encoder's
fingerprint: change 1 % of the titles and 1 % is encoded; a killed run loses the blocks in flight.
The manifest keeps the books: what was encoded, how much of it was cut, what it cost and why it was
this encoder on this backend.

Shapes: N texts, V items, Q queries, D width.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
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
    Encoder,
    EncoderConfig,
    EncoderSpec,
    choose_encoder,
    fingerprint_of,
    load_encoder,
)
from rec.encoders.backends import BackendName
from rec.encoders.images import ImageEmbeddings, read_image_embeddings
from rec.encoders.probe import Measurement, measure_backends, sample, settle_backend
from rec.encoders.prompts import render_items
from rec.encoders.store import EmbeddingStore, text_hash
from rec.errors import ArtifactError
from rec.spread import Spread, in_process
from rec.stages.enriching import with_generated_fields
from rec.stages.finetuned import FINETUNED, find_finetuned

EMBEDDINGS_FILE = "embeddings.safetensors"
IMAGES_FILE = "images.safetensors"
"""Only where the catalog has image embeddings."""
BLOCK_TEXTS = 512
"""Texts of one task at least: what a killed worker loses, and a moving progress bar."""
BLOCK_BATCHES = 16
"""Batches of one task at least, so that a GPU is not emptied between tasks."""
LOCAL_S = 60.0
"""Expected CPU-seconds of encoding up to which no worker processes are started: importing torch in
each and starting the pool takes about 20."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedBlock:
    """Encode blocks of texts into the store; one instance a worker."""

    encoder: Encoder
    store: EmbeddingStore
    is_on_gpu: bool

    def __call__(self, texts: Sequence[str]) -> dict[str, float]:
        """Return the books of a block: texts, tokens read, texts cut, and seconds."""
        encoder = self.encoder
        tokens, cut = encoder.num_tokens, encoder.num_truncated
        cpu, wall = time.process_time(), time.perf_counter()
        embeddings = encoder.encode(texts)
        wall = time.perf_counter() - wall
        self.store.write([text_hash(text) for text in texts], embeddings)
        return {
            "texts": len(texts),
            "tokens": encoder.num_tokens - tokens,
            "truncated": encoder.num_truncated - cut,
            "cpu_s": time.process_time() - cpu,
            "gpu_s": wall if self.is_on_gpu else 0.0,
        }


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
    probe = _spread_probe(spread if local is None else in_process, num_threads)
    spec, decision = settle_backend(
        config, choice.spec, list(wanted.values()), memory=room / "backends", probe=probe
    )
    fingerprint = fingerprint_of(spec)
    parents = {"catalog": catalog.name, "sequences": sequences.name, **enriched}
    settings = {"fingerprint": fingerprint, "encoder": asdict(spec)}
    found = find_artifact(workspace, "embeddings", config_hash("embeddings", settings, parents))
    if found is not None:
        point_latest(workspace, "embeddings", found.name)
        return found, True
    images = read_image_embeddings(items)
    folder = room / "store" / f"{fingerprint}-{spec.storage}"
    store = EmbeddingStore(folder=folder, storage=spec.storage)
    store.open()
    missing = [wanted[key] for key in wanted.keys() - store.known()]
    blocks = _blocks(missing, size=max(BLOCK_TEXTS, BLOCK_BATCHES * spec.batch_size))
    make = _worker_factory(spec, store, num_threads, fingerprint=fingerprint)
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
        books = _books(done) | spent
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


def _worker_factory(
    spec: EncoderSpec, store: EmbeddingStore, num_threads: int | None, *, fingerprint: str
) -> Callable[[], Callable[[Sequence[str]], dict[str, float]]]:
    def make() -> Callable[[Sequence[str]], dict[str, float]]:
        _set_threads(num_threads)
        encoder = load_encoder(spec)
        if encoder.fingerprint != fingerprint:
            raise ArtifactError(
                f"expected encoder {spec.model} with fingerprint {fingerprint}, a worker found "
                f"{encoder.fingerprint}: give every node the same model files and rerun jobs.embed"
            )
        return EmbedBlock(
            encoder=encoder,
            store=store,
            is_on_gpu=spec.kind == "transformer" and _has_gpu(),
        )

    return make


def _spread_probe(
    spread: Spread, num_threads: int | None
) -> Callable[[EncoderSpec, Sequence[BackendName], Sequence[str]], list[Measurement]]:
    """Return a probe that measures where the workers are, with as many threads as they have."""

    def probe(
        spec: EncoderSpec, backends: Sequence[BackendName], texts: Sequence[str]
    ) -> list[Measurement]:
        def make() -> Callable[[list[str]], list[Measurement]]:
            _set_threads(num_threads)
            return lambda texts: measure_backends(spec, backends, texts)

        [measurements] = spread(make, [list(texts)], label="probing backends")
        return measurements

    return probe


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


def _books(done: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = ("texts", "tokens", "truncated", "cpu_s", "gpu_s")
    return {name: sum(block[name] for block in done) for name in names}


def _set_threads(num_threads: int | None) -> None:
    if num_threads is not None:
        import torch  # only where an encoder runs

        torch.set_num_threads(num_threads)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _has_gpu() -> bool:
    import torch  # as above

    return bool(torch.cuda.is_available())
