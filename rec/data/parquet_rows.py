"""Rows of a Parquet file, read by what Parquet says of its columns and by nothing else.

Nothing in a data file may choose which code reads it. Writers store an Arrow schema in the footer
as well, and that may name extension types, whose Python classes pyarrow calls with bytes of the
file where one is registered (Ray Data registers some, and they have unpickled). So the footer is
read without it.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec.data.rows import CHUNK_ROWS, MARKS, unreadable
from rec.data.storage import open_random

_MAGIC = b"PAR1"
_BUFFER_BYTES = 1 << 20


def read_parquet(path: str) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file; those with text that is not UTF-8 come last in their batch."""
    with open_random(path) as stream, _open(stream) as file:
        names = [name for name in file.schema_arrow.names if name not in MARKS]
        for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=names):
            table = pa.Table.from_batches([batch])
            broken = _broken_rows(table)
            good = [row for row in range(table.num_rows) if row not in broken]
            frame = pl.from_arrow(table.take(pa.array(good, type=pa.int64())) if broken else table)
            assert isinstance(frame, pl.DataFrame)
            if broken:
                marks = unreadable([""] * len(broken), "broken_utf8")
                frame = pl.concat([frame, marks], how="diagonal")
            yield frame


def count_rows(path: str) -> int:
    """Return the rows of a file, as its footer says.

    Raises:
        ValueError: the file does not end as Parquet does.
    """
    with open_random(path) as stream:
        return int(_metadata_without_arrow_schema(stream).num_rows)


def _open(stream: BinaryIO) -> pq.ParquetFile:
    return pq.ParquetFile(
        stream,
        metadata=_metadata_without_arrow_schema(stream),
        arrow_extensions_enabled=False,
        # Without a buffer whole columns of a row group are held, and one may be the whole file.
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
    )


def _metadata_without_arrow_schema(stream: BinaryIO) -> pq.FileMetaData:
    """Return a file's metadata as if no Arrow schema had been stored.

    Raises:
        ValueError: the file does not end as Parquet does.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 8))
    length, magic = struct.unpack("<I4s", stream.read().rjust(8, b"\0"))
    if magic != _MAGIC or length > size - 12:
        raise ValueError("it does not end as a Parquet file does: is it whole?")
    stream.seek(size - 8 - length)
    footer = stream.read(length)
    # Of the same length, so that the rest of the footer stays where it is.
    footer = footer.replace(b"ARROW:schema", b"arrow-ignore")
    ending = footer + struct.pack("<I4s", length, _MAGIC)
    return pq.read_metadata(pa.BufferReader(_MAGIC + ending))


def _broken_rows(table: pa.Table) -> set[int]:
    """Return the rows with text that is not UTF-8, also within lists and structs."""
    broken: set[int] = set()
    for column in table.columns:
        values = column.combine_chunks()
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            broken.update(row for row in range(len(values)) if not _is_valid(values.slice(row, 1)))
    return broken


def _is_valid(values: pa.Array) -> bool:
    try:
        # A copy: a slice of a list is checked with all of its neighbours' texts.
        values.take(pa.array([0], type=pa.int64())).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
