"""Scores to lists: the top k of a catalog, without padding and, if asked, without what was seen.

Shapes: B users, V items, k places.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences

_BLOCK_CELLS = 1 << 24
"""Scores held at once: 64 MB of float32, whatever the catalog's size."""


def top_k(
    scores: NDArray[np.float32], *, k: int, histories: Sequences | None = None
) -> NDArray[np.int32]:
    """Return the k best item indexes of each user, int32 ``(B, k)``; 0 where none is left.

    Ties go to the smaller item index, so that a list is reproducible.

    Args:
        scores: float32 ``(B, V)``; column ``i`` is item index ``i + 1``; ``-inf`` is never shown.
        k: places.
        histories: items of these are left out; ``None`` leaves none out.

    >>> top_k(np.array([[0.1, 0.9, 0.5]], dtype=np.float32), k=2).tolist()
    [[2, 3]]
    """
    scores = scores.copy()
    if histories is not None:
        is_item = histories.is_item
        scores[histories.rows()[is_item], histories.tokens[is_item] - 1] = -np.inf
    num_items = scores.shape[1]
    width = min(k, num_items)
    lists = np.zeros((len(scores), k), dtype=np.int32)
    for row, values in enumerate(scores):
        if width < num_items:
            # Everything as good as the k-th best, so that ties at the border are decided below.
            floor = np.partition(values, num_items - width)[num_items - width]
            picks = np.flatnonzero(values >= floor)
        else:
            picks = np.arange(num_items)
        order = picks[np.lexsort((picks, -values[picks]))][:width]
        order = order[np.isfinite(values[order])]
        lists[row, : len(order)] = order + 1
    return lists


def top_k_in_blocks(
    score: Callable[[Sequences], NDArray[np.float32]],
    histories: Sequences,
    *,
    k: int,
    exclude_seen: bool,
) -> NDArray[np.int32]:
    """Return :func:`top_k` of ``score(histories)``, a block of users at a time."""
    size = max(1, _BLOCK_CELLS // max(1, histories.num_items))
    blocks = [
        histories.select_users(np.arange(start, min(start + size, histories.num_users)))
        for start in range(0, histories.num_users, size)
    ]
    lists = [
        top_k(score(block), k=k, histories=block if exclude_seen else None) for block in blocks
    ]
    return np.concatenate([np.zeros((0, k), dtype=np.int32), *lists])
