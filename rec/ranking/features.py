"""Candidates: the union of what the sources propose, described for the ranker by its columns.

Shapes: B users, V items, C candidates of all users together, F columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.data.sequences import Sequences
from rec.ranking.columns import Facts, describe
from rec.ranking.retrieval.own_items import find_own
from rec.ranking.retrieval.sources import SourceTables, score_sources

CANDIDATE_EVENTS = 500
"""Newest events of a history that candidates are found and described by."""
SOURCES = (
    "sequence",
    "personal",
    "accompanies",
    "follows",
    "lifts",
    "neighbors",
    "text",
    "kin",
    "popularity",
    "recent_popularity",
    "newest_popularity",
)
"""What proposes candidates; an item named by several is called by the one that ranks it best."""
SOURCE_NAMES = (*SOURCES, "segment")
"""Beside them, what is popular with users of the same attributes."""
SEGMENT_CODE = SOURCE_NAMES.index("segment")
_QUOTA = (1.0, 1.0, 0.6, 0.4, 0.4, 0.4, 0.3, 0.2, 0.4, 0.4, 0.4)
"""Share of ``num_candidates`` that each source may propose."""
_COLD_SOURCES = ("sequence", "kin", "text")
"""What proposes items without events beside all others: where the whole catalog competes, they
hardly ever come up."""
_COLD_QUOTA = 0.2
"""Share of ``num_candidates`` that each of them may propose."""
_DENSE_SOURCES = ("sequence", "text")
"""Sources that are matrix products: their last bits depend on who else is in the batch."""
_GRID = 1 << 14
"""Steps of 1 that such a score may take. Items of one text are ties then, not ranked by rounding
errors, so that a user's list is the same alone and among others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Hold the candidates of some users, ordered by user, then item.

    Attributes:
        rows: int64 ``(C,)``, the user of each.
        items: int64 ``(C,)``, item index, 1..V.
        sources: int8 ``(C,)``, an index into ``SOURCES``.
        features: float32 ``(C, F)``, columns ``FEATURES``; NaN where there is nothing to say.
        relevance: float32 ``(C,)``, the cosine ``cos(e_u, e_i)``.
    """

    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    sources: NDArray[np.int8]
    features: NDArray[np.float32]
    relevance: NDArray[np.float32]


def find_candidates(
    tables: SourceTables,
    histories: Sequences,
    *,
    cosines: NDArray[np.float32],
    num_candidates: int,
    allowed: NDArray[np.bool_] | None = None,
) -> Candidates:
    """Return the candidates of every user.

    Every user gets at least ``num_candidates`` of them if the catalog has as many allowed items: a
    user with a history by the sequence model, one without by popularity.

    Args:
        tables: what the sources know.
        histories: B users over the tables' items.
        cosines: float32 ``(B, V)``, ``cos(e_u, e_i)``; zeros for a user without events.
        num_candidates: most that one source proposes.
        allowed: bool ``(B, V)``, items that may appear; all if absent.
    """
    scores = {"sequence": cosines, **score_sources(tables, histories)}
    for source in _DENSE_SOURCES:
        scores[source] = _on_grid(scores[source])
    rows, items, sources = _propose(
        tables, histories, scores=scores, num_candidates=num_candidates, allowed=allowed
    )
    facts = Facts(tables=tables, own=find_own(histories), scores=scores, rows=rows, items=items)
    return Candidates(
        rows=rows,
        items=items + 1,
        sources=sources,
        features=describe(facts),
        relevance=cosines[rows, items],
    )


def _on_grid(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores rounded to the grid, as a copy.

    >>> _on_grid(np.float32([0.5, 0.50000006, -np.inf])).tolist()
    [0.5, 0.5, -inf]
    """
    rounded = scores * np.float32(_GRID)
    np.rint(rounded, out=rounded)
    rounded /= np.float32(_GRID)
    return rounded


def _propose(
    tables: SourceTables,
    histories: Sequences,
    *,
    scores: dict[str, NDArray[np.float32]],
    num_candidates: int,
    allowed: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Return users, items (0-based) and sources of the union of all sources' best items."""
    popular = tables.by_popularity
    blocked = None if allowed is None else np.nonzero(~allowed)
    is_cold = torch.from_numpy(histories.lengths == 0)
    num_items = tables.num_items
    found: list[tuple[Tensor, Tensor, int]] = []  # picks (B, n), V = nothing; places (n); source
    for source, quota in zip(SOURCES, _QUOTA, strict=True):
        code = SOURCES.index(source)
        width = min(num_items, max(1, round(quota * num_candidates)))
        if source in popular:
            # Whoever has a history needs only the head; it fills the lists of cold users.
            most = min(num_items, num_candidates) if source == "popularity" else width
            picks, order = _first_allowed(popular[source], allowed, width=most)
            picks = picks.expand(histories.num_users, -1)
            if most > width:
                is_tail = (order >= width) & ~is_cold.unsqueeze(1)
                picks = torch.where(is_tail, num_items, picks)
            found.append((torch.where(order < most, picks, num_items), order, code))
            continue
        values = torch.from_numpy(scores[source])
        if blocked is not None:
            values[blocked] = float("-inf")
        best, picks = values.topk(width, dim=1)
        is_named = best.isfinite() & ~is_cold.unsqueeze(1) if source == "sequence" else best > 0
        found.append((torch.where(is_named, picks, num_items), torch.arange(width), code))
    without_events = torch.from_numpy(np.flatnonzero(tables.counts == 0))
    if len(without_events):
        width = min(len(without_events), max(1, round(_COLD_QUOTA * num_candidates)))
        for source in _COLD_SOURCES:
            best, picks = torch.from_numpy(scores[source])[:, without_events].topk(width, dim=1)
            is_named = best.isfinite() & ~is_cold.unsqueeze(1)
            if source != "sequence":
                is_named &= best > 0
            picks = torch.where(is_named, without_events[picks], num_items)
            found.append((picks, torch.arange(width), SOURCES.index(source)))
    # Sorted by item, then place, then source: the first of each item names its source.
    ordered = (
        torch.cat(
            [(picks * 4096 + places) * len(SOURCES) + code for picks, places, code in found], dim=1
        )
        .sort(dim=1)
        .values
    )
    picked = ordered // (4096 * len(SOURCES))
    is_first = torch.ones_like(picked, dtype=torch.bool)
    is_first[:, 1:] = picked[:, 1:] != picked[:, :-1]
    is_first &= picked < num_items
    rows, columns = torch.nonzero(is_first, as_tuple=True)
    chosen = ordered[rows, columns]
    return (
        rows.numpy(),
        picked[rows, columns].numpy(),
        (chosen % len(SOURCES)).to(torch.int8).numpy(),
    )


def _first_allowed(
    order: NDArray[np.int64], allowed: NDArray[np.bool_] | None, *, width: int
) -> tuple[Tensor, Tensor]:
    """Return the first items of an order, ``(1, n)``, and each one's place among a user's allowed.

    A place is ``width`` or more where the item is not among the user's first ones; ``(B, n)``.
    """
    if allowed is None:
        return torch.from_numpy(order[None, :width].copy()), torch.arange(width).unsqueeze(0)
    hidden = int((~allowed).sum(axis=1).max(initial=0))
    order = order[: min(len(order), width + hidden)]
    is_open = torch.from_numpy(allowed[:, order])
    places = torch.where(is_open, is_open.cumsum(dim=1) - 1, width)
    return torch.from_numpy(order[None, :].copy()), places.clamp(max=width)
