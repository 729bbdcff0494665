"""Tombstones: who was erased, as keyed hashes, so that the same input files bring nobody back.

A tombstone is made of the user id as it is stored (a pseudonym where ids are stored as such), so it
names nobody and matches a log's rows as well as later feedback. It has no end: what an erased user
does later is left out too, until the owner takes the line out of the file.

A backup that was made earlier still holds the user. A workspace remembers its backups, and each new
tombstone is written into those that are there, so that restoring one brings nobody back.
"""

import fcntl
import json
from collections.abc import Collection, Iterable
from pathlib import Path

import polars as pl

from rec.artifacts import write_json
from rec.data.privacy import load_or_create_key, pseudonym, pseudonyms
from rec.data.rows import RAW
from rec.errors import ArtifactError

ERASURES = "erasures"
"""Folder of a workspace with the tombstones and the receipts."""
TOMBSTONES_FILE = Path(ERASURES) / "tombstones.json"
TOMBSTONES_FORMAT = 1
BACKUPS_FILE = Path(ERASURES) / "backups.json"
ERASED_SINCE_FILE = Path("erased-since.json")
"""Of a backup: the tombstones that its workspace has got since."""
_WORD = r"[\p{L}\p{N}_@.+:-]+"
"""What a user id looks like inside a line that could not be read."""


def tombstone(stored_id: str, key: bytes) -> str:
    """Return 32 hex digits that stand for an erased user.

    >>> tombstone("alice", bytes(32)) == pseudonym("alice", bytes(32))
    False
    """
    return pseudonym(f"erased\x1f{stored_id}", key)


def tombstones_of(user_ids: Iterable[str], key: bytes) -> tuple[str, ...]:
    """Return the tombstones of users, sorted: of each id as given and as a pseudonym."""
    ids = tuple(user_ids)
    return tuple(sorted(tombstone(user_id, key) for user_id in (*ids, *pseudonyms(ids, key))))


def load_tombstones(workspace: Path) -> frozenset[str]:
    """Return the tombstones of a workspace; none where nobody was erased.

    Raises:
        ArtifactError: the file is damaged or of a newer version. Going on without it could bring
            an erased user back.
    """
    return read_tombstones(workspace / TOMBSTONES_FILE)


def read_tombstones(path: Path) -> frozenset[str]:
    """Return the tombstones of a file; none where there is no file.

    Raises:
        ArtifactError: as :func:`load_tombstones`.
    """
    if not path.is_file():
        return frozenset()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, marks = content["format"], content["tombstones"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} holds who was erased and cannot be read ({error}): restore it from a backup"
        ) from error
    if found != TOMBSTONES_FORMAT:
        raise ArtifactError(
            f"{path} has format {found!r}, this version reads {TOMBSTONES_FORMAT}: install the "
            "version that wrote it"
        )
    return frozenset(marks)


def add_tombstones(workspace: Path, marks: Iterable[str]) -> None:
    """Add tombstones, here and in the backups that can be reached; durable when it returns.

    One process at a time, so that none is lost.
    """
    wanted = frozenset(marks)
    (workspace / ERASURES).mkdir(parents=True, exist_ok=True)
    with (workspace / ERASURES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _add(workspace / TOMBSTONES_FILE, wanted)
        for backup in known_backups(workspace):
            if backup.is_dir():
                _add(backup / ERASED_SINCE_FILE, wanted)


def remember_backup(workspace: Path, backup: Path) -> None:
    """Remember where a backup of the workspace lies, to tell it who is erased later."""
    (workspace / ERASURES).mkdir(parents=True, exist_ok=True)
    with (workspace / ERASURES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {str(path) for path in known_backups(workspace)} | {str(backup.resolve())}
        write_json(workspace / BACKUPS_FILE, {"backups": sorted(known)})


def known_backups(workspace: Path) -> list[Path]:
    """Return the places of the workspace's backups, whether they can be reached or not."""
    path = workspace / BACKUPS_FILE
    if not path.is_file():
        return []
    return [Path(name) for name in json.loads(path.read_text(encoding="utf-8"))["backups"]]


def _add(path: Path, marks: frozenset[str]) -> None:
    known = sorted(read_tombstones(path) | marks)
    write_json(path, {"format": TOMBSTONES_FORMAT, "tombstones": known})


def without_erased(
    rows: pl.DataFrame, *, tombstones: Collection[str], key_path: Path
) -> pl.DataFrame:
    """Return the rows of a log or of a table of users without those of erased users.

    Of a line that could not be read nobody knows whose it is: it goes if a word in it is the id of
    an erased user.

    Args:
        rows: with ``user_id`` as stored; optionally the marks of :mod:`rec.data.rows`.
        tombstones: of the workspace; empty leaves the rows as they are.
        key_path: the workspace's key.
    """
    if not tombstones:
        return rows
    key = load_or_create_key(key_path)

    gone = _erased(rows["user_id"], tombstones, key)
    is_erased = pl.col("user_id").is_in(gone).fill_null(value=False)
    if RAW in rows.columns:
        words = rows[RAW].str.extract_all(_WORD)
        names = _erased(words.explode(), tombstones, key)
        is_named = (
            pl.col(RAW).str.extract_all(_WORD).list.eval(pl.element().is_in(names)).list.any()
        )
        is_erased = is_erased | is_named.fill_null(value=False)
    return rows.filter(~is_erased)


def _erased(ids: pl.Series, tombstones: Collection[str], key: bytes) -> list[str]:
    distinct = ids.drop_nulls().unique().to_list()
    return [user_id for user_id in distinct if tombstone(user_id, key) in tombstones]
