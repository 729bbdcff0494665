"""When an experiment may be stopped: at a horizon fixed before, or at any look.

Whoever looks at an ordinary interval every day and stops when it leaves out 0 is wrong far more
often than it says. :func:`compare_arms` holds at every look at once; :func:`users_needed` says how
long to wait for one look with an ordinary test.

Shapes: N users of an arm.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rec.errors import ConfigError, DataError

_FEWEST = 50
"""Users of an arm before anything is said: the interval rests on a normal limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Hold what one look says: ``low`` to ``high`` covers the difference at all looks together."""

    difference: float
    low: float
    high: float
    num_users: int

    @property
    def is_decided(self) -> bool:
        """Return whether the experiment may be stopped: the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def compare_arms(
    control: NDArray[np.float64],
    new: NDArray[np.float64],
    *,
    expected_users: int,
    alpha: float = 0.05,
) -> Look:
    """Return by how much the new arm's mean is larger, with an interval that holds at every look.

    An asymptotic confidence sequence: the chance that *any* of the looks, however many, leaves out
    the true difference is ``alpha``. Below 50 users an arm the interval is infinite.

    Flaws: at its narrowest it is half as wide again as an interval for one look; it knows one value
    a user, so sum up a user's events first; users must not see each other's lists.

    Args:
        control: float64 ``(N,)``, one value a user so far.
        new: float64 ``(N',)``, likewise.
        expected_users: users of both arms at which the interval is narrowest; it holds at others.
        alpha: chance of being wrong at any look.

    Raises:
        ConfigError: ``alpha`` is no chance, or nobody is expected.
        DataError: a value is not finite.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021, Time-uniform central limit theory
    and asymptotic confidence sequences, theorem 2.2 and its choice of rho.

    >>> values = np.tile([0.0, 1.0], 100)
    >>> look = compare_arms(values, values + 1, expected_users=400)
    >>> look.difference, round(look.low, 2), look.is_decided
    (1.0, 0.85, True)
    >>> compare_arms(values, values, expected_users=400).is_decided
    False
    """
    if not 0 < alpha < 1 or expected_users < 1:
        raise ConfigError(
            f"expected alpha in (0, 1) and users >= 1, got alpha {alpha}, users {expected_users}"
        )
    if not (np.isfinite(control).all() and np.isfinite(new).all()):
        raise DataError("expected a finite value of every user, got one that is not")
    total = len(control) + len(new)
    if min(len(control), len(new)) < _FEWEST:
        return Look(difference=0.0, low=-math.inf, high=math.inf, num_users=total)
    difference = float(new.mean() - control.mean())
    variance = total * float(control.var(ddof=1) / len(control) + new.var(ddof=1) / len(new))
    odds = -2 * math.log(alpha)
    scaled = total * (odds + math.log(odds + 1)) / expected_users  # t * rho^2
    radius = math.sqrt(
        2 * variance * (scaled + 1) / (total * scaled) * math.log(math.sqrt(scaled + 1) / alpha)
    )
    return Look(
        difference=difference,
        low=difference - radius,
        high=difference + radius,
        num_users=total,
    )


def users_needed(
    *, deviation: float, effect: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Return the users of each arm that a single look with a two-sided test wants.

    Args:
        deviation: standard deviation of a user's value.
        effect: smallest difference of means that is worth finding.
        alpha: chance of seeing a difference that is not there.
        power: chance of seeing one of ``effect``.

    Raises:
        ConfigError: a number out of range.

    Source: Fleiss, Levin and Paik 2003, Statistical methods for rates and proportions, chapter 4.

    >>> users_needed(deviation=0.5, effect=0.05)
    1570
    """
    if deviation <= 0 or effect == 0 or not (0 < alpha < 1 and 0 < power < 1):
        raise ConfigError(
            "expected deviation > 0, effect other than 0, alpha and power in (0, 1), got "
            f"{deviation}, {effect}, {alpha}, {power}"
        )
    quantiles = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))
    return math.ceil(2 * (deviation * quantiles / effect) ** 2)
