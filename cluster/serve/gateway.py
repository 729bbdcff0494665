"""The Gateway deployment: HTTP in, HTTP out, and the user's history in between.

Stateless but for the files it opens: any replica answers any request. It loads no model; texts go
to the Encoder, histories to the Ranker. Where one of them is away, the answer says so in
``degraded`` and comes from what is left: without queries, or by popularity.
"""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from fastapi import Body, FastAPI, HTTPException, Query, Request
from fastapi import Path as InPath

from cluster.serve.border import MAX_BODY_BYTES, Border
from cluster.serve.calls import DEADLINE_S, UnavailableError, Upstream
from cluster.serve.keys import KeyRing
from cluster.serve.problems import add_problem_handlers, new_request_id, request_id_of
from cluster.serve.schemas import (
    EventsAnswer,
    EventsBody,
    FeedbackEvent,
    Health,
    InlineEvent,
    ItemId,
    ListedItem,
    Problem,
    RecommendAnswer,
    RecommendBody,
    Rejection,
    ReleaseAnswer,
    UserId,
)
from rec.data.cleaning import FUTURE_TOLERANCE_MS
from rec.data.event_ids import content_event_id
from rec.data.events import DEFAULT_EVENT_TYPE, SEARCH, Event, Impression
from rec.data.privacy import load_or_create_key, pseudonym
from rec.data.timestamps import to_timestamp_ms
from rec.ranking import requests as asking
from rec.ranking.event_log import LOG_FILE, EventLog
from rec.ranking.group_commit import GroupCommit
from rec.ranking.history import HistoryStore
from rec.ranking.release import POPULARITY_FILE, RELEASE_FILE
from rec.stages.preparation import KEY_FILE

HISTORY_EVENTS = 1000
"""Newest events read of a user: what is left out as seen, and more than a tower reads."""
ENCODE_WITHIN_S = 1.0
"""A list without the queries in time is better than one with them too late."""
LOG_WITHIN_S = 0.25
"""Many times what a commit takes; a list later than this would be worse than an unlogged one."""
GATEWAY_TIMEOUT = 504
READY_WITHIN_S = 30.0
"""The first answers wait for models that are still being loaded."""
_log = logging.getLogger(__name__)


