"""Cold start: a popularity for users of whom nothing is known, and a place for items unknown.

Old hits fade and a week is noise, so three horizons share the say; the column ``nextray`` beside
``popularity`` in a release's report shows what that is worth on its log. An item without events
stands where its text says and nowhere else.

Shapes: V items.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.models.baselines import count_items
from rec.models.sequence_model import SequenceModel

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


@torch.no_grad()
def forget_unseen(model: SequenceModel, train: Sequences) -> None:
    """Set the ID residual of every item without an event in ``train`` to 0, in place.

    Such items were only ever negatives: their residuals point away from all users.
    """
    if model.items.residual is None:
        return
    is_unseen = torch.from_numpy(count_items(train) == 0)
    model.items.residual.weight[1:][is_unseen] = 0.0
