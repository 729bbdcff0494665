"""Popular items where whoever ranks is away: no towers, no trees, and still the release's rules.

Pins, blocks, the category cap and what the user has seen hold as on any list. Filters and given
candidates are the ranker's: who asks for them is told to come back.
"""

from collections.abc import Container, Mapping, Sequence
from itertools import islice

import numpy as np
import polars as pl

from rec.ranking.lists.composing import CATEGORY_CAP, FEWER_ITEMS
from rec.ranking.lists.listing import PINNED_LEFT_OUT
from rec.ranking.lists.reranking import cap_categories
from rec.ranking.naming import PINNED
from rec.ranking.release import RankingConfig
from rec.ranking.requests import RankedItem, RankedList, Request

_Row = tuple[str, str, float]
"""``item_id, title, cold_score``."""


class PopularItems:
    """List what is popular in one release."""

    def __init__(
        self,
        popular: pl.DataFrame,
        *,
        ranking: RankingConfig,
        categories: Mapping[str, Sequence[str]],
    ) -> None:
        """Hold what is popular.

        Args:
            popular: ``item_id, title, cold_score``, best cold start first.
            ranking: the release's rules.
            categories: item id -> its categories; read only where there is a cap.
        """
        self._popular = popular
        self._ranking = ranking
        self._blocked = frozenset(ranking.blocked)
        self._categories = categories
        rows = popular.filter(pl.col("item_id").is_in(list(ranking.pinned))).iter_rows()
        of_id = {row[0]: row for row in rows}
        self._pinned = [of_id[name] for name in dict.fromkeys(ranking.pinned) if name in of_id]

    def list_for(self, request: Request, *, known: Container[str]) -> RankedList:
        """Return what is popular, k items or a reason.

        Args:
            request: what was asked; of its filters and candidates nothing is known here.
            known: ids that may be shown; a deleted item is not among them.
        """
        ranking, k = self._ranking, request.k
        hides_seen = ranking.exclude_seen if request.exclude_seen is None else request.exclude_seen
        seen = {event.item_id for event in request.history} if hides_seen else set()
        free = [row for row in self._pinned if row[0] in known and row[0] not in request.exclude]
        pinned = free[:k]
        hidden = seen | request.exclude | self._blocked | {row[0] for row in self._pinned}
        rows = (
            row for row in self._popular.iter_rows() if row[0] not in hidden and row[0] in known
        )
        places = k - len(pinned)
        others = list(rows if ranking.category_cap is not None else islice(rows, places))
        chosen = [*pinned, *self._within_cap(others, places=places, beside=pinned)]
        reasons = {
            FEWER_ITEMS: len(pinned) + len(others) < k,
            CATEGORY_CAP: len(chosen) < min(k, len(pinned) + len(others)),
            PINNED_LEFT_OUT: len(free) < len(self._pinned),
        }
        items = [
            RankedItem(
                item_id=item_id,
                title=title,
                position=position,
                score=float(relevance),
                source=PINNED if position <= len(pinned) else "popularity",
                propensity=1.0,
                terms={"relevance": float(relevance)},
            )
            for position, (item_id, title, relevance) in enumerate(chosen, start=1)
        ]
        return RankedList(
            items=tuple(items),
            degraded=tuple(name for name, applies in reasons.items() if applies),
        )

    def _within_cap(
        self, rows: Sequence[_Row], *, places: int, beside: Sequence[_Row]
    ) -> Sequence[_Row]:
        cap = self._ranking.category_cap
        if cap is None:
            return rows
        kept = cap_categories(
            np.arange(len(rows)),
            [self._categories.get(row[0], ()) for row in rows],
            k=places,
            cap=cap,
            taken=[self._categories.get(row[0], ()) for row in beside],
        )
        return [rows[place] for place in kept]
