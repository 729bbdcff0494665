"""Ranking metrics: how good a list is for its user, and what all lists together show.

The metrics of a user read lists and target sets and answer with one number a user; ``k`` is the
width of the lists. A place is binary: it holds a target or not. There are no sampled metrics here:
a list is drawn from the whole catalog (Krichene and Rendle 2020, On sampled metrics for item
recommendation). A user without targets scores 0.0; an evaluation set holds none.

Shapes: B users, k places, V items, T items of all target sets together. Everywhere ``lists`` is
int32 ``(B, k)``, best first, 0 for an empty place; ``target_offsets`` int64 ``(B + 1,)``;
``targets`` int32 ``(T,)``, of which user ``b`` owns a slice by ``target_offsets``.
"""

import numpy as np
from numpy.typing import NDArray


def hits(
    lists: NDArray[np.int32], target_offsets: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Return which places hold a target of their user, bool ``(B, k)``.

    An empty place is no hit; an item that stands twice in one list is a hit only the first time.

    Source: the binary relevance of Manning, Raghavan and Schütze 2008, Introduction to
    information retrieval, 8.1.

    The first user wants item 7, the second items 4 and 5.

    >>> lists = np.array([[7, 8], [6, 5]], dtype=np.int32)
    >>> hits(lists, np.array([0, 1, 3]), np.array([7, 4, 5], dtype=np.int32)).tolist()
    [[True, False], [False, True]]
    """
    base = int(max(lists.max(initial=0), targets.max(initial=0))) + 1
    users = np.arange(len(lists), dtype=np.int64)
    shown = (users[:, None] * base + lists).ravel()  # (B * k,)
    wanted = np.repeat(users, np.diff(target_offsets)) * base + targets  # (T,)
    is_first = np.zeros(len(shown), dtype=np.bool_)
    is_first[np.unique(shown, return_index=True)[1]] = True
    is_hit = is_first & np.isin(shown, wanted) & (lists.ravel() > 0)
    return is_hit.reshape(lists.shape)


def ndcg_at_k(
    lists: NDArray[np.int32], target_offsets: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return the discounted gain of each list over the best possible list's, float64 ``(B,)``.

    In [0, 1]. ``DCG = sum over hits of 1 / log2(position + 1)``; the best list has its
    ``min(k, targets)`` hits first. Also called normalised discounted cumulative gain.

    Source: Järvelin and Kekäläinen 2002, Cumulated gain-based evaluation of IR techniques; binary
    relevance.

    The one target stands at position 3: ``(1 / log2 4) / (1 / log2 2)``.

    >>> lists = np.array([[8, 9, 7]], dtype=np.int32)
    >>> ndcg_at_k(lists, np.array([0, 1]), np.array([7], dtype=np.int32)).tolist()
    [0.5]
    """
    k = lists.shape[1]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    best = np.cumsum(discounts)
    num_ideal_hits = np.clip(np.diff(target_offsets), 1, k)
    gains = np.where(hits(lists, target_offsets, targets), discounts, 0.0).sum(axis=1)
    # Adding in another order than the best list's can pass 1 by a rounding.
    normalised: NDArray[np.float64] = np.minimum(gains / best[num_ideal_hits - 1], 1.0)
    return normalised


def recall_at_k(
    lists: NDArray[np.int32], target_offsets: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return the share of each user's targets that is in the list, float64 ``(B,)``.

    Flaw: a user with more than ``k`` targets cannot reach 1.

    Source: Manning, Raghavan and Schütze 2008, Introduction to information retrieval, 8.3.

    One of two targets is found.

    >>> lists = np.array([[7, 8, 9]], dtype=np.int32)
    >>> recall_at_k(lists, np.array([0, 2]), np.array([4, 7], dtype=np.int32)).tolist()
    [0.5]
    """
    num_found = hits(lists, target_offsets, targets).sum(axis=1)
    shares: NDArray[np.float64] = num_found / np.maximum(np.diff(target_offsets), 1)
    return shares


def precision_at_k(
    lists: NDArray[np.int32], target_offsets: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return the share of places that hold a target, float64 ``(B,)``; empty ones are misses.

    Flaw: with one target a user it cannot pass ``1 / k``.

    Source: Manning, Raghavan and Schütze 2008, Introduction to information retrieval, 8.4.

    Two of four places; the third and fourth are a miss and an empty place.

    >>> lists = np.array([[7, 4, 9, 0]], dtype=np.int32)
    >>> precision_at_k(lists, np.array([0, 2]), np.array([4, 7], dtype=np.int32)).tolist()
    [0.5]
    """
    num_found = hits(lists, target_offsets, targets).sum(axis=1)
    shares: NDArray[np.float64] = num_found / lists.shape[1]
    return shares


def hit_rate_at_k(
    lists: NDArray[np.int32], target_offsets: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return 1.0 for each list with at least one target, else 0.0, float64 ``(B,)``.

    With one target a user it equals recall. Flaw: blind to order and to further targets.

    Source: Deshpande and Karypis 2004, Item-based top-N recommendation algorithms, 6.1.

    >>> lists = np.array([[7, 8], [8, 9]], dtype=np.int32)
    >>> hit_rate_at_k(lists, np.array([0, 1, 2]), np.array([7, 7], dtype=np.int32)).tolist()
    [1.0, 0.0]
    """
    num_found = hits(lists, target_offsets, targets).sum(axis=1)
    rates: NDArray[np.float64] = (num_found > 0).astype(np.float64)
    return rates


def mrr_at_k(
    lists: NDArray[np.int32], target_offsets: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return one over the position of each list's first target, 0.0 if none, float64 ``(B,)``.

    The mean over users is the mean reciprocal rank, truncated at ``k``. Flaw: blind to all targets
    but the first.

    Source: Voorhees 1999, The TREC-8 question answering track report, section 3.

    >>> lists = np.array([[8, 7], [8, 9]], dtype=np.int32)
    >>> mrr_at_k(lists, np.array([0, 1, 2]), np.array([7, 7], dtype=np.int32)).tolist()
    [0.5, 0.0]
    """
    is_hit = hits(lists, target_offsets, targets)
    ranks: NDArray[np.float64] = is_hit.any(axis=1) / (is_hit.argmax(axis=1) + 1)
    return ranks


def coverage_at_k(lists: NDArray[np.int32], *, num_items: int) -> float:
    """Return the share of the catalog that is in at least one list, in [0, 1].

    It grows with the number of users asked: compare only lists of the same users.

    Source: Ge, Delgado-Battenfeld and Jannach 2010, Beyond accuracy, section 2 (catalog coverage).

    Items 1 and 2 of four are shown; 0 is an empty place.

    >>> coverage_at_k(np.array([[1, 2], [2, 0]], dtype=np.int32), num_items=4)
    0.5
    """
    return int(np.count_nonzero(_exposures(lists, num_items))) / num_items


def gini_at_k(lists: NDArray[np.int32], *, num_items: int) -> float:
    """Return how unequally the places are spread over the catalog, in [0, 1).

    0: every item is shown equally often (or nothing is shown); ``1 - 1 / V``: one item takes all
    places. Items never shown count. ``G = 2 sum_r(r x_r) / (V sum x) - (V + 1) / V`` with the
    exposures ``x`` in ascending order and ranks ``r = 1..V``.

    Source: Fleder and Hosanagar 2009, Blockbuster culture's next rise or fall, section 3.

    One of two items has both places: ``2 * (1 * 0 + 2 * 2) / (2 * 2) - 3 / 2``.

    >>> gini_at_k(np.array([[1], [1]], dtype=np.int32), num_items=2)
    0.5
    """
    exposures = np.sort(_exposures(lists, num_items))
    total = int(exposures.sum())
    if total == 0:
        return 0.0
    ranks = np.arange(1, num_items + 1)
    return float(2 * (ranks @ exposures) / (num_items * total) - (num_items + 1) / num_items)


def novelty_at_k(lists: NDArray[np.int32], *, counts: NDArray[np.int64]) -> float:
    """Return the mean self-information of the shown items in bits, 0.0 if nothing is shown.

    ``-log2 p(i)``, where ``p(i) = (count + 1) / (sum of counts + V)``: the added one keeps items
    that were never met finite. The rarer what is shown, the higher. Flaw: random lists win.

    Args:
        lists: int32 ``(B, k)``, 0 for an empty place.
        counts: int64 ``(V,)``, training events of item index ``i + 1``.

    Source: Zhou et al. 2010, Solving the apparent diversity-accuracy dilemma of recommender
    systems (self-information); Vargas and Castells 2011, Rank and relevance in novelty and
    diversity metrics.

    Item 1 has ``p = (2 + 1) / (4 + 2)``, which is one bit.

    >>> novelty_at_k(np.array([[1, 0]], dtype=np.int32), counts=np.array([2, 2]))
    1.0
    """
    exposures = _exposures(lists, len(counts))
    total = int(exposures.sum())
    if total == 0:
        return 0.0
    bits = -np.log2((counts + 1) / (counts.sum() + len(counts)))
    return float(exposures @ bits / total)


def _exposures(lists: NDArray[np.int32], num_items: int) -> NDArray[np.int64]:
    """Return how often each item is shown, int64 ``(V,)``."""
    return np.bincount(lists.ravel(), minlength=num_items + 1)[1:]
