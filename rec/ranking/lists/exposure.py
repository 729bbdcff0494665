"""Group exposure: who gets the places of all lists together, and a penalty that evens it out.

No single list can be fair to twenty providers in ten places, and no constant of an item can know
what was shown before. So exposure is *amortised*: a ledger adds up what each group has received
over all lists so far, and items of groups above their share of the catalog get a penalty until the
others have caught up. The ledger lives in the memory of one process: every replica evens out its
own lists, and starts anew with its release.

Shapes: V items, G groups, B users, k places.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.ranking.lists.penalties import MAX_Z

_PRIOR_LISTS = 10.0
"""Lists of perfect parity that the ledger opens with, so that the first one is no alarm."""


class ExposureLedger:
    """Count exposure by group, and tell which items have had more than their group's share.

    Source: Biega, Gummadi and Weikum 2018, Equity of attention: amortizing individual fairness in
    rankings; here over groups, with the catalog's shares as the aim.

    Two items of group ``a``, two of group ``b``; ``a`` is shown over and over.

    >>> ledger = ExposureLedger([["a"], ["a"], ["b"], ["b"]])
    >>> for _ in range(1000):
    ...     ledger.add(np.array([[1]]))
    >>> ledger.penalty().round(1).tolist()
    [1.0, 1.0, -3.0, -3.0]
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        """Start for items with any number of groups each; their exposure is split among them."""
        names = sorted({name for row in groups for name in row})
        codes = {name: code for code, name in enumerate(names)}
        rows = [row for row, own in enumerate(groups) for _ in set(own)]
        columns = [codes[name] for own in groups for name in sorted(set(own))]
        weights = [1 / len(set(own)) for own in groups for _ in set(own)]
        self.names = tuple(names)
        self._shares = sparse.csr_array(
            (np.asarray(weights), (np.asarray(rows, int), np.asarray(columns, int))),
            shape=(len(groups), max(1, len(names))),
        )  # (V, G)
        totals = np.asarray(self._shares.sum(axis=0)).ravel()
        self.target = totals / max(1.0, float(totals.sum()))
        self.exposure = np.zeros(len(self.target))

    def add(self, lists: NDArray[np.int64]) -> None:
        """Add shown lists, int ``(B, k)``, 0 for an empty place; upper places count for more."""
        discounts = 1 / np.log2(np.arange(2, lists.shape[1] + 2))
        is_shown = lists > 0
        weights = np.broadcast_to(discounts, lists.shape)[is_shown]
        by_item = np.bincount(
            lists[is_shown] - 1, weights=weights, minlength=int(self._shares.shape[0])
        )
        self.exposure = self.exposure + by_item @ self._shares

    def shares(self) -> NDArray[np.float64]:
        """Return each group's share of all exposure so far, float64 ``(G,)``; 0 before any."""
        result: NDArray[np.float64] = self.exposure / max(1e-12, float(self.exposure.sum()))
        return result

    def penalty(self) -> NDArray[np.float32]:
        """Return by how many doublings each item's groups are above parity, ``(V,)``, within +-3.

        Items without a group get 0.
        """
        opened = self.exposure + _PRIOR_LISTS * self.target
        ratios = opened / max(1e-12, float(opened.sum())) / np.maximum(self.target, 1e-12)
        doublings = np.clip(np.log2(np.maximum(ratios, 1e-12)), -MAX_Z, MAX_Z)
        result: NDArray[np.float32] = np.asarray(self._shares @ doublings).astype(np.float32)
        return result
