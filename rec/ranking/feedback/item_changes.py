"""Item changes: what was put and deleted since the catalog was made, durable before the answer.

A table in the event log's file that only grows: each change has a ``seq``, and the newest one of
an item is what holds. A put carries the item and its text's embedding, so that every replica
follows by reading. ``rec.ranking.live_catalog`` applies them, ``ingest`` hands them to ``prepare``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rec.ranking.feedback.event_log import EventLog

_TABLE = """
CREATE TABLE IF NOT EXISTS item_changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    item_id TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    item TEXT,
    embedding BLOB,
    fingerprint TEXT
)
"""
_INSERT = (
    "INSERT INTO item_changes (item_id, timestamp_ms, item, embedding, fingerprint) "
    "VALUES (?, ?, ?, ?, ?)"
)
_FIELDS = "seq, item_id, timestamp_ms, item, embedding, fingerprint"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemChange:
    """Hold one put or delete.

    Attributes:
        item_id: whose.
        timestamp_ms: when.
        item: columns of the catalog as JSON material; ``None`` = deleted.
        embedding: float32 ``(D_text,)`` of the item's rendered text; ``None`` = deleted.
        fingerprint: of the encoder that made the embedding.
        seq: its number in the log; 0 before it is stored.
    """

    item_id: str
    timestamp_ms: int
    item: Mapping[str, Any] | None = None
    embedding: NDArray[np.float32] | None = None
    fingerprint: str | None = None
    seq: int = 0


class ChangedItem(NamedTuple):
    """Say of a change what a gateway needs: whose, and whether the item is there."""

    seq: int
    item_id: str
    is_deleted: bool


class ItemChanges:
    """Append to and read the item changes of one workspace; safe for threads and processes."""

    def __init__(self, log: EventLog) -> None:
        """Create the table where there is none."""
        self._log = log
        with log.transaction() as connection:
            connection.execute(_TABLE)

    def append(self, changes: Sequence[ItemChange]) -> int:
        """Make changes durable in one transaction; return the ``seq`` of the last one."""
        with self._log.transaction() as connection:
            last = 0
            for change in changes:
                row = connection.execute(
                    _INSERT,
                    (
                        change.item_id,
                        change.timestamp_ms,
                        None if change.item is None else json.dumps(dict(change.item)),
                        None
                        if change.embedding is None
                        else change.embedding.astype("<f4").tobytes(),
                        change.fingerprint,
                    ),
                )
                last = int(row.lastrowid or 0)
        return last

    def after(self, seq: int) -> list[ItemChange]:
        """Return the changes whose ``seq`` is greater, in order; microseconds where none is."""
        rows = self._log.read(
            f"SELECT {_FIELDS} FROM item_changes WHERE seq > ? ORDER BY seq", (seq,)
        )
        return [_change(row) for row in rows]

    def names_after(self, seq: int) -> list[ChangedItem]:
        """Return whose items changed after a ``seq``, without what they became."""
        rows = self._log.read(
            "SELECT seq, item_id, item IS NULL FROM item_changes WHERE seq > ? ORDER BY seq",
            (seq,),
        )
        return [ChangedItem(number, item_id, bool(gone)) for number, item_id, gone in rows]

    def last_seq(self) -> int:
        """Return the newest change's ``seq``; 0 where there is none."""
        [(seq,)] = self._log.read("SELECT COALESCE(MAX(seq), 0) FROM item_changes")
        return int(seq)


def newest_changes(changes: Sequence[ItemChange]) -> dict[str, ItemChange]:
    """Return the newest change of each item, in the order in which the items first changed."""
    newest: dict[str, ItemChange] = {}
    for change in changes:
        newest[change.item_id] = change
    return newest


def _change(row: Sequence[Any]) -> ItemChange:
    seq, item_id, timestamp_ms, item, embedding, fingerprint = row
    return ItemChange(
        seq=seq,
        item_id=item_id,
        timestamp_ms=timestamp_ms,
        item=None if item is None else json.loads(item),
        embedding=None if embedding is None else np.frombuffer(embedding, dtype="<f4"),
        fingerprint=fingerprint,
    )
