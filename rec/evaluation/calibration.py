"""Calibration: of the items that a list calls likely, how many were taken.

Shapes: B users, k places, N shown items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.splits import EvaluationSet
from rec.evaluation.ranking_metrics import hits


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """Hold equally large bins of shown items, by predicted probability.

    Attributes:
        predicted: mean predicted probability of each bin.
        observed: share of the bin that was taken.
        num_items: items of the bin.
        error: mean distance of the two, weighed by items (expected calibration error).
    """

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    num_items: tuple[int, ...]
    error: float


def reliability(
    lists: NDArray[np.int32],
    log_odds: NDArray[np.float32],
    test: EvaluationSet,
    *,
    num_bins: int = 10,
) -> Reliability:
    """Return how predicted probabilities of shown items compare with what was taken.

    Flaw: it sees only what is shown, the upper end of the predictions.

    Args:
        lists: int32 ``(B, k)``.
        log_odds: float32 ``(B, k)``, the ranker's relevance.
        test: whom and what was asked.
        num_bins: bins of equal size.

    Source: Guo et al. 2017, On calibration of modern neural networks (expected calibration error).
    """
    is_shown = lists > 0
    taken = hits(lists, test.target_offsets, test.targets)[is_shown]
    chances = 1 / (1 + np.exp(-log_odds[is_shown].astype(np.float64)))
    order = np.argsort(chances, kind="stable")
    parts = [part for part in np.array_split(order, num_bins) if len(part)]
    predicted = [float(chances[part].mean()) for part in parts]
    observed = [float(taken[part].mean()) for part in parts]
    sizes = [len(part) for part in parts]
    gaps = np.abs(np.subtract(predicted, observed))
    return Reliability(
        predicted=tuple(predicted),
        observed=tuple(observed),
        num_items=tuple(sizes),
        error=float(np.average(gaps, weights=sizes)) if sizes else 0.0,
    )
