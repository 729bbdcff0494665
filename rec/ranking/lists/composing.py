"""Compose lists: scored candidates in order become places, under rules that hold on every list.

In this order: pinned items, the category cap, new items' places, then exploration of what is left
of the tail. Nothing after it moves an item.

Shapes: B users, C candidates per user, k places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.ranking.lists.exploring import POOL_PER_PLACE, explore_tail
from rec.ranking.lists.filling import Filler

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
        new_item_places: last places that go to new items, where the list has not as many anyway.
    """

    categories: Sequence[Sequence[str]]
    category_cap: int | None
    exploration_head: int
    new_item_places: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """Hold lists by place.

    Attributes:
        places: int64 ``(B, k)``, columns of the candidates; -1 for an empty place.
        propensities: float64 ``(B, k)``, of the item at its position; 1.0 for an empty place.
        is_quota: bool ``(B, k)``, the item has the place by the quota of new items alone.
        notes: why a list is shorter than asked, for each user.
    """

    places: NDArray[np.int64]
    propensities: NDArray[np.float64]
    is_quota: NDArray[np.bool_]
    notes: tuple[tuple[str, ...], ...]


def shortfall(items: Sequence[object], *, k: int) -> tuple[str, ...]:
    """Return why a list that only filters and exclusions bound is shorter than k, if it is.

    >>> shortfall(["a", "b"], k=2), shortfall(["a", "b"], k=3)
    ((), ('fewer_items',))
    """
    return (FEWER_ITEMS,) if len(items) < k else ()


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
    is_new: NDArray[np.bool_] | None = None,
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
        is_new: bool ``(B, C)``, candidates that may have a new item's place; none if absent.
    """
    num_users = len(order)
    width = int(num_places.max(initial=0))
    places = np.full((num_users, width), -1, dtype=np.int64)
    propensities = np.ones((num_users, width))
    is_quota = np.zeros((num_users, width), dtype=np.bool_)
    none = np.zeros(items.shape[1], dtype=np.bool_)
    notes: list[tuple[str, ...]] = []
    for row in range(num_users):
        k = int(num_places[row])
        mine = order[row][items[row, order[row]] > 0]
        pinned, free = mine[: num_pinned[row]][:k], mine[num_pinned[row] :]
        cap = rules.category_cap
        own = [] if cap is None else [rules.categories[item - 1] for item in items[row].tolist()]
        made = Filler(pinned, categories=own, category_cap=cap).fill(
            free,
            places=k - len(pinned),
            num_new=rules.new_item_places,
            is_new=none if is_new is None else is_new[row],
        )
        chosen = np.concatenate([pinned, made.listed])
        head = max(len(pinned), min(rules.exploration_head, k))
        moving = np.flatnonzero(~np.isin(chosen, made.held))
        moving = moving[moving >= head]
        if exploration[row] > 0 and len(moving):
            # Under a cap only the tail itself changes places, so that the cap holds in any order.
            others = free[~np.isin(free, made.listed)][: (POOL_PER_PLACE - 1) * len(moving)]
            pool = chosen[moving]
            if cap is None:
                pool = np.concatenate([pool, others])
            explored = explore_tail(
                scores[row, pool].astype(np.float64),
                num_places=len(moving),
                epsilon=float(exploration[row]),
                generator=np.random.default_rng([int(seeds[row])]),
            )
            chosen[moving] = pool[explored.order]
            propensities[row, moving] = explored.propensities
        places[row, : len(chosen)] = chosen
        is_quota[row, : len(chosen)] = np.isin(chosen, made.added)
        reasons = {
            FEWER_ITEMS: len(mine) < k,
            CATEGORY_CAP: len(chosen) < min(k, len(mine)),
        }
        notes.append(tuple(name for name, applies in reasons.items() if applies))
    return Composed(places=places, propensities=propensities, is_quota=is_quota, notes=tuple(notes))
