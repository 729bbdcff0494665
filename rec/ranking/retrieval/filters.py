"""Which items a request allows: by filters, by given candidates, and by what was withdrawn.

Shapes: B requests, V items.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.errors import DataError
from rec.ranking.requests import Request

_MAX_REMEMBERED = 1000
"""Masks kept: at a million items each is a megabyte."""


class Filters:
    """Turn what requests ask for into masks over the catalog; remembers what it has looked up."""

    def __init__(
        self,
        items: pl.DataFrame,
        *,
        index_of: Mapping[str, int],
        withdrawn: NDArray[np.bool_] | None,
    ) -> None:
        """Hold the catalog; ``withdrawn``, bool ``(V,)``, is allowed to nobody."""
        self._items = items
        self._index_of = index_of
        self._withdrawn = withdrawn
        self._masks: dict[tuple[str, str], NDArray[np.bool_]] = {}

    def allowed(self, requests: Sequence[Request]) -> NDArray[np.bool_] | None:
        """Return the items that each request allows, bool ``(V,)`` or ``(B, V)``; ``None`` = all.

        Raises:
            DataError: the items have no such attribute.
        """
        allowed = self._matching([request.filters for request in requests])
        if any(request.candidates is not None for request in requests):
            chosen = np.zeros((len(requests), self._items.height), dtype=np.bool_)
            for row, request in enumerate(requests):
                if request.candidates is None:
                    chosen[row] = True
                    continue
                named = [name for name in request.candidates if name in self._index_of]
                chosen[row, [self._index_of[name] - 1 for name in named]] = True
            allowed = chosen if allowed is None else allowed & chosen
        if self._withdrawn is not None:
            allowed = ~self._withdrawn if allowed is None else allowed & ~self._withdrawn
        return allowed

    def _matching(
        self, filters: Sequence[Mapping[str, tuple[str, ...]]]
    ) -> NDArray[np.bool_] | None:
        """Return the items that match every name of each request's filters, bool ``(B, V)``.

        ``None`` where no request has a filter.
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
