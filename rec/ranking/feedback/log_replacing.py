"""Mend an event log that is in use: no process stops, and no event that was acknowledged is lost.

Whoever mends takes the log's write lock, so that nothing is acknowledged meanwhile; writers wait,
readers go on with what they can read. What can be read is written aside and takes the file's place
while the lock is held. Other processes find that their file is not the log's any more before they
write to it (``EventLog.transaction``), and before they read (``EventLog.connection``).

A file whose first page is damaged cannot be locked: it is mended when nobody uses it.
"""

import logging
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rec.ranking.feedback.event_log import EventLog
from rec.ranking.feedback.log_file import SIDE_FILES, Connection, connect, replace_file
from rec.ranking.feedback.log_mending import Mended, faults_in, quarantine, rewrite

_FOLDED_WITHIN_S = 5.0
"""Readers that began before hold up the folding of the write-ahead log for as long as they read."""
_COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"
_log = logging.getLogger(__name__)


def mend_in_use(
    path: Path, *, taken: int, fill: Callable[[EventLog], object] | None = None
) -> Mended | None:
    """Replace a damaged log by what can be read of it, under whoever has it open.

    Returns:
        What became of it; ``None`` where nothing is wrong, perhaps because another process has
        mended it already.

    Args:
        path: the log's file.
        taken: newest number that was ingested: new events count on from there at least.
        fill: what else goes into the new log before anybody sees it, such as a base of histories.

    Raises:
        sqlite3.Error: the file cannot be locked.
        ArtifactError: nothing in it can be read.
    """
    with closing(connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            faults = faults_in(connection) if connection.is_current else []
            if not faults:
                return None
            _fold(connection)
            with quarantine(path) as folder:
                _copy(path, folder)
                readable = _readable(folder / path.name)
                try:
                    mended, aside = rewrite(readable, folder, faults=faults, taken=taken, fill=fill)
                finally:
                    readable.unlink()
                replace_file(path, aside)
        finally:
            connection.execute("ROLLBACK")
    _log.warning("%s", mended)
    return mended


def _fold(connection: Connection) -> None:
    """Fold the write-ahead log into the file, so that the file alone holds what was promised.

    A connection that holds the write lock may not, another one may.
    """
    deadline = time.monotonic() + _FOLDED_WITHIN_S
    try:
        with closing(connect(connection.path)) as other:
            while time.monotonic() < deadline:
                is_busy, in_log, folded = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if not is_busy and in_log == folded:
                    return
                time.sleep(0.01)
    except sqlite3.DatabaseError:
        _log.warning("the write-ahead log of %s cannot be folded in whole", connection.path)


def _copy(path: Path, folder: Path) -> None:
    """Keep the damaged file and its write-ahead log, copied by a process of its own.

    Closing a file gives up every lock that this process has on it, also those of SQLite.
    """
    for name in (path.name, f"{path.name}{SIDE_FILES[0]}"):
        if path.with_name(name).is_file():
            command = [sys.executable, "-I", "-S", "-c", _COPY]
            subprocess.run([*command, str(path.with_name(name)), str(folder / name)], check=True)


def _readable(kept: Path) -> Path:
    """Return a copy of a damaged file that has what its write-ahead log had."""
    work = kept.with_name(f".readable-{kept.name}")
    for kept_file, copied in ((kept, work), (_side(kept), _side(work))):
        if kept_file.is_file():
            shutil.copyfile(kept_file, copied)
    try:
        with closing(sqlite3.connect(work)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError:
        _log.warning("the write-ahead log of %s cannot be read: its events are lost", kept)
    for suffix in SIDE_FILES:
        work.with_name(work.name + suffix).unlink(missing_ok=True)
    return work


def _side(path: Path) -> Path:
    return path.with_name(path.name + SIDE_FILES[0])
