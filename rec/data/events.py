"""The data contract: events, items and impressions, and their Arrow schemas.

One schema serves logs and feedback, so that what serving writes is what the next ``prepare``
reads. ``timestamp_ms`` is int64, milliseconds since 1970 in UTC.
"""

from dataclasses import dataclass

import pyarrow as pa

SEARCH = "search"
"""The one event type that may come without an item: its ``query`` is its content."""

DEFAULT_EVENT_TYPE = "view"

EVENT_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("query", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("impression_id", pa.string()),
    ]
)

IMPRESSION_SCHEMA = pa.schema(
    [
        pa.field("impression_id", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("positions", pa.list_(pa.int32()), nullable=False),
        pa.field("propensities", pa.list_(pa.float64()), nullable=False),
        pa.field("scores", pa.list_(pa.float64()), nullable=False),
        pa.field("release", pa.string(), nullable=False),
    ]
)

ITEM_TEXT_COLUMNS = ("title", "text", "category", "tags")
"""Columns that the encoder may read; every other one is an attribute usable in filters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Hold one act of one user at one time.

    ``item_id`` is ``None`` only for ``search``. ``event_id`` is the idempotency key.
    """

    user_id: str
    event_type: str
    timestamp_ms: int
    item_id: str | None = None
    query: str | None = None
    value: float | None = None
    session_id: str | None = None
    event_id: str | None = None
    impression_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Impression:
    """Hold one shown list: which items stood where, and how likely the policy was to do so."""

    impression_id: str
    request_id: str
    user_id: str | None
    timestamp_ms: int
    item_ids: tuple[str, ...]
    positions: tuple[int, ...]
    propensities: tuple[float, ...]
    scores: tuple[float, ...]
    release: str
