"""Slices: for whom, and for which items, the lists are good.

Shapes: B users, k places, V items, T items of all target sets together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.splits import EvaluationSet
from rec.evaluation.ranking_metrics import ndcg_at_k

_THIRDS = ("rare", "middle", "frequent")
_IN_ORDER = ("warm", "cold", *_THIRDS)
"""Labels that are steps of a scale; others keep the order that they are met in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Hold the users of one slice and each model's mean NDCG for them.

    ``ndcg`` is empty where ``num_users`` is 0.
    """

    num_users: int
    ndcg: Mapping[str, float]


def slice_by_target(
    lists: Mapping[str, NDArray[np.int32]], test: EvaluationSet, labels: Sequence[str]
) -> dict[str, Slice]:
    """Return each label's NDCG when only the targets of that label are asked for.

    A user stands in every slice that one of their targets is in; the lists stay as they are. A
    label that no target has is left out.

    Args:
        lists: model -> int32 ``(B, k)``.
        test: whom and what was asked.
        labels: of each item, by item index - 1; items of an empty label are in no slice.
    """
    names = np.asarray(labels, dtype=object)[test.targets - 1]
    rows = np.repeat(np.arange(test.num_users), np.diff(test.target_offsets))
    slices = {}
    for label in sorted(
        dict.fromkeys(labels),
        key=lambda label: _IN_ORDER.index(label) if label in _IN_ORDER else len(_IN_ORDER),
    ):
        keep = names == label
        if not label or not keep.any():
            continue
        counts = np.bincount(rows[keep], minlength=test.num_users)
        asked = counts > 0
        offsets = np.concatenate([[0], np.cumsum(counts[asked])]).astype(np.int64)
        targets = test.targets[keep]
        slices[label] = Slice(
            num_users=int(asked.sum()),
            ndcg={
                model: float(ndcg_at_k(made[asked], offsets, targets).mean())
                for model, made in lists.items()
            },
        )
    return slices


def frequency_labels(counts: NDArray[np.int64]) -> list[str]:
    """Return ``cold`` for items without training events, else the third of the events they are in.

    The rarest items that make up a third of all events are ``rare``, and so on.

    >>> frequency_labels(np.array([0, 1, 1, 1, 3, 3]))
    ['cold', 'rare', 'rare', 'rare', 'middle', 'frequent']
    """
    labels = ["cold"] * len(counts)
    total, passed = int(counts.sum()), 0
    for item in np.argsort(counts, kind="stable").tolist():
        if counts[item] > 0:
            passed += int(counts[item])
            labels[item] = _THIRDS[min(2, -(-3 * passed // total) - 1)]
    return labels
