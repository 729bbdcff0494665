"""Score candidates: ``score(i) = relevance(u, i) - sum_k weight_k * penalty_k(i)``.

The article calls the second term ``lambda * noise(i)``. It is a *penalty* here: chosen, named and
standardised, not random. A raw count would drown the cosine at any useful lambda.

Shapes: V items, B users, C candidates.
"""

import numpy as np
from numpy.typing import NDArray

MAX_Z = 3.0
"""Bound of a standardised term: no item is pushed further than three deviations."""


def popularity_penalty(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the standardised log popularity of each item, float32 ``(V,)``, within +-3.

    Items of average popularity get 0, popular ones a positive penalty. A catalog without events
    gets zeros.

    Source: article, section 3.4; the log z-score is our choice, raw counts destroy the order.

    >>> popularity_penalty(np.array([0, 0, 0, 0]))
    array([0., 0., 0., 0.], dtype=float32)
    >>> popularity_penalty(np.array([0, 1, 3])).round(2).tolist()
    [-1.2200000286102295, 0.0, 1.2200000286102295]
    """
    logs = np.log1p(counts.astype(np.float64))
    deviation = float(logs.std()) if len(logs) else 0.0
    if deviation == 0.0:
        return np.zeros(len(counts), dtype=np.float32)
    standard = (logs - logs.mean()) / deviation
    penalty: NDArray[np.float32] = np.clip(standard, -MAX_Z, MAX_Z).astype(np.float32)
    return penalty
