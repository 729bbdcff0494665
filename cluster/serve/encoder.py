"""The Encoder deployment: texts to embeddings, batched over requests."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.serve.batching import Batcher
from cluster.serve.observing import log_as_json
from cluster.serve.tracing import span
from rec.encoders import load_encoder
from rec.errors import ArtifactError
from rec.ranking.release import ENCODER_FILE, RELEASE_FILE

MAX_CACHED_TEXTS = 10_000
"""Queries repeat; 10,000 of 384 floats are 15 MB."""
MAX_BATCH = 32
"""Texts encoded at once: more gain nothing on a CPU, and later ones wait longer."""


class Encoder:
    """Encode search queries with the release's encoder."""

    def __init__(self, release: str, num_threads: int) -> None:
        """Load the encoder and encode one text, so that the first user does not wait.

        Raises:
            ArtifactError: it is not the encoder that the release was made with.
        """
        torch.set_num_threads(num_threads)
        spec = json.loads((Path(release) / ENCODER_FILE).read_text(encoding="utf-8"))
        settings = json.loads((Path(release) / RELEASE_FILE).read_text(encoding="utf-8"))
        self._encoder = load_encoder(spec)
        if self._encoder.fingerprint != settings["fingerprint"]:
            raise ArtifactError(
                f"the release was made with encoder {settings['fingerprint']}, {spec['model']} is "
                f"{self._encoder.fingerprint} now: restore its files or rerun jobs.pipeline"
            )
        self._encoder.encode(["warm up"])
        self._cache: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        log_as_json()
        self._encode_batched = Batcher(self._encode_batch, max_size=MAX_BATCH)

    async def encode(self, texts: list[str], trace: str | None = None) -> NDArray[np.float32]:
        """Return float32 ``(N, D)`` embeddings of the texts.

        Args:
            texts: any number.
            trace: of the request, where it is sampled.
        """
        with span(trace, "Encoder.encode"):
            return await self._encode(texts)

    async def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        known = {text: self._cache[text] for text in texts if text in self._cache}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        found = await asyncio.gather(*(self._encode_batched(text) for text in missing))
        known.update(zip(missing, found, strict=True))
        for text, embedding in known.items():
            self._cache[text] = embedding
            self._cache.move_to_end(text)
        while len(self._cache) > MAX_CACHED_TEXTS:
            self._cache.popitem(last=False)
        return np.stack([known[text] for text in texts])

    async def embed(
        self, texts: list[str], trace: str | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Return the embeddings as ``encode`` does, and the tokens that all texts have, uncut."""
        with span(trace, "Encoder.embed"):
            tokens = sum(await asyncio.to_thread(self._encoder.count_tokens, texts))
            return await self._encode(texts), tokens

    def _encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        # Copies: a row of the batch would keep the whole batch in memory while it is cached.
        return [row.copy() for row in self._encoder.encode(list(texts))]
