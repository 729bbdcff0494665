"""What is asked of the recommender and what it answers: plain values, no Ray, no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rec.data.events import Event

Language = Literal["en", "zh"]
"""Languages that explanations are written in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Say what an attribute of an item must be; what is absent bounds nothing.

    Attributes:
        any_of: values of which an item must have one.
        none_of: values of which it may have none; an item without any value has none.
        least: smallest number allowed; an item without a number is left out.
        most: largest number allowed, likewise.
    """

    any_of: tuple[str, ...] | None = None
    none_of: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Ask for one list.

    Attributes:
        history: the user's newest events, oldest first; empty asks for a cold-start list.
        k: how many items are wanted.
        exclude: item ids that must not appear.
        filters: attribute name -> allowed values, or a condition; an item must match every name.
        exclude_seen: leave out items of the history; ``None`` follows the release.
        penalty_weight: the article's lambda; ``None`` follows the release.
        diversity: 0 orders by score alone, 1 by unlikeness alone; ``None`` follows the release.
        explain: say for every item why it is there.
        language: of the explanations; ``None`` follows the catalog's titles.
        exploration: probability that the tail of the list is drawn instead of sorted; ``None``
            follows the release.
        request_class: what kind of request it is, for instance ``home``; the release may explore
            more or less where it does not say itself.
        seed: of what exploration draws; equal requests of equal seed get equal lists.
        shown: item id -> times it was shown to the user of late and not taken.
        query_embeddings: query text -> float32 ``(D_text,)`` from the release's encoder. Queries
            of the history that are missing here are skipped and reported in ``degraded``.
        profile: the user's attributes, name -> value as text. They choose the segment whose
            popularity a user without events gets; with events they change nothing.
        candidates: item ids to choose from; ``None`` for the whole catalog.
    """

    history: tuple[Event, ...] = ()
    k: int = 10
    exclude: frozenset[str] = frozenset()
    filters: Mapping[str, tuple[str, ...] | Condition] = field(default_factory=dict)
    exclude_seen: bool | None = None
    penalty_weight: float | None = None
    diversity: float | None = None
    explain: bool = False
    language: Language | None = None
    exploration: float | None = None
    request_class: str | None = None
    seed: int = 0
    shown: Mapping[str, int] = field(default_factory=dict)
    query_embeddings: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    profile: Mapping[str, str] = field(default_factory=dict)
    candidates: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """Ask for the items that a text describes.

    Attributes:
        text: float32 ``(D_text,)``, the query's embedding by the release's encoder.
        request: the user's history and what bounds the list; seen items are left out only where
            it says so.
        personal_weight: how much ``cos(e_u, e_i)`` adds to the cosine of the texts, >= 0.
    """

    text: NDArray[np.float32]
    request: Request
    personal_weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Hold what a user did with one item, or one query, that an item of the list rests on.

    Attributes:
        item_id: the item; ``None`` for a query.
        title: the item's title, or the query.
        event_type: of the newest of these events.
        timestamp_ms: of the newest of these events.
        num_events: how many there were, of any type.
        num_of_type: how many of them were of ``event_type``: the number that a sentence may say.
        effect: by how much the listed item's relevance falls if they are left out; above 0.
        shared: attribute -> values that both items have (``category``, ``tags``, ``words``, ...).
    """

    item_id: str | None
    title: str
    event_type: str
    timestamp_ms: int
    num_events: int
    num_of_type: int
    effect: float
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Say why an item is in a list.

    Attributes:
        text: one or two sentences of plain text, without markup and control characters.
        language: of ``text``.
        evidence: what the item rests on, most first; empty for a user without events.
        is_generated: a language model wrote the text, and it passed the check against the
            evidence; else it is a template's.
    """

    text: str
    language: Language
    evidence: tuple[Evidence, ...] = ()
    is_generated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedItem:
    """Hold one place of a list.

    Attributes:
        position: 1-based.
        score: ``relevance - sum_k weight_k * penalty_k``; falls with the position unless diversity,
            exploration or a rule has moved the item.
        source: what proposed the item (``sequence``, ``popularity``, ...; ``pinned`` by a rule).
        propensity: probability that the policy shows this item here; 1.0 without exploration.
        terms: ``relevance`` and every standardised penalty that entered the score.
        explanation: why it is here, where the request asked.
    """

    item_id: str
    title: str
    position: int
    score: float
    source: str
    propensity: float
    terms: Mapping[str, float]
    explanation: Explanation | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedList:
    """Hold the answer to one request.

    Attributes:
        items: at most k; where they are fewer, ``degraded`` says why.
        degraded: what could not be used or kept, in words a client can match on.
    """

    items: tuple[RankedItem, ...]
    degraded: tuple[str, ...] = ()
