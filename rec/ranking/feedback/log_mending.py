"""Mend an event log whose file is damaged: keep what can be read, put the damaged file aside.

A disk that lost a page, a copy that was cut short: SQLite then refuses whatever leads through that
page. The start of a service, or of ``ingest``, mends what nobody uses (``mend_log``); a running
service mends what it has open itself (``log_replacing``). Histories' bases are not carried over,
because they are loaded from the release again.
"""

import fcntl
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rec.artifacts import write_json
from rec.errors import ArtifactError
from rec.ranking.feedback.event_log import EventLog
from rec.ranking.feedback.item_changes import ItemChanges
from rec.ranking.feedback.log_file import (
    LOG_FORMAT,
    connect,
    lock_file,
    lock_path,
    opening_path,
    replace_file,
)
from rec.ranking.feedback.log_pages import MAGIC, Value, read_rows

DAMAGED = "damaged-"
"""How the folders beside the log begin that keep damaged files."""
_MAX_FAULTS = 5
_TYPES: Mapping[str, tuple[type, ...]] = {
    "TEXT": (str,),
    "INTEGER": (int,),
    # A whole number is stored as one, also in a column of reals.
    "REAL": (float, int),
    "BLOB": (bytes,),
}
_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Mended:
    """Say what became of a damaged log."""

    faults: Sequence[str]
    """What SQLite found, the first few."""
    folder: str
    """Where the damaged file is kept."""
    kept: dict[str, int] = field(default_factory=dict)
    """Rows by table."""
    lost_events: int = 0
    """Events that an index names and no page holds: at least so many are lost."""

    def __str__(self) -> str:
        """Return it in one line."""
        kept = ", ".join(f"{number} {table}" for table, number in self.kept.items())
        return (
            f"the event log was damaged ({self.faults[0]}): kept {kept}, lost {self.lost_events} "
            f"events or more; the damaged file is in {self.folder}"
        )


def mend_log(path: Path, *, taken: int) -> Mended | None:
    """Replace a damaged log by one of what can be read of it; ``None`` where nothing is wrong.

    Reads the whole file, 1 s per GB or so.

    Args:
        path: the log's file; there may be none.
        taken: newest number that was ingested: new events count on from there at least.

    Raises:
        ArtifactError: another process uses the damaged log, or nothing in it can be read.
    """
    if not path.is_file() or not faults_of(path):
        return None
    with _alone(path):
        faults = faults_of(path)
        if not faults:
            return None
        _refuse_newer(path)
        with quarantine(path) as folder:
            shutil.copy2(path, folder / path.name)
            _fold(path, folder)
            mended, aside = rewrite(path, folder, faults=faults, taken=taken)
        replace_file(path, aside)
    _log.warning("%s", mended)
    return mended


def faults_of(path: Path) -> list[str]:
    """Return what is wrong with a log's file as a database; empty where nothing is."""
    try:
        with closing(connect(path)) as connection:
            return faults_in(connection)
    except sqlite3.DatabaseError as error:
        # Locked, full or not to be opened: who opens it next says so.
        return [str(error)] if is_damage(error) else []
    except OSError:
        return []


