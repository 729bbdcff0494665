"""The distinct search queries of a log, in a file of their own beside the events.

A query's place in the file is its number in the sequences, so places never move: where nobody is
left who asked it, the empty text stands in its place.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rec.artifacts import Artifact, replace_file

QUERIES_FILE = "queries.parquet"
QUERIES = "queries"
"""What held them in the manifest of older events."""


def save_queries(folder: Path, queries: Sequence[str]) -> None:
    """Write the queries in their order."""
    table = pa.table({"query": pa.array(queries, type=pa.string())})
    replace_file(folder / QUERIES_FILE, partial(pq.write_table, table, compression="zstd"))


def load_queries(events: Artifact) -> tuple[str, ...]:
    """Return the queries of an events artifact in their order."""
    path = events.path / QUERIES_FILE
    if not path.is_file():
        return tuple(events.manifest["details"][QUERIES])
    return tuple(pq.read_table(path)["query"].to_pylist())
