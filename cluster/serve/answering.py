"""One list from end to end: history, queries, ranking, impression; each timed, each may fail.

Where a part of the graph is away, the answer says so in ``degraded`` and comes from what is left:
without queries, or by popularity.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import xxhash
from fastapi import HTTPException

from cluster.serve.calls import DEADLINE_S, TEXT_DEADLINE_S, UnavailableError
from cluster.serve.event_reading import read_inline_events
from cluster.serve.problems import new_request_id
from cluster.serve.schemas import (
    ExplanationAnswer,
    InlineEvent,
    ListedItem,
    RecommendAnswer,
    RecommendBody,
    read_filters,
)
from cluster.serve.served_release import ServedRelease
from cluster.serve.state import GatewayState, Ranked, retry_later
from rec.data.events import Event, Impression
from rec.errors import RecError
from rec.models.segments import attribute_text
from rec.ranking import requests as asking
from rec.ranking.feedback.stores import LOG_ERRORS
from rec.ranking.lists.fatigue import MAX_LISTS, count_shown
from rec.stages.profiles import stored_profile

GATEWAY_TIMEOUT = 504
_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Asker:
    """Hold who asks: what is known of them, and how long it took to know it.

    Attributes:
        user_id: as stored; ``None`` for nobody in particular.
        release: that shall answer: the promoted one, or the canary.
        history: oldest first.
        shown: item id -> times it was shown in vain of late.
        query_embeddings: of the history's queries.
        degraded: what could not be had.
        timings_s: seconds by stage.
        start: when the request was begun, by the performance counter.
    """

    user_id: str | None
    release: ServedRelease
    history: Sequence[Event]
    start: float
    shown: Mapping[str, int] = field(default_factory=dict)
    query_embeddings: dict[str, Any] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)


async def answer_list(
    state: GatewayState, body: RecommendBody, *, request_id: str
) -> RecommendAnswer:
    """Return a ranked list, logged as an impression.

    Raises:
        HTTPException: 422 for an inline event that is none, 503 where queues are full.
        RecError: the ranker refused the request.
    """
    asker = await read_asker(state, body.user_id, body.events)
    await embed_queries(state, asker)
    await read_shown(state, asker)
    request = asking.Request(
        history=tuple(asker.history),
        profile=await read_profile(state, asker, body.profile),
        shown=asker.shown,
        k=body.k,
        exclude=frozenset(body.exclude),
        filters=read_filters(body.filters),
        exclude_seen=body.exclude_seen,
        penalty_weight=body.penalty_weight,
        diversity=body.diversity,
        explain=body.explain,
        language=body.language,
        exploration=body.exploration,
        request_class=body.request_class,
        seed=_seed(request_id),
        query_embeddings=asker.query_embeddings,
    )
    ranked = await rank_or_popular(state, request, release=asker.release)
    return await finish(state, asker, ranked, request_id=request_id, is_shown=body.is_shown)


async def read_asker(
    state: GatewayState, user_id: str | None, inline: Sequence[InlineEvent]
) -> Asker:
    """Return what is held of a user together with the events that came along.

    Raises:
        HTTPException: 422, one of the events is none.
    """
    start = time.perf_counter()
    stored = None if user_id is None else state.stored_id(user_id)
    events = read_inline_events(inline, user_id=stored or "", known_items=state.known_items())
    release = state.releases.of_user(stored)
    asker = Asker(user_id=stored, release=release, history=events, start=start)
    try:
        asker.history = await state.read_history(stored, events)
    except LOG_ERRORS as error:
        state.log_care.notice(error)
        _log.exception("the history of a user cannot be read")
        asker.degraded.append("history_unavailable")
    asker.timings_s["history"] = time.perf_counter() - start
    return asker


async def embed_queries(state: GatewayState, asker: Asker) -> None:
    """Put the embeddings of the history's queries in; without them it is ranked all the same."""
    start = time.perf_counter()
    queries = dict.fromkeys(e.query for e in asker.history if e.item_id is None and e.query)
    wanted = [query for query in queries if query is not None]
    if wanted:
        try:
            rows = await state.encode(wanted)
            asker.query_embeddings = dict(zip(wanted, rows, strict=True))
        except (UnavailableError, HTTPException):
            asker.degraded.append("encoder_unavailable")
    asker.timings_s["encode"] = time.perf_counter() - start


