"""Candidates of a request: by all sources and the ranker's log-odds, or by cosine alone.

Shapes: B users, V items, C candidates per user, D width, k places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from rec.data.sequences import Sequences
from rec.ranking.features import CANDIDATE_EVENTS, SEGMENT_CODE, SOURCES, find_candidates
from rec.ranking.ranker import Ranker
from rec.ranking.release import ReleaseFiles
from rec.ranking.retrieval.index import ItemIndex
from rec.ranking.retrieval.sources import SourceTables

_BLOCK_CELLS = 1 << 22
"""Scores of one source held at once: 16 MB, a dozen sources beside each other."""
_SEQUENCE, _POPULARITY = SOURCES.index("sequence"), SOURCES.index("popularity")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Hold candidates before scoring, all ``(B, C)``: item 0 and ``-inf`` where there is none.

    Attributes:
        items: int64, item indexes.
        relevance: float32: the ranker's log-odds; without a ranker the cosine, and for users
            without events the popularity in 0..1.
        sources: int8, indexes into ``SOURCE_NAMES``.
    """

    items: Tensor
    relevance: Tensor
    sources: Tensor

    def of_user(self, row: int) -> "Found":
        """Return one user's candidates, without empty places."""
        is_there = self.items[row] > 0
        return Found(
            items=self.items[row, is_there].unsqueeze(0),
            relevance=self.relevance[row, is_there].unsqueeze(0),
            sources=self.sources[row, is_there].unsqueeze(0),
        )

    def before(self, others: "Found") -> "Found":
        """Return these candidates and behind them others, of the same users."""
        return Found(
            items=torch.cat([self.items, others.items], dim=1),
            relevance=torch.cat([self.relevance, others.relevance], dim=1),
            sources=torch.cat([self.sources, others.sources], dim=1),
        )

    def joined(self, others: "Found") -> "Found":
        """Return these candidates and behind them others, of the same users, each item once."""
        is_known = (others.items.unsqueeze(2) == self.items.unsqueeze(1)).any(dim=2)
        return self.before(
            Found(
                items=others.items.masked_fill(is_known, 0),
                relevance=others.relevance.masked_fill(is_known, float("-inf")),
                sources=others.sources,
            )
        )

    @staticmethod
    def stack(parts: Sequence["Found"]) -> "Found":
        """Return the candidates of consecutive users as one batch."""
        width = max(part.items.shape[1] for part in parts)

        def join(name: str, fill: float) -> Tensor:
            tables = [getattr(part, name) for part in parts]
            return torch.cat(
                [pad(table, (0, width - table.shape[1]), value=fill) for table in tables]
            )

        return Found(
            items=join("items", 0),
            relevance=join("relevance", float("-inf")),
            sources=join("sources", 0),
        )


def _lifted(found: Found, lift: NDArray[np.float32], *, by_ranker: bool) -> Found:
    """Return one user's candidates with the segment's say: log-odds plus the log, else times it."""
    own = torch.from_numpy(lift)[(found.items - 1).clamp(min=0)]
    return replace(
        found,
        relevance=found.relevance + own.log() if by_ranker else found.relevance * own,
        sources=torch.full_like(found.sources, SEGMENT_CODE),
    )


