"""Cold start: a popularity for users of whom nothing is known, blended over horizons.

Old hits fade and a week is noise, so three horizons share the say; the column ``nextray`` beside
``popularity`` in a release's report shows what that is worth on its log.

Shapes: V items.
"""

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.models.baselines import count_items

HORIZONS_DAYS: tuple[int | None, ...] = (None, 365, 90)
"""Oldest event that counts, in days before the newest; ``None`` counts all."""


def cold_scores(train: Sequences) -> NDArray[np.float32]:
    """Return the blended popularity of each item, float32 ``(V,)`` in [0, 1].

    Zeros where the log has no item event.
    """
    total = np.zeros(train.num_items, dtype=np.float64)
    for days in HORIZONS_DAYS:
        counts = count_items(train, last_days=days)
        total += counts / max(1, int(counts.max(initial=0)))
    return (total / len(HORIZONS_DAYS)).astype(np.float32)
