"""Sequences: every user's events in time order, in one compressed-row layout.

All users' events stand behind each other in flat arrays; ``offsets`` says where each user begins.
A *token* is what stands at one place of a sequence: an item (``1 .. V``) or a search query
(``V + 1 .. V + Q``); 0 is padding. Queries are members of the sequence like items.

Shapes: U users, E events of all users, V items, Q queries.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rec.artifacts import write_json
from rec.errors import ArtifactError

VOCABULARY_FILE = "vocabulary.json"
EVENT_COLUMNS = ("user_id", "item_id", "event_type", "timestamp_ms", "query")
"""What sequences are built of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """Hold the events of many users, each user's in time order.

    Attributes:
        user_ids: U ids, in the order of the rows.
        offsets: int64 ``(U + 1,)``; user ``u`` owns events ``offsets[u] : offsets[u + 1]``.
        tokens: int32 ``(E,)``, item index ``1..V`` or ``V + query index``.
        timestamps_ms: int64 ``(E,)``.
        event_types: int16 ``(E,)``, an index into ``event_type_names``.
        event_type_names: names in a fixed order; new ones are appended, never inserted.
        num_items: V.
        queries: Q distinct query strings; query ``q`` is token ``V + 1 + q``.
    """

    user_ids: Sequence[str]
    offsets: NDArray[np.int64]
    tokens: NDArray[np.int32]
    timestamps_ms: NDArray[np.int64]
    event_types: NDArray[np.int16]
    event_type_names: tuple[str, ...]
    num_items: int
    queries: tuple[str, ...] = ()

    @property
    def num_users(self) -> int:
        """Return U."""
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        """Return E."""
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of events of each user, int64 ``(U,)``."""
        return np.diff(self.offsets)

    @property
    def is_item(self) -> NDArray[np.bool_]:
        """Return whether each event is about an item (not a search), bool ``(E,)``."""
        return self.tokens <= self.num_items

    def rows(self) -> NDArray[np.int64]:
        """Return each event's user row, int64 ``(E,)``."""
        return np.repeat(np.arange(self.num_users), self.lengths)

    def select_events(self, keep: NDArray[np.bool_]) -> "Sequences":
        """Return the same users with only the events where ``keep`` (bool ``(E,)``) holds."""
        counts = np.bincount(self.rows()[keep], minlength=self.num_users)
        return replace(
            self,
            offsets=_offsets(counts),
            tokens=self.tokens[keep],
            timestamps_ms=self.timestamps_ms[keep],
            event_types=self.event_types[keep],
        )

    def select_users(self, rows: NDArray[np.int64]) -> "Sequences":
        """Return only the users at ``rows``, in that order."""
        lengths = self.lengths[rows]
        offsets = _offsets(lengths)
        starts = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        picks = starts + np.arange(offsets[-1])
        return replace(
            self,
            user_ids=[self.user_ids[int(row)] for row in rows],
            offsets=offsets,
            tokens=self.tokens[picks],
            timestamps_ms=self.timestamps_ms[picks],
            event_types=self.event_types[picks],
        )

    def newest(self, num_events: int) -> "Sequences":
        """Return each user's newest ``num_events`` events."""
        from_end = self.offsets[1:][self.rows()] - np.arange(self.num_events)
        return self.select_events(from_end <= num_events)


