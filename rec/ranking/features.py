"""Candidates and their features: the union of what the sources propose, described for the ranker.

Shapes: B users, V items, C candidates of all users together, F features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.data.sequences import Sequences
from rec.models.transitions import ties_back
from rec.ranking.sources import SourceTables, score_sources

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
RANKED = (
    "sequence",
    "personal",
    "accompanies",
    "follows",
    "lifts",
    "neighbors",
    "text",
    "kin",
)
"""Sources whose rank among the user's candidates is a feature beside their score."""
_COLD_SOURCES = ("sequence", "kin", "text")
"""What proposes items without events beside all others: where the whole catalog competes, they
hardly ever come up."""
_COLD_QUOTA = 0.2
"""Share of ``num_candidates`` that each of them may propose."""
FEATURES = (
    *RANKED,
    *(f"{name}_rank" for name in RANKED),
    "popularity_rank",
    "category",
    "popularity",
    "recent_popularity",
    "current_popularity",
    "newest_popularity",
    "trend",
    "item_age",
    "item_idle",
    "item_users",
    "item_repeat_share",
    "item_repeat_gap",
    "kin_popularity",
    "own_count",
    "own_share",
    "own_idle",
    "own_ties_back",
    "own_idle_over_gap",
    "own_last_type",
    "history_length",
    "history_repeat_share",
    "user_idle",
)
"""Columns of the ranker's input. Times are log seconds up to the user's *now*: the end of the log
or the user's newest event, whichever is later, so that a list does not depend on the clock."""


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
    scores = {"sequence": cosines.copy(), **score_sources(tables, histories)}
    rows, items, sources = _propose(
        tables, histories, scores=scores, num_candidates=num_candidates, allowed=allowed
    )
    features = _describe(tables, histories, scores=scores, rows=rows, items=items)
    return Candidates(
        rows=rows,
        items=items + 1,
        sources=sources,
        features=features,
        relevance=cosines[rows, items],
    )


def _propose(
    tables: SourceTables,
    histories: Sequences,
    *,
    scores: dict[str, NDArray[np.float32]],
    num_candidates: int,
    allowed: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Return users, items (0-based) and sources of the union of all sources' best items."""
    shares = tables.log_shares
    # A short window ties most items: the longer ones decide between them.
    fine = 1e-3 * shares[:, 0]
    popular = {
        "popularity": shares[:, 0],
        "recent_popularity": shares[:, 1] + fine,
        "newest_popularity": shares[:, 3] + 1e-2 * shares[:, 2] + fine,
    }
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
    values: NDArray[np.float32], allowed: NDArray[np.bool_] | None, *, width: int
) -> tuple[Tensor, Tensor]:
    """Return the best items, ``(1, n)``, and each one's place among a user's allowed ones.

    A place is ``width`` or more where the item is not among the user's first ones; ``(B, n)``.
    """
    order = np.argsort(-values, kind="stable")
    if allowed is None:
        return torch.from_numpy(order[None, :width].copy()), torch.arange(width).unsqueeze(0)
    hidden = int((~allowed).sum(axis=1).max(initial=0))
    order = order[: min(len(order), width + hidden)]
    is_open = torch.from_numpy(allowed[:, order])
    places = torch.where(is_open, is_open.cumsum(dim=1) - 1, width)
    return torch.from_numpy(order[None, :].copy()), places.clamp(max=width)


def _describe(
    tables: SourceTables,
    histories: Sequences,
    *,
    scores: dict[str, NDArray[np.float32]],
    rows: NDArray[np.int64],
    items: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return the features of candidates ``(rows, items)``, float32 ``(C, F)``."""
    own = histories.select_events(histories.is_item)
    owners, tokens = own.rows(), own.tokens - 1
    num_users, num_items = own.num_users, tables.num_items
    newest_ms = np.zeros(num_users, dtype=np.int64)
    has_any = own.lengths > 0
    newest_ms[has_any] = own.timestamps_ms[own.offsets[1:][has_any] - 1]
    now_ms = np.maximum(newest_ms, tables.end_ms)

    # What the user had of each candidate: the newest event on it, and how many.
    keys = owners * num_items + tokens
    unique, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    newest_event = np.zeros(len(unique), dtype=np.int64)
    newest_event[inverse] = np.arange(len(keys))  # the last assignment wins: the newest
    wanted = rows * num_items + items
    place = np.minimum(np.searchsorted(unique, wanted), max(0, len(unique) - 1))
    had = unique[place] == wanted if len(unique) else np.zeros(len(wanted), dtype=np.bool_)
    event = newest_event[place[had]] if len(unique) else np.zeros(0, dtype=np.int64)

    def mine(values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the newest own event's values at the candidates, NaN where there is none."""
        column = np.full(len(wanted), np.nan, dtype=np.float32)
        column[had] = values[event]
        return column

    own_idle = mine(_log_s(now_ms[owners] - own.timestamps_ms))
    own_count = np.zeros(len(wanted), dtype=np.float32)
    own_count[had] = counts[place[had]]
    lengths = own.lengths
    distinct = np.bincount(unique // num_items, minlength=num_users) if len(unique) else lengths
    repeats = 1 - distinct / np.maximum(lengths, 1)
    user_idle = np.where(has_any, _log_s(now_ms - newest_ms), np.nan)
    shares = tables.log_shares[items]  # (C, W)
    starts = np.searchsorted(rows, np.arange(num_users + 1))
    named = {name: scores[name][rows, items] for name in RANKED}
    columns = (
        *named.values(),
        *(_rank(value, rows=rows, starts=starts) for value in named.values()),
        _rank(shares[:, 1] + 1e-3 * shares[:, 0], rows=rows, starts=starts),
        scores["category"][rows, items],
        *shares.T,
        shares[:, 2] - shares[:, 0],
        _log_s(now_ms[rows] - tables.first_ms[items]),
        np.where(tables.last_ms[items] >= 0, _log_s(now_ms[rows] - tables.last_ms[items]), np.nan),
        np.log1p(tables.num_users[items]),
        1 - tables.num_users[items] / np.maximum(tables.counts[items], 1),
        tables.repeat_gap[items],
        np.log(np.exp(tables.log_shares[:, 0]) @ tables.kin + 1e-9)[items],
        own_count,
        own_count / np.maximum(lengths[rows], 1),
        own_idle,
        mine(ties_back(own)),
        own_idle - tables.repeat_gap[items],
        mine(own.event_types),
        np.log1p(lengths)[rows],
        repeats[rows],
        user_idle[rows],
    )
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)


def _log_s(milliseconds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log of seconds, negative ones counting as 0."""
    result: NDArray[np.float64] = np.log1p(np.maximum(milliseconds, 0) / 1000)
    return result


def _rank(
    values: NDArray[np.float32], *, rows: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return each candidate's 0-based rank within its user, best first, equals sharing the best.

    Args:
        values: float32 ``(C,)``.
        rows: ascending user rows.
        starts: where each user's candidates begin, ``(B + 1,)``.
    """
    order = np.lexsort((-values, rows))
    place = np.arange(len(order)) - starts[rows[order]]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (np.diff(values[order]) != 0) | (np.diff(rows[order]) != 0)
    leader = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
    ranks = np.empty(len(order), dtype=np.float32)
    ranks[order] = place[leader]
    return ranks
