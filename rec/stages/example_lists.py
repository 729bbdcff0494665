"""What lists of examples are worth: candidates ordered by scores, measured on what came next.

Shapes: M moments, C candidates of all moments.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.stages.ranker_examples import Examples

VALIDATION_K = 10
FEWEST_TO_COMPARE = 10
"""Moments with a hit below which not even single sources are compared."""


def of_moments(
    examples: Examples, moments: NDArray[np.int64]
) -> tuple[Examples, NDArray[np.bool_]]:
    """Return the examples of some moments (ascending), and which candidates those are, ``(C,)``."""
    keep = np.isin(examples.rows, moments)
    return replace(
        examples,
        moments=examples.moments.select_users(moments),
        num_asked=len(moments),
        rows=np.searchsorted(moments, examples.rows[keep]),
        items=examples.items[keep],
        features=examples.features[keep],
        is_target=examples.is_target[keep],
    ), keep


def ndcg_of(examples: Examples, scores: NDArray[np.floating]) -> float:
    """Return the mean NDCG over all moments asked, their candidates ordered by ``scores``."""
    return float(ndcg_by_moment(examples, scores).sum()) / max(1, examples.num_asked)


def ndcg_by_moment(examples: Examples, scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the NDCG of each moment with a hit, float64 ``(M,)``."""
    order, place = places(examples, scores)
    shown = (place < VALIDATION_K) & np.isfinite(scores[order])
    lists = np.zeros((examples.moments.num_users, VALIDATION_K), dtype=np.int32)
    lists[examples.rows[order][shown], place[shown]] = examples.items[order][shown]
    moments = examples.moments
    return ndcg_at_k(lists, moments.target_offsets, moments.targets)


def gain_of(examples: Examples, scores: NDArray[np.floating], *, of: NDArray[np.bool_]) -> float:
    """Return the discounted gain that some candidates (bool ``(C,)``) bring to all lists."""
    order, place = places(examples, scores)
    counts = of[order] & (place < VALIDATION_K)
    return float((1 / np.log2(place[counts] + 2)).sum())


def places(
    examples: Examples, scores: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the candidates ordered by moment and score, and each one's 0-based place, ``(C,)``."""
    order = np.lexsort((-scores, examples.rows))
    starts = np.searchsorted(examples.rows, np.arange(examples.moments.num_users))
    return order, np.arange(len(order)) - starts[examples.rows[order]]
