"""Where items without events start, chosen on moments that forgot some items.

Shapes: C candidates of all moments.
"""

import numpy as np
from numpy.typing import NDArray

from rec.ranking.ranker import is_without_events
from rec.stages.example_lists import FEWEST_TO_COMPARE, gain_of, ndcg_of, of_moments
from rec.stages.ranker_examples import Examples

_COLD_OFFSETS = np.arange(-1.0, 3.01, 0.1).round(1)
"""What is tried; the lead's first place starts with ``LEAD_WEIGHT``."""


def find_cold_offset(examples: Examples, raw: NDArray[np.float64], *, max_loss: float) -> float:
    """Return the most that items without events may start with, where some items are forgotten.

    NDCG hardly falls over a wide range of it, and who is never shown is never had: so not the best
    is taken, but the largest that loses no more than a share of it. The items with events are held
    to the same share by themselves: in a catalog with many more forgotten items than were hidden,
    what one list gains by a good guess all lists would pay for.
    """
    is_cold = is_without_events(examples.features)
    hiding = np.unique(examples.rows[is_cold])
    if len(hiding) < FEWEST_TO_COMPARE:
        return 0.0
    mine, keep = of_moments(examples, hiding)
    is_warm_target = mine.is_target & ~is_cold[keep]
    scores = [raw[keep] + offset * is_cold[keep] for offset in _COLD_OFFSETS]
    metrics = np.asarray([ndcg_of(mine, one) for one in scores])
    warm = np.asarray([gain_of(mine, one, of=is_warm_target) for one in scores])
    # Against where the trees themselves put both.
    is_allowed = warm >= (1 - max_loss) * warm[_COLD_OFFSETS == 0]
    is_allowed &= metrics >= (1 - max_loss) * metrics[is_allowed].max()
    return float(_COLD_OFFSETS[np.flatnonzero(is_allowed)[-1]])
