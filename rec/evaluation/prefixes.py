"""The prefix curve: what each known event of a user is worth, from a cold start on.

Every point asks the same users, told only their newest n events, so that points compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rec.data.splits import EvaluationSet
from rec.evaluation.evaluate import TopKModel, make_lists
from rec.evaluation.ranking_metrics import ndcg_at_k

PREFIXES = (0, 1, 2, 3, 5, 10, 20)
"""Known events; a longer history than the last is worth what the slices by length say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixCurve:
    """Hold mean NDCG by number of known events.

    Attributes:
        num_users: asked at every point: those with as many events as the last point tells.
        known: number of events told.
        ndcg: model -> mean NDCG at each of ``known``.
    """

    num_users: int
    known: Sequence[int]
    ndcg: Mapping[str, Sequence[float]]


def prefix_curve(
    models: Sequence[TopKModel],
    test: EvaluationSet,
    *,
    k: int,
    exclude_seen: bool,
    prefixes: Sequence[int] = PREFIXES,
) -> PrefixCurve | None:
    """Return NDCG of lists that are told the newest 0, 1, 2, ... events; ``None`` without users.

    Ends at the most events that half of the users with any event have, so that the curve is of many
    users. Flaw: with ``exclude_seen`` a short prefix lets older items back into the lists, which
    are never targets; part of the rise is their going away.
    """
    if exclude_seen:
        test = test.without_seen()
    lengths = test.histories.lengths
    if not (lengths > 0).any():
        return None
    longest = int(np.median(lengths[lengths > 0]))
    known = [prefix for prefix in prefixes if prefix <= longest]
    asked = test.select_users(np.flatnonzero(lengths >= known[-1]))
    ndcg: dict[str, list[float]] = {model.name: [] for model in models}
    for prefix in known:
        # ``newest`` keeps at least one: nothing at all is told apart.
        told = asked.histories.newest(max(1, prefix))
        if not prefix:
            told = told.select_events(np.zeros(told.num_events, dtype=np.bool_))
        for model in models:
            lists = make_lists(model, told, k=k, exclude_seen=exclude_seen)
            value = ndcg_at_k(lists, asked.target_offsets, asked.targets).mean()
            ndcg[model.name].append(float(value))
    return PrefixCurve(num_users=asked.num_users, known=known, ndcg=ndcg)
