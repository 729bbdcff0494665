"""The Ranker deployment: histories to lists, batched over requests."""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from cluster.serve.batching import Batcher
from cluster.serve.index_shards import ShardHandles
from cluster.serve.metrics import Metrics, shared_folder
from cluster.serve.observing import log_as_json
from cluster.serve.tracing import span
from cluster.serve.wire import PlainList, plain, unpack
from rec.data.events import Event
from rec.errors import RecError
from rec.ranking.explanations.interests import Interests
from rec.ranking.feedback.stores import LOG_ERRORS, open_feedback
from rec.ranking.following import FollowedRelease
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Language, RankedList, Request, SearchRequest
from rec.ranking.retrieval.sharding import SHARD_UNAVAILABLE, noting_lost_parts

FOLLOW_S = 0.2
"""Between looks at ``current`` and at the item changes: two small reads."""
STOPS_WITHIN_S = 5
"""A look that is under way is let end; a release that is being loaded is not waited for."""
_WARM_UP_TITLES = 50
"""Enough to meet each language of a catalog."""
MAX_BATCH = 32
"""Requests answered at once: a batch of 32 takes about four times what one does."""
R = TypeVar("R")
Answered = tuple[str, RankedList] | RecError
Ask = Callable[[Recommender, Sequence[R]], list[RankedList]]
_log = logging.getLogger(__name__)


class Ranker:
    """Answer with the whole request path of the promoted release."""

    def __init__(
        self, workspace: str, fingerprint: str, num_threads: int, shards: Sequence[Any] = ()
    ) -> None:
        """Load the release and answer once, so that the first user does not wait.

        Args:
            workspace: root of the artifacts.
            fingerprint: of the encoder that runs beside.
            num_threads: of torch.
            shards: handles that hold the index in parts; without any it is searched here.
        """
        torch.set_num_threads(num_threads)
        root = Path(workspace)
        self._feedback = open_feedback(root)
        handles = ShardHandles(shards)
        self._followed = FollowedRelease(
            root,
            fingerprint=fingerprint,
            changes=self._feedback.changes,
            spread=handles.index if shards else None,
        )
        self._followed.recommender().recommend([Request(k=1)])
        if shards:
            handles.open(asyncio.get_running_loop())
        self._recommend_batched = Batcher(self._recommend_batch, max_size=MAX_BATCH)
        self._search_batched = Batcher(self._search_batch, max_size=MAX_BATCH)
        self._metrics = Metrics(shared_folder(root))
        log_as_json()
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="follow release", daemon=True)
        self._follower.start()

    async def recommend(
        self, packed: bytes, release: str | None = None, trace: str | None = None
    ) -> PlainList:
        """Return the list of a request from ``cluster.serve.wire``, and its release's name.

        Args:
            packed: the request.
            release: the one that is wanted; where it is not here, the promoted one answers.
            trace: of the request, where it is sampled.
        """
        return _raised(await self._one(packed, release, trace))

    async def recommend_each(
        self, asked: Sequence[tuple[bytes, str | None, str | None]]
    ) -> list[PlainList | RecError]:
        """Return for each request what ``recommend`` would, or the error that it would raise."""
        return await asyncio.gather(*(self._one(*one) for one in asked))

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

    async def search(
        self, request: SearchRequest, release: str | None = None, trace: str | None = None
    ) -> PlainList:
        """Return what a text has found, and its release's name; see ``recommend``."""
        with span(trace, "Ranker.search"):
            found = await self._search_batched((request, release))
            return _raised(found if isinstance(found, RecError) else plain(*found))

    async def similar(self, item_id: str, k: int, trace: str | None = None) -> PlainList:
        """Return the release's name and the nearest items."""

        def find() -> PlainList:
            recommender = self._followed.recommender()
            with noting_lost_parts() as lost:
                found = recommender.similar(item_id, k=k)
            return plain(recommender.release, _said(found, lost))

        with span(trace, "Ranker.similar"):
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
        self._follower.join(STOPS_WITHIN_S)
        self._feedback.close()

    async def _one(
        self, packed: bytes, release: str | None, trace: str | None
    ) -> PlainList | RecError:
        request = unpack(packed)
        with span(trace, "Ranker.recommend"):
            found = await self._recommend_batched((request, release))
            if isinstance(found, RecError):
                return found
            name, answer = found
            if request.explain and self._followed.recommender(name).narrator is not None:
                # After the batch: its other lists must not wait for a language model.
                answer = await asyncio.to_thread(self._narrate, name, answer)
            return plain(name, answer)

    def _recommend_batch(self, asked: Sequence[tuple[Request, str | None]]) -> list[Answered]:
        self._metrics.count_batch("Ranker", len(asked))
        with noting_lost_parts() as lost:
            answers = self._by_release(
                asked, lambda recommender, mine: recommender.recommend(mine, is_narrated=False)
            )
        return [
            one if isinstance(one, RecError) else (one[0], _said(one[1], lost)) for one in answers
        ]

    def _search_batch(self, asked: Sequence[tuple[SearchRequest, str | None]]) -> list[Answered]:
        return self._by_release(asked, lambda recommender, mine: recommender.search(mine))

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

    def _by_release(self, asked: Sequence[tuple[R, str | None]], ask: Ask[R]) -> list[Answered]:
        """Return one answer for each, those of one release made together."""
        places: dict[str | None, list[int]] = {}
        for place, (_, release) in enumerate(asked):
            places.setdefault(release, []).append(place)
        answers: dict[int, Answered] = {}
        for release, mine in places.items():
            recommender = self._followed.recommender(release)
            found = _answer(recommender, [asked[place][0] for place in mine], ask)
            answers.update(zip(mine, found, strict=True))
        return [answers[place] for place in range(len(asked))]

    def _narrate(self, name: str, answer: RankedList) -> RankedList:
        recommender = self._followed.recommender(name)
        if recommender.release != name:
            return answer
        narrated = recommender.narrate(answer)
        self._count_narrations(recommender)
        return narrated

    def _count_narrations(self, recommender: Recommender) -> None:
        if recommender.narrator is not None:
            for outcome, number in recommender.narrator.take_counts().items():
                self._metrics.count_narrations(outcome, number)

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


def _answer(recommender: Recommender, requests: Sequence[R], ask: Ask[R]) -> list[Answered]:
    """Return a list or an error for each: one bad request must not spoil its neighbours."""
    try:
        return [(recommender.release, found) for found in ask(recommender, requests)]
    except RecError as error:
        if len(requests) == 1:
            return [error]
        return [found for request in requests for found in _answer(recommender, [request], ask)]


def _said(answer: RankedList, lost: Collection[int]) -> RankedList:
    """Return a list that says if a part of its index was searched in place of a lost shard."""
    if not lost:
        return answer
    return replace(answer, degraded=(SHARD_UNAVAILABLE, *answer.degraded))


def _raised(answer: PlainList | RecError) -> PlainList:
    if isinstance(answer, RecError):
        raise answer
    return answer
