"""Fill the places of one list from candidates in order, within the category cap and the quota.

Shapes: C candidates of one user.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.ranking.lists.reranking import cap_categories

Columns = NDArray[np.int64]
"""int64 ``(n,)``, columns of the user's candidates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """Hold a list as columns.

    Attributes:
        listed: the list, by preference, what the quota brought in at its end.
        held: new items of the list that make up its quota: no draw may take them out.
        added: those of them that stand here by the quota alone.
    """

    listed: Columns
    held: Columns
    added: Columns


class Filler:
    """Fill one user's list behind what is pinned."""

    def __init__(
        self,
        pinned: Columns,
        *,
        categories: Sequence[Sequence[str]] = (),
        category_cap: int | None = None,
    ) -> None:
        """Hold what stands already.

        Args:
            pinned: columns that stand first.
            categories: of each column; read only where there is a cap.
            category_cap: most places of one category.
        """
        self._pinned = pinned
        self._categories = categories
        self._cap = category_cap

    def fill(
        self, free: Columns, *, places: int, num_new: int, is_new: NDArray[np.bool_]
    ) -> Filled:
        """Return a list with ``num_new`` new items, or as many as there are.

        New items that stand in it anyway count; only where they are too few do the last places go
        to the best of the others.

        Args:
            free: columns by preference.
            places: of the list.
            num_new: places for new items; never more than half of all.
            is_new: bool ``(C,)``.

        Column 3 is new: it takes the last place; column 0 has one anyway.

        >>> is_new = np.array([False, False, False, True])
        >>> filler = Filler(np.array([], dtype=np.int64))
        >>> filler.fill(np.arange(4), places=2, num_new=1, is_new=is_new).listed.tolist()
        [0, 3]
        >>> filler.fill(np.arange(4), places=2, num_new=1, is_new=~is_new).listed.tolist()
        [0, 1]
        """
        wanted = min(num_new, places // 2)
        listed, added = self._fitting(free, places), free[:0]
        for num_added in range(1, wanted + 1):
            if is_new[listed].sum() >= wanted:
                break
            first = self._fitting(free, places - num_added)
            others = free[is_new[free] & ~np.isin(free, first)]
            more = self._fitting(others, num_added, beside=first)
            if len(more) < num_added:
                break
            listed, added = np.concatenate([first, more]), more
        return Filled(listed=listed, held=listed[is_new[listed]][:wanted], added=added)

    def _fitting(self, columns: Columns, places: int, beside: Columns | None = None) -> Columns:
        """Return the first columns that the cap lets stand, beside those that stand already."""
        if self._cap is None:
            return columns[:places]
        standing = self._pinned if beside is None else np.concatenate([self._pinned, beside])
        kept = cap_categories(
            np.arange(len(columns)),
            self._of(columns),
            k=places,
            cap=self._cap,
            taken=self._of(standing),
        )
        return columns[np.asarray(kept, dtype=np.int64)]

    def _of(self, columns: Columns) -> list[Sequence[str]]:
        return [self._categories[column] for column in columns.tolist()]
