"""Columns of a file under the names and types of the contract."""

from collections.abc import Mapping, Sequence

import polars as pl

from rec.data.rows import MARKS, NESTED, REASON
from rec.data.storage import shown
from rec.data.text import normalise_text
from rec.errors import DataError

ALIASES: Mapping[str, str] = {"event": "event_type"}
"""Names that are read without a mapping because common logs use them."""
OTHER_SEPARATORS = (";", "\t", "|")
"""Stand between the columns of files that are called CSV too."""
_NEEDED = ("user_id", "item_id", "timestamp")


def map_columns(chunk: pl.DataFrame, *, mapping: Mapping[str, str], file_name: str) -> pl.DataFrame:
    """Return the rows with their columns under our names.

    Args:
        chunk: rows as :func:`rec.data.files.read_chunks` gives them.
        mapping: ``theirs -> ours``; a column of theirs replaces one that has our name already.
        file_name: named in errors.

    Raises:
        DataError: no column for a user, an item or a time.
    """
    taken = set(chunk.columns) | {o for theirs, o in mapping.items() if theirs in chunk.columns}
    aliases = {
        alias: ours
        for alias, ours in ALIASES.items()
        if alias in chunk.columns and ours not in taken
    }
    named = rename_columns(chunk, {**mapping, **aliases})
    missing = [
        name
        for name in _NEEDED
        if name not in named.columns
        and not (name == "timestamp" and "timestamp_ms" in named.columns)
        # A log of nothing but searches.
        and not (name == "item_id" and "query" in named.columns)
    ]
    if not missing:
        return named
    # A chunk of nothing but unreadable rows has no columns to look for.
    if named.height and named[REASON].null_count() == 0:
        return named.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in missing)
    raise missing_column(missing[0], chunk, file_name, flag="--column")


def missing_column(name: str, frame: pl.DataFrame, file_name: str, *, flag: str) -> DataError:
    """Return the error of a file without a column, with what to do about it.

    >>> frame = pl.DataFrame({"user_id;item_id;timestamp": ["u;i;1"]})
    >>> str(missing_column("user_id", frame, "log.csv", flag="--column"))
    "log.csv: expected commas between columns, found ';': write it with commas"
    """
    place, names = shown(file_name), [name for name in frame.columns if name not in MARKS]
    found = [mark for mark in OTHER_SEPARATORS if len(names) == 1 and mark in names[0]]
    if found:
        return DataError(
            f"{place}: expected commas between columns, found {found[0]!r}: write it with commas"
        )
    return DataError(
        f"{place}: expected a column {name!r}, found {list_names(frame)}: "
        f"map it with {flag} {name}=THEIR_NAME"
    )


def mapping(pairs: Sequence[str]) -> Mapping[str, str]:
    """Return ``theirs -> ours`` of ``OURS=THEIRS`` pairs.

    >>> mapping(["user_id=customer"])
    {'customer': 'user_id'}
    """
    return {theirs: ours for ours, theirs in (pair.split("=") for pair in pairs)}


def rename_columns(chunk: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    """Return the rows with ``theirs -> ours`` renamed; what had our name already goes.

    >>> rename_columns(pl.DataFrame({"name": ["tea"], "title": [""]}), {"name": "title"}).columns
    ['title']
    """
    found = {theirs: ours for theirs, ours in names.items() if theirs in chunk.columns}
    replaced = [ours for ours in found.values() if ours in chunk.columns and ours not in found]
    named = chunk.drop(replaced).rename(found)
    if NESTED in named.columns:
        named = named.with_columns(pl.col(NESTED).list.eval(pl.element().replace(found)))
    return named


def concat_rows(frames: Sequence[pl.DataFrame], what: str) -> pl.DataFrame:
    """Return the rows of several files; a column that one of them lacks is null there.

    Raises:
        DataError: a column has kinds of values that do not go together.
    """
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        detail = " ".join(str(error).split())[:200]
        raise DataError(f"the files of {what} do not go together ({detail}): mend them") from error


def list_names(frame: pl.DataFrame) -> str:
    r"""Return a file's first column names for a message, without what a terminal would obey.

    >>> list_names(pl.DataFrame({"user\x1b[2J": [1], "__row__": [0]}))
    'user[2J'
    """
    names = [normalise_text(name)[:40] for name in frame.columns if name not in MARKS]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def read_column(frame: pl.DataFrame, name: str, file_name: str) -> pl.Series:
    """Return a column of plain values, all null where there is none; NaN is null.

    Of a list in one row of a JSONL file the first text is taken: such rows are marked as nested.

    Raises:
        DataError: the column holds lists, structs or bytes.
    """
    if name not in frame.columns:
        return pl.Series(name, [None] * frame.height, dtype=pl.String)
    values = frame[name]
    if NESTED in frame.columns and values.dtype == pl.List(pl.String):
        return values.list.first()
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise DataError(
            f"{shown(file_name)}: expected text or numbers in column {name!r}, got {values.dtype}"
        )
    return values.fill_nan(None) if values.dtype.is_float() else values


def text_column(frame: pl.DataFrame, name: str, file_name: str) -> pl.Series:
    """Return a column as text; empty text is null, whole floats lose their ``.0``.

    >>> text_column(pl.DataFrame({"item_id": [7.0, float("nan")]}), "item_id", "log").to_list()
    ['7', None]
    """
    values = read_column(frame, name, file_name)
    text = values.cast(pl.String)
    if values.dtype.is_float():
        text = text.str.replace(r"\.0$", "")
    text = text.str.strip_chars()
    return text.set(text == "", None)
