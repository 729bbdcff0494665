"""The event log: what users did since the last release, durable before it is acknowledged.

One SQLite file (WAL, ``synchronous=FULL``) that all processes of one machine open. Events carry a
growing ``seq`` (with gaps where duplicates came), impressions stand beside them. At-least-once in,
exactly-once in effect: an event whose ``event_id`` is known already is counted as a duplicate and
changes nothing. Queries are normalised and scrubbed on their way in, as ``prepare`` does.
"""

import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rec.data.event_ids import content_event_id
from rec.data.events import EVENT_SCHEMA, IMPRESSION_SCHEMA, Event, Impression
from rec.data.scrubbing import stored_query
from rec.errors import ArtifactError
from rec.ranking.feedback.log_file import (
    Connection,
    connect,
    create_tables,
    forget_deleted,
    hold,
    what_to_do,
)

LOG_FILE = Path("feedback") / "events.db"
"""Where a workspace keeps its log."""
_EVENT_FIELDS = tuple(EVENT_SCHEMA.names)
_IMPRESSION_FIELDS = tuple(IMPRESSION_SCHEMA.names)
_LIST_FIELDS = frozenset({"item_ids", "positions", "propensities", "scores"})


def _insert(table: str, fields: Sequence[str], key: str) -> str:
    """Return the statement that adds a row unless its key is there."""
    marks = ", ".join("?" * len(fields))
    return (
        f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({marks}) ON CONFLICT ({key}) DO NOTHING"
    )


_INSERT_EVENT = _insert("events", _EVENT_FIELDS, "event_id")
_INSERT_IMPRESSION = _insert("impressions", _IMPRESSION_FIELDS, "impression_id")
_SELECT_EVENTS = (
    f"SELECT seq, {', '.join(_EVENT_FIELDS)} FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
)
_SELECT_EVENTS_OF = f"SELECT {', '.join(_EVENT_FIELDS)} FROM events WHERE user_id = ? ORDER BY seq"
_SELECT_IMPRESSIONS_OF = (
    f"SELECT {', '.join(_IMPRESSION_FIELDS)} FROM impressions "
    "WHERE user_id = ? ORDER BY timestamp_ms, rowid"
)
_SELECT_SHOWN = "SELECT item_ids FROM impressions ORDER BY rowid DESC LIMIT ?"
_SELECT_RELEASE = "SELECT release FROM impressions WHERE impression_id = ?"
_SELECT_BASE_OF = (
    "SELECT events FROM base_history JOIN bases USING (generation) "
    "WHERE user_id = ? AND is_ready ORDER BY generation DESC LIMIT 1"
)


class Appended(NamedTuple):
    """Count what became of some events: new ones, and those that were known already."""

    accepted: int
    duplicates: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """Hold what one caller wants to be durable."""

    events: Sequence[Event] = ()
    impressions: Sequence[Impression] = ()


class Erased(NamedTuple):
    """Count the rows of one user that were deleted."""

    events: int
    impressions: int
    histories: int
    """Rows of the base: the user's newest events as a release's sequences had them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UserRecords:
    """Hold all that a log knows of one user."""

    events: Sequence[Event]
    """In order of arrival."""
    impressions: Sequence[Impression]
    """Lists that were shown, oldest first."""
    base: Sequence[Event]
    """What the promoted release's sequences hold of the user, oldest first."""


