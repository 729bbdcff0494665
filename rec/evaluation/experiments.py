"""Online experiments: who sees what, whether the split is sound, and which list won.

Shapes: A arms, k places.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rec.errors import ConfigError

_BUCKETS = 1 << 53
"""Distinct shares a double holds exactly."""
SUSPICIOUS = 0.001
"""p-value below which a split is called broken: chance does that to one in a thousand."""


def assign_arm(user_id: str, *, experiment: str, shares: Mapping[str, float], key: bytes) -> str:
    """Return the arm of a user: the same every time, on every machine, and for nobody to guess.

    A keyed hash of experiment and user, so that arms of two experiments are independent and nobody
    without the key can tell who is where.

    Args:
        user_id: stored id.
        experiment: its name; another name draws anew.
        shares: arm -> share, > 0, summing to 1.
        key: secret bytes.

    Raises:
        ConfigError: the shares are no distribution.

    >>> arms = {"control": 0.5, "new": 0.5}
    >>> assign_arm("u1", experiment="mmr", shares=arms, key=b"secret")
    'new'
    >>> assign_arm("u1", experiment="dpp", shares=arms, key=b"secret")
    'control'
    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ConfigError(f"expected shares > 0 that sum to 1, got {dict(shares)}")
    message = len(experiment).to_bytes(8, "big") + f"{experiment}{user_id}".encode()
    digest = hmac.new(key, message, hashlib.sha256).digest()
    place = (int.from_bytes(digest[:8], "big") >> 11) / _BUCKETS
    total = 0.0
    for arm, share in shares.items():
        total += share
        if place < total:
            return arm
    return list(shares)[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class RatioCheck:
    """Hold whether arms got the users they should: ``is_sound`` is false below ``SUSPICIOUS``."""

    p_value: float
    is_sound: bool


def check_sample_ratio(counts: Mapping[str, int], *, shares: Mapping[str, float]) -> RatioCheck:
    """Return whether the users of each arm fit its share: the sample ratio mismatch check.

    A broken split (lost logs, bots, a redirect) makes every other number of the experiment wrong.

    Raises:
        ConfigError: counts and shares name other arms, or there is nobody.

    Source: Fabijan et al. 2019, Diagnosing sample ratio mismatch in online controlled experiments;
    Pearson's chi-squared test.

    >>> even = {"control": 0.5, "new": 0.5}
    >>> check_sample_ratio({"control": 5000, "new": 5060}, shares=even).is_sound
    True
    >>> check_sample_ratio({"control": 5000, "new": 5600}, shares=even).is_sound
    False
    """
    total = sum(counts.values())
    if set(counts) != set(shares) or total == 0:
        raise ConfigError(f"expected users in the arms {sorted(shares)}, got {dict(counts)}")
    observed = [counts[arm] for arm in shares]
    expected = [share * total for share in shares.values()]
    p_value = float(stats.chisquare(observed, expected).pvalue)
    return RatioCheck(p_value=p_value, is_sound=p_value >= SUSPICIOUS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interleaved:
    """Hold one list made of two: the items, and which team gave each (0 or 1)."""

    items: tuple[str, ...]
    teams: tuple[int, ...]


def team_draft(
    first: Sequence[str], second: Sequence[str], *, k: int, generator: np.random.Generator
) -> Interleaved:
    """Return a list that two rankings fill in turn, like captains who pick their teams.

    In each round a coin says who picks first; each picks its best item that is not there yet. A
    click counts for the team of the item; over many lists the better ranking wins more of them.
    Far fewer users decide than in an A/B split, because every user compares.

    Source: Radlinski, Kurup and Joachims 2008, How does clickthrough data reflect retrieval
    quality?

    >>> made = team_draft(["a", "b"], ["a", "c"], k=3, generator=np.random.default_rng(1))
    >>> made.items, made.teams
    (('a', 'c', 'b'), (0, 1, 0))
    """
    rankings = (first, second)
    places = [0, 0]
    items: list[str] = []
    teams: list[int] = []
    chosen: set[str] = set()
    while len(items) < k:
        before = len(items)
        leader = int(generator.integers(2))
        for team in (leader, 1 - leader):
            ranking = rankings[team]
            while places[team] < len(ranking) and ranking[places[team]] in chosen:
                places[team] += 1
            if places[team] < len(ranking) and len(items) < k:
                chosen.add(ranking[places[team]])
                items.append(ranking[places[team]])
                teams.append(team)
        if len(items) == before:
            break
    return Interleaved(items=tuple(items), teams=tuple(teams))


def interleaving_winner(wins: Sequence[int]) -> float:
    """Return the two-sided p-value that neither ranking wins more lists (sign test).

    Args:
        wins: for each list with clicks: 1 if the second team had more of them, -1 if the first,
            0 for a tie, which says nothing and is left out.

    >>> round(interleaving_winner([1, 1, 1, 1, 1, 1, 0, -1]), 4)
    0.125
    """
    second, decided = sum(win > 0 for win in wins), sum(win != 0 for win in wins)
    return float(stats.binomtest(second, decided).pvalue) if decided else 1.0
