"""Compose lists: scored candidates in order become places, under rules that hold on every list.

In this order: pinned items, the category cap, then exploration of the tail. Nothing after it moves
an item.

Shapes: B users, C candidates per user, k places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.ranking.exploring import POOL_PER_PLACE, explore_tail
from rec.ranking.reranking import cap_categories

FEWER_ITEMS = "fewer_items"
"""Catalog, filters and exclusions leave fewer items than were asked for."""
CATEGORY_CAP = "category_cap"
"""The category cap leaves fewer items than were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Say what holds on every list.

    Attributes:
        categories: of each item, by item index - 1; read only where there is a cap.
        category_cap: most places of one category.
        exploration_head: positions at the top that exploration leaves alone.
    """

    categories: Sequence[Sequence[str]]
    category_cap: int | None
    exploration_head: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """Hold lists by place.

    Attributes:
        places: int64 ``(B, k)``, columns of the candidates; -1 for an empty place.
        propensities: float64 ``(B, k)``, of the item at its position; 1.0 for an empty place.
        notes: why a list is shorter than asked, for each user.
    """

    places: NDArray[np.int64]
    propensities: NDArray[np.float64]
    notes: tuple[tuple[str, ...], ...]


def compose(
    order: NDArray[np.int64],
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
    *,
    num_places: NDArray[np.int64],
    num_pinned: NDArray[np.int64],
    exploration: NDArray[np.float64],
    seeds: NDArray[np.int64],
    rules: Rules,
) -> Composed:
    """Return the lists of a batch; a list never depends on who else is in the batch.

    Args:
        order: int64 ``(B, C)``, columns by preference, pinned ones first.
        items: int64 ``(B, C)``, item indexes; 0 where there is no candidate, ordered last.
        scores: float32 ``(B, C)``.
        num_places: int64 ``(B,)``, places each user asked for; the result is as wide as the most.
        num_pinned: int64 ``(B,)``, columns at the start of ``order`` that stand as they are.
        exploration: float64 ``(B,)``, epsilon.
        seeds: int64 ``(B,)``, of each draw.
        rules: what holds on every list.
    """
    num_users = len(order)
    width = int(num_places.max(initial=0))
    places = np.full((num_users, width), -1, dtype=np.int64)
    propensities = np.ones((num_users, width))
    notes: list[tuple[str, ...]] = []
    for row in range(num_users):
        k = int(num_places[row])
        mine = order[row][items[row, order[row]] > 0]
        pinned, free = mine[: num_pinned[row]], mine[num_pinned[row] :]
        if rules.category_cap is not None:
            own = [rules.categories[item - 1] for item in items[row, free].tolist()]
            taken = [rules.categories[item - 1] for item in items[row, pinned].tolist()]
            kept = cap_categories(
                np.arange(len(free)),
                own,
                k=max(0, k - len(pinned)),
                cap=rules.category_cap,
                taken=taken,
            )
            is_capped = len(kept) < min(max(0, k - len(pinned)), len(free))
            free = free[np.asarray(kept, dtype=np.int64)]
        else:
            is_capped = False
        chosen = np.concatenate([pinned, free])
        head = max(len(pinned), min(rules.exploration_head, k))
        if exploration[row] > 0 and head < min(k, len(chosen)):
            tail = min(k, len(chosen)) - head
            # Under a cap only the tail itself changes places, so that the cap holds in any order.
            size = tail if rules.category_cap is not None else POOL_PER_PLACE * tail
            pool = chosen[head : head + size]
            explored = explore_tail(
                scores[row, pool].astype(np.float64),
                num_places=tail,
                epsilon=float(exploration[row]),
                generator=np.random.default_rng([int(seeds[row])]),
            )
            chosen = np.concatenate([chosen[:head], pool[explored.order]])
            propensities[row, head : head + tail] = explored.propensities
        chosen = chosen[:k]
        places[row, : len(chosen)] = chosen
        reasons = {FEWER_ITEMS: len(mine) < k, CATEGORY_CAP: is_capped}
        notes.append(tuple(name for name, applies in reasons.items() if applies))
    return Composed(places=places, propensities=propensities, notes=tuple(notes))
