"""Quotas: how often a key may ask, as a bucket that refills steadily.

Each gateway replica counts for itself, in memory: with R replicas a key gets between one and R
times its quota, depending on how its requests are spread.
"""

import math
import time
from collections.abc import Callable

MINUTE_S = 60.0


class Quotas:
    """Count the requests of keys; a full bucket allows a minute's requests at once."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def wait_s(self, name: str, per_minute: int | None) -> int | None:
        """Return ``None`` where a key may ask now, else the whole seconds until it may again.

        A request that may not is not counted.

        Args:
            name: whose bucket.
            per_minute: its quota; ``None`` = no limit.
        """
        if per_minute is None:
            return None
        now = self._clock()
        left, since = self._left.get(name, (float(per_minute), now))
        left = min(float(per_minute), left + (now - since) * per_minute / MINUTE_S)
        is_allowed = left >= 1
        self._left[name] = (left - is_allowed, now)
        return None if is_allowed else math.ceil((1 - left) * MINUTE_S / per_minute)
