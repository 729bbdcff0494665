"""The route that shows a user's newest events as the next list will read them."""

import asyncio
from typing import Annotated

import polars as pl
from fastapi import APIRouter, Query
from fastapi import Path as InPath
from pydantic import BaseModel

from cluster.serve.schemas import UserId
from cluster.serve.state import State, retry_later
from rec.ranking.feedback.stores import LOG_ERRORS

router = APIRouter(tags=["users"])


class HistoryEvent(BaseModel):
    """One event of a history."""

    item_id: str | None
    title: str | None
    """As the release has it; ``None`` for a search and for an item that came after the release."""
    query: str | None
    event_type: str
    timestamp_ms: int


class HistoryAnswer(BaseModel):
    """A user's newest events, newest first."""

    user_id: str
    events: list[HistoryEvent]


@router.get("/v1/users/{user_id:path}/history")
async def get_history(
    state: State,
    user_id: Annotated[UserId, InPath()],
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> HistoryAnswer:
    """Return a user's newest events, newest first; none for an unknown user."""
    stored = state.stored_id(user_id)
    try:
        events = await asyncio.to_thread(state.history.history, stored, limit=limit)
    except LOG_ERRORS as error:
        state.log_care.notice(error)
        raise retry_later("the history cannot be read") from error
    named = {event.item_id for event in events if event.item_id is not None}
    popular = state.release.popular
    rows = popular.filter(pl.col("item_id").is_in(sorted(named))).select("item_id", "title")
    titles = dict(rows.iter_rows())
    return HistoryAnswer(
        user_id=user_id,
        events=[
            HistoryEvent(
                item_id=event.item_id,
                title=titles.get(event.item_id),
                query=event.query,
                event_type=event.event_type,
                timestamp_ms=event.timestamp_ms,
            )
            for event in reversed(events)
        ],
    )
