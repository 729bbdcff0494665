"""A column worked out once a distinct value: few users make many rows."""

from collections.abc import Callable

import polars as pl
import pyarrow as pa


def map_distinct(values: pl.Series, make: Callable[[list[str]], pl.Series]) -> pl.Series:
    """Return what ``make`` gives for every value; it sees each distinct one once.

    Args:
        values: text without nulls.
        make: takes the distinct values in the order in which they come, returns one for each.

    >>> map_distinct(pl.Series(["a", "bb", "a"]), lambda v: pl.Series(map(len, v))).to_list()
    [1, 2, 1]
    """
    # Arrow's dictionary is one pass over the texts; polars needs one to find, one to look up.
    text = values.rechunk().to_arrow().cast(pa.large_string())
    encoded = text.dictionary_encode()
    made = make(encoded.dictionary.to_pylist())
    return made.gather(pl.Series(encoded.indices.to_numpy())).alias(values.name)
