"""Input files: Parquet, CSV(.gz) and JSONL(.gz), named by file, glob or folder, read in chunks.

Every reader gives frames of the file's rows in the file's order. A row that cannot be read as a
row (broken UTF-8, wrong number of fields, not JSON) is given too, with its reason, so that the
caller's counts add up.
"""

import glob
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rec.errors import DataError

REASON = "reason"
RAW = "raw"
ROW = "row"
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
CHUNK_ROWS = 1 << 18
"""Rows of one chunk: about 30 MB of events, so that memory does not follow the file's size."""


def list_files(paths: Sequence[str]) -> list[str]:
    """Return the files that ``paths`` (files, globs, folders) name, in order, each once.

    Raises:
        DataError: a path that names nothing, or a file of an unknown kind.
    """
    found: dict[str, None] = {}
    for path in paths:
        if Path(path).is_dir():
            names = sorted(str(f) for f in Path(path).rglob("*") if str(f).endswith(SUFFIXES))
        elif any(mark in path for mark in "*?["):
            names = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - may be absolute
        else:
            names = [path] if Path(path).is_file() else []
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
    """Yield the rows of one file in order, with ``row`` (int64), ``reason`` and ``raw`` added.

    ``reason`` is null where the row could be read; ``raw`` holds the text of one that could not.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    first_row = 0
    try:
        for chunk in _reader(path):
            yield _number_rows(chunk, first_row)
            first_row += chunk.height
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, EOFError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {path}: {detail}") from error


def _reader(path: str) -> Iterator[pl.DataFrame]:
    if path.endswith(".parquet"):
        return _read_parquet(path)
    if path.endswith((".csv", ".csv.gz")):
        return _read_csv(path)
    return _read_jsonl(path)


def _number_rows(chunk: pl.DataFrame, first_row: int) -> pl.DataFrame:
    missing = [
        pl.lit(None, dtype=pl.String).alias(name)
        for name in (REASON, RAW)
        if name not in chunk.columns
    ]
    rows = pl.int_range(first_row, first_row + chunk.height, dtype=pl.Int64)
    return chunk.with_columns(*missing, rows.alias(ROW))


def _read_parquet(path: str) -> Iterator[pl.DataFrame]:
    # The Arrow schema stored in the file is ignored: it may name extension types, and nothing in
    # a data file may choose which code reads it.
    with pq.ParquetFile(path, arrow_extensions_enabled=False) as file:
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
            table = pa.Table.from_batches([batch])
            broken = _broken_text_rows(table)
            yield _mark_broken(table, broken)


def _broken_text_rows(table: pa.Table) -> set[int]:
    """Return the rows of an Arrow table with text that is not UTF-8."""
    broken: set[int] = set()
    for column in table.columns:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        values = column.combine_chunks()
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            blobs = values.view(pa.binary() if pa.types.is_string(column.type) else None)
            broken.update(row for row, blob in enumerate(blobs.to_pylist()) if not _is_utf8(blob))
    return broken


def _mark_broken(table: pa.Table, broken: set[int]) -> pl.DataFrame:
    if not broken:
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame
    good = [row for row in range(table.num_rows) if row not in broken]
    frame = pl.from_arrow(table.take(pa.array(good, type=pa.int64())))
    assert isinstance(frame, pl.DataFrame)
    marks = pl.DataFrame(
        {REASON: ["broken_utf8"] * len(broken), RAW: [None] * len(broken)},
        schema={REASON: pl.String, RAW: pl.String},
    )
    return pl.concat([frame, marks], how="diagonal")


def _is_utf8(blob: bytes | None) -> bool:
    try:
        (blob or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_csv(path: str) -> Iterator[pl.DataFrame]:
    names = _csv_header(path)
    misshapen: list[str] = []

    def keep_misshapen(row: Any) -> str:
        misshapen.append(row.text or "")
        return "skip"

    reader = pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(block_size=1 << 24),
        parse_options=pa_csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=keep_misshapen
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            strings_can_be_null=True,
            null_values=[""],
            check_utf8=False,
        ),
    )
    with reader:
        for batch in reader:
            yield _decode(batch)
    if misshapen:
        yield pl.DataFrame(
            {REASON: ["wrong_field_count"] * len(misshapen), RAW: misshapen},
            schema={REASON: pl.String, RAW: pl.String},
        )


def _csv_header(path: str) -> list[str]:
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as stream:
        line = stream.readline().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").strip()
    if not line:
        raise DataError(f"expected a header line in {path}, got an empty file")
    return [name.strip().strip('"') for name in line.split(",")]


def _decode(batch: pa.RecordBatch) -> pl.DataFrame:
    """Return a batch of binary columns as text; rows that are not UTF-8 get a reason."""
    broken: set[int] = set()
    columns: dict[str, pa.Array] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column.cast(pa.string())
        except pa.ArrowInvalid:
            blobs = column.to_pylist()
            broken.update(row for row, blob in enumerate(blobs) if not _is_utf8(blob))
            columns[name] = pa.array(
                [None if blob is None else blob.decode("utf-8", "replace") for blob in blobs],
                type=pa.string(),
            )
    frame = pl.from_arrow(pa.table(columns))
    assert isinstance(frame, pl.DataFrame)
    if not broken:
        return frame
    reasons = [("broken_utf8" if row in broken else None) for row in range(frame.height)]
    return frame.with_columns(pl.Series(REASON, reasons, dtype=pl.String))


def _read_jsonl(path: str) -> Iterator[pl.DataFrame]:
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as stream:
        rows: list[Mapping[str, Any]] = []
        for line in stream:
            if line.strip():
                rows.append(_json_row(line))
            if len(rows) == CHUNK_ROWS:
                yield _json_frame(rows)
                rows = []
        if rows:
            yield _json_frame(rows)


def _json_row(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return {REASON: "broken_utf8", RAW: line.decode("utf-8", "replace")[:1000]}
    except (ValueError, RecursionError):
        return {REASON: "not_json", RAW: line.decode()[:1000]}
    if not isinstance(value, dict):
        return {REASON: "not_an_object", RAW: line.decode()[:1000]}
    return value


def _json_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows as text columns; lists of text stay lists, what is nested becomes JSON."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        present = [value for value in values if value is not None]
        if present and all(
            isinstance(value, list) and all(isinstance(part, str) for part in value)
            for value in present
        ):
            columns[name] = pl.Series(name, values, dtype=pl.List(pl.String))
        else:
            columns[name] = pl.Series(name, [_text(v) for v in values], dtype=pl.String)
    return pl.DataFrame(columns)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A lone surrogate is legal JSON and illegal UTF-8.
    return text.encode("utf-8", "replace").decode()
