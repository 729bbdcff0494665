"""What is asked of the recommender and what it answers: plain values, no Ray, no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rec.data.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Ask for one list.

    Attributes:
        history: the user's newest events, oldest first; empty asks for a cold-start list.
        k: how many items are wanted.
        exclude: item ids that must not appear.
        filters: attribute name -> allowed values; an item must match every name.
        exclude_seen: leave out items of the history; ``None`` follows the release.
        penalty_weight: the article's lambda; ``None`` follows the release.
        query_embeddings: query text -> float32 ``(D_text,)`` from the release's encoder. Queries
            of the history that are missing here are skipped and reported in ``degraded``.
    """

    history: tuple[Event, ...] = ()
    k: int = 10
    exclude: frozenset[str] = frozenset()
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exclude_seen: bool | None = None
    penalty_weight: float | None = None
    query_embeddings: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedItem:
    """Hold one place of a list.

    Attributes:
        position: 1-based.
        score: ``relevance - sum_k weight_k * penalty_k``; falls with the position.
        source: what proposed the item (``sequence``, ``popularity``).
        propensity: probability that the policy shows this item here; 1.0 without exploration.
        terms: ``relevance`` and every standardised penalty that entered the score.
    """

    item_id: str
    title: str
    position: int
    score: float
    source: str
    propensity: float
    terms: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedList:
    """Hold the answer to one request.

    Attributes:
        items: at most k, fewer only where catalog, filters and exclusions leave fewer.
        degraded: what could not be used, in words a client can match on.
    """

    items: tuple[RankedItem, ...]
    degraded: tuple[str, ...] = ()