class CandidateFinder:
    """Find what one release proposes to a user."""

    def __init__(self, files: ReleaseFiles, index: ItemIndex) -> None:
        self._files = files
        self._index = index
        by_index = files.counts.sort("item_index")
        self._popularity = torch.from_numpy(by_index["cold_score"].to_numpy().copy())  # (V,)

    def find(
        self,
        histories: Sequences,
        users: Tensor,
        *,
        k: int,
        hides_seen: NDArray[np.bool_],
        hidden: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None,
        lifts: Mapping[int, NDArray[np.float32]] | None = None,
    ) -> Found:
        """Return everyone's candidates: by the ranker where it has trees, else by cosine.

        Args:
            histories: B users over the release's items.
            users: float32 ``(B, D)``, e_u.
            k: fewest candidates wanted of each user.
            hides_seen: bool ``(B,)``, picks the ranker's trees; ``hidden`` says what is left out.
            hidden: int64 ``(2, X)``, pairs of row and item index that must not appear.
            allowed: bool ``(V,)`` or ``(B, V)``, items that may appear; all if absent.
            lifts: row -> float32 ``(V,)`` of users without events who are in a segment.
        """
        lifts = lifts or {}
        ranker, tables = self._files.ranker, self._files.tables
        known = set() if ranker is None or tables is None else set(ranker.trees)
        modes = np.where(hides_seen, "new", "all")
        modes[~np.isin(modes, list(known))] = ""
        own_rows = np.asarray(sorted(lifts), dtype=np.int64)
        in_segment = np.isin(np.arange(histories.num_users), own_rows)
        blocks = []
        size = max(1, _BLOCK_CELLS // max(1, self._files.items.height))
        groups = [
            (mode, np.flatnonzero((modes == mode) & ~in_segment)) for mode in np.unique(modes)
        ]
        groups += [(modes[row], np.asarray([row])) for row in own_rows.tolist()]
        for mode, rows in groups:
            for start in range(0, len(rows), size):
                picks = rows[start : start + size]
                lift = lifts.get(int(picks[0]))
                place = np.full(histories.num_users, -1)
                place[picks] = np.arange(len(picks))
                mine = hidden[:, place[hidden[0]] >= 0]
                mine = np.stack([place[mine[0]], mine[1]])
                mask = allowed[picks] if allowed is not None and allowed.ndim == 2 else allowed
                chosen = histories.select_users(picks)
                if lift is not None:
                    mask = self._best_of_segment(lift, k=k, hidden=mine, allowed=mask)
                if mode and ranker is not None and tables is not None:
                    found = self._by_ranker(
                        ranker, tables, chosen, users[picks], mode=str(mode), k=k,
                        hidden=mine, allowed=mask,
                    )  # fmt: skip
                else:
                    found = self._by_cosine(
                        users[picks], chosen.lengths == 0, k=k, hidden=mine, allowed=mask
                    )
                if lift is not None:
                    found = _lifted(found, lift, by_ranker=bool(mode))
                blocks.append((picks, found))
        width = max((found.items.shape[1] for _, found in blocks), default=0)
        shape = (histories.num_users, width)
        merged = Found(
            items=torch.zeros(shape, dtype=torch.int64),
            relevance=torch.full(shape, float("-inf")),
            sources=torch.zeros(shape, dtype=torch.int8),
        )
        for picks, found in blocks:
            span = slice(0, found.items.shape[1])
            merged.items[picks, span] = found.items
            merged.relevance[picks, span] = found.relevance
            merged.sources[picks, span] = found.sources
        return merged

    def _best_of_segment(
        self,
        lift: NDArray[np.float32],
        *,
        k: int,
        hidden: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None,
    ) -> NDArray[np.bool_]:
        """Return the items that are most popular with a segment, bool ``(1, V)``.

        By its own taste, or what only the segment likes would never be a candidate.
        """
        scores = (self._popularity + 1e-6).numpy() * lift
        if allowed is not None:
            scores = np.where(np.broadcast_to(allowed, (1, len(lift)))[0], scores, -np.inf)
        scores[hidden[1] - 1] = -np.inf
        width = min(len(scores), max(k, self._files.ranking.num_candidates))
        best = np.argsort(-scores, kind="stable")[:width]
        mask = np.zeros((1, len(scores)), dtype=np.bool_)
        mask[0, best] = np.isfinite(scores[best])
        return mask

    def find_given(
        self,
        histories: Sequences,
        users: Tensor,
        *,
        items: NDArray[np.int64],
        hides_seen: NDArray[np.bool_],
        hidden: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found:
        """Return given items as everyone's candidates, in the order given, ``(B, len(items))``.

        Left out are the pairs ``hidden`` and what is not ``allowed``: their places hold item 0, at
        the end. The sources are -1.
        """
        num_items = self._files.items.height
        given = np.zeros(num_items, dtype=np.bool_)
        given[items - 1] = True
        mask = given if allowed is None else given & allowed
        found = self.find(
            histories, users, k=len(items), hides_seen=hides_seen, hidden=hidden, allowed=mask
        )
        wanted = torch.from_numpy(items)
        column_of = torch.full((num_items + 1,), len(items))
        column_of[wanted] = torch.arange(len(items))
        values = torch.full((histories.num_users, len(items) + 1), float("-inf"))
        values = values.scatter(1, column_of[found.items], found.relevance)[:, :-1]
        is_there = values.isfinite()
        order = (~is_there).to(torch.int8).argsort(dim=1, stable=True)
        return Found(
            items=torch.where(is_there, wanted, 0).gather(1, order),
            relevance=values.gather(1, order),
            sources=torch.full(values.shape, -1, dtype=torch.int8),
        )

    def _by_ranker(
        self,
        ranker: Ranker,
        tables: SourceTables,
        histories: Sequences,
        users: Tensor,
        *,
        mode: str,
        k: int,
        hidden: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None,
    ) -> Found:
        """Return the candidates of all sources, with the ranker's log-odds."""
        shape = (histories.num_users, self._files.items.height)
        mask = np.ones(shape, np.bool_) if allowed is None else np.broadcast_to(allowed, shape)
        mask = mask.copy()
        mask[hidden[0], hidden[1] - 1] = False
        candidates = find_candidates(
            tables,
            histories.newest(CANDIDATE_EVENTS),
            cosines=(users @ self._files.embeddings.T).numpy(),
            num_candidates=max(k, self._files.ranking.num_candidates),
            allowed=mask,
        )
        log_odds = ranker.log_odds(
            candidates.features, mode=mode, num_threads=torch.get_num_threads()
        )
        counts = np.bincount(candidates.rows, minlength=histories.num_users)
        columns = np.arange(len(candidates.rows)) - (np.cumsum(counts) - counts)[candidates.rows]
        width = int(counts.max(initial=0))
        items = torch.zeros((histories.num_users, width), dtype=torch.int64)
        relevance = torch.full(items.shape, float("-inf"))
        sources = torch.zeros(items.shape, dtype=torch.int8)
        items[candidates.rows, columns] = torch.from_numpy(candidates.items)
        relevance[candidates.rows, columns] = torch.from_numpy(log_odds)
        sources[candidates.rows, columns] = torch.from_numpy(candidates.sources)
        return Found(items=items, relevance=relevance, sources=sources)

    def _by_cosine(
        self,
        users: Tensor,
        is_cold: NDArray[np.bool_],
        *,
        k: int,
        hidden: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None,
    ) -> Found:
        """Return the nearest items, and the most popular ones for users without events."""
        excluded = torch.from_numpy(hidden)
        mask = None if allowed is None else torch.from_numpy(allowed)
        num_candidates = max(k, self._files.ranking.num_candidates)
        items, relevance = self._index.search(
            users, k=num_candidates, excluded=excluded, allowed=mask
        )
        sources = torch.full(items.shape, _SEQUENCE, dtype=torch.int8)
        cold = torch.from_numpy(is_cold)
        if bool(cold.any()):
            scores = self._popularity.expand(len(users), -1).clone()
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            scores[excluded[0], excluded[1] - 1] = float("-inf")
            best, picks = scores[cold].topk(items.shape[1], dim=1)
            items[cold] = torch.where(best.isfinite(), picks + 1, 0)
            relevance[cold] = best
            sources[cold] = _POPULARITY
        return Found(items=items, relevance=relevance, sources=sources)
