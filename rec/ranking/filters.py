"""Filters: which items an attribute's values allow.

Shapes: B requests, V items.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.errors import DataError

_MAX_REMEMBERED = 1000
"""Masks kept: at a million items each is a megabyte."""


class Filters:
    """Turn attribute filters into masks over the catalog; remembers what it has looked up."""

    def __init__(self, items: pl.DataFrame) -> None:
        self._items = items
        self._masks: dict[tuple[str, str], NDArray[np.bool_]] = {}

    def allowed(self, filters: Sequence[Mapping[str, tuple[str, ...]]]) -> NDArray[np.bool_] | None:
        """Return the items that match every name of each request's filters, bool ``(B, V)``.

        ``None`` where no request has a filter.

        Raises:
            DataError: the items have no such attribute.
        """
        if not any(filters):
            return None
        mask = np.ones((len(filters), self._items.height), dtype=np.bool_)
        for row, wanted in enumerate(filters):
            for name, values in wanted.items():
                matches = [self._matches(name, value) for value in values]
                mask[row] &= np.logical_or.reduce(matches) if matches else False
        return mask

    def _matches(self, name: str, value: str) -> NDArray[np.bool_]:
        key = (name, value)
        if key not in self._masks:
            known = [column for column in self._items.columns if column != "item_index"]
            if name not in known:
                raise DataError(f"unknown filter {name!r}, the items have {', '.join(known)}")
            column = self._items[name]
            if isinstance(column.dtype, pl.List):
                hit = column.cast(pl.List(pl.String)).list.contains(value)
            else:
                hit = column.cast(pl.String) == value
            if len(self._masks) >= _MAX_REMEMBERED:
                self._masks.clear()
            self._masks[key] = hit.fill_null(False).to_numpy()
        return self._masks[key]
