"""Histories: what the serving side knows of a user, one query away.

Two parts are merged by time. The *base* holds each user's newest events as the promoted release's
sequences have them; the *log* adds what came later. ``ingested_through`` is the newest ``seq`` of
the log that those sequences have already read, so that no event counts twice.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from rec.data.events import Event
from rec.data.sequences import Sequences
from rec.ranking.feedback.event_log import EventLog
from rec.ranking.lists.fatigue import ShownList

_USERS_PER_TRANSACTION = 5_000
"""Small enough that feedback, which waits for the write lock, is held up for milliseconds."""
_LOG_FIELDS = ("event_type", "timestamp_ms", "item_id", "query")

_SELECT_BASE = "SELECT events FROM base_history WHERE generation = ? AND user_id = ?"
_SELECT_NEWER = (
    f"SELECT {', '.join(_LOG_FIELDS)} FROM events WHERE user_id = ? AND seq > ? "
    "ORDER BY timestamp_ms DESC, seq DESC LIMIT ?"
)
# By rowid, which the index by user holds: no row but the newest ones is read.
_SELECT_SHOWN = (
    "SELECT timestamp_ms, item_ids FROM impressions WHERE user_id = ? ORDER BY rowid DESC LIMIT ?"
)
_SELECT_CURRENT = (
    "SELECT generation, release, ingested_through FROM bases "
    "WHERE is_ready ORDER BY generation DESC LIMIT 1"
)


class HistoryStore:
    """Return users' newest events; lives in the event log's file."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def history(self, user_id: str, *, limit: int) -> list[Event]:
        """Return a user's newest ``limit`` events, oldest first; empty for an unknown user.

        Equal times keep their order: base before log, the log in order of arrival.
        """
        with self._log.snapshot() as connection:
            generation, _, ingested_through = connection.execute(_SELECT_CURRENT).fetchone() or (
                0,
                "",
                0,
            )
            base = connection.execute(_SELECT_BASE, (generation, user_id)).fetchone()
            rows = connection.execute(_SELECT_NEWER, (user_id, ingested_through, limit)).fetchall()
        return merge_history(
            user_id, json.loads(base[0]) if base else (), list(reversed(rows)), limit=limit
        )

    def shown_lists(self, user_id: str, *, limit: int) -> list[ShownList]:
        """Return the newest ``limit`` lists that a user was shown, newest first."""
        rows = self._log.read(_SELECT_SHOWN, (user_id, limit))
        return [ShownList(time, json.loads(item_ids)) for time, item_ids in rows]

    def load_base(
        self,
        histories: Iterable[tuple[str, Sequence[Event]]],
        *,
        release: str,
        ingested_through: int,
    ) -> int:
        """Replace the base; readers see the old one until the new one is whole.

        Args:
            histories: user id and newest events, oldest first; each user once.
            release: whose sequences these are.
            ingested_through: newest ``seq`` of the log that the sequences contain; 0 for none.

        Returns:
            The number of users.
        """
        with self._log.transaction() as connection:
            generation = connection.execute(
                "INSERT INTO bases (release, ingested_through) VALUES (?, ?)",
                (release, ingested_through),
            ).lastrowid
        rows = (
            (generation, user_id, json.dumps([base_row(event) for event in events]))
            for user_id, events in histories
        )
        num_users = 0
        while block := list(islice(rows, _USERS_PER_TRANSACTION)):
            with self._log.transaction() as connection:
                connection.executemany("INSERT INTO base_history VALUES (?, ?, ?)", block)
            num_users += len(block)
        with self._log.transaction() as connection:
            connection.execute("UPDATE bases SET is_ready = 1 WHERE generation = ?", (generation,))
        self._delete_before(generation)
        return num_users

    def base_release(self) -> str | None:
        """Return the release whose base is loaded, or ``None`` where there is none."""
        rows = self._log.read(_SELECT_CURRENT)
        return str(rows[0][1]) if rows else None

    def _delete_before(self, generation: int | None) -> None:
        """Delete older bases, block by block; also what a load that was killed left behind."""
        while True:
            with self._log.transaction() as connection:
                deleted = connection.execute(
                    "DELETE FROM base_history WHERE (generation, user_id) IN (SELECT generation, "
                    "user_id FROM base_history WHERE generation < ? LIMIT ?)",
                    (generation, _USERS_PER_TRANSACTION),
                ).rowcount
                if not deleted:
                    connection.execute("DELETE FROM bases WHERE generation < ?", (generation,))
                    return


def base_histories(
    sequences: Sequences, *, item_ids: Sequence[str], limit: int
) -> Iterator[tuple[str, list[Event]]]:
    """Yield each user's newest ``limit`` events out of sequences, ready for ``load_base``.

    Args:
        sequences: what the promoted release was trained on.
        item_ids: the catalog's ids; position ``p`` is item index ``p + 1``.
        limit: events that the user tower reads.
    """
    newest = sequences.newest(limit)
    for row, user_id in enumerate(newest.user_ids):
        places = range(int(newest.offsets[row]), int(newest.offsets[row + 1]))
        yield (
            user_id,
            [_event(newest, place, user_id=user_id, item_ids=item_ids) for place in places],
        )


def _event(sequences: Sequences, place: int, *, user_id: str, item_ids: Sequence[str]) -> Event:
    token = int(sequences.tokens[place])
    is_item = token <= sequences.num_items
    return Event(
        user_id=user_id,
        event_type=sequences.event_type_names[int(sequences.event_types[place])],
        timestamp_ms=int(sequences.timestamps_ms[place]),
        item_id=item_ids[token - 1] if is_item else None,
        query=None if is_item else sequences.queries[token - 1 - sequences.num_items],
    )


def merge_history(
    user_id: str,
    base: Sequence[Sequence[Any]],
    newer: Sequence[Sequence[Any]],
    *,
    limit: int,
) -> list[Event]:
    """Return the newest ``limit`` events of both parts, oldest first.

    Args:
        user_id: whose rows these are.
        base: rows as ``base_row`` makes them, oldest first.
        newer: rows of the log, in order of time and arrival.
        limit: how many.
    """
    merged = sorted([*base, *newer], key=lambda row: row[1])
    return base_events(user_id, merged[-limit:])


def base_events(user_id: str, rows: Sequence[Sequence[Any]]) -> list[Event]:
    """Return the events of rows that ``base_row`` has made."""
    return [
        Event(user_id=user_id, event_type=kind, timestamp_ms=time, item_id=item, query=query)
        for kind, time, item, query in rows
    ]


def base_row(event: Event) -> list[object]:
    """Return what a history keeps of an event."""
    return [getattr(event, name) for name in _LOG_FIELDS]