def build_sequences(
    events: pl.DataFrame,
    *,
    item_ids: Sequence[str],
    queries: Sequence[str] = (),
    event_type_names: Sequence[str] | None = None,
) -> Sequences:
    """Return the sequences of events that are already sorted by user, then time.

    Args:
        events: :data:`EVENT_COLUMNS`.
        item_ids: the catalog's ids; position ``p`` is item index ``p + 1``.
        queries: distinct queries; position ``q`` is token ``V + 1 + q``.
        event_type_names: the order of the type codes; the sorted types of ``events`` if absent.
            Events of other types, items or queries are left out.
    """
    if event_type_names is None:
        event_type_names = sorted(events["event_type"].unique().to_list())
    num_items = len(item_ids)
    table = (
        events.select(EVENT_COLUMNS)
        .join(_codes("item_id", item_ids, 1), on="item_id", how="left", maintain_order="left")
        .join(
            _codes("query", queries, num_items + 1), on="query", how="left", maintain_order="left"
        )
        .join(
            _codes("event_type", event_type_names, 0),
            on="event_type",
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.coalesce("item_id_code", "query_code").alias("token"))
        .drop_nulls(["token", "event_type_code"])
    )
    runs = table.select(pl.col("user_id").rle()).unnest("user_id")
    return Sequences(
        user_ids=runs["value"].to_list(),
        offsets=_offsets(runs["len"].to_numpy()),
        tokens=table["token"].to_numpy().astype(np.int32),
        timestamps_ms=table["timestamp_ms"].to_numpy().astype(np.int64),
        event_types=table["event_type_code"].to_numpy().astype(np.int16),
        event_type_names=tuple(event_type_names),
        num_items=num_items,
        queries=tuple(queries),
    )


def save_part(sequences: Sequences, path: Path) -> None:
    """Write one part: a row per user with its tokens, times and event types as lists."""
    offsets = pa.array(sequences.offsets, type=pa.int64())

    def nested(values: NDArray[Any]) -> pa.Array:
        return pa.LargeListArray.from_arrays(offsets, pa.array(values))

    table = pa.table(
        {
            "user_id": pa.array(sequences.user_ids, type=pa.string()),
            "tokens": nested(sequences.tokens),
            "timestamps_ms": nested(sequences.timestamps_ms),
            "event_types": nested(sequences.event_types),
        }
    )
    pq.write_table(table, path, compression="zstd")


def save_vocabulary(
    folder: Path, *, num_items: int, queries: Sequence[str], event_type_names: Sequence[str]
) -> None:
    """Write what the numbers of all parts mean."""
    vocabulary = vocabulary_of(
        num_items=num_items, queries=queries, event_type_names=event_type_names
    )
    write_json(folder / VOCABULARY_FILE, vocabulary)


def vocabulary_of(
    *, num_items: int, queries: Sequence[str], event_type_names: Sequence[str]
) -> dict[str, Any]:
    """Return what the numbers of all parts mean, as the file holds it."""
    return {
        "num_items": num_items,
        "queries": list(queries),
        "event_type_names": list(event_type_names),
    }


def load_sequences(folder: Path) -> Sequences:
    """Return the sequences of an artifact folder.

    Raises:
        ArtifactError: the folder holds no sequences.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts or not (folder / VOCABULARY_FILE).is_file():
        raise ArtifactError(f"expected sequences in {folder}, found none: rerun jobs.prepare")
    vocabulary = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
    table = pa.concat_tables(pq.read_table(part) for part in parts).combine_chunks()

    def flat(name: str, dtype: type) -> NDArray[Any]:
        values = table[name].combine_chunks().flatten().to_numpy()
        return np.asarray(values, dtype=dtype)

    lengths = pc.list_value_length(table["tokens"]).to_numpy()
    return Sequences(
        user_ids=table["user_id"].to_pylist(),
        offsets=_offsets(lengths),
        tokens=flat("tokens", np.int32),
        timestamps_ms=flat("timestamps_ms", np.int64),
        event_types=flat("event_types", np.int16),
        event_type_names=tuple(vocabulary["event_type_names"]),
        num_items=vocabulary["num_items"],
        queries=tuple(vocabulary["queries"]),
    )


def distinct_queries(events: pl.DataFrame) -> list[str]:
    """Return the sorted distinct queries of the events that have no item."""
    queries = events.filter(pl.col("item_id").is_null())["query"].drop_nulls().unique()
    return sorted(queries.to_list())


def _codes(name: str, values: Sequence[str], first: int) -> pl.DataFrame:
    codes = np.arange(first, first + len(values), dtype=np.int32)
    return pl.DataFrame({name: pl.Series(values, dtype=pl.String), f"{name}_code": codes})


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
