"""Explore: draw the tail of a list, and say exactly how likely what is shown was.

A log of lists that were always the best guess says nothing about any other item. With probability
epsilon the tail of a list is drawn from a Plackett-Luce distribution over the next candidates
(Gumbel noise on their scores), else it stays sorted. The head is never touched. The propensity of
an item at its position is the probability of just that, over both cases; it goes into the answer
and the impression, where off-policy evaluation reads it.

Shapes: M items of the pool, T positions of the tail.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEP = 0.2
"""Of the integration over log time. The integrand is analytic in a strip of half-width pi / 2, so
the trapezoid's error falls like ``exp(-pi^2 / step)``, here below 1e-16."""
_FROM, _TO = -30.0, 4.0
"""Log time from where nothing has arrived to where the slowest item has (in units of its mean)."""
POOL_PER_PLACE = 5
"""Items of the pool per position of the tail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explored:
    """Hold a drawn list: places into the sorted list (T,), and the propensity of each (T,)."""

    order: NDArray[np.int64]
    propensities: NDArray[np.float64]


def explore_tail(
    scores: NDArray[np.float64],
    *,
    num_places: int,
    epsilon: float,
    generator: np.random.Generator,
) -> Explored:
    """Return the tail that is shown: as sorted, or with probability epsilon drawn.

    Weights are ``exp(z)``, z the scores in standard deviations of the pool, so that epsilon alone
    says how bold a list is, whatever scores mean.

    Args:
        scores: float64 ``(M,)`` of the pool, in the order of the sorted list.
        num_places: T, at most M.
        epsilon: in 0..1.
        generator: of the draw; always drawn from the same number of times.
    """
    is_drawn = generator.random() < epsilon
    noise = generator.gumbel(size=len(scores))
    deviation = float(scores.std()) if len(scores) else 0.0
    logits = (scores - scores.max(initial=-np.inf)) / (deviation or 1.0)
    order = np.argsort(-(logits + noise), kind="stable") if is_drawn else np.arange(len(scores))
    order = order[:num_places]
    weights = np.exp(logits)
    drawn = position_probabilities(weights, order)
    as_sorted = (order == np.arange(len(order))).astype(np.float64)
    return Explored(order=order, propensities=(1 - epsilon) * as_sorted + epsilon * drawn)


def position_probabilities(
    weights: NDArray[np.float64], order: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how likely each item of ``order`` stands at just its place of it, float64 ``(T,)``.

    The probability over all Plackett-Luce lists, not of this list. Items arrive like exponential
    clocks with rates ``weights``; the first to ring stands first. Given that item i rings at time
    t, the others have rung independently, so its place is one more than a Poisson-binomial count:
    ``P(place = j) = integral of w_i exp(-w_i t) P(count of others by t = j - 1) dt``.

    Args:
        weights: float64 ``(M,)``, > 0.
        order: int64 ``(T,)``, items by place.

    Source: Plackett 1975, The analysis of permutations; Luce 1959. The clocks: Yellott 1977.

    The second of two equal items is second half of the time; an item of weight 2 beats one of
    weight 1 in two lists of three.

    >>> position_probabilities(np.array([1.0, 1.0]), np.array([0, 1])).round(9).tolist()
    [0.5, 0.5]
    >>> position_probabilities(np.array([2.0, 1.0]), np.array([0, 1])).round(9).tolist()
    [0.666666667, 0.666666667]
    """
    num_places = len(order)
    if len(weights) <= 1 or not num_places:
        return np.ones(num_places)
    rates = weights / weights.sum()
    own = rates[order]  # (T,)
    log_time = np.arange(_FROM, _TO - np.log(own.min()), _STEP)
    time = np.exp(log_time)  # (Q,)
    rung = -np.expm1(-np.outer(rates, time))  # (M, Q)
    counts = np.zeros((num_places, num_places, len(time)))  # (T, count of others, Q)
    counts[:, 0] = 1.0
    for item, chance in enumerate(rung):
        moved = counts * (1 - chance)
        moved[:, 1:] += counts[:, :-1] * chance
        is_other = order != item
        counts[is_other] = moved[is_other]
    at_place = counts[np.arange(num_places), np.arange(num_places)]  # (T, Q)
    density = own[:, None] * time * np.exp(-own[:, None] * time)
    result: NDArray[np.float64] = np.clip((density * at_place).sum(axis=1) * _STEP, 0.0, 1.0)
    return result
