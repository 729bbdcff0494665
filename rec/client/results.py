"""What a service answers, as values. Fields that a newer service adds are passed over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedItem:
    """Hold one place of a list; ``terms`` are what entered the score."""

    item_id: str
    title: str
    position: int
    score: float
    source: str
    propensity: float
    terms: Mapping[str, float]
    explanation: str | None
    """One or two sentences, where they were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemList:
    """Hold a list, and how it came about.

    Attributes:
        impression_id: to send along with the events that follow from this list.
        degraded: what the service had to do without; empty where all is well.
        timings_ms: by stage.
    """

    request_id: str
    impression_id: str
    release: str
    items: tuple[ListedItem, ...]
    degraded: tuple[str, ...]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """Say which of the sent events was not stored, and why."""

    index: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EventsReceipt:
    """Say what became of events; accepted and duplicate ones are on the service's disk."""

    accepted: int
    duplicates: int
    rejected: tuple[Rejection, ...]
    event_ids: tuple[str, ...]
    """Of all that were sent, in their order; sending them again changes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryRelease:
    """Name the release that answers a share of the users, in (0, 1)."""

    release: str
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """Name what answers."""

    release: str
    items: int
    fingerprint: str
    canary: CanaryRelease | None
    """What answers a share of the users beside it, if anything does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemReceipt:
    """Say what became of an item: ``created``, ``updated`` or ``deleted``."""

    item_id: str
    status: str
    request_id: str


def read_list(body: Mapping[str, Any]) -> ItemList:
    """Return a list from an answer's body."""
    return ItemList(
        request_id=body["request_id"],
        impression_id=body["impression_id"],
        release=body["release"],
        items=tuple(_read_item(item) for item in body["items"]),
        degraded=tuple(body["degraded"]),
        timings_ms=dict(body["timings_ms"]),
    )


def read_receipt(body: Mapping[str, Any], *, event_ids: Sequence[str]) -> EventsReceipt:
    """Return what became of events."""
    return EventsReceipt(
        accepted=body["accepted"],
        duplicates=body["duplicates"],
        rejected=tuple(
            Rejection(index=item["index"], reason=item["reason"]) for item in body["rejected"]
        ),
        event_ids=tuple(event_ids),
    )


def read_release(body: Mapping[str, Any]) -> Release:
    """Return what answers."""
    canary = body.get("canary")
    return Release(
        release=body["release"],
        items=body["items"],
        fingerprint=body["fingerprint"],
        canary=canary and CanaryRelease(release=canary["release"], share=canary["share"]),
    )


def read_item_receipt(body: Mapping[str, Any]) -> ItemReceipt:
    """Return what became of an item."""
    return ItemReceipt(
        item_id=body["item_id"], status=body["status"], request_id=body["request_id"]
    )


def read_embeddings(body: Mapping[str, Any]) -> list[list[float]]:
    """Return embeddings in the order of their texts."""
    return [row["embedding"] for row in sorted(body["data"], key=lambda row: row["index"])]


def _read_item(item: Mapping[str, Any]) -> ListedItem:
    explanation = item.get("explanation")
    return ListedItem(
        item_id=item["item_id"],
        title=item["title"],
        position=item["position"],
        score=item["score"],
        source=item["source"],
        propensity=item["propensity"],
        terms=dict(item["terms"]),
        explanation=explanation["text"] if explanation else None,
    )
