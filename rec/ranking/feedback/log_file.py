"""The event log's file: its tables, its format, and how a connection is opened.

Whatever is deleted is overwritten (``secure_delete``), so that an erased user leaves no bytes in
free pages. ``PRAGMA user_version`` is the format: files of before that setting have 0 and are
rewritten once, when the first user is erased.

A damaged file is replaced while others have it open (``rec.ranking.log_replacing``): a connection
knows which file it opened, and whoever holds the write lock of a file that is not the log's any
more lets go of it and opens the new one.
"""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rec.errors import ArtifactError

SIDE_FILES = ("-wal", "-shm")
"""What SQLite keeps beside a file that is open."""
LOG_FORMAT = 1
"""What this version writes; it opens this and every earlier one."""
_BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another process; a commit takes milliseconds."""
_CHUNK_BYTES = 1 << 24
_NEEDED_BYTES = 1 << 16
"""What opening a log may write."""

_SEARCH = """
import sys
needle, tail = sys.stdin.buffer.read(), b""
with open(sys.argv[1], "rb") as stream:
    while chunk := stream.read(int(sys.argv[2])):
        if needle in tail + chunk:
            sys.stdout.write("found")
            break
        tail = chunk[-len(needle):]
"""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL,
    item_id TEXT,
    event_type TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    value REAL,
    query TEXT,
    session_id TEXT,
    event_id TEXT NOT NULL UNIQUE,
    impression_id TEXT
);
CREATE INDEX IF NOT EXISTS events_by_user ON events (user_id, timestamp_ms);
CREATE TABLE IF NOT EXISTS impressions (
    impression_id TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,
    user_id TEXT,
    timestamp_ms INTEGER NOT NULL,
    item_ids TEXT NOT NULL,
    positions TEXT NOT NULL,
    propensities TEXT NOT NULL,
    scores TEXT NOT NULL,
    release TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS impressions_by_user ON impressions (user_id);
CREATE TABLE IF NOT EXISTS bases (
    generation INTEGER PRIMARY KEY AUTOINCREMENT,
    release TEXT NOT NULL,
    ingested_through INTEGER NOT NULL,
    is_ready INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS base_history (
    generation INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    events TEXT NOT NULL,
    PRIMARY KEY (generation, user_id)
) WITHOUT ROWID;
"""


class Connection(sqlite3.Connection):
    """Know which file was opened, and whether its thread is at work with it."""

    path: Path
    file_number: int
    in_use: threading.RLock
    """Held in a transaction and a read: closing a connection under its thread ends the process."""

    @property
    def is_current(self) -> bool:
        """Return whether the log's file is still the one that was opened."""
        try:
            return self.path.stat().st_ino == self.file_number
        except FileNotFoundError:
            return True  # there is no other one


def connect(path: Path) -> Connection:
    """Return a connection to a file, which is created where there is none."""
    with _opening(path, fcntl.LOCK_SH):
        connection = sqlite3.connect(
            path,
            timeout=_BUSY_TIMEOUT_S,
            # Transactions are opened by hand, so that each says which lock it takes.
            isolation_level=None,
            # ``close`` runs in another thread; otherwise a connection stays in its own.
            check_same_thread=False,
            factory=Connection,
        )
        try:
            _set_wal(connection)
            connection.path, connection.file_number = path, path.stat().st_ino
            connection.in_use = threading.RLock()
        except BaseException:
            connection.close()
            raise
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")
    return connection


def replace_file(path: Path, by: Path) -> None:
    """Put another file in the place of a log's, whose write-ahead log must have been folded in.

    Who has the old one open goes on reading it; the caller holds its write lock.
    """
    with _opening(path, fcntl.LOCK_EX):
        for suffix in SIDE_FILES:
            # What is left of the old file's log would be taken for the new one's.
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        by.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def opening_path(path: Path) -> Path:
    """Return where the lock is under which a log's file is opened or replaced."""
    return path.with_name(f".{path.name}.opening")


@contextmanager
def _opening(path: Path, lock: int) -> Iterator[None]:
    """Keep the file from being replaced, or opened, while a block runs: moments."""
    descriptor = os.open(opening_path(path), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, lock)
        yield
    finally:
        os.close(descriptor)


def lock_file(path: Path) -> int:
    """Return a descriptor of the file whose lock says that a log is in use; close it to let go."""
    return os.open(lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)


def lock_path(path: Path) -> Path:
    """Return where a log's lock is."""
    return path.with_name(f".{path.name}.lock")


def hold(path: Path) -> int:
    """Keep others from replacing a log's file; wait for who does. Close what is returned."""
    descriptor = lock_file(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def what_to_do(path: Path) -> str:
    """Return how to help a log that cannot be opened."""
    if path.parent.is_dir() and shutil.disk_usage(path.parent).free < _NEEDED_BYTES:
        # SQLite calls it an I/O error, because it is its index of the write-ahead log that fails.
        return "its disk is full, free some space"
    return "check the folder's rights and disk, or restore the file from a backup"


def create_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Create what is missing, inside the caller's transaction.

    Raises:
        ArtifactError: the file was written by a newer version.
    """
    found = _format(connection)
    if found > LOG_FORMAT:
        raise ArtifactError(
            f"{path} has format {found}, this version reads up to {LOG_FORMAT}: "
            "install the version that wrote it"
        )
    is_new = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    if is_new:
        _set_format(connection)


def forget_deleted(connection: sqlite3.Connection, path: Path, *, needle: bytes) -> None:
    """Make sure that no byte of deleted rows is left in a file or in its write-ahead log.

    SQLite overwrites what it deletes, but may have moved a row earlier and left a copy in a gap
    of a page. So the file is searched, and rewritten where the bytes are found or where it is
    older than the overwriting. A rewrite takes about 1 s per 100 MB, in which writers wait.

    Args:
        connection: outside of a transaction.
        path: the database file.
        needle: bytes that stand in every deleted row.

    Raises:
        ArtifactError: a reader keeps the write-ahead log in use.
    """
    _fold_write_ahead_log(connection, path)
    if _format(connection) < LOG_FORMAT or _contains(path, needle):
        connection.execute("VACUUM")
        if _format(connection) < LOG_FORMAT:
            _set_format(connection)
        _fold_write_ahead_log(connection, path)


def _fold_write_ahead_log(connection: sqlite3.Connection, path: Path) -> None:
    is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if is_busy:
        raise ArtifactError(
            f"another process kept reading {path} for {_BUSY_TIMEOUT_S:.0f} s, so that deleted "
            "rows are still in its write-ahead log: run this again"
        )


def _contains(path: Path, needle: bytes) -> bool:
    """Return whether bytes stand in a file, read by a process of its own.

    Closing a file gives up every lock that this process has on it, also those of SQLite: another
    process would then take the database for unused and delete its write-ahead log under us.
    """
    command = [sys.executable, "-I", "-S", "-c", _SEARCH, str(path), str(_CHUNK_BYTES)]
    found = subprocess.run(command, input=needle, check=True, capture_output=True).stdout
    return found == b"found"


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _set_format(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA user_version={LOG_FORMAT}")


def _set_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite does not wait for its lock here, so we do."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            is_locked = error.sqlite_errorcode & 0xFF in (
                sqlite3.SQLITE_BUSY,
                sqlite3.SQLITE_LOCKED,
            )
            if not is_locked or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
