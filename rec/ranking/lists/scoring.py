"""Scores of candidates: relevance less the weighted penalties, each term kept for the answer.

Shapes: B users, C candidates per user, V items, X pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.data.sequences import Sequences
from rec.errors import ConfigError
from rec.ranking.lists.exposure import ExposureLedger
from rec.ranking.lists.penalties import popularity_penalty, repetition_penalty, staleness_penalty
from rec.ranking.release import ReleaseFiles
from rec.ranking.retrieval.candidates import Found

POPULARITY = "popularity_penalty"
REPETITION = "repetition_penalty"
STALENESS = "staleness_penalty"
GROUP = "group_penalty"
GROUP_COLUMN = "group"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Hold scores and what they are made of, all ``(B, C)``; ``-inf`` where there is no item."""

    scores: Tensor
    penalties: Mapping[str, Tensor]

    def order(self, *, num_first: int) -> Tensor:
        """Return columns by score, best first, behind the ``num_first`` that come first anyway.

        Stable, so that equal scores keep the order of retrieval.
        """
        rest = self.scores[:, num_first:].argsort(dim=1, descending=True, stable=True)
        first = torch.arange(num_first).expand(len(self.scores), -1)
        return torch.cat([first, rest + num_first], dim=1)


class Scorer:
    """Score candidates of one release."""

    def __init__(self, files: ReleaseFiles) -> None:
        """Compute the items' own penalties.

        Raises:
            ConfigError: groups shall be treated alike and the items name none.
        """
        self._ranking = files.ranking
        counts = files.counts.sort("item_index")
        self._popularity = torch.from_numpy(popularity_penalty(counts["count"].to_numpy()))  # (V,)
        self._staleness = torch.from_numpy(
            staleness_penalty(counts["count"].to_numpy(), counts["recent_count"].to_numpy())
        )
        self.ledger: ExposureLedger | None = None
        if self._ranking.group_weight > 0:
            groups = groups_of(files.items)
            if groups is None:
                raise ConfigError(
                    f"--ranking.group-weight needs a column {GROUP_COLUMN!r} in the items, "
                    f"found {', '.join(files.items.columns)}"
                )
            self.ledger = ExposureLedger(groups)

    def popularity_of(self, items: Tensor) -> Tensor:
        """Return the standardised popularity of items, of any shape; 0 for item 0."""
        return torch.where(items > 0, self._popularity[(items - 1).clamp(min=0)], 0.0)

    def score(
        self,
        found: Found,
        histories: Sequences,
        *,
        popularity_weight: NDArray[np.float32],
        shown: NDArray[np.int64],
    ) -> Scored:
        """Return the scores of candidates; a term is named where it has a weight.

        Args:
            found: candidates of B users.
            histories: of the same users.
            popularity_weight: float32 ``(B,)``, the article's lambda.
            shown: int64 ``(3, X)``: row, item index, times shown and not taken.
        """
        ranking = self._ranking
        is_there = found.items > 0
        places = (found.items - 1).clamp(min=0)
        penalties = {POPULARITY: self.popularity_of(found.items)}
        weights = torch.from_numpy(np.array(popularity_weight, dtype=np.float32)).unsqueeze(1)
        scores = found.relevance - weights * penalties[POPULARITY]
        terms: dict[str, tuple[float, Tensor]] = {}
        if ranking.repetition_weight > 0:
            repeated = repetition_penalty(found.items.numpy(), histories, shown=shown)
            terms[REPETITION] = (ranking.repetition_weight, torch.from_numpy(repeated))
        if ranking.staleness_weight > 0:
            stale = torch.where(is_there, self._staleness[places], 0.0)
            terms[STALENESS] = (ranking.staleness_weight, stale)
        if self.ledger is not None:
            above = torch.from_numpy(self.ledger.penalty())[places]
            terms[GROUP] = (ranking.group_weight, torch.where(is_there, above, 0.0))
        for name, (weight, penalty) in terms.items():
            penalties[name] = penalty
            scores = scores - weight * penalty
        return Scored(scores=scores, penalties=penalties)


def groups_of(items: pl.DataFrame) -> list[list[str]] | None:
    """Return each item's groups, whether the column holds one or a list; ``None`` without it."""
    if GROUP_COLUMN not in items.columns:
        return None
    column = items[GROUP_COLUMN]
    if isinstance(column.dtype, pl.List):
        return column.cast(pl.List(pl.String)).fill_null([]).list.drop_nulls().to_list()
    return [[] if name is None else [str(name)] for name in column.to_list()]
