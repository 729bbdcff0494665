"""The Encoder deployment: texts to embeddings, batched over requests."""

import asyncio
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from ray import serve

from rec.encoders import load_encoder
from rec.errors import ArtifactError
from rec.ranking.release import ENCODER_FILE, RELEASE_FILE

MAX_CACHED_TEXTS = 10_000
"""Queries repeat; 10,000 of 384 floats are 15 MB."""


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
        # 5 ms: long enough for neighbours to join a batch, short beside one forward pass.
        batch = serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
        self._encode_batched = batch(self._encode_batch)

    async def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Return float32 ``(N, D)`` embeddings of the texts."""
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

    async def embed(self, texts: list[str]) -> tuple[NDArray[np.float32], int]:
        """Return the embeddings as ``encode`` does, and the tokens that all texts have, uncut."""
        tokens = sum(await asyncio.to_thread(self._encoder.count_tokens, texts))
        return await self.encode(texts), tokens

    async def _encode_batch(self, texts: list[str]) -> list[NDArray[np.float32]]:
        return list(await asyncio.to_thread(self._encoder.encode, texts))
