"""Sequences: every user's events in time order, in one compressed-row layout.

All users' events stand behind each other in flat arrays; ``offsets`` says where each user begins.
A *token* is what stands at one place of a sequence: an item (``1 .. V``) or a search query
(``V + 1 .. V + Q``); 0 is padding. Queries are members of the sequence like items.

Shapes: U users, E events of all users, V items, Q queries.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.data.events import SEARCH
from rec.errors import ArtifactError

QUERIES_FILE = "queries.parquet"


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
        counts = np.zeros(self.num_users, dtype=np.int64)
        np.add.at(counts, self.rows()[keep], 1)
        return replace(
            self,
            offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]),
            tokens=self.tokens[keep],
            timestamps_ms=self.timestamps_ms[keep],
            event_types=self.event_types[keep],
        )

    def select_users(self, rows: NDArray[np.int64]) -> "Sequences":
        """Return only the users at ``rows``, in that order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
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
    events: Iterable[pl.DataFrame], *, item_ids: Sequence[str], queries: Sequence[str]
) -> Sequences:
    """Return sequences from event frames that are already sorted by user, then time.

    Args:
        events: frames with ``user_id, item_id, event_type, timestamp_ms, query``; all events of
            one user stand in one frame.
        item_ids: the catalog's ids; position ``p`` is item index ``p + 1``.
        queries: distinct queries; position ``q`` is token ``V + 1 + q``.
    """
    items = pl.DataFrame(
        {
            "item_id": pl.Series(item_ids, dtype=pl.String),
            "item_token": np.arange(1, len(item_ids) + 1, dtype=np.int32),
        }
    )
    texts = pl.DataFrame(
        {
            "query": pl.Series(queries, dtype=pl.String),
            "query_token": np.arange(
                len(item_ids) + 1, len(item_ids) + len(queries) + 1, dtype=np.int32
            ),
        }
    )
    columns = ["user_id", "item_id", "event_type", "timestamp_ms", "query"]
    frames = [frame.select(columns) for frame in events]
    empty = pl.DataFrame(
        schema={
            "user_id": pl.String,
            "item_id": pl.String,
            "event_type": pl.String,
            "timestamp_ms": pl.Int64,
            "query": pl.String,
        }
    )
    table = (
        pl.concat([empty, *frames])
        .join(items, on="item_id", how="left", maintain_order="left")
        .join(texts, on="query", how="left", maintain_order="left")
        .with_columns(pl.coalesce("item_token", "query_token").alias("token"))
        .drop_nulls("token")
    )
    names = tuple(sorted(table["event_type"].unique().to_list()))
    codes = pl.DataFrame(
        {
            "event_type": pl.Series(names, dtype=pl.String),
            "code": np.arange(len(names), dtype=np.int16),
        }
    )
    table = table.join(codes, on="event_type", how="left", maintain_order="left")
    runs = table.select(pl.col("user_id").rle()).unnest("user_id")
    return Sequences(
        user_ids=runs["value"].to_list(),
        offsets=np.concatenate(
            [np.zeros(1, dtype=np.int64), np.cumsum(runs["len"].to_numpy().astype(np.int64))]
        ),
        tokens=table["token"].to_numpy().astype(np.int32),
        timestamps_ms=table["timestamp_ms"].to_numpy().astype(np.int64),
        event_types=table["code"].to_numpy().astype(np.int16),
        event_type_names=names,
        num_items=len(item_ids),
        queries=tuple(queries),
    )


def load_sequences(folder: Path, *, item_ids: Sequence[str]) -> Sequences:
    """Return the sequences of an artifact folder (``part-*.parquet`` and its queries).

    Raises:
        ArtifactError: the folder holds no parts.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise ArtifactError(f"expected part-*.parquet in {folder}, found none: rerun jobs.prepare")
    queries = pl.read_parquet(folder / QUERIES_FILE)["query"].to_list()
    return build_sequences(
        (pl.read_parquet(part) for part in parts), item_ids=item_ids, queries=queries
    )


def distinct_queries(events: pl.DataFrame) -> list[str]:
    """Return the sorted distinct queries of the search events of a frame."""
    queries = events.filter(pl.col("event_type") == SEARCH)["query"].drop_nulls().unique()
    return sorted(queries.to_list())