class Gateway:
    """Answer the HTTP contract."""

    def __init__(self, encoder: Any, ranker: Any, workspace: str, release: str) -> None:
        self._encoder = encoder
        self._ranker = ranker
        root, folder = Path(workspace), Path(release)
        settings = json.loads((folder / RELEASE_FILE).read_text(encoding="utf-8"))
        self.release = folder.name
        self._keys = KeyRing(root)
        self._fingerprint = settings["fingerprint"]
        self._popular = pl.read_parquet(folder / POPULARITY_FILE)
        self._item_ids = frozenset(self._popular["item_id"].to_list())
        self._pseudonym_key = (
            load_or_create_key(root / KEY_FILE) if settings["pseudonymized"] else None
        )
        log = EventLog(root / LOG_FILE)
        self._history = HistoryStore(log)
        self._commits = GroupCommit(log)
        self._excludes_seen = bool(settings["ranking"]["exclude_seen"])
        self._encoder_calls = Upstream("encoder")
        self._ranker_calls = Upstream("ranker")
        self._is_ready = False
        self._background: set[asyncio.Task[None]] = set()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return this replica's HTTP application; Serve asks for it after the constructor."""
        api = FastAPI(
            title="nextray",
            version="0.1.0",
            description="Next item, on Ray: ranked lists that change with the user's last event.",
            responses={
                status: {"model": Problem}
                for status in (
                    401,
                    403,
                    404,
                    413,
                    422,
                    503,
                    504,
                )  # every error is a problem document
            },
        )
        api.add_middleware(Border, keys=self._keys.scopes, max_bytes=MAX_BODY_BYTES)
        add_problem_handlers(api)
        api.post("/v1/recommend")(self.recommend)
        api.get("/v1/users/{user_id:path}/recommendations")(self.recommend_user)
        api.post("/v1/events")(self.add_events)
        api.get("/v1/items/{item_id:path}/similar")(self.similar)
        api.get("/v1/release")(self.get_release)
        api.get("/livez")(self.live)
        api.get("/readyz")(self.ready)
        api.get("/healthz")(self.healthy)
        return api

    async def recommend(self, body: RecommendBody, request: Request) -> RecommendAnswer:
        """Return a ranked list for a user, for inline events, or for both."""
        return await self._answer(body, request_id=request_id_of(request))

    async def recommend_user(
        self,
        user_id: Annotated[UserId, InPath()],
        request: Request,
        k: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> RecommendAnswer:
        """Return a ranked list for a user."""
        body = RecommendBody(user_id=user_id, k=k)
        return await self._answer(body, request_id=request_id_of(request))

    async def add_events(
        self,
        body: EventsBody | Annotated[list[FeedbackEvent], Body(min_length=1, max_length=1000)],
    ) -> EventsAnswer:
        """Store events; they are durable before the answer, and the next list reflects them."""
        sent = body.events if isinstance(body, EventsBody) else body
        now_ms = time.time_ns() // 1_000_000
        events: list[Event] = []
        rejected: list[Rejection] = []
        for index, item in enumerate(sent):
            made = self._event(item, user_id=self._stored_id(item.user_id), now_ms=now_ms)
            if isinstance(made, Event):
                events.append(made)
            else:
                rejected.append(Rejection(index=index, reason=made))
        accepted = duplicates = 0
        if events:
            try:
                accepted, duplicates = await self._commits.append(events)
            except sqlite3.Error as error:
                _log.exception("the event log refused a group")
                raise HTTPException(
                    503, "the event log cannot write: nothing was stored", {"Retry-After": "1"}
                ) from error
        return EventsAnswer(accepted=accepted, duplicates=duplicates, rejected=rejected)

    async def similar(
        self,
        item_id: Annotated[ItemId, InPath()],
        request: Request,
        k: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> RecommendAnswer:
        """Return the items nearest to one item."""
        if item_id not in self._item_ids:
            raise HTTPException(404, f"no item {item_id!r} in the catalog")
        start = time.perf_counter()
        try:
            found = await self._ask_ranker(lambda: self._ranker.similar.remote(item_id, k))
        except UnavailableError as error:
            raise HTTPException(503, "the ranker is away", {"Retry-After": "1"}) from error
        return RecommendAnswer(
            request_id=request_id_of(request),
            impression_id=new_request_id(),
            release=self.release,
            items=_listed(found.items),
            degraded=[],
            timings_ms={"total": _since_ms(start)},
        )

    async def get_release(self) -> ReleaseAnswer:
        """Return which release answers."""
        return ReleaseAnswer(
            release=self.release, items=len(self._item_ids), fingerprint=self._fingerprint
        )

    async def live(self) -> Health:
        """Say that the process is up."""
        return Health(status="ok")

    async def ready(self) -> Health:
        """Say that a real recommendation has gone through Encoder and Ranker."""
        if not self._is_ready:
            try:
                await self._try_whole_path()
            except (UnavailableError, HTTPException) as error:
                raise HTTPException(503, "not ready yet", {"Retry-After": "1"}) from error
            self._is_ready = True
        return Health(status="ok")

    async def healthy(self) -> Health:
        """Say that the event log can be read."""
        try:
            await asyncio.to_thread(self._history.history, "", limit=1)
        except sqlite3.Error as error:
            raise HTTPException(
                503, "the event log cannot be read", {"Retry-After": "1"}
            ) from error
        return Health(status="ok")

    async def _try_whole_path(self) -> None:
        """Make one list for a history of a query and an item, as for a user."""
        query, now_ms = "ready", time.time_ns() // 1_000_000
        rows = await self._encoder_calls.call(
            lambda: self._encoder.encode.remote([query]), deadline_s=READY_WITHIN_S
        )
        search = Event(user_id="", event_type=SEARCH, timestamp_ms=now_ms, query=query)
        view = Event(
            user_id="",
            event_type=DEFAULT_EVENT_TYPE,
            timestamp_ms=now_ms,
            item_id=self._popular["item_id"][0],
        )
        request = asking.Request(
            history=(search, view), k=1, query_embeddings={query: rows[0]}, exclude_seen=False
        )
        await self._rank(request, deadline_s=READY_WITHIN_S)

    async def _answer(self, body: RecommendBody, *, request_id: str) -> RecommendAnswer:
        start = time.perf_counter()
        user_id = None if body.user_id is None else self._stored_id(body.user_id)
        degraded: list[str] = []
        inline = self._inline_events(body.events, user_id=user_id or "")
        history = inline
        try:
            history = await self._read_history(user_id, inline)
        except sqlite3.Error:
            _log.exception("the history of a user cannot be read")
            degraded.append("history_unavailable")
        after_history = time.perf_counter()
        queries = list(dict.fromkeys(e.query for e in history if e.item_id is None and e.query))
        embedded: dict[str, Any] = {}
        if queries:
            try:
                rows = await self._encoder_calls.call(
                    lambda: self._encoder.encode.remote(queries), deadline_s=ENCODE_WITHIN_S
                )
                embedded = dict(zip(queries, rows, strict=True))
            except (UnavailableError, HTTPException):
                degraded.append("encoder_unavailable")
        after_encode = time.perf_counter()
        request = asking.Request(
            history=tuple(history),
            k=body.k,
            exclude=frozenset(body.exclude),
            filters={name: tuple(values) for name, values in body.filters.items()},
            exclude_seen=body.exclude_seen,
            penalty_weight=body.penalty_weight,
            query_embeddings=embedded,
        )
        try:
            answer = await self._rank(request)
            items: Sequence[asking.RankedItem] = answer.items
            degraded += answer.degraded
        except (UnavailableError, HTTPException) as error:
            # A full queue is told to retry; a silent ranker must not cost the user the list.
            if isinstance(error, HTTPException) and error.status_code != GATEWAY_TIMEOUT:
                raise
            items = self._popular_items(request)
            degraded.append("ranker_unavailable")
        impression = Impression(
            impression_id=new_request_id(),
            request_id=request_id,
            user_id=user_id,
            timestamp_ms=time.time_ns() // 1_000_000,
            item_ids=tuple(item.item_id for item in items),
            positions=tuple(item.position for item in items),
            propensities=tuple(item.propensity for item in items),
            scores=tuple(item.score for item in items),
            release=self.release,
        )
        before_log = time.perf_counter()
        if not await self._log_impression(impression):
            degraded.append("impression_not_logged")
        end = time.perf_counter()
        return RecommendAnswer(
            request_id=request_id,
            impression_id=impression.impression_id,
            release=self.release,
            items=_listed(items),
            degraded=degraded,
            timings_ms={
                "history": _ms(after_history - start),
                "encode": _ms(after_encode - after_history),
                "rank": _ms(before_log - after_encode),
                "log": _ms(end - before_log),
                "total": _ms(end - start),
            },
        )

    async def _rank(
        self, request: asking.Request, *, deadline_s: float = DEADLINE_S
    ) -> asking.RankedList:
        return await self._ask_ranker(
            lambda: self._ranker.recommend.remote(request), deadline_s=deadline_s
        )

    async def _ask_ranker(
        self, send: Callable[[], Any], *, deadline_s: float = DEADLINE_S
    ) -> asking.RankedList:
        """Return the ranker's list; a list of another release is asked for once more."""
        for _ in range(2):
            release, answer = await self._ranker_calls.call(send, deadline_s=deadline_s)
            if release == self.release:
                found: asking.RankedList = answer
                return found
        raise HTTPException(503, "a new release is being rolled out", {"Retry-After": "1"})

    async def _read_history(self, user_id: str | None, inline: Sequence[Event]) -> list[Event]:
        """Return what is held of a user and what came along, oldest first."""
        events: list[Event] = []
        if user_id is not None:
            events = await asyncio.to_thread(self._history.history, user_id, limit=HISTORY_EVENTS)
        return sorted([*events, *inline], key=lambda event: event.timestamp_ms)

    def _inline_events(self, inline: Sequence[InlineEvent], *, user_id: str) -> list[Event]:
        """Return the events of a request, oldest first; one that is none is the caller's error."""
        events: list[Event] = []
        now_ms = time.time_ns() // 1_000_000
        for index, item in enumerate(inline):
            made = self._event(item, user_id=user_id, now_ms=now_ms)
            if not isinstance(made, Event):
                raise HTTPException(422, f"events.{index}: {made}")
            events.append(made)
        return sorted(events, key=lambda event: event.timestamp_ms)

    def _event(self, item: InlineEvent, *, user_id: str, now_ms: int) -> Event | str:
        """Return the event that a caller means, or the reason why it is none."""
        has_query = item.query is not None and item.item_id is None
        event_type = item.event_type or (SEARCH if has_query else DEFAULT_EVENT_TYPE)
        if event_type == SEARCH and item.item_id is None and item.query is None:
            return "search_without_query"
        if event_type != SEARCH and item.item_id is None:
            return "missing_item_id"
        if item.item_id is not None and item.item_id not in self._item_ids:
            return "unknown_item"
        stamp = now_ms if item.timestamp is None else _timestamp_ms(item.timestamp)
        if stamp is None:
            return "bad_timestamp"
        if stamp <= 0:
            return "zero_timestamp" if stamp == 0 else "negative_timestamp"
        if stamp > now_ms + FUTURE_TOLERANCE_MS:
            return "future_timestamp"
        extra: dict[str, Any] = {}
        if isinstance(item, FeedbackEvent):
            extra = {
                "value": item.value,
                "session_id": item.session_id,
                "event_id": item.event_id,
                "impression_id": item.impression_id,
            }
        event = Event(
            user_id=user_id,
            event_type=event_type,
            timestamp_ms=stamp,
            item_id=item.item_id,
            query=item.query,
            **extra,
        )
        if event.event_id is not None:
            return event
        extra["event_id"] = content_event_id(event)
        return Event(
            user_id=user_id,
            event_type=event_type,
            timestamp_ms=stamp,
            item_id=item.item_id,
            query=item.query,
            **extra,
        )

    def _stored_id(self, user_id: str) -> str:
        return user_id if self._pseudonym_key is None else pseudonym(user_id, self._pseudonym_key)

    async def _log_impression(self, impression: Impression) -> bool:
        """Return whether an impression is durable; a disk that is slow or broken costs no list."""
        task = asyncio.create_task(self._commits.append_impressions([impression]))
        # A late write is finished all the same, and its error is read by the callback.
        self._background.add(task)
        task.add_done_callback(self._finish_log)
        try:
            await asyncio.wait_for(asyncio.shield(task), LOG_WITHIN_S)
        except (TimeoutError, sqlite3.Error):
            return False
        return True

    def _finish_log(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("an impression was not logged", exc_info=task.exception())

    def _popular_items(self, request: asking.Request) -> list[asking.RankedItem]:
        """Return popular items; filters need the catalog and are refused here."""
        if request.filters:
            raise HTTPException(503, "the ranker is away", {"Retry-After": "1"})
        hides_seen = self._excludes_seen if request.exclude_seen is None else request.exclude_seen
        seen = {event.item_id for event in request.history} if hides_seen else set()
        hidden = seen | request.exclude
        rows = (
            row
            for row in self._popular.select("item_id", "title", "cold_score").iter_rows()
            if row[0] not in hidden
        )
        return [
            asking.RankedItem(
                item_id=item_id,
                title=title,
                position=position,
                score=float(relevance),
                source="popularity",
                propensity=1.0,
                terms={"relevance": float(relevance)},
            )
            for position, (item_id, title, relevance) in zip(
                range(1, request.k + 1), rows, strict=False
            )
        ]


def _listed(items: Sequence[asking.RankedItem]) -> list[ListedItem]:
    return [
        ListedItem(
            item_id=item.item_id,
            title=item.title,
            position=item.position,
            score=item.score,
            source=item.source,
            propensity=item.propensity,
            terms=dict(item.terms),
        )
        for item in items
    ]


def _timestamp_ms(value: int | float | str) -> int | None:
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return None
    stamp = to_timestamp_ms(pl.Series([value]))[0]
    return None if stamp is None else int(stamp)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _since_ms(start: float) -> float:
    return _ms(time.perf_counter() - start)
