"""Which items a request allows: by filters, by given candidates, and by what was withdrawn.

Shapes: B requests, V items.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.errors import DataError
from rec.ranking.requests import Condition, Request

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
        self._masks: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    def allowed(self, requests: Sequence[Request]) -> NDArray[np.bool_] | None:
        """Return the items that each request allows, bool ``(V,)`` or ``(B, V)``; ``None`` = all.

        Raises:
            DataError: the items have no such attribute, or it has bounds and is no number.
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
        self, filters: Sequence[Mapping[str, tuple[str, ...] | Condition]]
    ) -> NDArray[np.bool_] | None:
        """Return the items that match every name of each request's filters, bool ``(B, V)``.

        ``None`` where no request has a filter.
        """
        if not any(filters):
            return None
        mask = np.ones((len(filters), self._items.height), dtype=np.bool_)
        for row, wanted in enumerate(filters):
            for name, values in wanted.items():
                column = self._column(name)
                given = Condition(any_of=values) if isinstance(values, tuple) else values
                if given.any_of is not None:
                    mask[row] &= self._has_any(column, given.any_of)
                if given.none_of:
                    mask[row] &= ~self._has_any(column, given.none_of)
                if given.least is not None or given.most is not None:
                    mask[row] &= self._is_within(column, given)
        return mask

    def _column(self, name: str) -> pl.Series:
        known = [column for column in self._items.columns if column != "item_index"]
        if name not in known:
            raise DataError(f"unknown filter {name!r}, the items have {', '.join(known)}")
        return self._items[name]

    def _has_any(self, column: pl.Series, values: Sequence[str]) -> NDArray[np.bool_]:
        has_any = np.zeros(len(column), dtype=np.bool_)
        for value in values:
            has_any |= self._remembered((column.name, value), partial(_equals, column, value))
        return has_any

    def _is_within(self, column: pl.Series, given: Condition) -> NDArray[np.bool_]:
        least = -np.inf if given.least is None else given.least
        most = np.inf if given.most is None else given.most
        if not column.dtype.is_numeric():
            raise DataError(
                f"filter {column.name!r} has bounds, expected numbers, got {column.dtype}"
            )
        if not least <= most:
            raise DataError(f"filter {column.name!r}: expected min <= max, got {least} and {most}")
        key = (column.name, "within", str(least), str(most))
        return self._remembered(key, partial(column.is_between, least, most))

    def _remembered(self, key: tuple[str, ...], make: Callable[[], pl.Series]) -> NDArray[np.bool_]:
        if key not in self._masks:
            if len(self._masks) >= _MAX_REMEMBERED:
                self._masks.clear()
            self._masks[key] = make().fill_null(False).to_numpy()
        return self._masks[key]


def _equals(column: pl.Series, value: str) -> pl.Series:
    """Return whether each item has a value, among others where it may have several."""
    if isinstance(column.dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.contains(value)
    return column.cast(pl.String) == value
