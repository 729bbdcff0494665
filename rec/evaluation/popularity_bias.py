"""Popularity bias: do the lists show popular items more than users ask for them?

Shapes: V items, B users, k places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class PopularityBias:
    """Compare what is shown with what is asked for, by popularity.

    Attributes:
        items: items of each bin; the first holds those without a training event, the others hold
            a tenth of all training events each, rarest first. Empty bins are left out.
        targets: share of the test targets in each bin.
        places: model -> share of the filled places in each bin.
    """

    items: Sequence[int]
    targets: Sequence[float]
    places: Mapping[str, Sequence[float]]

    def excess(self, model: str) -> float:
        """Return the share of places that would have to move to show what is asked for, 0..1.

        Also called total variation distance: half the sum of the differences.
        """
        pairs = zip(self.places[model], self.targets, strict=True)
        return sum(abs(shown - asked) for shown, asked in pairs) / 2


def popularity_bias(
    lists: Mapping[str, NDArray[np.int32]], *, targets: NDArray[np.int32], counts: NDArray[np.int64]
) -> PopularityBias:
    """Return the shares of places and targets by popularity.

    Item 1 has nine of ten events and half of the targets; this list shows nothing else.

    >>> bias = popularity_bias(
    ...     {"head": np.array([[1], [1]])}, targets=np.array([1, 2]), counts=np.array([9, 1, 0])
    ... )
    >>> bias.items, bias.targets, bias.places["head"], bias.excess("head")
    ([1, 1, 1], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0], 0.5)

    Args:
        lists: model -> int32 ``(B, k)``, 0 where a place is empty.
        targets: item indexes that were asked for, all users' together.
        counts: int64 ``(V,)``, training events.
    """
    order = np.argsort(counts, kind="stable")
    passed = np.cumsum(counts[order])
    bin_of = np.zeros(len(counts), dtype=np.int64)
    total = max(1, int(passed[-1]) if len(passed) else 0)
    bin_of[order] = np.where(counts[order] > 0, -(-NUM_BINS * passed // total), 0)
    sizes = np.bincount(bin_of, minlength=NUM_BINS + 1)
    kept = np.flatnonzero(sizes)

    def shares(items: NDArray[np.int32]) -> list[float]:
        found = np.bincount(bin_of[items - 1], minlength=NUM_BINS + 1)[kept]
        return [float(share) for share in found / max(1, int(found.sum()))]

    return PopularityBias(
        items=sizes[kept].tolist(),
        targets=shares(targets),
        places={model: shares(made[made > 0]) for model, made in lists.items()},
    )
