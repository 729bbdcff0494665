"""One list from end to end: history, queries, ranking, impression; each timed, each may fail.

Where a part of the graph is away, the answer says so in ``degraded`` and comes from what is left:
without queries, or by popularity.
"""

import logging
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException

from cluster.serve.calls import UnavailableError
from cluster.serve.event_reading import read_inline_events
from cluster.serve.problems import new_request_id
from cluster.serve.schemas import ListedItem, RecommendAnswer, RecommendBody
from cluster.serve.state import GatewayState, retry_later
from rec.data.events import Impression
from rec.ranking import requests as asking

GATEWAY_TIMEOUT = 504
_log = logging.getLogger(__name__)


async def answer_list(
    state: GatewayState, body: RecommendBody, *, request_id: str
) -> RecommendAnswer:
    """Return a ranked list, logged as an impression.

    Raises:
        HTTPException: 422 for an inline event that is none, 503 where queues are full.
        RecError: the ranker refused the request.
    """
    start = time.perf_counter()
    user_id = None if body.user_id is None else state.stored_id(body.user_id)
    degraded: list[str] = []
    inline = read_inline_events(
        body.events, user_id=user_id or "", known_items=state.release.item_ids
    )
    history = inline
    try:
        history = await state.read_history(user_id, inline)
    except sqlite3.Error:
        _log.exception("the history of a user cannot be read")
        degraded.append("history_unavailable")
    after_history = time.perf_counter()
    queries = list(dict.fromkeys(e.query for e in history if e.item_id is None and e.query))
    embedded: dict[str, Any] = {}
    if queries:
        try:
            rows = await state.encode(queries)
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
        answer = await state.rank(request)
        items: Sequence[asking.RankedItem] = answer.items
        degraded += answer.degraded
    except (UnavailableError, HTTPException) as error:
        # A full queue is told to retry; a silent ranker must not cost the user the list.
        if isinstance(error, HTTPException) and error.status_code != GATEWAY_TIMEOUT:
            raise
        if request.filters:
            raise retry_later("the ranker is away") from error
        items = state.release.popular_items(request)
        degraded.append("ranker_unavailable")
    before_log = time.perf_counter()
    impression = Impression(
        impression_id=new_request_id(),
        request_id=request_id,
        user_id=user_id,
        timestamp_ms=time.time_ns() // 1_000_000,
        item_ids=tuple(item.item_id for item in items),
        positions=tuple(item.position for item in items),
        propensities=tuple(item.propensity for item in items),
        scores=tuple(item.score for item in items),
        release=state.release.name,
    )
    if not await state.log_impression(impression):
        degraded.append("impression_not_logged")
    end = time.perf_counter()
    return RecommendAnswer(
        request_id=request_id,
        impression_id=impression.impression_id,
        release=state.release.name,
        items=listed(items),
        degraded=degraded,
        timings_ms={
            "history": milliseconds(after_history - start),
            "encode": milliseconds(after_encode - after_history),
            "rank": milliseconds(before_log - after_encode),
            "log": milliseconds(end - before_log),
            "total": milliseconds(end - start),
        },
    )


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
        )
        for item in items
    ]


def milliseconds(seconds: float) -> float:
    """Return a duration as answers show it."""
    return round(seconds * 1000, 3)
