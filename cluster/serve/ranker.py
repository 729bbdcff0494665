"""The Ranker deployment: histories to lists, batched over requests."""

import asyncio
from pathlib import Path

import torch
from ray import serve

from rec.errors import RecError
from rec.ranking.recommender import Recommender
from rec.ranking.requests import RankedList, Request


class Ranker:
    """Answer with the whole request path of one release."""

    def __init__(self, release: str, num_threads: int) -> None:
        """Load the release and answer once, so that the first user does not wait."""
        torch.set_num_threads(num_threads)
        self._recommender = Recommender.load(Path(release))
        self._recommender.recommend([Request(k=1)])
        # 2 ms: a batch of two costs little more than one, and nobody waits long for company.
        batch = serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
        self._recommend_batched = batch(self._recommend_batch)

    async def recommend(self, request: Request) -> tuple[str, RankedList]:
        """Return the release's name and the list."""
        answer = await self._recommend_batched(request)
        if isinstance(answer, RecError):
            raise answer
        return self._recommender.release, answer

    async def similar(self, item_id: str, k: int) -> tuple[str, RankedList]:
        """Return the release's name and the nearest items."""
        found = await asyncio.to_thread(self._recommender.similar, item_id, k=k)
        return self._recommender.release, found

    async def _recommend_batch(self, requests: list[Request]) -> list[RankedList | RecError]:
        return await asyncio.to_thread(self._answer, requests)

    def _answer(self, requests: list[Request]) -> list[RankedList | RecError]:
        """Return a list or an error for each: one bad request must not spoil its neighbours."""
        try:
            return list(self._recommender.recommend(requests))
        except RecError as error:
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self._answer([request])]
