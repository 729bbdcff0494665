"""A batch of users: what each asked for, and the lists that came of it.

Shapes: B users, k places, X pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rec.ranking.lists.scoring import POPULARITY
from rec.ranking.retrieval.candidates import Found


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Hold what each user of a batch asked for, all ``(B,)``."""

    num_places: NDArray[np.int64]
    hides_seen: NDArray[np.bool_]
    penalty_weight: NDArray[np.float32]
    diversity: NDArray[np.float32]
    exploration: NDArray[np.float64]
    seeds: NDArray[np.int64]
    keeps_new: NDArray[np.bool_]

    def select(self, rows: NDArray[np.int64]) -> "Asked":
        """Return what the users at ``rows`` asked for."""
        return Asked(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedBatch:
    """Hold the lists of many users; empty places have item 0.

    Attributes:
        items: int64 ``(B, k)`` item indexes.
        scores: float32 ``(B, k)``, falling along k unless something re-ranked the list.
        relevance: float32 ``(B, k)``: the ranker's log-odds; without a ranker the cosine, and for
            users without events the popularity in 0..1.
        penalties: name -> float32 ``(B, k)``, standardised; see :mod:`rec.ranking.lists.penalties`.
        sources: int8 ``(B, k)``, indexes into ``SOURCE_NAMES``; -1 for a pinned item.
        propensities: float64 ``(B, k)``, 1.0 without exploration.
        notes: for each user, why the list is not what was asked for.
        is_quota: bool ``(B, k)``, the item has the place by the quota of new items alone.
        is_cold: bool ``(B,)``, the user has no events.
        candidates: what the lists were taken from.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    relevance: NDArray[np.float32]
    penalties: Mapping[str, NDArray[np.float32]]
    sources: NDArray[np.int8]
    propensities: NDArray[np.float64]
    notes: tuple[tuple[str, ...], ...]
    is_quota: NDArray[np.bool_]
    is_cold: NDArray[np.bool_]
    candidates: Found

    @property
    def penalty(self) -> NDArray[np.float32]:
        """Return the standardised popularity, float32 ``(B, k)``."""
        return self.penalties[POPULARITY]


def join_batches(parts: Sequence[RankedBatch]) -> RankedBatch:
    """Return the batches of consecutive users as one."""
    if len(parts) == 1:
        return parts[0]
    stacked = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in (
            "items", "scores", "relevance", "sources", "propensities", "is_quota", "is_cold",
        )
    }  # fmt: skip
    penalties = {
        name: np.concatenate([part.penalties[name] for part in parts])
        for name in parts[0].penalties
    }
    return RankedBatch(
        **stacked,
        penalties=penalties,
        notes=tuple(note for part in parts for note in part.notes),
        candidates=Found.stack([part.candidates for part in parts]),
    )


def pairs_of(pairs: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the columns of consecutive rows, counted from the first of them."""
    if not len(rows):
        return pairs[:, :0]
    mine = pairs[:, (pairs[0] >= rows[0]) & (pairs[0] <= rows[-1])].copy()
    mine[0] -= rows[0]
    return mine


def pairs_with(num_users: int, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every pair of a user row and one of some items, int64 ``(2, X)``."""
    return np.stack([np.repeat(np.arange(num_users), len(items)), np.tile(items, num_users)])
