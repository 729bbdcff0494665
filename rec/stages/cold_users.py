"""What orders for users without events: the trees, or how popular items were of late.

Hardly any moment of a window is a user's first, so trees learn from people with a history, and
what people without one turn to is a matter of which popularity: on a log whose taste moves, of the
newest events; where timestamps only count, of all.

Shapes: C candidates of all moments.
"""

import numpy as np
from numpy.typing import NDArray

from rec.evaluation.significance import paired_bootstrap
from rec.ranking.ranker import POPULARITIES, ColdUsers, follow_popularity, is_of_cold_user
from rec.stages.example_lists import FEWEST_TO_COMPARE, ndcg_by_moment, ndcg_of, of_moments
from rec.stages.ranker_examples import Examples


def choose_popularity(examples: Examples, raw: NDArray[np.float64]) -> ColdUsers | None:
    """Return the popularity that orders best for users without events; ``None`` for ``raw``.

    The trees must be better beyond chance. Where too few moments are of such users, the popularity
    that says most of everybody's next events is taken: of people without events the trees have
    learnt nothing then.

    Args:
        examples: of all moments.
        raw: float64 ``(C,)``, what orders otherwise, of trees that have not seen the moment.
    """
    is_theirs = is_of_cold_user(examples.features)
    moments = np.unique(examples.rows[is_theirs])
    is_known = len(moments) >= FEWEST_TO_COMPARE
    mine, keep = of_moments(examples, moments) if is_known else (examples, slice(None))
    found = {name: ndcg_of(mine, follow_popularity(mine.features, name)) for name in POPULARITIES}
    best = max(found, key=lambda name: found[name])
    if is_known:
        trees = ndcg_by_moment(mine, raw[keep])
        plain = ndcg_by_moment(mine, follow_popularity(mine.features, best))
        if paired_bootstrap(trees, plain).low > 0:
            return None
    targets = len(mine.moments.targets) / mine.moments.num_users
    return ColdUsers(popularity=best, intercept=float(np.log(targets)))
