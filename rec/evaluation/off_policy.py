"""Off-policy evaluation: what another policy would have earned, read from logged lists.

A logged place says: the policy that ran showed this item here with this probability (propensity),
and this reward came of it. Another policy would have shown it with another probability, and the
ratio of the two says how much the place counts for it. That is right only for what the logging
policy could show at all: without *support* there is no answer, and there is none given.

Shapes: N logged places.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.errors import DataError

_Z = 1.959963984540054
"""Two-sided 95 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OffPolicyConfig:
    """Say how much support an answer needs."""

    min_effective: float = 100.0
    """Effective sample size below which no estimate is given."""
    min_support: float = 0.95
    """Share of the new policy's probability that must lie on what the log could show."""
    max_ratio: float | None = None
    """Bound of one place's weight; clipping trades variance for bias. None clips nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Hold a policy's mean reward per place, with its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
        effective_size: places of an even weighing that would say as much, ``(sum w)^2 / sum w^2``.
        num_places: N.
    """

    value: float
    low: float
    high: float
    effective_size: float
    num_places: int


def effective_size(weights: NDArray[np.float64]) -> float:
    """Return ``(sum w)^2 / sum w^2``, between 1 and N; 0 without any weight.

    Source: Kong 1992, A note on importance sampling using standardized weights.

    >>> effective_size(np.array([1.0, 1.0, 1.0])), effective_size(np.array([1.0, 0.0, 0.0]))
    (3.0, 1.0)
    """
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def ips(
    rewards: NDArray[np.float64],
    logged: NDArray[np.float64],
    target: NDArray[np.float64],
    *,
    config: OffPolicyConfig | None = None,
    support: float = 1.0,
) -> Estimate:
    """Return the inverse propensity estimate: the mean of ``reward * target / logged``.

    Unbiased where the log has support; of large variance where ratios are large.

    Args:
        rewards: float64 ``(N,)``.
        logged: float64 ``(N,)``, propensities of the policy that ran, in (0, 1].
        target: float64 ``(N,)``, propensities of the other policy for the same items and positions.
        config: how much support is asked for.
        support: share of the other policy's probability on what the log could show; see
            :func:`support_of`.

    Raises:
        DataError: propensities are missing or out of range, or the support is too small.

    Source: Horvitz and Thompson 1952; Li et al. 2011, Unbiased offline evaluation of contextual
    bandit-based news article recommendation algorithms.

    Two of the three places were shown as often as the new policy would, one never would be.

    >>> config = OffPolicyConfig(min_effective=1)
    >>> half = np.full(3, 0.5)
    >>> ips(np.array([1.0, 0.0, 1.0]), half, np.array([0.5, 0.5, 0.0]), config=config).value
    0.3333333333333333
    """
    weights = _weights(rewards, logged, target, config or OffPolicyConfig(), support)
    return _normal(weights * rewards, weights)


def snips(
    rewards: NDArray[np.float64],
    logged: NDArray[np.float64],
    target: NDArray[np.float64],
    *,
    config: OffPolicyConfig | None = None,
    support: float = 1.0,
) -> Estimate:
    """Return the self-normalised estimate: the weighted mean of the rewards.

    A little biased in small logs, of far smaller variance than :func:`ips`, and never outside the
    range of the rewards. Arguments and errors are those of ``ips``; the interval is the delta
    method's.

    Source: Swaminathan and Joachims 2015, The self-normalized estimator for counterfactual
    learning.

    >>> config = OffPolicyConfig(min_effective=1)
    >>> half = np.full(3, 0.5)
    >>> snips(np.array([1.0, 0.0, 1.0]), half, np.array([0.5, 0.5, 0.0]), config=config).value
    0.5
    """
    weights = _weights(rewards, logged, target, config or OffPolicyConfig(), support)
    value = float((weights * rewards).sum() / weights.sum())
    influence = weights * (rewards - value) / weights.mean()
    return _normal(value + influence, weights)


def doubly_robust(
    rewards: NDArray[np.float64],
    logged: NDArray[np.float64],
    target: NDArray[np.float64],
    *,
    predicted: NDArray[np.float64],
    baseline: NDArray[np.float64],
    config: OffPolicyConfig | None = None,
    support: float = 1.0,
) -> Estimate:
    """Return the doubly robust estimate: a reward model, corrected where the log contradicts it.

    ``mean(baseline + weight * (reward - predicted))``: right if either the propensities or the
    model are.

    Args:
        rewards: float64 ``(N,)``.
        logged: float64 ``(N,)``.
        target: float64 ``(N,)``.
        predicted: float64 ``(N,)``, the model's reward of what was shown.
        baseline: float64 ``(N,)``, the model's mean reward of what the other policy would show at
            the same place.
        config: how much support is asked for.
        support: as in :func:`ips`.

    Raises:
        DataError: as in :func:`ips`.

    Source: Dudik, Langford and Li 2011, Doubly robust policy evaluation and learning.

    The model is exact, so the log has nothing to correct.

    >>> config, half = OffPolicyConfig(min_effective=1), np.full(2, 0.5)
    >>> rewards = np.array([1.0, 0.0])
    >>> model = {"predicted": rewards, "baseline": np.full(2, 0.7)}
    >>> doubly_robust(rewards, half, half, **model, config=config).value
    0.7
    """
    weights = _weights(rewards, logged, target, config or OffPolicyConfig(), support)
    return _normal(baseline + weights * (rewards - predicted), weights)


def support_of(logged: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Return the share of a policy's probability on what the logging policy could show, in [0, 1].

    Args:
        logged: float64 ``(..., C)``, of every candidate at a place, shown or not.
        target: float64, the same shape.

    >>> support_of(np.array([[0.5, 0.5, 0.0]]), np.array([[0.5, 0.3, 0.2]]))
    0.8
    """
    total = float(target.sum())
    return float(target[logged > 0].sum()) / total if total > 0 else 0.0


def _weights(
    rewards: NDArray[np.float64],
    logged: NDArray[np.float64],
    target: NDArray[np.float64],
    config: OffPolicyConfig,
    support: float,
) -> NDArray[np.float64]:
    """Return the ratio of the propensities at each place, or refuse."""
    if not len(rewards):
        raise DataError("expected logged places, got none")
    bad = ~(np.isfinite(logged) & (logged > 0) & (logged <= 1))
    if bad.any():
        raise DataError(
            f"expected propensities in (0, 1], got {logged[bad][0]} and {int(bad.sum()) - 1} more: "
            "impressions without propensities say nothing about another policy"
        )
    if not (np.isfinite(rewards).all() and ((target >= 0) & (target <= 1)).all()):
        raise DataError("expected finite rewards and target propensities in [0, 1]")
    if support < config.min_support:
        raise DataError(
            f"the log could show only {support:.1%} of what the other policy would (at least "
            f"{config.min_support:.0%} is asked for): log with exploration first"
        )
    weights = target / logged
    if config.max_ratio is not None:
        weights = np.minimum(weights, config.max_ratio)
    size = effective_size(weights)
    if size < config.min_effective:
        raise DataError(
            f"{len(rewards)} places weigh like {size:.1f} even ones (at least "
            f"{config.min_effective:g} are asked for): the policies differ too much for this log"
        )
    result: NDArray[np.float64] = weights
    return result


def _normal(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Estimate:
    """Return the mean of independent values with its normal interval."""
    value = float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")
    return Estimate(
        value=value,
        low=value - _Z * error,
        high=value + _Z * error,
        effective_size=effective_size(weights),
        num_places=len(values),
    )
