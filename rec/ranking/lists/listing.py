"""Make lists: candidates found, scored, diversified and composed, for a block of users.

Pinned items stand first, blocked ones nowhere; both are the release's, not a request's.

Shapes: B users, V items, C candidates per user, D width, k places, X pairs.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from rec.data.sequences import Sequences
from rec.ranking.batches import Asked, RankedBatch, pairs_with
from rec.ranking.lists.composing import Rules, compose
from rec.ranking.lists.new_items import NewItems
from rec.ranking.lists.reranking import diversify
from rec.ranking.lists.scoring import Scorer
from rec.ranking.release import ReleaseFiles
from rec.ranking.retrieval.candidates import CandidateFinder

PINNED_LEFT_OUT = "pinned_item_left_out"
"""A filter or an exclusion of the request keeps a pinned item out."""
RERANKED = 100
"""Best candidates that diversity chooses from: the longest list the endpoint gives."""
_CAP_FACTOR = 20
"""Candidates per place under a category cap."""


class ListMaker:
    """Make the lists of one release."""

    def __init__(
        self,
        files: ReleaseFiles,
        *,
        finder: CandidateFinder,
        scorer: Scorer,
        pinned: NDArray[np.int64],
        blocked: NDArray[np.int64],
        new_items: NewItems | None = None,
    ) -> None:
        """Hold what makes lists.

        Args:
            files: the release.
            finder: finds candidates.
            scorer: scores them.
            pinned: item indexes that stand first on every list.
            blocked: item indexes that stand on none.
            new_items: which have places of their own; ``None`` without a quota.
        """
        self._ranking = files.ranking
        self._embeddings = files.embeddings
        self._finder = finder
        self._scorer = scorer
        self._pinned = pinned
        self._blocked = blocked
        self._new_items = new_items
        cap = self._ranking.category_cap
        self._rules = Rules(
            categories=[] if cap is None else files.items["category"].fill_null([]).to_list(),
            category_cap=cap,
            exploration_head=self._ranking.exploration_head,
            new_item_places=self._ranking.new_item_places,
        )

    def make(
        self,
        histories: Sequences,
        users: Tensor,
        asked: Asked,
        *,
        width: int,
        shown: NDArray[np.int64],
        excluded: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None,
        lifts: Mapping[int, NDArray[np.float32]],
    ) -> RankedBatch:
        """Return the lists of a block of users.

        Args:
            histories: their events.
            users: e_u, float32 ``(B, D)``.
            asked: what each of them asked for.
            width: places of the widest list.
            shown: int64 ``(3, X)``: row, item index, times shown and not taken.
            excluded: int64 ``(2, X)``, pairs of row and item index.
            allowed: bool ``(V,)`` or ``(B, V)``.
            lifts: row -> float32 ``(V,)`` of users without events who are in a segment.
        """
        num_users = histories.num_users
        rows = histories.rows()
        is_hidden = histories.is_item & asked.hides_seen[rows]
        seen = np.stack([rows[is_hidden], histories.tokens[is_hidden].astype(np.int64)])
        ruled_out = [pairs_with(num_users, items) for items in (self._blocked, self._pinned)]
        hidden = np.concatenate([seen, excluded, *ruled_out], axis=1)
        found = self._finder.find(
            histories,
            users,
            # A cap passes over candidates: more of them must be there.
            k=width if self._ranking.category_cap is None else width * _CAP_FACTOR,
            hides_seen=asked.hides_seen,
            hidden=hidden,
            allowed=allowed,
            lifts=lifts,
        )
        is_new = None if self._new_items is None else self._new_items.is_new()
        if is_new is not None and is_new.any() and asked.keeps_new.any():
            new = self._finder.find(
                histories, users, k=width, hides_seen=asked.hides_seen, hidden=hidden,
                allowed=is_new if allowed is None else is_new & allowed, lifts=lifts,
            )  # fmt: skip
            found = found.joined(new)
        num_pinned = np.zeros(num_users, dtype=np.int64)
        if len(self._pinned):
            pins = self._finder.find_given(
                histories, users, items=self._pinned, hides_seen=asked.hides_seen,
                hidden=excluded, allowed=allowed,
            )  # fmt: skip
            num_pinned = (pins.items > 0).sum(dim=1).numpy()
            found = pins.before(found)
        scored = self._scorer.score(
            found, histories, popularity_weight=asked.penalty_weight, shown=shown
        )
        order = scored.order(num_first=len(self._pinned))
        if asked.diversity.any():
            order = self._diversify(found.items, scored.scores, order, asked=asked, width=width)
        composed = compose(
            order.numpy(),
            found.items.numpy(),
            scored.scores.numpy(),
            num_places=asked.num_places,
            num_pinned=num_pinned,
            exploration=asked.exploration,
            seeds=asked.seeds,
            rules=self._rules,
            is_new=None
            if is_new is None
            else is_new[found.items.numpy() - 1] & asked.keeps_new[:, None],
        )
        notes = composed.notes
        if len(self._pinned):
            notes = tuple(
                note if count == len(self._pinned) else (*note, PINNED_LEFT_OUT)
                for note, count in zip(notes, num_pinned.tolist(), strict=True)
            )

        users_of, columns = np.nonzero(composed.places >= 0)
        picks = composed.places[users_of, columns]

        def cut(values: Tensor) -> NDArray[Any]:
            cut_out: NDArray[Any] = np.zeros(composed.places.shape, values.numpy().dtype)
            cut_out[users_of, columns] = values.numpy()[users_of, picks]
            return cut_out

        items = cut(found.items)
        for ledger in (self._scorer.ledger, self._new_items):
            if ledger is not None:
                ledger.add(items)
        return RankedBatch(
            items=_widen(items, width),
            scores=_widen(cut(scored.scores), width),
            relevance=_widen(cut(found.relevance), width),
            penalties={name: _widen(cut(value), width) for name, value in scored.penalties.items()},
            sources=_widen(cut(found.sources), width),
            propensities=_widen(composed.propensities, width, fill=1.0),
            notes=notes,
            is_quota=_widen(composed.is_quota, width),
            is_cold=histories.lengths == 0,
            candidates=found,
        )

    @cached_property
    def _centred(self) -> Tensor:
        """Return e_i without their common direction, float32 ``(V, D)``.

        Towers may put all items into a narrow cone: without its axis, unlike items look unlike.
        """
        return normalize(self._embeddings - self._embeddings.mean(dim=0), dim=1)

    def _diversify(
        self, items: Tensor, scores: Tensor, order: Tensor, *, asked: Asked, width: int
    ) -> Tensor:
        """Re-rank the best of each user who asked for it, pinned items excepted."""
        first = len(self._pinned)
        depth = min(order.shape[1], first + max(RERANKED, width))
        rows = torch.from_numpy(np.flatnonzero(asked.diversity))
        pool = order[rows, first:depth]
        mine = items[rows].gather(1, pool)
        values = scores[rows].gather(1, pool).masked_fill(mine == 0, float("-inf"))
        again = diversify(
            values,
            self._centred[(mine - 1).clamp(min=0)],
            num_places=width if self._ranking.category_cap is None else pool.shape[1],
            diversity=torch.from_numpy(asked.diversity[rows.numpy()].copy()),
            method=self._ranking.diversifier,
        )
        result = order.clone()
        result[rows, first:depth] = pool.gather(1, again)
        return result


def _widen(values: NDArray[Any], width: int, *, fill: float = 0) -> NDArray[Any]:
    if values.shape[1] == width:
        return values  # seven tables a list, and padding by nothing is a tenth of its time
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=fill)
