"""Callers' events to ours: each becomes an event, or the reason why it is none."""

import time
from collections.abc import Container, Sequence
from dataclasses import replace

import polars as pl
from fastapi import HTTPException

from cluster.serve.schemas import FeedbackEvent, InlineEvent
from rec.data.cleaning import FUTURE_TOLERANCE_MS
from rec.data.event_ids import content_event_id
from rec.data.events import DEFAULT_EVENT_TYPE, SEARCH, Event
from rec.data.scrubbing import stored_query
from rec.data.timestamps import to_timestamp_ms


def read_event(
    item: InlineEvent, *, user_id: str, known_items: Container[str], now_ms: int
) -> Event | str:
    """Return the event that a caller means, or the reason why it is none.

    Its query is in the form that the log stores, normalised and without what names a person.

    Args:
        item: what came.
        user_id: as stored.
        known_items: ids of the catalog.
        now_ms: stands in for an absent time; nothing may lie far after it.
    """
    query = stored_query(item.query)
    has_query = item.query is not None and item.item_id is None
    event_type = item.event_type or (SEARCH if has_query else DEFAULT_EVENT_TYPE)
    if event_type == SEARCH and item.item_id is None and query is None:
        return "search_without_query"
    if event_type != SEARCH and item.item_id is None:
        return "missing_item_id"
    if item.item_id is not None and item.item_id not in known_items:
        return "unknown_item"
    stamp = now_ms if item.timestamp is None else _timestamp_ms(item.timestamp)
    if stamp is None:
        return "bad_timestamp"
    if stamp <= 0:
        return "zero_timestamp" if stamp == 0 else "negative_timestamp"
    if stamp > now_ms + FUTURE_TOLERANCE_MS:
        return "future_timestamp"
    event = Event(
        user_id=user_id,
        event_type=event_type,
        timestamp_ms=stamp,
        item_id=item.item_id,
        query=query,
    )
    if isinstance(item, FeedbackEvent):
        event = replace(
            event,
            value=item.value,
            session_id=item.session_id,
            event_id=item.event_id,
            impression_id=item.impression_id,
        )
    return replace(event, event_id=event.event_id or content_event_id(event))


def read_inline_events(
    inline: Sequence[InlineEvent], *, user_id: str, known_items: Container[str]
) -> list[Event]:
    """Return the events of a request, oldest first.

    Raises:
        HTTPException: 422, one of them is none.
    """
    events: list[Event] = []
    now_ms = time.time_ns() // 1_000_000
    for index, item in enumerate(inline):
        made = read_event(item, user_id=user_id, known_items=known_items, now_ms=now_ms)
        if not isinstance(made, Event):
            raise HTTPException(422, f"events.{index}: {made}")
        events.append(made)
    return sorted(events, key=lambda event: event.timestamp_ms)


def _timestamp_ms(value: int | float | str) -> int | None:
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return None
    stamp = to_timestamp_ms(pl.Series([value]))[0]
    return None if stamp is None else int(stamp)
