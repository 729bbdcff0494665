"""Rows of a JSONL file: an object a line."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from rec.data.rows import CHUNK_ROWS, MARKS, MAX_RAW_CHARACTERS, NESTED, RAW, REASON
from rec.data.storage import open_stream, shown, suffix_of
from rec.errors import DataError

MAX_LINE_BYTES = 1 << 24
"""A longer line is no row; it is skipped without being held."""
MAX_FIELDS = 1000
"""Of one object, and different ones of one chunk: each becomes a column of all of its rows."""
_CHUNK_BYTES = 1 << 27
"""Text of a chunk: long lines make short chunks."""


def read_jsonl(path: str) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file.

    Raises:
        DataError: the rows of a chunk have more than ``MAX_FIELDS`` different fields.
    """
    with open_stream(path) as raw:
        stream = gzip.GzipFile(fileobj=raw) if suffix_of(path).endswith(".gz") else raw
        rows: list[Mapping[str, Any]] = []
        num_bytes = 0
        for line in _lines(stream):
            rows.append(_row(line))
            num_bytes += len(line)
            if len(rows) == CHUNK_ROWS or num_bytes > _CHUNK_BYTES:
                yield _frame(rows, path)
                rows, num_bytes = [], 0
        if rows:
            yield _frame(rows, path)


def _lines(stream: Any) -> Iterator[bytes]:
    """Yield the lines that are not blank, each at most one byte longer than allowed."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
        if line.strip():
            yield line


def _row(line: bytes) -> Mapping[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        return _bad(line, "line_too_long")
    try:
        value = json.loads(line.decode())
        # A lone surrogate is legal JSON and illegal UTF-8.
        if b"\\ud" in line.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        return _bad(line, "broken_utf8")
    except (ValueError, RecursionError):
        return _bad(line, "not_json")
    if not isinstance(value, dict):
        return _bad(line, "not_an_object")
    if len(value) > MAX_FIELDS:
        return _bad(line, "too_many_fields")
    return {name: part for name, part in value.items() if name not in MARKS}


def _bad(line: bytes, reason: str) -> Mapping[str, Any]:
    return {REASON: reason, RAW: line[: 4 * MAX_RAW_CHARACTERS].decode("utf-8", "replace")}


def _frame(rows: Sequence[Mapping[str, Any]], path: str) -> pl.DataFrame:
    """Return rows as text columns; lists of text stay lists, what is nested becomes JSON."""
    names = dict.fromkeys(name for row in rows for name in row)
    if len(names) > MAX_FIELDS:
        raise DataError(
            f"expected at most {MAX_FIELDS} different fields, {shown(path)} has {len(names)}: "
            "move what varies into one field"
        )
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    nested = [
        [name for name, value in row.items() if isinstance(value, list | dict)] for row in rows
    ]
    if any(nested):
        columns[NESTED] = pl.Series(NESTED, nested, dtype=pl.List(pl.String))
    return pl.DataFrame(columns)


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    """Return text; a list of text where a value is one and the others are text or missing."""
    kinds = {type(value) for value in values}
    if list in kinds and kinds <= {list, str, type(None)}:
        lists = [[value] if isinstance(value, str) else value for value in values]
        if all(isinstance(part, str) for value in lists if value for part in value):
            return pl.Series(name, lists, dtype=pl.List(pl.String))
    return pl.Series(name, [_text(value) for value in values], dtype=pl.String)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
