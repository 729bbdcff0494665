"""The order gate: does a model read its users' histories as sequences, or as bags?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet
from rec.evaluation.evaluate import TopKModel, make_lists
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.evaluation.significance import Interval, paired_bootstrap

BAG_FALL = 0.01
"""Share of NDCG that a bag model may lose: sums in another order move some ties."""
SURE_FALL = 0.1
"""Share of NDCG that order must not be worth, by the interval's end, to call a model a bag."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderGate:
    """Hold what is left of a model's NDCG when the order of the histories goes.

    Attributes:
        num_users: who were asked: those with at least two events and a target.
        ndcg: mean NDCG with histories ``ordered``, ``shuffled``, ``reversed``, and ``last_only``,
            the newest event alone.
        fall: of ``ordered`` minus ``shuffled``, paired by user.
    """

    num_users: int
    ndcg: Mapping[str, float]
    fall: Interval

    @property
    def verdict(self) -> Literal["passed", "failed", "unsure"]:
        """Return ``passed`` if order counts, ``failed`` if not, ``unsure`` if nobody can tell."""
        ordered = self.ndcg["ordered"]
        if self.fall.difference > BAG_FALL * ordered:
            return "passed" if self.fall.low > 0 else "unsure"
        return "failed" if self.fall.high < SURE_FALL * ordered else "unsure"

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON's own types, the NDCGs by their names."""
        return {
            **self.ndcg,
            "users": self.num_users,
            "fall": asdict(self.fall),
            "verdict": self.verdict,
        }


def order_gate(
    model: TopKModel,
    test: EvaluationSet,
    *,
    k: int,
    exclude_seen: bool,
    seed: int,
    batch_size: int = 512,
) -> OrderGate | None:
    """Return mean NDCG for histories as they are and with their order taken away.

    Only users with at least two events are asked, order being nothing for the others; without any,
    there is no answer. Events change places, timestamps keep theirs, so they stay sorted.

    Flaw: with ``exclude_seen``, ``last_only`` lists can show older items again, which are never
    targets, so that part of its fall is not about what the model reads.
    """
    if exclude_seen:
        test = test.without_seen()
    test = test.select_users(np.flatnonzero(test.histories.lengths >= 2))
    if test.num_users == 0:
        return None
    histories = test.histories
    rows = histories.rows()
    noise = np.random.default_rng(seed).random(histories.num_events)
    ends = histories.offsets[:-1] + histories.offsets[1:] - 1
    variants = {
        "ordered": histories,
        "shuffled": _reorder(histories, np.lexsort((noise, rows))),
        "reversed": _reorder(histories, ends[rows] - np.arange(histories.num_events)),
        "last_only": histories.newest(1),
    }
    ndcg = {
        name: ndcg_at_k(
            make_lists(model, variant, k=k, exclude_seen=exclude_seen, batch_size=batch_size),
            test.target_offsets,
            test.targets,
        )
        for name, variant in variants.items()
    }
    return OrderGate(
        num_users=test.num_users,
        ndcg={name: float(values.mean()) for name, values in ndcg.items()},
        fall=paired_bootstrap(ndcg["ordered"], ndcg["shuffled"], seed=seed),
    )


def _reorder(histories: Sequences, order: NDArray[np.int64]) -> Sequences:
    """Return the histories with their events in another order, at the old times."""
    return replace(
        histories, tokens=histories.tokens[order], event_types=histories.event_types[order]
    )
