"""Each call as a value, shared by both clients: what is sent, and how its answer is read.

Events get their ``event_id`` and their time here, before anything is sent: a repeat after a lost
answer is then the same event, which the service counts once.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from rec.client import results

T = TypeVar("T")
Event = Mapping[str, Any]
"""``user_id``, ``item_id`` or ``query``; optional ``event_type``, ``timestamp``, ``value``,
``session_id``, ``event_id``, ``impression_id``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """Hold one request."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: Any = None


def recommend(user_id: str | None, **options: Any) -> Call[results.ItemList]:
    """Return the call for a list; options that are ``None`` follow the release."""
    given = {name: value for name, value in options.items() if value is not None}
    body = given if user_id is None else {"user_id": user_id, **given}
    return Call(method="POST", path="/v1/recommend", body=body, read=results.read_list)


def search(query: str, *, user_id: str | None, k: int) -> Call[results.ItemList]:
    """Return the call for what a query finds."""
    body = {"query": query, "k": k} | ({} if user_id is None else {"user_id": user_id})
    return Call(method="POST", path="/v1/search", body=body, read=results.read_list)


def similar(item_id: str, *, k: int) -> Call[results.ItemList]:
    """Return the call for the nearest items."""
    path = f"/v1/items/{_segment(item_id)}/similar?k={k}"
    return Call(method="GET", path=path, read=results.read_list)


def send_events(events: Sequence[Event]) -> Call[results.EventsReceipt]:
    """Return the call that stores events, each with an id and a time."""
    now_ms = time.time_ns() // 1_000_000
    named = [{"event_id": uuid.uuid4().hex, "timestamp": now_ms, **event} for event in events]
    event_ids = [event["event_id"] for event in named]
    return Call(
        method="POST",
        path="/v1/events",
        body={"events": named},
        read=lambda body: results.read_receipt(body, event_ids=event_ids),
    )


def put_item(item_id: str, fields: Mapping[str, Any]) -> Call[results.ItemReceipt]:
    """Return the call that adds an item or replaces it."""
    path = f"/v1/items/{_segment(item_id)}"
    return Call(method="PUT", path=path, body=dict(fields), read=results.read_item_receipt)


def embed(texts: Sequence[str]) -> Call[list[list[float]]]:
    """Return the call for texts' embeddings."""
    body = {"model": "nextray", "input": list(texts)}
    return Call(method="POST", path="/v1/embeddings", body=body, read=results.read_embeddings)


def release() -> Call[results.Release]:
    """Return the call for what answers."""
    return Call(method="GET", path="/v1/release", read=results.read_release)


def _segment(name: str) -> str:
    return quote(name, safe="")
