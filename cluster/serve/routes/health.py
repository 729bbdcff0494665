"""Probes: is the process up, can it answer, can it read what it needs. They need no key."""

import asyncio
import time

from fastapi import APIRouter, HTTPException

from cluster.serve.calls import UnavailableError
from cluster.serve.schemas import Health
from cluster.serve.state import GatewayState, State, retry_later
from rec.data.events import DEFAULT_EVENT_TYPE, SEARCH, Event
from rec.ranking.feedback.stores import LOG_ERRORS
from rec.ranking.requests import Request

READY_WITHIN_S = 30.0
"""The first answers wait for models that are still being loaded."""
router = APIRouter(tags=["health"])


@router.get("/livez")
async def live() -> Health:
    """Say that the process is up."""
    return Health(status="ok")


@router.get("/readyz")
async def ready(state: State) -> Health:
    """Say that a real recommendation has gone through Encoder and Ranker."""
    if not state.is_ready:
        try:
            await _try_whole_path(state)
        except (UnavailableError, HTTPException) as error:
            raise retry_later("not ready yet") from error
        state.is_ready = True
    return Health(status="ok")


@router.get("/healthz")
async def healthy(state: State) -> Health:
    """Say that the event log can be read and is not being mended; lists go on without it."""
    try:
        await asyncio.to_thread(state.history.history, "", limit=1)
    except LOG_ERRORS as error:
        state.log_care.notice(error)
        raise retry_later("the event log cannot be read") from error
    if state.log_care.is_damaged:
        raise retry_later("the event log is damaged: lists go on, events may be refused")
    return Health(status="ok")


async def _try_whole_path(state: GatewayState) -> None:
    """Make one list for a history of a query and an item, as for a user."""
    query, now_ms = "ready", time.time_ns() // 1_000_000
    rows = await state.encode([query], deadline_s=READY_WITHIN_S)
    search = Event(user_id="", event_type=SEARCH, timestamp_ms=now_ms, query=query)
    view = Event(
        user_id="",
        event_type=DEFAULT_EVENT_TYPE,
        timestamp_ms=now_ms,
        item_id=state.release.popular["item_id"][0],
    )
    request = Request(
        history=(search, view), k=1, query_embeddings={query: rows[0]}, exclude_seen=False
    )
    await state.rank(request, deadline_s=READY_WITHIN_S)
