"""From item indexes to what a client reads: ids, titles, sources and terms.

Shapes: B users, k places.
"""

import logging
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from rec.ranking.batches import RankedBatch
from rec.ranking.features import SOURCE_NAMES
from rec.ranking.requests import RankedItem
from rec.ranking.retrieval.searching import FoundTexts

PINNED = "pinned"
NEW_ITEM = "new_item"
"""Term of an item: 1 where it has its place by the quota of new items, not by its score."""
_log = logging.getLogger(__name__)


class Names:
    """Know the ids and titles of a release's items."""

    def __init__(self, items: pl.DataFrame) -> None:
        self.item_ids: list[str] = items["item_id"].to_list()
        self._titles: list[str] = items["title"].to_list()
        self.index_of = {item_id: place for place, item_id in enumerate(self.item_ids, start=1)}

    def of_rule(self, flag: str, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return item indexes; a rule about an item that left the catalog is passed over."""
        for item_id in item_ids:
            if item_id not in self.index_of:
                _log.warning("--ranking.%s names %r, which the catalog has not", flag, item_id)
        known = [self.index_of[item_id] for item_id in item_ids if item_id in self.index_of]
        return np.asarray(list(dict.fromkeys(known)), dtype=np.int64)

    def of_list(
        self, ranked: RankedBatch, row: int, *, k: int, has_quota: bool = False
    ) -> tuple[RankedItem, ...]:
        """Return a user's list, at most ``k`` places of it; with a quota, who has it says so."""
        quotas = ranked.is_quota[row].astype(np.float64)
        return tuple(
            self._item(
                item,
                place,
                score=ranked.scores[row, place],
                source=_source_name(int(ranked.sources[row, place])),
                propensity=float(ranked.propensities[row, place]),
                relevance=float(ranked.relevance[row, place]),
                **{name: float(value[row, place]) for name, value in ranked.penalties.items()},
                **({NEW_ITEM: float(quotas[place])} if has_quota else {}),
            )
            for place, item in enumerate(ranked.items[row, :k].tolist())
            if item > 0
        )

    def of_similar(self, items: Tensor, scores: Tensor) -> tuple[RankedItem, ...]:
        """Return neighbours, int64 and float32 ``(k,)``, as a list."""
        return tuple(
            self._item(item, place, score=score, source="similar", relevance=score)
            for place, (item, score) in enumerate(zip(items.tolist(), scores.tolist(), strict=True))
            if item > 0
        )

    def of_texts(self, found: FoundTexts, row: int, *, k: int) -> tuple[RankedItem, ...]:
        """Return what one search has found, at most ``k`` places of it."""
        return tuple(
            self._item(
                item,
                place,
                score=found.scores[row, place],
                source="text",
                text=float(found.text[row, place]),
                personal=float(found.personal[row, place]),
            )
            for place, item in enumerate(found.items[row, :k].tolist())
            if item > 0
        )

    def _item(
        self,
        item: int,
        place: int,
        *,
        score: float,
        source: str,
        propensity: float = 1.0,
        **terms: float,
    ) -> RankedItem:
        return RankedItem(
            item_id=self.item_ids[item - 1],
            title=self._titles[item - 1],
            position=place + 1,
            score=float(score),
            source=source,
            propensity=propensity,
            terms=terms,
        )


def _source_name(code: int) -> str:
    return PINNED if code < 0 else SOURCE_NAMES[code]
