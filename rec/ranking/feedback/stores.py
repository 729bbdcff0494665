"""Feedback storage behind one interface: the event log, the histories, the item changes.

Two implementations pass one conformance suite: SQLite files, which all processes of one machine
open, and a Redis or Valkey server (``redis_store``), which all machines of a cluster reach. Which
one a workspace uses is written in it, so that no job can look in the wrong place: ``nextray serve
--history redis://HOST:PORT/DB`` writes ``feedback/store.json`` once, everything else reads it.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rec.data.events import Event, Impression
from rec.errors import ConfigError
from rec.ranking.feedback.event_log import LOG_FILE, Appended, Erased, EventLog, UserRecords, Write
from rec.ranking.feedback.history import HistoryStore
from rec.ranking.feedback.item_changes import ChangedItem, ItemChange, ItemChanges
from rec.ranking.feedback.log_errors import LogUnavailableError
from rec.ranking.feedback.store_place import STORE_FILE, StorePlace, read_place
from rec.ranking.lists.fatigue import ShownList

if TYPE_CHECKING:
    from rec.ranking.feedback.redis_store.connection import RedisConnection

LOG_ERRORS = (sqlite3.Error, LogUnavailableError)
"""What any method here raises where the disk, the file or the server fails."""


class Log(Protocol):
    """Append to and read the events and impressions of one workspace."""

    def append(self, events: Sequence[Event]) -> Appended:
        """Make events durable."""

    def append_impressions(self, impressions: Sequence[Impression]) -> None:
        """Make impressions durable."""

    def commit(self, writes: Sequence[Write]) -> list[Appended]:
        """Make several callers' writes durable, all or none."""

    def read_after(self, seq: int, limit: int) -> list[tuple[int, Event]]:
        """Return events after a number."""

    def read_impressions(self, *, limit: int) -> list[Impression]:
        """Return the newest impressions."""

    def shown_items(self, *, limit: int) -> frozenset[str]:
        """Return the items of the newest lists."""

    def count_releases(self, impression_ids: Sequence[str]) -> Mapping[str, int]:
        """Count impressions by release."""

    def export_user(self, user_id: str) -> UserRecords:
        """Return all that is held of a user."""

    def erase_user(self, user_id: str) -> Erased:
        """Delete all that is held of a user, down to the bytes."""

    def last_seq(self) -> int:
        """Return the newest number."""

    def count_on(self, seq: int) -> None:
        """Let the next event get the number after this one."""

    def close(self) -> None:
        """Close what the three parts share."""


class Histories(Protocol):
    """Return users' newest events: a release's sequences and what came later."""

    def history(self, user_id: str, *, limit: int) -> list[Event]:
        """Return a user's newest events."""

    def shown_lists(self, user_id: str, *, limit: int) -> list[ShownList]:
        """Return a user's newest lists."""

    def load_base(
        self,
        histories: Iterable[tuple[str, Sequence[Event]]],
        *,
        release: str,
        ingested_through: int,
    ) -> int:
        """Replace the base."""

    def base_release(self) -> str | None:
        """Return whose base is loaded."""


class Changes(Protocol):
    """Append to and read the item changes of one workspace."""

    def append(self, changes: Sequence[ItemChange]) -> int:
        """Make changes durable."""

    def after(self, seq: int) -> list[ItemChange]:
        """Return changes after a number."""

    def names_after(self, seq: int) -> list[ChangedItem]:
        """Return whose items changed after a number."""

    def last_seq(self) -> int:
        """Return the newest number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """Hold the three parts of a workspace's feedback; each is safe for threads and processes."""

    log: Log
    history: Histories
    changes: Changes
    place: Path
    """File of the workspace that stands for the log: in journals and receipts."""

    def close(self) -> None:
        """Close what all three share."""
        self.log.close()


def open_feedback(workspace: Path) -> Feedback:
    """Open a workspace's feedback; SQLite files are created where there is nothing yet.

    Raises:
        ArtifactError: it cannot be opened, or was written by a newer version.
    """
    place = read_place(workspace)
    return open_files(workspace) if place is None else _redis(place)


@contextmanager
def found_feedback(workspace: Path) -> Iterator[Feedback | None]:
    """Open a workspace's feedback for a block; ``None`` where nothing was served yet."""
    if read_place(workspace) is None and not (workspace / LOG_FILE).is_file():
        yield None
        return
    feedback = open_feedback(workspace)
    try:
        yield feedback
    finally:
        feedback.close()


def open_files(workspace: Path) -> Feedback:
    """Open the SQLite files of a workspace, wherever else its feedback may be.

    Raises:
        ArtifactError: they cannot be opened, or were written by a newer version.
    """
    log = EventLog(workspace / LOG_FILE)
    return Feedback(log=log, history=HistoryStore(log), changes=ItemChanges(log), place=LOG_FILE)


def _redis(place: StorePlace) -> Feedback:
    # The driver is an extra, and an import that who uses SQLite need not pay.
    try:
        from rec.ranking.feedback.redis_store.connection import RedisConnection
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the feedback is at {place.shown}, which needs the redis driver: "
            "install nextray[redis]"
        ) from error
    return over_redis(RedisConnection(place))


def over_redis(connection: "RedisConnection") -> Feedback:
    """Return the feedback that a connection's server holds."""
    from rec.ranking.feedback.redis_store.changes import RedisItemChanges
    from rec.ranking.feedback.redis_store.histories import RedisHistories
    from rec.ranking.feedback.redis_store.log import RedisEventLog

    return Feedback(
        log=RedisEventLog(connection),
        history=RedisHistories(connection),
        changes=RedisItemChanges(connection),
        place=STORE_FILE,
    )
