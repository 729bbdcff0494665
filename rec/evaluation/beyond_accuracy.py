"""Beyond accuracy: how varied lists are, and how good they are where popularity does not help.

Shapes: B users, k places, V items, D width, T items of all target sets together. ``lists``,
``target_offsets`` and ``targets`` are as in :mod:`rec.evaluation.ranking_metrics`.
"""

import numpy as np
from numpy.typing import NDArray

from rec.evaluation.ranking_metrics import hits

_USERS = 4096
"""Users whose pairs are compared at a time: bounds memory."""


def intra_list_diversity_at_k(
    lists: NDArray[np.int32], *, embeddings: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the mean distance ``1 - cos`` between the items of each list, float64 ``(B,)``.

    0.0 for a list of fewer than two items. Flaw: it is only as good as the embeddings; where these
    lie in a narrow cone, all lists look alike, so compare models by one set of embeddings.

    Args:
        lists: int32 ``(B, k)``, 0 for an empty place.
        embeddings: float32 ``(V, D)``, normalised.

    Source: Ziegler et al. 2005, Improving recommendation lists through topic diversification;
    Smyth and McClave 2001, Similarity vs. diversity.

    Two items at a right angle, and twice the same direction.

    >>> embeddings = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    >>> lists = np.array([[1, 2], [1, 3], [1, 0]], dtype=np.int32)
    >>> intra_list_diversity_at_k(lists, embeddings=embeddings).tolist()
    [1.0, 0.0, 0.0]
    """
    result = np.zeros(len(lists))
    for start in range(0, len(lists), _USERS):
        block = lists[start : start + _USERS]
        is_shown = block > 0
        chosen = embeddings[np.maximum(block - 1, 0)] * is_shown[:, :, None]  # (b, k, D)
        total = chosen.sum(axis=1, dtype=np.float64)
        own = np.square(chosen, dtype=np.float64).sum(axis=(1, 2))
        counts = is_shown.sum(axis=1)
        pairs = counts * (counts - 1)
        cosines = np.square(total).sum(axis=1) - own
        result[start : start + _USERS] = np.where(pairs > 0, 1 - cosines / np.maximum(pairs, 1), 0)
    return result


def debiased_ndcg_at_k(
    lists: NDArray[np.int32],
    target_offsets: NDArray[np.int64],
    targets: NDArray[np.int32],
    *,
    counts: NDArray[np.int64],
    power: float = 0.5,
) -> float:
    """Return NDCG with every target weighed down by its popularity, in [0, 1].

    A log shows popular items more often than they are liked, and NDCG repeats that. Here a target
    gains ``w = (count + 1) ** -power``, and the answer is ``sum of weighted DCG over all users /
    sum of the best possible one``: self-normalised inverse propensity, the propensity taken as a
    power of popularity. ``power`` 0 weighs all targets alike.

    Flaw: the propensities are a guess; the power cannot be read from the log.

    Args:
        lists: int32 ``(B, k)``, 0 for an empty place.
        target_offsets: int64 ``(B + 1,)``.
        targets: int32 ``(T,)``.
        counts: int64 ``(V,)``, training events of item index ``i + 1``.
        power: how far popularity is taken to drive what is logged; 0.5 is usual.

    Source: Yang et al. 2018, Unbiased offline recommender evaluation for missing-not-at-random
    implicit feedback; Steck 2011, Item popularity and recommendation accuracy.

    Only the popular target (99 events, weight 0.1) is found, not the rare one (weight 1).

    >>> lists = np.array([[1], [1]], dtype=np.int32)
    >>> sets = (np.array([0, 1, 2]), np.array([1, 2], dtype=np.int32))
    >>> round(debiased_ndcg_at_k(lists, *sets, counts=np.array([99, 0])), 4)
    0.0909
    """
    k = lists.shape[1]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    weights = (counts + 1.0) ** -power
    is_hit = hits(lists, target_offsets, targets)
    gained = float((is_hit * weights[np.maximum(lists - 1, 0)] * discounts).sum())
    rows = np.repeat(np.arange(len(lists)), np.diff(target_offsets))
    own = weights[targets - 1]
    order = np.lexsort((-own, rows))
    place = np.arange(len(order)) - target_offsets[rows[order]]
    is_in = place < k
    best = float((own[order][is_in] * discounts[place[is_in]]).sum())
    return gained / best if best > 0 else 0.0
