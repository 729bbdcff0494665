"""One index in parts: each part is searched elsewhere, and the answers merge into the one.

A part is a stretch of the release's items. It never changes while the release lives, so whoever
holds it need not follow anything. Items that came or moved since stand beside the parts, as they
do beside an approximate structure, and are searched here. The embeddings are here too: a part that
nobody answers for is searched here as well, which gives the same list, later.

Filters, exclusions and what has moved are masks inside each part's search, so that the best k of
all lie among the best k of each.

Shapes: B users, V items, D width, k places, P items of a part.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rec.ranking.retrieval.index import ExactIndex

SHARD_UNAVAILABLE = "index_shard_unavailable"
"""A part was searched by who asked, because whoever holds it did not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartQuery:
    """Ask for the best items of one part.

    Attributes:
        users: float32 ``(B, D)``.
        k: places.
        excluded: int64 ``(2, X)``, pairs of user row and item index within the part, from 1.
        allowed: bool ``(P,)`` or ``(B, P)``; all if absent.
    """

    users: Tensor
    k: int
    excluded: Tensor
    allowed: Tensor | None


Found = tuple[Tensor, Tensor]
"""Items and scores, as :meth:`rec.ranking.retrieval.index.ExactIndex.search` returns them."""
AskParts = Callable[[Sequence[PartQuery]], Sequence[Found | None]]
"""Ask for every part at once, in order; ``None`` where nobody answers."""
_lost: ContextVar[set[int] | None] = ContextVar("lost parts", default=None)


class ShardedIndex:
    """Search the parts of a release's items, and beside them what they do not know."""

    def __init__(
        self,
        items: Tensor,
        *,
        bounds: Sequence[tuple[int, int]],
        ask: AskParts,
        moved: Tensor | None = None,
    ) -> None:
        """Hold who answers for the parts.

        Args:
            items: e_i as they are now, float32 ``(V, D)`` normalised.
            bounds: of each part, of ``part_bounds``; what comes after the last is new.
            ask: finds the best of each part.
            moved: int64, 0-based rows that the parts hold as they were before.
        """
        self.items = items
        self._bounds = bounds
        self._ask = ask
        num_known = bounds[-1][1]
        old = torch.zeros(0, dtype=torch.int64) if moved is None else moved
        self._beside = torch.cat([old, torch.arange(num_known, len(items))]).sort().values
        self._is_known = torch.ones(num_known, dtype=torch.bool)
        self._is_known[old] = False

    def with_items(self, items: Tensor, *, moved: Tensor) -> "ShardedIndex":
        """Return the same parts under items that were appended (at the end) or have moved."""
        return ShardedIndex(items, bounds=self._bounds, ask=self._ask, moved=moved)

    def search(
        self, users: Tensor, *, k: int, excluded: Tensor, allowed: Tensor | None = None
    ) -> Found:
        """Return items and scores as :meth:`rec.ranking.retrieval.index.ExactIndex.search` does."""
        width = min(k, len(self.items))
        queries = [
            self._query(users, slice(start, end), k=width, excluded=excluded, allowed=allowed)
            for start, end in self._bounds
        ]
        found, scores = [], []
        for number, ((start, end), query, answer) in enumerate(
            zip(self._bounds, queries, self._ask(queries), strict=True)
        ):
            if answer is None:
                answer = search_part(self.items[start:end], query)
                if (noted := _lost.get()) is not None:
                    noted.add(number)
            found.append(torch.where(answer[0] > 0, answer[0] + start, 0))
            scores.append(answer[1])
        if len(self._beside):
            beside = self._search_beside(users, k=width, excluded=excluded, allowed=allowed)
            found.append(beside[0])
            scores.append(beside[1])
        return _best(torch.cat(found, dim=1), torch.cat(scores, dim=1), width=width)

    def _query(
        self, users: Tensor, part: slice, *, k: int, excluded: Tensor, allowed: Tensor | None
    ) -> PartQuery:
        mask = None if allowed is None else allowed[..., part]
        known = self._is_known[part]
        if not bool(known.all()):
            mask = known if mask is None else mask & known
        mine = (excluded[1] > part.start) & (excluded[1] <= part.stop)
        pairs = torch.stack([excluded[0][mine], excluded[1][mine] - part.start])
        return PartQuery(users=users, k=k, excluded=pairs, allowed=mask)

    def _search_beside(
        self, users: Tensor, *, k: int, excluded: Tensor, allowed: Tensor | None
    ) -> Found:
        place = torch.zeros(len(self.items) + 1, dtype=torch.int64)
        place[self._beside + 1] = torch.arange(1, len(self._beside) + 1)
        mine = place[excluded[1]] > 0
        found, scores = search_part(
            self.items[self._beside],
            PartQuery(
                users=users,
                k=k,
                excluded=torch.stack([excluded[0][mine], place[excluded[1][mine]]]),
                allowed=None if allowed is None else allowed[..., self._beside],
            ),
        )
        named = torch.cat([torch.zeros(1, dtype=torch.int64), self._beside + 1])
        return named[found], scores


def part_bounds(num_items: int, *, num_parts: int) -> list[tuple[int, int]]:
    """Return the 0-based first and last-but-one row of each part, as even as can be.

    >>> part_bounds(10, num_parts=3)
    [(0, 3), (3, 6), (6, 10)]
    """
    ends = [num_items * number // num_parts for number in range(num_parts + 1)]
    return list(pairwise(ends))


def search_part(items: Tensor, query: PartQuery) -> Found:
    """Return the best of a part, ``items`` float32 ``(P, D)``."""
    return ExactIndex(items, two_passes=False).search(
        query.users, k=query.k, excluded=query.excluded, allowed=query.allowed
    )


@contextmanager
def noting_lost_parts() -> Iterator[set[int]]:
    """Give the set of parts that were searched here because nobody else did, in this context."""
    noted: set[int] = set()
    token = _lost.set(noted)
    try:
        yield noted
    finally:
        _lost.reset(token)


def _best(items: Tensor, scores: Tensor, *, width: int) -> Found:
    """Return the best of all parts; of equal scores the lower item index comes first."""
    items, order = items.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    items = items.gather(1, order)
    items, scores = items[:, :width], scores[:, :width]
    return torch.where(scores.isfinite(), items, 0), scores
