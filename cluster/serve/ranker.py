"""The Ranker deployment: histories to lists, batched over requests."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from ray import serve

from cluster.serve.metrics import Metrics, shared_folder
from rec.data.events import Event
from rec.errors import RecError
from rec.ranking.feedback import LOG_ERRORS, open_feedback
from rec.ranking.following import FollowedRelease
from rec.ranking.interests import Interests
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Language, RankedList, Request, SearchRequest

FOLLOW_S = 0.2
"""Between looks at ``current`` and at the item changes: two small reads."""
_WARM_UP_TITLES = 50
"""Enough to meet each language of a catalog."""
R = TypeVar("R")
_log = logging.getLogger(__name__)


class Ranker:
    """Answer with the whole request path of the promoted release."""

    def __init__(self, workspace: str, fingerprint: str, num_threads: int) -> None:
        """Load the release and answer once, so that the first user does not wait."""
        torch.set_num_threads(num_threads)
        root = Path(workspace)
        self._feedback = open_feedback(root)
        self._followed = FollowedRelease(
            root, fingerprint=fingerprint, changes=self._feedback.changes
        )
        self._followed.recommender().recommend([Request(k=1)])
        # 2 ms: a batch of two costs little more than one, and nobody waits long for company.
        batch = serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
        self._recommend_batched = batch(self._recommend_batch)
        self._search_batched = batch(self._search_batch)
        self._metrics = Metrics(shared_folder(root))
        self._stop = threading.Event()
        threading.Thread(target=self._follow, name="follow release", daemon=True).start()

    async def recommend(self, request: Request) -> tuple[str, RankedList]:
        """Return the release's name and the list."""
        name, answer = _raised(await self._recommend_batched(request))
        if request.explain and self._followed.recommender().narrator is not None:
            # After the batch: its other lists must not wait for a language model.
            answer = await asyncio.to_thread(self._narrate, answer)
        return name, answer

    async def interests(
        self, history: Sequence[Event], language: Language | None
    ) -> tuple[str, Interests]:
        """Return the release's name and what a user's events are about."""

        def find() -> tuple[str, Interests]:
            recommender = self._followed.recommender()
            found = recommender.interests(history, language=language)
            self._count_narrations(recommender)
            return recommender.release, found

        return await asyncio.to_thread(find)

    async def search(self, request: SearchRequest) -> tuple[str, RankedList]:
        """Return the release's name and what a text has found."""
        return _raised(await self._search_batched(request))

    async def similar(self, item_id: str, k: int) -> tuple[str, RankedList]:
        """Return the release's name and the nearest items."""

        def find() -> tuple[str, RankedList]:
            recommender = self._followed.recommender()
            return recommender.release, recommender.similar(item_id, k=k)

        return await asyncio.to_thread(find)

    async def load_aside(self, name: str) -> str:
        """Load a release without answering from it; return its name.

        Raises:
            ArtifactError: it cannot be served here.
        """
        await asyncio.to_thread(self._followed.load_aside, name)
        return name

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._feedback.close()

    async def _recommend_batch(self, requests: list[Request]) -> list[Any]:
        self._metrics.count_batch("Ranker", len(requests))
        return await asyncio.to_thread(
            self._answer, requests, lambda r, asked: r.recommend(asked, is_narrated=False)
        )

    async def _search_batch(self, requests: list[SearchRequest]) -> list[Any]:
        return await asyncio.to_thread(self._answer, requests, lambda r, asked: r.search(asked))

    def _warm_up(self) -> None:
        """Read some titles for words, so that nobody waits while a dictionary is loaded."""
        recommender = self._followed.recommender()
        step = max(1, len(recommender.item_ids) // _WARM_UP_TITLES)
        recommender.interests(
            [
                Event(user_id="", event_type="", timestamp_ms=0, item_id=item_id)
                for item_id in recommender.item_ids[::step]
            ]
        )

    def _narrate(self, answer: RankedList) -> RankedList:
        recommender = self._followed.recommender()
        narrated = recommender.narrate(answer)
        self._count_narrations(recommender)
        return narrated

    def _count_narrations(self, recommender: Recommender) -> None:
        if recommender.narrator is not None:
            for outcome, number in recommender.narrator.take_counts().items():
                self._metrics.count_narrations(outcome, number)

    def _answer(
        self, requests: Sequence[R], ask: Callable[[Any, Sequence[R]], list[RankedList]]
    ) -> list[tuple[str, RankedList] | RecError]:
        """Return a list or an error for each: one bad request must not spoil its neighbours."""
        recommender = self._followed.recommender()
        try:
            return [(recommender.release, found) for found in ask(recommender, requests)]
        except RecError as error:
            if len(requests) == 1:
                return [error]
            return [found for request in requests for found in self._answer([request], ask)]

    def _follow(self) -> None:
        """Keep up in the background, so that requests seldom wait for it."""
        self._warm_up()
        while not self._stop.wait(FOLLOW_S):
            try:
                self._followed.poll()
                self._followed.recommender()
            except (RecError, OSError, ValueError, *LOG_ERRORS):
                if not self._stop.is_set():
                    _log.exception("cannot follow the release")


def _raised(answer: tuple[str, RankedList] | RecError) -> tuple[str, RankedList]:
    if isinstance(answer, RecError):
        raise answer
    return answer
