"""Rows of a CSV file: all values are text, the types come later.

Lines that are not UTF-8 are taken out before the parser sees them: it would lose a line that is
both misshapen and no text without a word.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from rec.data.rows import MARKS, REASON, ROW, is_utf8, unreadable
from rec.data.storage import open_stream, shown, suffix_of
from rec.errors import DataError

_BLOCK_BYTES = 1 << 24
"""A row must fit into it: a line of more than 16 MiB is no row."""


def read_csv(path: str) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file; misshapen ones come last in their block.

    Raises:
        DataError: two columns have one name.
    """
    names = _header(path)
    if not names:
        return
    misshapen: list[str] = []

    def keep_misshapen(row: Any) -> str:
        misshapen.append(row.text)
        return "skip"

    with _open(path) as stream:
        lines = TextLines(stream)
        reader = pa_csv.open_csv(
            pa.PythonFile(lines, mode="r"),
            read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=keep_misshapen
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        with reader:
            for batch in reader:
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield frame.drop(*MARKS, strict=False)
                yield from _bad_rows(lines, misshapen)
        yield from _bad_rows(lines, misshapen)


def split_swallowed_lines(rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Return the rows with each one that holds line breaks in ``columns`` taken apart into lines.

    A stray quote swallows what follows up to the next one: the lines were rows, and are counted as
    such, with the reason ``stray_quote``. They come last.
    """
    shown = [name for name in rows.columns if name not in MARKS]
    texts = [name for name in columns if name in shown]
    if not texts:
        return rows
    swallowed = pl.any_horizontal(pl.col(texts).str.contains("\n", literal=True))
    swallowed = swallowed.fill_null(value=False) & pl.col(REASON).is_null()
    joined = rows.filter(swallowed).select(
        pl.concat_str(pl.col(shown).cast(pl.String), separator=",", ignore_nulls=True)
    )
    if not joined.height:
        return rows
    lines = [line for record in joined.to_series().to_list() for line in _lines(record)]
    apart = unreadable(lines, "stray_quote").with_columns(
        pl.lit(rows[ROW].max(), pl.Int64).alias(ROW)
    )
    return pl.concat([rows.filter(~swallowed), apart], how="diagonal")


class TextLines(io.RawIOBase):
    r"""Read a stream without its lines that are not UTF-8, which are kept aside.

    >>> lines = TextLines(io.BytesIO(b"tea\n\xff\ncup\n"))
    >>> lines.read(100), lines.broken
    (b'tea\ncup\n', [b'\xff\n'])
    """

    def __init__(self, stream: gzip.GzipFile | BinaryIO) -> None:
        self._stream = stream
        self._ready = b""
        self._open_line = b""
        self.broken: list[bytes] = []

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        while not self._ready and (block := self._stream.read(_BLOCK_BYTES)):
            whole, end, rest = (self._open_line + block).rpartition(b"\n")
            self._ready, self._open_line = self._good(whole + end), rest
        if not self._ready:
            self._ready, self._open_line = self._good(self._open_line), b""
        size = len(self._ready) if size < 0 else size
        given, self._ready = self._ready[:size], self._ready[size:]
        return given

    def _good(self, lines: bytes) -> bytes:
        if is_utf8(lines):
            return lines
        good: list[bytes] = []
        for line in lines.splitlines(keepends=True):
            (good if is_utf8(line) else self.broken).append(line)
        return b"".join(good)


def _bad_rows(lines: TextLines, misshapen: list[str]) -> Iterator[pl.DataFrame]:
    """Yield what was kept aside since the last time, a row a line."""
    if lines.broken:
        yield unreadable([line.decode("utf-8", "replace") for line in lines.broken], "broken_utf8")
    for text in misshapen:
        # A stray quote makes one record of several lines.
        parts = _lines(text)
        yield unreadable(parts, "wrong_field_count" if len(parts) == 1 else "stray_quote")
    lines.broken.clear()
    misshapen.clear()


@contextmanager
def _open(path: str) -> Iterator[gzip.GzipFile | BinaryIO]:
    with open_stream(path) as stream:
        yield gzip.GzipFile(fileobj=stream) if suffix_of(path).endswith(".gz") else stream


def _lines(record: str) -> list[str]:
    """Return the lines of the file that a record is made of."""
    return record.removesuffix("\n").split("\n")


def _header(path: str) -> list[str]:
    """Return the names of the first line that is not empty; none where there is no such line."""
    with _open(path) as stream:
        for line in iter(lambda: stream.readline(_BLOCK_BYTES), b""):
            if not is_utf8(line):
                raise DataError(f"expected UTF-8 in the header of {shown(path)}: convert the file")
            text = line.decode().removeprefix("\ufeff").strip()
            if text:
                names = [name.strip() for name in next(csv.reader([text]))]
                if len(set(names)) < len(names):
                    twice = sorted({name for name in names if names.count(name) > 1})
                    raise DataError(
                        f"expected each column of {shown(path)} once, got {twice[0]!r} twice"
                    )
                return names
    return []
