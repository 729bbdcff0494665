"""When to ask again, and after how long: full jitter over exponential backoff.

Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog 2015.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from rec.errors import ConfigError

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""The request was not at fault. Every call of the client may be repeated without harm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryConfig:
    """Say how patient a client is."""

    max_tries: int = 4
    """Requests a call may make; 1 never repeats."""
    base_s: float = 0.1
    """Longest pause after the first try; it doubles with each."""
    max_pause_s: float = 5.0
    """Longest pause; a service that says ``Retry-After`` more than this is not waited for."""
    seed: int | None = None
    """Of the jitter; ``None`` draws one, so that clients do not come back at the same moment."""

    def __post_init__(self) -> None:
        if self.max_tries < 1:
            raise ConfigError(f"max_tries must be >= 1, got {self.max_tries}")
        if not 0 <= self.base_s <= self.max_pause_s:
            raise ConfigError(
                f"expected 0 <= base_s <= max_pause_s, got {self.base_s} and {self.max_pause_s}"
            )


def pause_s(
    config: RetryConfig, tries: int, *, retry_after_s: float | None, generator: random.Random
) -> float | None:
    """Return how long to wait after ``tries`` tries; ``None`` where it is time to give up.

    >>> half = random.Random(); half.uniform = lambda low, high: (low + high) / 2
    >>> pause_s(RetryConfig(), 1, retry_after_s=None, generator=half)
    0.05
    >>> pause_s(RetryConfig(), 3, retry_after_s=2.0, generator=half)
    2.2
    >>> pause_s(RetryConfig(), 3, retry_after_s=60.0, generator=half) is None
    True
    >>> pause_s(RetryConfig(max_tries=3), 3, retry_after_s=None, generator=half) is None
    True
    """
    if tries >= config.max_tries:
        return None
    jitter = generator.uniform(0, min(config.max_pause_s, config.base_s * 2 ** (tries - 1)))
    if retry_after_s is None:
        return jitter
    return None if retry_after_s > config.max_pause_s else retry_after_s + jitter


def read_retry_after(value: str | None, *, now: datetime) -> float | None:
    """Return the seconds that a ``Retry-After`` header names, by number or by date.

    >>> now = datetime(2026, 1, 1, tzinfo=UTC)
    >>> read_retry_after("2", now=now), read_retry_after("soon", now=now)
    (2.0, None)
    >>> read_retry_after("Thu, 01 Jan 2026 00:00:30 GMT", now=now)
    30.0
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())