def faults_in(connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong with the file of a connection; raises where it cannot even be asked."""
    try:
        rows = connection.execute(f"PRAGMA quick_check({_MAX_FAULTS})").fetchall()
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return [str(error)]
        raise
    return [] if rows == [("ok",)] else [" ".join(str(text).split()) for (text,) in rows]


def is_damage(error: BaseException) -> bool:
    """Return whether an error says that the file itself is damaged."""
    return isinstance(error, sqlite3.DatabaseError) and (error.sqlite_errorcode & 0xFF) in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


@contextmanager
def quarantine(path: Path) -> Iterator[Path]:
    """Give a new folder beside a log, for its damaged file; it goes again if the block fails."""
    folder = path.with_name(f"{DAMAGED}{datetime.now(tz=UTC):%Y%m%dT%H%M%S%f}")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder)
        raise


def rewrite(
    path: Path,
    folder: Path,
    *,
    faults: Sequence[str],
    taken: int,
    fill: Callable[[EventLog], object] | None = None,
) -> tuple[Mended, Path]:
    """Write a new log of what can be read of a damaged one; return the report and the new file.

    Args:
        path: the damaged file, with its write-ahead log folded in.
        folder: of ``quarantine``; the report stays there.
        faults: what is wrong.
        taken: newest number that was ingested.
        fill: what else goes into the new log.
    """
    mended = Mended(faults=faults, folder=str(folder))
    aside = folder / f".{path.name}"
    _write(path, aside, mended, taken=taken, fill=fill)
    write_json(folder / "report.json", asdict(mended))
    return mended, aside


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the log for this process, as every open log holds it for all."""
    descriptor = lock_file(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(
                f"{path} is damaged and in use: stop what serves or reads this workspace and run "
                "this again, it is mended then"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _refuse_newer(path: Path) -> None:
    with path.open("rb") as stream:
        header = stream.read(64)
    found = int.from_bytes(header[60:64], "big")
    if header.startswith(MAGIC) and found > LOG_FORMAT:
        raise ArtifactError(
            f"{path} is damaged and has format {found}, this version reads up to {LOG_FORMAT}: "
            "install the version that wrote it"
        )


def _fold(path: Path, folder: Path) -> None:
    """Fold the write-ahead log into the file, which needs no more than its first page."""
    write_ahead = path.with_name(f"{path.name}-wal")
    if write_ahead.is_file():
        shutil.copy2(write_ahead, folder / write_ahead.name)
    try:
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError:
        _log.warning("the write-ahead log of %s cannot be read: its events are lost", path)


def _write(
    path: Path,
    aside: Path,
    mended: Mended,
    *,
    taken: int,
    fill: Callable[[EventLog], object] | None,
) -> None:
    """Write a new log of the rows of a damaged one."""
    log = EventLog(aside)
    try:
        ItemChanges(log)
        kept: set[int] = set()
        named: set[int] = set()
        last = {"events": taken, "item_changes": 0}
        with log.transaction() as connection:
            tables = [
                _table(connection, name) for name in ("events", "impressions", "item_changes")
            ]
            for row in read_rows(path):
                if row.row_id is None:
                    named |= _named(row.values)
                    continue
                for name, number in _counter(row.values):
                    last[name] = max(last[name], number)
                for table in tables:
                    if table.fits(row.values):
                        connection.execute(table.insert, (row.row_id, *table.stored(row.values)))
                        if table.name == "events":
                            kept.add(row.row_id)
            for table in tables:
                [number] = connection.execute(f"SELECT COUNT(*) FROM {table.name}").fetchone()
                mended.kept[table.name] = number
            # Who follows the changes has seen the number of a lost one: it is not given again.
            connection.execute("DELETE FROM sqlite_sequence WHERE name = 'item_changes'")
            connection.execute(
                "INSERT INTO sqlite_sequence SELECT 'item_changes', "
                "max(?, coalesce(max(seq), 0)) FROM item_changes",
                (last["item_changes"],),
            )
        mended.lost_events = len(named - kept)
        log.count_on(max(last["events"], *kept, *named, 0))
        if fill is not None:
            fill(log)
    finally:
        log.close()
        for beside in (lock_path(aside), opening_path(aside)):
            beside.unlink(missing_ok=True)
    if not any(mended.kept.values()):
        raise ArtifactError(
            f"{path} is damaged ({mended.faults[0]}) and nothing in it can be read: restore it "
            "from a backup, or delete it to begin with an empty log"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """Say what the rows of a table look like in a file."""

    name: str
    types: Sequence[tuple[type, ...]]
    insert: str
    has_number: bool
    """Whether the row's number is the first column, stored as NULL."""

    def fits(self, values: Sequence[Value]) -> bool:
        """Return whether a row may be one of this table."""
        return len(values) == self.has_number + len(self.types) and all(
            isinstance(value, types) and not (isinstance(value, str) and "\0" in value)
            for value, types in zip(self.stored(values), self.types, strict=True)
        )

    def stored(self, values: Sequence[Value]) -> Sequence[Value]:
        """Return a row without the place of its number."""
        return values[self.has_number :]


def _table(connection: sqlite3.Connection, name: str) -> _Table:
    found = connection.execute(f"PRAGMA table_info({name})").fetchall()
    has_number = (found[0][2], found[0][5]) == ("INTEGER", 1)
    columns = found[has_number:]
    names = ", ".join(("rowid", *(column[1] for column in columns)))
    marks = ", ".join("?" * (1 + len(columns)))
    return _Table(
        name=name,
        has_number=has_number,
        types=[
            (*_TYPES[kind], *(() if is_needed or is_key else (type(None),)))
            for _, _, kind, is_needed, _, is_key in columns
        ],
        insert=f"INSERT OR IGNORE INTO {name} ({names}) VALUES ({marks})",
    )


def _named(values: Sequence[Value]) -> set[int]:
    """Return the number of the event that an entry of the index by user and time names."""
    match values:
        case [str(), int(), int() as seq]:
            return {seq}
        case _:
            return set()


def _counter(values: Sequence[Value]) -> list[tuple[str, int]]:
    """Return a table and its newest number, out of the row that SQLite keeps it in."""
    match values:
        case ["events" | "item_changes" as table, int() as seq]:
            return [(str(table), seq)]
        case _:
            return []
