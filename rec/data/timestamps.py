"""Times of any usual form to ``timestamp_ms``: int64 milliseconds since 1970, UTC.

Numbers are seconds, milliseconds, microseconds or nanoseconds *by magnitude*, value for value, so
that the result does not depend on which rows stand in one chunk. Flaw: a log in milliseconds from
before March 1973 reads as seconds.
"""

from datetime import UTC, datetime

import polars as pl

_MS_FROM = 10**11  # seconds stay below it until the year 5138
_US_FROM = 10**14
_NS_FROM = 10**17
_MAX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def to_timestamp_ms(values: pl.Series) -> pl.Series:
    """Return int64 milliseconds; null where a value is not a time.

    >>> to_timestamp_ms(pl.Series([1_500_000_000, 1_500_000_000_000])).to_list()
    [1500000000000, 1500000000000]
    >>> to_timestamp_ms(pl.Series(["2017-07-14T02:40:00Z", "1500000000", "soon"])).to_list()
    [1500000000000, 1500000000000, None]
    """
    if isinstance(values.dtype, pl.Datetime) or values.dtype == pl.Date:
        stamps = values.cast(pl.Datetime("us"), strict=False).dt.timestamp("ms")
        return stamps.alias("timestamp_ms")
    if values.dtype.is_numeric():
        return _by_magnitude(values)
    if values.dtype == pl.String:
        return _from_text(values)
    return pl.Series("timestamp_ms", [None] * len(values), dtype=pl.Int64)


def _by_magnitude(values: pl.Series) -> pl.Series:
    name = "timestamp_ms"
    frame = pl.DataFrame({name: values})
    column = pl.col(name)
    if values.dtype.is_float():
        frame = frame.with_columns(pl.when(column.is_finite()).then(column))
    size = column.abs()
    stamps = (
        pl.when(size < _MS_FROM)
        .then(column * 1000)
        .when(size < _US_FROM)
        .then(column)
        .when(size < _NS_FROM)
        .then(column // 1000)
        .otherwise(column // 1_000_000)
    )
    frame = frame.select(stamps.cast(pl.Int64, strict=False))
    return frame.select(pl.when(column.abs() <= _MAX_MS).then(column))[name]


def _from_text(values: pl.Series) -> pl.Series:
    stripped = values.str.strip_chars()
    whole = _by_magnitude(stripped.cast(pl.Int64, strict=False))
    broken = _by_magnitude(stripped.cast(pl.Float64, strict=False))
    numbers = whole.fill_null(broken)
    open_rows = numbers.is_null() & values.is_not_null()
    if not open_rows.any():
        return numbers
    texts = stripped.filter(open_rows)
    known = {text: _iso_ms(text) for text in texts.unique().to_list()}
    parsed = iter([known[text] for text in texts.to_list()])
    filled = [
        next(parsed) if is_open else number
        for number, is_open in zip(numbers.to_list(), open_rows.to_list(), strict=True)
    ]
    return pl.Series("timestamp_ms", filled, dtype=pl.Int64)


def _iso_ms(text: str) -> int | None:
    """Return milliseconds of an ISO-8601 time; without an offset it is read as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)