class EventLog:
    """Append to and read the log of one workspace; safe for threads and processes."""

    def __init__(self, path: Path) -> None:
        """Open the file, which is created where there is none.

        Raises:
            ArtifactError: the file is not a SQLite database, cannot be opened, or was written by
                a newer version.
        """
        self.path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._let_go = weakref.finalize(self, os.close, hold(path))
            with self.transaction() as connection:
                create_tables(connection, path)
        except (OSError, sqlite3.Error) as error:
            raise ArtifactError(
                f"cannot open the event log {path} ({error}): {what_to_do(path)}"
            ) from error

    def append(self, events: Sequence[Event]) -> Appended:
        """Make events durable in one transaction; an event without id gets its content's hash."""
        return self.commit([Write(events=events)])[0]

    def append_impressions(self, impressions: Sequence[Impression]) -> None:
        """Make impressions durable in one transaction; a known ``impression_id`` is left alone."""
        self.commit([Write(impressions=impressions)])

    def commit(self, writes: Sequence[Write]) -> list[Appended]:
        """Make the writes of several callers durable in one transaction: all of them or none.

        Returns:
            One count per write, in order; only events count.
        """
        counts: list[Appended] = []
        with self.transaction() as connection:
            for write in writes:
                before = connection.total_changes
                connection.executemany(_INSERT_EVENT, map(_event_row, write.events))
                accepted = connection.total_changes - before
                counts.append(Appended(accepted, len(write.events) - accepted))
                connection.executemany(_INSERT_IMPRESSION, map(_impression_row, write.impressions))
        return counts

    def read_after(self, seq: int, limit: int) -> list[tuple[int, Event]]:
        """Return the first ``limit`` events whose ``seq`` is greater, in order of ``seq``."""
        rows = self.read(_SELECT_EVENTS, (seq, limit))
        return [(row[0], Event(**dict(zip(_EVENT_FIELDS, row[1:], strict=True)))) for row in rows]

    def read_impressions(self, *, limit: int) -> list[Impression]:
        """Return the newest impressions, newest first."""
        rows = self.read(
            f"SELECT {', '.join(_IMPRESSION_FIELDS)} FROM impressions "
            "ORDER BY timestamp_ms DESC, rowid DESC LIMIT ?",
            (limit,),
        )
        return [_impression(row) for row in rows]

    def shown_items(self, *, limit: int) -> frozenset[str]:
        """Return the items that the newest lists have shown."""
        rows = self.read(_SELECT_SHOWN, (limit,))
        return frozenset(item_id for (ids,) in rows for item_id in json.loads(ids))

    def count_releases(self, impression_ids: Sequence[str]) -> Mapping[str, int]:
        """Return by how many impressions each release is named; unknown ones are left out."""
        found: dict[str, int] = {}
        for impression_id in impression_ids:
            for (release,) in self.read(_SELECT_RELEASE, (impression_id,)):
                found[release] = found.get(release, 0) + 1
        return found

    def export_user(self, user_id: str) -> UserRecords:
        """Return all that is held of a user, by the id as stored; empty for an unknown one."""
        with self.snapshot() as connection:
            events = connection.execute(_SELECT_EVENTS_OF, (user_id,)).fetchall()
            impressions = connection.execute(_SELECT_IMPRESSIONS_OF, (user_id,)).fetchall()
            base = connection.execute(_SELECT_BASE_OF, (user_id,)).fetchone()
        return UserRecords(
            events=[Event(**dict(zip(_EVENT_FIELDS, row, strict=True))) for row in events],
            impressions=[_impression(row) for row in impressions],
            base=[
                Event(
                    user_id=user_id, event_type=kind, timestamp_ms=time, item_id=item, query=query
                )
                for kind, time, item, query in (json.loads(base[0]) if base else ())
            ],
        )

    def erase_user(self, user_id: str) -> Erased:
        """Delete all that is held of a user, by the id as stored, down to the bytes on disk.

        Deleted rows are overwritten, the write-ahead log is folded in and cut to nothing. What
        arrives for the user later is stored like anybody's. Repeating it is harmless.

        Returns:
            The rows that were deleted.

        Raises:
            ArtifactError: a reader kept the write-ahead log in use. The rows are gone for every
                reader, their bytes are not: erase again.
        """
        with self.transaction() as connection:
            counts = [
                connection.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,)).rowcount
                for table in ("events", "impressions", "base_history")
            ]
        connection = self.connection()
        with connection.in_use:
            forget_deleted(connection, self.path, needle=user_id.encode())
        return Erased(*counts)

    def last_seq(self) -> int:
        """Return the newest event's ``seq``; 0 for an empty log."""
        [(seq,)] = self.read("SELECT COALESCE(MAX(seq), 0) FROM events")
        return int(seq)

    def count_on(self, seq: int) -> None:
        """Let the next event get the number after ``seq``, if that is free."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
            connection.execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (seq,))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that holds the write lock; commit on a clean exit, else roll back."""
        connection = self._begin()
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            connection.in_use.release()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose reads all see one state of the file."""
        connection = self.connection()
        with connection.in_use:
            connection.execute("BEGIN DEFERRED")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    def read(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return all rows that one statement finds."""
        connection = self.connection()
        with connection.in_use:
            return connection.execute(statement, parameters).fetchall()

    def connection(self) -> Connection:
        """Return this thread's connection, to the file that is the log's now."""
        found: Connection | None = getattr(self._local, "connection", None)
        if found is not None and not found.is_current:
            with self._lock:
                self._connections.remove(found)
            found.close()
            found = None
        if found is None:
            found = connect(self.path)
            self._local.connection = found
            with self._lock:
                self._connections.append(found)
        return found

    def _begin(self) -> Connection:
        """Return a connection that is in use and holds the write lock of the log's file."""
        while True:
            connection = self.connection()
            connection.in_use.acquire()
            try:
                connection.execute("BEGIN IMMEDIATE")
            except BaseException:
                connection.in_use.release()
                raise
            if connection.is_current:
                return connection
            # It was replaced while this one waited: what is written here would be lost.
            connection.execute("ROLLBACK")
            connection.in_use.release()

    def close(self) -> None:
        """Close every thread's connection once it is idle; the log must not be used after."""
        with self._lock:
            while self._connections:
                connection = self._connections.pop()
                with connection.in_use:
                    connection.close()
        self._local = threading.local()
        self._let_go()


def as_stored(event: Event) -> Event:
    """Return an event with an id, its content's hash if need be, and its query scrubbed."""
    if event.event_id is None:
        event = replace(event, event_id=content_event_id(event))
    if event.query is not None:
        event = replace(event, query=stored_query(event.query))
    return event


def _event_row(event: Event) -> tuple[object, ...]:
    stored = as_stored(event)
    return tuple(getattr(stored, name) for name in _EVENT_FIELDS)


def _impression_row(impression: Impression) -> tuple[object, ...]:
    values = ((name, getattr(impression, name)) for name in _IMPRESSION_FIELDS)
    return tuple(json.dumps(value) if name in _LIST_FIELDS else value for name, value in values)


def _impression(row: Sequence[object]) -> Impression:
    values = dict(zip(_IMPRESSION_FIELDS, row, strict=True))
    lists = {name: tuple(json.loads(str(values[name]))) for name in _LIST_FIELDS}
    return Impression(**{**values, **lists})
