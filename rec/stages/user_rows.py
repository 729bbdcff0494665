"""A user in files: whose rows to leave out of a table, and whose bytes to look for."""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MIN_SEARCHED_BYTES = 8
"""Shorter ids stand in any file by chance ("12"): they are looked for in columns alone."""
_CHUNK_BYTES = 1 << 24


def without_users(table: pa.Table, ids: Sequence[str], *, column: str = "user_id") -> pa.Table:
    """Return a table without the rows of some users.

    Of a quarantined line (column ``raw``) nobody knows whose it is: it goes if it holds an id as a
    word of its own.
    """
    return table.filter(pc.invert(_is_of(table, ids, column=column)))


def only_users(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    """Return the rows of some users: what :func:`without_users` leaves out."""
    return table.filter(_is_of(table, ids, column="user_id"))


def parquet_names_user(path: Path, ids: Sequence[str]) -> bool:
    """Return whether a text column of a Parquet file holds one of the ids as a whole value.

    Compression hides values from a search of the bytes.
    """
    source = pq.ParquetFile(path)
    names = [
        field.name
        for field in source.schema_arrow
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    return any(
        pc.any(_is_one_of(column, ids)).as_py()
        for batch in source.iter_batches(columns=names)
        for column in batch.columns
    )


def find_bytes(path: Path, texts: Sequence[str]) -> bool:
    """Return whether the bytes of one of the texts stand in a file; short texts are not sought."""
    needles = [text.encode() for text in texts if len(text.encode()) >= MIN_SEARCHED_BYTES]
    if not needles:
        return False
    overlap = max(map(len, needles))
    tail = b""
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            block = tail + chunk
            if any(needle in block for needle in needles):
                return True
            tail = block[-overlap:]
    return False


def _is_of(table: pa.Table, ids: Sequence[str], *, column: str) -> pa.ChunkedArray:
    found = pa.chunked_array([pa.repeat(pa.scalar(value=False), table.num_rows)])
    if column in table.column_names:
        found = pc.or_(found, _is_one_of(table[column], ids))
    if "raw" in table.column_names:
        words = "|".join(map(_word, ids))
        is_named = pc.match_substring_regex(table["raw"].cast(pa.large_string()), words)
        found = pc.or_(found, pc.fill_null(is_named, fill_value=False))
    return found


def _is_one_of(column: pa.ChunkedArray | pa.Array, ids: Sequence[str]) -> pa.ChunkedArray:
    text = column.cast(pa.large_string())
    return pc.fill_null(pc.is_in(text, value_set=pa.array(ids, pa.large_string())), False)


def _word(user_id: str) -> str:
    return rf"(^|[^0-9A-Za-z]){re.escape(user_id)}($|[^0-9A-Za-z])"
