"""Experiments that are looked at again and again: how often they are wrong, and how soon right."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rec.errors import ConfigError, DataError
from rec.evaluation.sequential import compare_arms, users_needed

LOOKS = range(100, 2001, 100)
"""Users of an arm at each of twenty looks."""


def clicks(seed: int, rate: float) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(2000) < rate).astype(np.float64)


def ordinary(control: NDArray[np.float64], new: NDArray[np.float64]) -> bool:
    """Say whether an interval for one look leaves out 0."""
    spread = np.sqrt(control.var(ddof=1) / len(control) + new.var(ddof=1) / len(new))
    return bool(abs(new.mean() - control.mean()) > 1.96 * spread)


def test_twenty_looks_at_nothing_are_wrong_as_seldom_as_promised() -> None:
    wrong = {"ours": 0, "ordinary": 0}
    for seed in range(300):
        arms = clicks(2 * seed, 0.3), clicks(2 * seed + 1, 0.3)
        looks = [(arms[0][:n], arms[1][:n]) for n in LOOKS]
        wrong["ours"] += any(compare_arms(*look, expected_users=4000).is_decided for look in looks)
        wrong["ordinary"] += any(ordinary(*look) for look in looks)
    assert wrong["ours"] <= 15, wrong  # 5 % of 300
    assert wrong["ordinary"] >= 45, wrong  # what peeking does to an interval for one look


def test_a_real_difference_is_found_and_its_side_named() -> None:
    decided = [
        compare_arms(clicks(s, 0.3), clicks(1000 + s, 0.38), expected_users=4000)
        for s in range(100)
    ]
    assert sum(look.low > 0 for look in decided) >= 90
    assert not any(look.high < 0 for look in decided)
    assert decided[0].num_users == 4000


def test_interval_covers_the_difference_at_all_looks() -> None:
    missed = 0
    for seed in range(200):
        arms = clicks(seed, 0.3), clicks(5000 + seed, 0.35)
        for n in LOOKS:
            look = compare_arms(arms[0][:n], arms[1][:n], expected_users=4000)
            if not look.low <= 0.05 <= look.high:
                missed += 1
                break
    assert missed <= 10


def test_horizon_gives_the_power_it_was_asked_for() -> None:
    number = users_needed(deviation=1.0, effect=0.2, power=0.8)
    random = np.random.default_rng(0)
    found = [
        ordinary(random.normal(0, 1, number), random.normal(0.2, 1, number)) for _ in range(1000)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_too_few_say_nothing_and_bad_numbers_are_refused() -> None:
    few = compare_arms(np.zeros(49), np.ones(500), expected_users=1000)
    assert not few.is_decided
    with pytest.raises(ConfigError, match="alpha"):
        compare_arms(np.zeros(60), np.ones(60), expected_users=1000, alpha=0.0)
    with pytest.raises(DataError, match="finite"):
        compare_arms(np.full(60, np.nan), np.ones(60), expected_users=1000)
    with pytest.raises(ConfigError, match="deviation"):
        users_needed(deviation=0.0, effect=0.1)
