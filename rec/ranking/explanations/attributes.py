"""Attributes that two items share: what can be said of them besides a number.

Shapes: V items.
"""

import logging
from collections.abc import Mapping
from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.data.lexical import lexical_tokens
from rec.errors import ConfigError

_RESERVED = frozenset({"item_index", "item_id", "title", "text", "category", "tags", "price"})
_SILENT = frozenset({"image", "image_embedding", "created_at"})
"""Attributes that say nothing to a reader."""
_NUM_BANDS = 5
"""Price bands: fifths of the catalog."""
_MOST_COMMON = 0.5
"""An attribute value, or a word, that more items have than this share says nothing."""
_MAX_WORDS = 3
_log = logging.getLogger(__name__)


class SharedAttributes:
    """Know the attributes of a catalog."""

    def __init__(self, items: pl.DataFrame) -> None:
        self._items = items
        self._names = [
            name
            for name in items.columns
            if name not in _RESERVED | _SILENT and items[name].dtype in (pl.String, pl.Categorical)
        ]
        self._bands = _price_bands(items)
        self._common = {
            name: _too_common(items[name]) for name in ("category", "tags", *self._names)
        }

    def between(self, first: int, second: int) -> dict[str, tuple[str, ...]]:
        """Return what two items (by item index) share, name -> values; empty for the same item.

        Names are ``category``, ``tags``, ``price`` (the band, as text), ``words`` of both titles,
        and the catalog's own text columns.
        """
        if first == second:
            return {}
        shared: dict[str, tuple[str, ...]] = {}
        one, other = self.of(first), self.of(second)
        for name, values in one.items():
            both = tuple(value for value in values if value in set(other.get(name, ())))
            if both:
                shared[name] = both[:_MAX_WORDS] if name == "words" else both
        return shared

    def of(self, item: int) -> dict[str, tuple[str, ...]]:
        """Return what may be said of an item (by item index), name -> values, as ``between``."""
        row = self._items.row(item - 1, named=True)
        found: dict[str, tuple[str, ...]] = {}
        for name in ("category", "tags"):
            values = dict.fromkeys(row[name] or ())
            found[name] = tuple(value for value in values if value not in self._common[name])
        for name in self._names:
            if row[name] and row[name] not in self._common[name]:
                found[name] = (str(row[name]),)
        band = self._band_of(item)
        if band is not None:
            found["price"] = (band,)
        found["words"] = tuple(dict.fromkeys(_words(row["title"])))
        return {name: values for name, values in found.items() if values}

    def _band_of(self, item: int) -> str | None:
        price = self._items["price"][item - 1] if "price" in self._items.columns else None
        if price is None or self._bands is None or not np.isfinite(float(price)):
            return None
        place = int(np.searchsorted(self._bands[1:-1], float(price), side="right"))
        return f"{self._bands[place]:g}-{self._bands[place + 1]:g}"


def _price_bands(items: pl.DataFrame) -> NDArray[np.float64] | None:
    """Return the borders of the price bands, ascending; ``None`` without numeric prices."""
    if "price" not in items.columns or not items["price"].dtype.is_numeric():
        return None
    prices = items["price"].drop_nulls().cast(pl.Float64).to_numpy()
    prices = prices[np.isfinite(prices)]
    if not len(prices):
        return None
    borders = np.unique(np.quantile(prices, np.linspace(0, 1, _NUM_BANDS + 1)))
    return borders if len(borders) > 1 else None


def _too_common(column: pl.Series) -> frozenset[str]:
    num_items = len(column)
    values = column.explode(empty_as_null=True) if isinstance(column.dtype, pl.List) else column
    counts = values.drop_nulls().cast(pl.String).value_counts()
    common: Mapping[str, int] = dict(counts.iter_rows())
    return frozenset(name for name, count in common.items() if count > _MOST_COMMON * num_items)


def _words(title: str) -> list[str]:
    """Return the words of a title, without numbers; none of a Chinese one where jieba is not."""
    try:
        words = lexical_tokens(title)
    except ConfigError as error:
        _warn_once(str(error))
        return []
    # A single letter is a unit or a size; a single Han character is a word.
    return [
        word
        for word in words
        if not any(sign.isdigit() for sign in word) and (len(word) > 1 or not word.isascii())
    ]


@cache
def _warn_once(text: str) -> None:
    _log.warning("explanations name no shared words: %s", text)
