"""New items: places of a list kept for what hardly anybody has had, so that it can earn feedback.

An item without events is seldom near the top, is seldom seen, and so stays without events. The
quota breaks that circle: the last places of a list go to the user's best new items. An item is new
while the log has few events of it and it has not been shown often enough since this process took up
the release: each replica counts its own lists, and starts anew with the next release, whose counts
hold what the item has earned by then.

Shapes: V items, B users, k places.
"""

import numpy as np
from numpy.typing import NDArray


class NewItems:
    """Know which items are new; one that has been shown often enough is so no more.

    Three items with 0, 1 and 9 events; the first is shown twice.

    >>> new = NewItems(np.array([0, 1, 9]), max_events=5, max_impressions=2)
    >>> new.is_new().tolist()
    [True, True, False]
    >>> for _ in range(2):
    ...     new.add(np.array([[1, 3]]))
    >>> new.is_new().tolist()
    [False, True, False]
    """

    def __init__(
        self,
        counts: NDArray[np.int64],
        *,
        max_events: int,
        max_impressions: int,
        shown: NDArray[np.int64] | None = None,
    ) -> None:
        """Start with nothing shown.

        Args:
            counts: int64 ``(V,)``, events of each item.
            max_events: an item with as many is not new.
            max_impressions: an item that stood on as many lists is not new any more.
            shown: int64 ``(V',)``, how often the first V' items have been shown so far.
        """
        self._is_rare = counts < max_events
        self._max_impressions = max_impressions
        self.shown = np.zeros(len(counts), dtype=np.int64)
        if shown is not None:
            self.shown[: len(shown)] = shown

    def is_new(self) -> NDArray[np.bool_]:
        """Return which items are new now, bool ``(V,)``."""
        result: NDArray[np.bool_] = self._is_rare & (self.shown < self._max_impressions)
        return result

    def add(self, lists: NDArray[np.int64]) -> None:
        """Count shown lists, int ``(B, k)``, 0 for an empty place."""
        items = lists[lists > 0] - 1
        self.shown = self.shown + np.bincount(items, minlength=len(self.shown))
