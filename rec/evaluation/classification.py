"""Classification metrics of lists: every place of the catalog judged as shown or not shown.

They are here because people ask for them. A list is a ranking of few out of many: what these
numbers say of one is weak (accuracy) or rests on ties (ROC-AUC). Rank by NDCG.

Shapes: B users, k places, V items, T items of all target sets. ``lists``, ``target_offsets`` and
``targets`` are as in :mod:`rec.evaluation.ranking_metrics`.
"""

import numpy as np
from numpy.typing import NDArray

from rec.evaluation.ranking_metrics import hits, precision_at_k, recall_at_k


def f1_at_k(
    lists: NDArray[np.int32], target_offsets: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return the harmonic mean of each list's precision and recall, float64 ``(B,)``; 0 of zeros.

    Of *precision*: the article (section 7) writes accuracy, which gives another number.

    Source: van Rijsbergen 1979, Information retrieval, chapter 7.

    One hit among five places, of two targets: ``2 * 0.2 * 0.5 / (0.2 + 0.5)``.

    >>> lists = np.array([[7, 1, 2, 3, 4]], dtype=np.int32)
    >>> f1_at_k(lists, np.array([0, 2]), np.array([7, 9], dtype=np.int32)).round(4).tolist()
    [0.2857]
    """
    precision = precision_at_k(lists, target_offsets, targets)
    recall = recall_at_k(lists, target_offsets, targets)
    total = precision + recall
    result: NDArray[np.float64] = 2 * precision * recall / np.where(total > 0, total, 1.0)
    return result


def accuracy_at_k(
    lists: NDArray[np.int32],
    target_offsets: NDArray[np.int64],
    targets: NDArray[np.int32],
    *,
    num_items: int,
) -> NDArray[np.float64]:
    """Return the share of the catalog that is rightly shown or rightly not shown, ``(B,)``.

    Flaw: degenerate. Nearly every item is rightly not shown, so an empty list beats a good one.

    Two targets among 1,000 items: nothing shown is right on 998, a list of ten with one hit on
    990, the nine misses and the missed target being wrong.

    >>> empty, good = np.zeros((1, 10), dtype=np.int32), np.arange(1, 11, dtype=np.int32)[None]
    >>> sets = (np.array([0, 2]), np.array([1, 99], dtype=np.int32))
    >>> accuracy_at_k(empty, *sets, num_items=1000), accuracy_at_k(good, *sets, num_items=1000)
    (array([0.998]), array([0.99]))
    """
    num_hits = hits(lists, target_offsets, targets).sum(axis=1)
    num_shown = _num_shown(lists)
    num_wrong = (num_shown - num_hits) + (np.diff(target_offsets) - num_hits)
    result: NDArray[np.float64] = 1 - num_wrong / num_items
    return result


def group_auc_at_k(
    lists: NDArray[np.int32],
    target_offsets: NDArray[np.int64],
    targets: NDArray[np.int32],
    *,
    num_items: int,
) -> NDArray[np.float64]:
    """Return for each user how likely a target stands above another item, float64 ``(B,)``.

    The area under the receiver operating characteristic of each user's list; the mean over users
    is the group AUC (GAUC). Items outside the list tie at its end, and a tie counts half. 0.5
    where the user has no target, or every item is one.

    Flaw: with short lists most pairs are ties at the end, so that it is close to
    ``0.5 + recall / 2``.

    Source: Zhu et al. 2017, Optimized cost per click in Taobao display advertising (GAUC);
    Fawcett 2006, An introduction to ROC analysis.

    The target is second of a list of two, in a catalog of four: it is above two of three others.

    >>> lists = np.array([[8, 7]], dtype=np.int32)
    >>> sets = (np.array([0, 1]), np.array([7], dtype=np.int32))
    >>> group_auc_at_k(lists, *sets, num_items=4).round(4).tolist()
    [0.6667]
    """
    is_hit = hits(lists, target_offsets, targets)
    num_targets = np.diff(target_offsets)
    num_others = num_items - num_targets
    is_miss = _is_first(lists) & ~is_hit
    misses_above = np.cumsum(is_miss, axis=1)
    num_hits, num_misses = is_hit.sum(axis=1), is_miss.sum(axis=1)
    above = ((num_others[:, None] - misses_above) * is_hit).sum(axis=1)
    tied = (num_targets - num_hits) * (num_others - num_misses) / 2
    pairs = num_targets * num_others
    result: NDArray[np.float64] = np.where(pairs > 0, (above + tied) / np.maximum(pairs, 1), 0.5)
    return result


def roc_auc_at_k(
    lists: NDArray[np.int32],
    target_offsets: NDArray[np.int64],
    targets: NDArray[np.int32],
    *,
    num_items: int,
) -> float:
    """Return how likely a target of any user stands above any user's other item, in [0, 1].

    An item's score is its position, so that all pairs of a user and an item are one big
    classification; items outside a list tie at the end. 0.5 where there is nothing to tell apart.

    Flaw: it compares one user's first place with another's second, which no list ever does;
    :func:`group_auc_at_k` does not.

    Source: Hanley and McNeil 1982, The meaning and use of the area under a ROC curve.

    >>> lists = np.array([[8, 7]], dtype=np.int32)
    >>> sets = (np.array([0, 1]), np.array([7], dtype=np.int32))
    >>> round(roc_auc_at_k(lists, *sets, num_items=4), 4)
    0.6667
    """
    k = lists.shape[1]
    is_hit = hits(lists, target_offsets, targets)
    shown = _is_first(lists)
    num_cells = len(lists) * num_items
    num_targets = int(np.diff(target_offsets).sum())
    hits_by_place = np.append(is_hit.sum(axis=0), num_targets - is_hit.sum())  # last: not shown
    misses_by_place = np.append((shown & ~is_hit).sum(axis=0), 0)
    misses_by_place[k] = num_cells - num_targets - misses_by_place.sum()
    pairs = num_targets * (num_cells - num_targets)
    if pairs == 0:
        return 0.5
    below = misses_by_place[::-1].cumsum()[::-1] - misses_by_place
    return float((hits_by_place * (below + misses_by_place / 2)).sum() / pairs)


def _is_first(lists: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which places hold an item that does not stand above them too, bool ``(B, k)``."""
    shown = np.zeros(lists.shape, dtype=np.bool_)
    for place in range(lists.shape[1]):
        column = lists[:, place : place + 1]
        shown[:, place] = (column[:, 0] > 0) & ~(lists[:, :place] == column).any(axis=1)
    return shown


def _num_shown(lists: NDArray[np.int32]) -> NDArray[np.int64]:
    result: NDArray[np.int64] = _is_first(lists).sum(axis=1)
    return result
