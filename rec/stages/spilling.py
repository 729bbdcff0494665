"""Pieces: the rows of one file that belong to one partition, on disk between two passes.

Arrow streams, because a piece gets a batch of a few thousand rows a time and is read once or twice:
each batch costs its bytes and no more.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from rec.data.cleaning import RAW_SCHEMA

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")
_TYPES = {pl.Int64(): pa.int64(), pl.Float64(): pa.float64(), pl.String(): pa.large_string()}
_SCHEMA = pa.schema([(name, _TYPES[dtype]) for name, dtype in RAW_SCHEMA.items()])


class PieceWriter:
    """Write the pieces of one file; a context manager."""

    def __init__(self, folder: Path, file_number: int) -> None:
        self._folder = folder
        self._file_number = file_number
        self._open: dict[int, pa.ipc.RecordBatchFileWriter] = {}

    def __enter__(self) -> "PieceWriter":
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._open.values():
            writer.close()

    def write(self, rows: pl.DataFrame, partition: int) -> None:
        """Add rows in ``RAW_SCHEMA`` to the piece of a partition."""
        if partition not in self._open:
            path = self._folder / f"partition-{partition:05d}-{self._file_number:06d}.arrow"
            self._open[partition] = pa.ipc.new_file(path, _SCHEMA, options=_OPTIONS)
        self._open[partition].write_table(rows.to_arrow().cast(_SCHEMA))


def find_pieces(folder: Path, partition: int) -> list[Path]:
    """Return the pieces of a partition in the order of the files."""
    return sorted(folder.glob(f"partition-{partition:05d}-*.arrow"))


def read_batches(
    pieces: Sequence[Path], columns: Sequence[str] = tuple(RAW_SCHEMA)
) -> Iterator[pl.DataFrame]:
    """Yield the rows of pieces in order, a batch a time, with some of the columns."""
    places = [_SCHEMA.get_field_index(name) for name in sorted(columns, key=_SCHEMA.names.index)]
    options = pa.ipc.IpcReadOptions(included_fields=places)
    for piece in pieces:
        with pa.ipc.open_file(piece, options=options) as reader:
            for number in range(reader.num_record_batches):
                frame = pl.from_arrow(reader.get_batch(number))
                assert isinstance(frame, pl.DataFrame)
                yield frame


def count_rows(pieces: Sequence[Path]) -> int:
    """Return how many rows pieces have."""
    return sum(frame.height for frame in read_batches(pieces, ["input_order"]))
