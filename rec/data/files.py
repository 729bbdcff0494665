"""Input files: Parquet, CSV(.gz) and JSONL(.gz), named by file, glob or folder, read in chunks.

Every reader gives frames of the file's rows in the file's order, with the marks of
:mod:`rec.data.rows`.
"""

import glob
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from rec.data.csv_rows import read_csv
from rec.data.json_rows import read_jsonl
from rec.data.parquet_rows import read_parquet
from rec.data.rows import RAW, REASON, ROW
from rec.errors import DataError

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
_UNREADABLE = (
    pa.ArrowException,
    pl.exceptions.PolarsError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
)

_log = logging.getLogger(__name__)


def list_files(paths: Sequence[str]) -> list[str]:
    """Return the files that ``paths`` (files, globs, folders) name, in order, each once.

    Links are followed, so a file and a link to it are one file. In a folder, hidden files and
    those whose name begins with ``_`` are left out, as other tools do.

    Raises:
        DataError: a path that names nothing, or a file of an unknown kind.
    """
    found: dict[str, None] = {}
    for path in paths:
        if Path(path).is_dir():
            inside = sorted(Path(path).rglob("*"))
            names = [
                str(f)
                for f in inside
                if f.name.endswith(SUFFIXES) and not f.name.startswith((".", "_"))
            ]
        elif any(mark in path for mark in "*?["):
            names = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - may be absolute
        else:
            names = [path]
        names = [name for name in names if Path(name).is_file()]
        if not names:
            raise DataError(
                f"expected a file, a glob or a folder with {', '.join(SUFFIXES)}, "
                f"found nothing at {path!r}"
            )
        for name in names:
            if not name.endswith(SUFFIXES):
                raise DataError(f"expected one of {', '.join(SUFFIXES)}, got {name!r}")
            found[str(Path(name).resolve())] = None
    return list(found)


def read_chunks(path: str) -> Iterator[pl.DataFrame]:
    """Yield the rows of one file in order, with ``REASON``, ``RAW`` and ``ROW`` added.

    An empty file has no rows.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    first_row = 0
    try:
        if Path(path).stat().st_size == 0:
            _log.warning("%s is empty", path)
            return
        for chunk in _reader(path):
            if chunk.height:
                yield _number_rows(chunk, first_row)
            first_row += chunk.height
    except DataError:
        raise
    except _UNREADABLE as error:
        detail = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {path}: {detail}") from error


def _reader(path: str) -> Iterator[pl.DataFrame]:
    if path.endswith(".parquet"):
        return read_parquet(path)
    if path.endswith((".csv", ".csv.gz")):
        return read_csv(path)
    return read_jsonl(path)


def _number_rows(chunk: pl.DataFrame, first_row: int) -> pl.DataFrame:
    missing = [
        pl.lit(None, dtype=pl.String).alias(name)
        for name in (REASON, RAW)
        if name not in chunk.columns
    ]
    rows = pl.int_range(first_row, first_row + chunk.height, dtype=pl.Int64)
    return chunk.with_columns(*missing, rows.alias(ROW))
