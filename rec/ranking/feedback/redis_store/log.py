"""The event log on a server: as ``rec.ranking.feedback.event_log`` has it in a file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rec.data.events import EVENT_SCHEMA, IMPRESSION_SCHEMA, Event, Impression
from rec.errors import DataError
from rec.ranking.feedback.event_log import Appended, Erased, UserRecords, Write, as_stored
from rec.ranking.feedback.history import base_events
from rec.ranking.feedback.redis_store import scripts
from rec.ranking.feedback.redis_store.connection import RedisConnection, Word

_EVENT_FIELDS = tuple(EVENT_SCHEMA.names)
_IMPRESSION_FIELDS = tuple(IMPRESSION_SCHEMA.names)
_REQUIRED = tuple(field.name for field in EVENT_SCHEMA if not field.nullable)


class RedisEventLog:
    """Append to and read the log of one workspace; safe for threads and processes."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def append(self, events: Sequence[Event]) -> Appended:
        """Make events durable in one step; an event without id gets its content's hash."""
        return self.commit([Write(events=events)])[0]

    def append_impressions(self, impressions: Sequence[Impression]) -> None:
        """Make impressions durable in one step; a known ``impression_id`` is left alone."""
        self.commit([Write(impressions=impressions)])

    def commit(self, writes: Sequence[Write]) -> list[Appended]:
        """Make the writes of several callers durable in one step: all of them or none.

        Returns:
            One count per write, in order; only events count.

        Raises:
            DataError: an event lacks what every event has. Nothing is stored.
            LogUnavailableError: the server failed; what was sent may be stored.
        """
        events = [as_stored(event) for write in writes for event in write.events]
        words: list[Word] = [len(events)]
        for event in events:
            words += _event_words(event)
        for write in writes:
            for impression in write.impressions:
                words += _impression_words(impression)
        fresh = iter(self._connection.write(scripts.COMMIT, *words))
        counts = []
        for write in writes:
            accepted = sum(int(next(fresh)) for _ in write.events)
            counts.append(Appended(accepted, len(write.events) - accepted))
        return counts

    def read_after(self, seq: int, limit: int) -> list[tuple[int, Event]]:
        """Return the first ``limit`` events whose ``seq`` is greater, in order of ``seq``."""
        found: list[tuple[int, Event]] = []
        while len(found) < limit:
            # In blocks, because nobody else is served while the script runs.
            block = self._connection.write(
                scripts.READ_AFTER, seq, min(BLOCK_EVENTS, limit - len(found))
            )
            if not block:
                break
            found += [
                (int(number), event_of(row))
                for number, row in zip(block[::2], block[1::2], strict=True)
            ]
            seq = found[-1][0]
        return found

    def read_impressions(self, *, limit: int) -> list[Impression]:
        """Return the newest impressions, newest first."""
        return list(map(impression_of, self._connection.write(scripts.SHOWN, "shown", limit)))

    def shown_items(self, *, limit: int) -> frozenset[str]:
        """Return the items that the newest lists have shown."""
        rows = self._connection.read(scripts.SHOWN, "shown", limit)
        return frozenset(item_id for row in rows for item_id in impression_of(row).item_ids)

    def count_releases(self, impression_ids: Sequence[str]) -> Mapping[str, int]:
        """Return by how many impressions each release is named; unknown ones are left out."""
        found: dict[str, int] = {}
        key = self._connection.key("impressions")
        for row in self._connection.read_command("HMGET", key, *impression_ids):
            if row is not None:
                release = impression_of(row).release
                found[release] = found.get(release, 0) + 1
        return found

    def export_user(self, user_id: str) -> UserRecords:
        """Return all that is held of a user, by the id as stored; empty for an unknown one."""
        events, shown, base = self._connection.write(scripts.EXPORT, user_id)
        return UserRecords(
            events=list(map(event_of, events)),
            impressions=list(map(impression_of, shown)),
            base=base_events(user_id, json.loads(base) if base else ()),
        )

    def erase_user(self, user_id: str) -> Erased:
        """Delete all that is held of a user, by the id as stored, down to the bytes on disk.

        The server writes its append-only file and its snapshot anew before this returns. A
        replica's files are its own: have them written anew there.

        Returns:
            The rows that were deleted.

        Raises:
            LogUnavailableError: the server failed. Erase again: it goes on where it ended.
        """
        place = _EVENT_FIELDS.index("event_id") + 1
        *counts, must_forget = self._connection.write(scripts.ERASE, user_id, place)
        if must_forget:
            self._connection.forget_deleted()
            self._connection.write_command("HDEL", self._connection.key("meta"), "must_forget")
        return Erased(*map(int, counts))

    def last_seq(self) -> int:
        """Return the newest event's ``seq``; 0 for an empty log."""
        found = self._connection.read_command("HGET", self._connection.key("meta"), "seq")
        return int(found or 0)

    def count_on(self, seq: int) -> None:
        """Let the next event get the number after ``seq``."""
        self._connection.write_command("HSET", self._connection.key("meta"), "seq", seq)

    def close(self) -> None:
        """Close the connection, which histories and item changes share."""
        self._connection.close()


BLOCK_EVENTS = 5_000
"""Events of one script; they hold up everybody else for some 10 ms."""


def event_of(row: str) -> Event:
    """Return an event from its row."""
    return Event(**dict(zip(_EVENT_FIELDS, json.loads(row), strict=True)))


def impression_of(row: str) -> Impression:
    """Return an impression from its row."""
    values: list[Any] = json.loads(row)
    frozen = (tuple(value) if isinstance(value, list) else value for value in values)
    named: dict[str, Any] = dict(zip(_IMPRESSION_FIELDS, frozen, strict=True))
    return Impression(**named)


def _event_words(event: Event) -> tuple[Word, ...]:
    missing = [name for name in _REQUIRED if getattr(event, name) is None]
    if missing:
        raise DataError(f"an event without {missing[0]} cannot be stored")
    row = json.dumps([getattr(event, name) for name in _EVENT_FIELDS], ensure_ascii=False)
    return (str(event.event_id), event.user_id, event.timestamp_ms, row)


def _impression_words(shown: Impression) -> tuple[Word, ...]:
    row = json.dumps([getattr(shown, name) for name in _IMPRESSION_FIELDS], ensure_ascii=False)
    return (shown.impression_id, shown.user_id or "", shown.timestamp_ms, row)
