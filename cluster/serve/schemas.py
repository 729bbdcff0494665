"""The HTTP contract as types: what may come in, and what goes out."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

ItemId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]
UserId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Query = Annotated[str, Field(min_length=1, max_length=512)]


class _Strict(BaseModel):
    """Refuse fields that nobody reads: a misspelt one must not pass in silence."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class InlineEvent(_Strict):
    """One act that the caller tells along with a request."""

    item_id: ItemId | None = None
    query: Query | None = None
    event_type: Name | None = None
    timestamp: int | float | str | None = None


class FeedbackEvent(InlineEvent):
    """One act to store."""

    user_id: UserId
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    session_id: Annotated[str, Field(max_length=256)] | None = None
    event_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    impression_id: Annotated[str, Field(max_length=256)] | None = None


class EventsBody(_Strict):
    """Feedback: 1 to 1000 events."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"events": [{"user_id": "7", "item_id": "1029743", "event_type": "purchase"}]}
            ]
        },
    )
    events: Annotated[list[FeedbackEvent], Field(min_length=1, max_length=1000)]


class RecommendBody(_Strict):
    """Ask for a list."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "7", "k": 5}]}
    )
    user_id: UserId | None = None
    events: Annotated[list[InlineEvent], Field(max_length=200)] = []
    k: Annotated[int, Field(ge=1, le=100)] = 10
    filters: Annotated[dict[Name, list[str]], Field(max_length=10)] = {}
    exclude: Annotated[list[ItemId], Field(max_length=1000)] = []
    penalty_weight: Annotated[float, Field(ge=0, le=10)] | None = None
    exclude_seen: bool | None = None


class ListedItem(BaseModel):
    """One place of a list."""

    item_id: str
    title: str
    position: int
    score: float
    source: str
    propensity: float
    terms: dict[str, float]


class RecommendAnswer(BaseModel):
    """A list, and how it came about."""

    request_id: str
    impression_id: str
    release: str
    items: list[ListedItem]
    degraded: list[str]
    timings_ms: dict[str, float]


class Rejection(BaseModel):
    """Why one event was not stored."""

    index: int
    reason: str


class EventsAnswer(BaseModel):
    """What became of the events; accepted ones are durable."""

    accepted: int
    duplicates: int
    rejected: list[Rejection]


class ReleaseAnswer(BaseModel):
    """Which release answers."""

    release: str
    items: int
    fingerprint: str


class Health(BaseModel):
    """Whether something is as it should be."""

    status: Literal["ok"]


class Problem(BaseModel):
    """An error as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
