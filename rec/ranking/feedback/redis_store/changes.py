"""Item changes on a server: as ``rec.ranking.feedback.item_changes`` has them in a file."""

import base64
import json
from collections.abc import Sequence

import numpy as np

from rec.ranking.feedback.item_changes import ChangedItem, ItemChange
from rec.ranking.feedback.redis_store import scripts
from rec.ranking.feedback.redis_store.connection import RedisConnection, Word

_PUT, _DELETED = "+", "-"


class RedisItemChanges:
    """Append to and read the item changes of one workspace; safe for threads and processes."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def append(self, changes: Sequence[ItemChange]) -> int:
        """Make changes durable in one step; return the ``seq`` of the last one."""
        words: list[Word] = []
        for change in changes:
            words.append((_DELETED if change.item is None else _PUT) + change.item_id)
            words.append(_row(change))
        return int(self._connection.write(scripts.APPEND_CHANGES, *words))

    def after(self, seq: int) -> list[ItemChange]:
        """Return the changes whose ``seq`` is greater, in order."""
        rows = self._connection.read(scripts.CHANGES_AFTER, "changes", seq)
        return [_change(number, row) for number, row in enumerate(rows, start=seq + 1)]

    def names_after(self, seq: int) -> list[ChangedItem]:
        """Return whose items changed after a ``seq``, without what they became."""
        rows = self._connection.read(scripts.CHANGES_AFTER, "changed", seq)
        return [
            ChangedItem(number, row[1:], row[0] == _DELETED)
            for number, row in enumerate(rows, start=seq + 1)
        ]

    def last_seq(self) -> int:
        """Return the newest change's ``seq``; 0 where there is none."""
        found = self._connection.read_command("HGET", self._connection.key("meta"), "changes")
        return int(found or 0)


def _row(change: ItemChange) -> str:
    vector = change.embedding
    text = None if vector is None else base64.b64encode(vector.astype("<f4").tobytes()).decode()
    item = None if change.item is None else dict(change.item)
    row = [change.item_id, change.timestamp_ms, item, text, change.fingerprint]
    return json.dumps(row, ensure_ascii=False)


def _change(seq: int, row: str) -> ItemChange:
    item_id, timestamp_ms, item, text, fingerprint = json.loads(row)
    return ItemChange(
        seq=seq,
        item_id=item_id,
        timestamp_ms=timestamp_ms,
        item=item,
        embedding=None if text is None else np.frombuffer(base64.b64decode(text), dtype="<f4"),
        fingerprint=fingerprint,
    )