async def read_shown(state: GatewayState, asker: Asker) -> None:
    """Count what was shown to the user in vain; without it, the list is made all the same."""
    if asker.user_id is None or not asker.release.counts_shown:
        return
    start = time.perf_counter()
    try:
        lists = await asyncio.to_thread(state.history.shown_lists, asker.user_id, limit=MAX_LISTS)
    except LOG_ERRORS as error:
        state.log_care.notice(error)
        _log.exception("the impressions of a user cannot be read")
        asker.degraded.append("impressions_unavailable")
        return
    asker.shown = count_shown(lists, asker.history, now_ms=time.time_ns() // 1_000_000)
    asker.timings_s["shown"] = time.perf_counter() - start


async def read_profile(
    state: GatewayState, asker: Asker, given: Mapping[str, bool | int | float | str]
) -> Mapping[str, str]:
    """Return the attributes of a user without events: those that came along, over those stored."""
    if asker.history:
        return {}
    stored: Mapping[str, str] = {}
    table = asker.release.attributes
    if asker.user_id is not None and table is not None:
        try:
            stored = await asyncio.to_thread(stored_profile, state.workspace, table, asker.user_id)
        except (OSError, ValueError, RecError):
            _log.exception("the attributes of a user cannot be read")
            asker.degraded.append("profile_unavailable")
    return {**stored, **{name: attribute_text(value) for name, value in given.items()}}


async def rank_or_popular(
    state: GatewayState, request: asking.Request, *, release: ServedRelease
) -> Ranked:
    """Return the ranker's list, or what is popular where it is away.

    Raises:
        HTTPException: 503 where queues are full, or where only the ranker can answer.
        RecError: the ranker refused the request.
    """
    try:
        return await state.rank(
            request,
            release=release.name,
            deadline_s=TEXT_DEADLINE_S if request.explain else DEADLINE_S,
        )
    except (UnavailableError, HTTPException) as error:
        # A full queue is told to retry; a silent ranker must not cost the user the list.
        if isinstance(error, HTTPException) and error.status_code != GATEWAY_TIMEOUT:
            raise
        if request.filters or request.candidates is not None:
            raise retry_later("the ranker is away") from error
        popular = release.popular_items.list_for(request, known=state.known_items())
        return Ranked(
            release=release.name,
            items=list(popular.items),
            degraded=["ranker_unavailable", *popular.degraded],
        )


async def finish(
    state: GatewayState,
    asker: Asker,
    ranked: Ranked,
    *,
    request_id: str,
    is_shown: bool = True,
) -> RecommendAnswer:
    """Return a list as the contract writes it; one that is shown is logged as an impression."""
    before_log = time.perf_counter()
    impression = Impression(
        impression_id=new_request_id(),
        request_id=request_id,
        user_id=asker.user_id,
        timestamp_ms=time.time_ns() // 1_000_000,
        item_ids=tuple(item.item_id for item in ranked.items),
        positions=tuple(item.position for item in ranked.items),
        propensities=tuple(item.propensity for item in ranked.items),
        scores=tuple(item.score for item in ranked.items),
        release=ranked.release,
    )
    is_logged = await state.log_impression(impression) if is_shown else True
    end = time.perf_counter()
    known = sum(asker.timings_s.values())
    timings_s = {
        **asker.timings_s,
        "rank": before_log - asker.start - known,
        "log": end - before_log,
        "total": end - asker.start,
    }
    answer = RecommendAnswer(
        request_id=request_id,
        impression_id=impression.impression_id,
        release=ranked.release,
        items=listed(ranked.items),
        degraded=[
            *asker.degraded,
            *ranked.degraded,
            *([] if is_logged else ["impression_not_logged"]),
        ],
        timings_ms={name: milliseconds(value) for name, value in timings_s.items()},
    )
    if is_shown:
        state.metrics.count_list(
            answer.release, timings_ms=answer.timings_ms, degraded=answer.degraded
        )
    return answer


def listed(items: Sequence[asking.RankedItem]) -> list[ListedItem]:
    """Return ranked items as the contract writes them."""
    return [
        ListedItem(
            item_id=item.item_id,
            title=item.title,
            position=item.position,
            score=item.score,
            source=item.source,
            propensity=item.propensity,
            terms=dict(item.terms),
            explanation=_explained(item.explanation),
        )
        for item in items
    ]


def _explained(explanation: asking.Explanation | None) -> ExplanationAnswer | None:
    return None if explanation is None else ExplanationAnswer(**asdict(explanation))


def _seed(request_id: str) -> int:
    """Return the seed of what a request draws: its own, the same on every replica."""
    return xxhash.xxh64_intdigest(request_id.encode()) >> 1


def milliseconds(seconds: float) -> float:
    """Return a duration as answers show it."""
    return round(seconds * 1000, 3)
