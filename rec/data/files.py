"""Input files: Parquet, CSV(.gz) and JSONL(.gz), named by file, glob, folder or URI, in chunks.

Every reader gives frames of the file's rows in the file's order, with the marks of
:mod:`rec.data.rows`.
"""

import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa

from rec.data.csv_rows import read_csv
from rec.data.json_rows import read_jsonl
from rec.data.parquet_rows import count_rows, read_parquet
from rec.data.rows import RAW, REASON, ROW
from rec.data.storage import SUFFIXES, find_files, shown, size_of, suffix_of
from rec.errors import DataError

_UNREADABLE = (
    pa.ArrowException,
    pl.exceptions.PolarsError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
)
_ROW_BYTES = 64
"""Of text, about; a compressed row is an eighth."""

_log = logging.getLogger(__name__)


class UnreadableFileError(DataError):
    """Say that a file's content breaks off or is no such file; reading it again changes nothing."""


def list_files(paths: Sequence[str]) -> list[str]:
    """Return the files that ``paths`` (files, globs, folders, URIs) name, in order, each once.

    Raises:
        DataError: a path that names nothing, a file of an unknown kind, or a place that cannot be
            reached.
    """
    found: dict[str, None] = {}
    for path in paths:
        names = find_files(path)
        if not names:
            raise DataError(
                f"expected a file, a glob or a folder with {', '.join(SUFFIXES)}, "
                f"found nothing at {shown(path)!r}"
            )
        for name in names:
            if not suffix_of(name):
                raise DataError(f"expected one of {', '.join(SUFFIXES)}, got {shown(name)!r}")
            found[name] = None
    return list(found)


def estimate_rows(path: str) -> int:
    """Return about how many rows a file has: exactly for Parquet, by its size for text.

    A file that cannot be read has none.
    """
    suffix = suffix_of(path)
    if suffix == ".parquet":
        try:
            return count_rows(path)
        except _UNREADABLE:
            return 0
    size = size_of(path) or 0
    return size * (8 if suffix.endswith(".gz") else 1) // _ROW_BYTES


def read_chunks(path: str) -> Iterator[pl.DataFrame]:
    """Yield the rows of one file in order, with ``REASON``, ``RAW`` and ``ROW`` added.

    An empty file has no rows.

    Raises:
        UnreadableFileError: the content cannot be read, or only up to here.
        DataError: the file cannot be reached.
    """
    first_row = 0
    try:
        if size_of(path) == 0:
            _log.warning("%s is empty", shown(path))
            return
        for chunk in _reader(path):
            if chunk.height:
                yield _number_rows(chunk, first_row)
            first_row += chunk.height
    except DataError:
        raise
    except _UNREADABLE as error:
        detail = " ".join(str(error).split())[:200]
        message = f"cannot read {shown(path)}: {detail}"
        # A number of the operating system: the disk or the rights, not the content.
        is_content = not isinstance(error, OSError) or error.errno is None
        if is_content or isinstance(error, gzip.BadGzipFile):
            raise UnreadableFileError(message) from error
        raise DataError(message) from error


def _reader(path: str) -> Iterator[pl.DataFrame]:
    suffix = suffix_of(path)
    if suffix == ".parquet":
        return read_parquet(path)
    return read_csv(path) if suffix.startswith(".csv") else read_jsonl(path)


def _number_rows(chunk: pl.DataFrame, first_row: int) -> pl.DataFrame:
    missing = [
        pl.lit(None, dtype=pl.String).alias(name)
        for name in (REASON, RAW)
        if name not in chunk.columns
    ]
    rows = pl.int_range(first_row, first_row + chunk.height, dtype=pl.Int64)
    return chunk.with_columns(*missing, rows.alias(ROW))
