"""Large catalogs: each part of the index on replicas of its own, asked by every ranker at once.

A shard reads its stretch of e_i out of the release's file, and no other byte of it; the rankers
have compared that file with its sha256 before they name the release. A shard that does not answer
costs time, not items: the ranker searches that part itself and says so in ``degraded``.
"""

import asyncio
import logging
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi import HTTPException
from ray.exceptions import RayTaskError
from safetensors import safe_open
from torch import Tensor

from cluster.serve.batching import Batcher
from cluster.serve.calls import SILENT_S, UnavailableError, Upstream
from rec.ranking.release import EMBEDDINGS_FILE
from rec.ranking.retrieval.sharding import Found, PartQuery, ShardedIndex, part_bounds, search_part

MAX_RELEASES = 3
"""Held at once: the promoted one, the one before or after a switch, a canary."""
DEADLINE_S = 1.0
"""Many times what a part takes; the ranker's own search of it is better than waiting longer."""
MAX_BATCH = 8
"""Queries of rankers answered one after the other in one go of a thread."""
_log = logging.getLogger(__name__)


class IndexShard:
    """Search one part of the releases that rankers name."""

    def __init__(self, workspace: str, part: int, num_parts: int, num_threads: int) -> None:
        """Read nothing yet: a release's part is read when it is first asked for."""
        torch.set_num_threads(num_threads)
        self._workspace = Path(workspace)
        self._part = part
        self._num_parts = num_parts
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._search_batched = Batcher(self._search_batch, max_size=MAX_BATCH)

    async def search(self, release: str, packed: bytes) -> tuple[Any, Any]:
        """Return items and scores of the part, as arrays; see ``pack_query``."""
        return await self._search_batched((release, packed))

    def _search_batch(self, asked: Sequence[tuple[str, bytes]]) -> list[tuple[Any, Any]]:
        answers = []
        for release, packed in asked:
            items, scores = search_part(self._items(release), unpack_query(packed))
            answers.append((items.numpy(), scores.numpy()))
        return answers

    def _items(self, release: str) -> Tensor:
        if release not in self._held:
            path = self._workspace / "releases" / release / EMBEDDINGS_FILE
            with safe_open(path, framework="pt") as file:
                stored = file.get_slice("items")
                bounds = part_bounds(stored.get_shape()[0], num_parts=self._num_parts)
                start, end = bounds[self._part]
                self._held[release] = stored[start:end]
            while len(self._held) > MAX_RELEASES:
                self._held.popitem(last=False)
        self._held.move_to_end(release)
        return self._held[release]


class ShardHandles:
    """Ask the shards from a ranker's threads."""

    def __init__(self, handles: Sequence[Any]) -> None:
        """Hold one handle for each part, in order."""
        self._handles = handles
        self._calls = [
            Upstream(f"index shard {number}", silent_s=SILENT_S) for number in range(len(handles))
        ]
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask from now on, by a replica's event loop; until then a ranker searches by itself."""
        self._loop = loop

    def index(self, release: str, items: Tensor) -> ShardedIndex:
        """Return the index of a release's e_i over all shards."""

        def ask(queries: Sequence[PartQuery]) -> Sequence[Found | None]:
            if self._loop is None:
                return [None] * len(queries)
            asked = self._ask(release, [pack_query(query) for query in queries])
            return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

        bounds = part_bounds(len(items), num_parts=len(self._handles))
        return ShardedIndex(items, bounds=bounds, ask=ask)

    async def _ask(self, release: str, packed: Sequence[bytes]) -> list[Found | None]:
        return await asyncio.gather(
            *(self._ask_one(number, release, query) for number, query in enumerate(packed))
        )

    async def _ask_one(self, number: int, release: str, packed: bytes) -> Found | None:
        handle = self._handles[number]
        try:
            items, scores = await self._calls[number].call(
                lambda: handle.search.remote(release, packed), deadline_s=DEADLINE_S
            )
        except (UnavailableError, HTTPException, RayTaskError) as error:
            _log.warning("index shard %d is away, its part is searched here: %s", number, error)
            return None
        return torch.from_numpy(items.copy()), torch.from_numpy(scores.copy())


def pack_query(query: PartQuery) -> bytes:
    """Return a query as bytes: arrays, the mask in bits."""
    mask = None
    if query.allowed is not None:
        mask = (np.packbits(query.allowed.numpy(), axis=-1), query.allowed.shape[-1])
    arrays = (query.users.numpy(), query.k, query.excluded.numpy(), mask)
    return pickle.dumps(arrays, protocol=5)


def unpack_query(packed: bytes) -> PartQuery:
    """Return the query of ``pack_query``.

    Only for what another replica of the same cluster has sent.
    """
    users, k, excluded, mask = pickle.loads(packed)
    allowed = None
    if mask is not None:
        bits = np.unpackbits(mask[0], axis=-1, count=mask[1]).astype(np.bool_)
        allowed = torch.from_numpy(bits)
    return PartQuery(
        users=torch.from_numpy(users), k=k, excluded=torch.from_numpy(excluded), allowed=allowed
    )
