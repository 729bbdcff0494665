"""The workers of an embedding: what encodes a block of texts, and what measures backends.

They load the encoder where they run and write to the store themselves; what they return is small.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rec.encoders import Encoder, EncoderSpec, load_encoder
from rec.encoders.backends import BackendName
from rec.encoders.probe import Measurement, measure_backends
from rec.encoders.store import EmbeddingStore, text_hash
from rec.errors import ArtifactError
from rec.spread import Spread


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedBlock:
    """Encode blocks of texts into the store; one instance a worker."""

    encoder: Encoder
    store: EmbeddingStore
    is_on_gpu: bool

    def __call__(self, texts: Sequence[str]) -> dict[str, float]:
        """Return the books of a block: texts, tokens read, texts cut, and seconds.

        A block that is stored already, because its worker was lost after it had written it, costs
        nothing.
        """
        hashes = [text_hash(text) for text in texts]
        if self.store.holds(hashes):
            return {"texts": len(texts), "tokens": 0, "truncated": 0, "cpu_s": 0.0, "gpu_s": 0.0}
        encoder = self.encoder
        tokens, cut = encoder.num_tokens, encoder.num_truncated
        cpu, wall = time.process_time(), time.perf_counter()
        embeddings = encoder.encode(texts)
        wall = time.perf_counter() - wall
        self.store.write(hashes, embeddings)
        return {
            "texts": len(texts),
            "tokens": encoder.num_tokens - tokens,
            "truncated": encoder.num_truncated - cut,
            "cpu_s": time.process_time() - cpu,
            "gpu_s": wall if self.is_on_gpu else 0.0,
        }


def worker_factory(
    spec: EncoderSpec, store: EmbeddingStore, num_threads: int | None, *, fingerprint: str
) -> Callable[[], Callable[[Sequence[str]], dict[str, float]]]:
    """Return what makes a worker; it refuses model files of another fingerprint."""

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


def spread_probe(
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


def _set_threads(num_threads: int | None) -> None:
    if num_threads is not None:
        import torch  # only where an encoder runs

        torch.set_num_threads(num_threads)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _has_gpu() -> bool:
    import torch  # as above

    return bool(torch.cuda.is_available())
