"""Backup and restore of a workspace while it is written to, consistent at one place of the log.

Finished artifacts never change, so a backup on the same file system gives them a second name and
costs no space. Databases are copied by SQLite's own backup, pointers and keys as files. The order
makes it consistent: pointers before what they name, feedback batches before the log that they were
read from. Feedback on a server is copied into SQLite files: a backup needs no server, and holds no
address of one. It holds the workspace's keys: its folder is its owner's alone.
"""

import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rec.artifacts import MANIFEST, ROOMS, file_sha256, link_or_copy, write_json
from rec.data.privacy import load_or_create_key
from rec.data.tombstones import ERASED_SINCE_FILE, read_tombstones, remember_backup
from rec.errors import ArtifactError, ConfigError
from rec.ranking.current import read_current
from rec.ranking.feedback.event_log import LOG_FILE
from rec.ranking.feedback.log_mending import DAMAGED
from rec.ranking.feedback.store_place import STORE_FILE, read_place
from rec.stages.erasing_again import erase_marked
from rec.stages.erasure_journal import only_erasure
from rec.stages.moving_feedback import copy_to_files
from rec.stages.preparation import FEEDBACK_BATCHES, KEY_FILE

BACKUP_FILE = "backup.json"
BACKUP_FORMAT = 1
_DATABASE = b"SQLite format 3\0"
_SIDE_FILES = ("-wal", "-shm")
"""Of a database that is open; its backup needs neither."""


def backup(workspace: Path, output: Path) -> Mapping[str, Any]:
    """Copy a workspace into a new folder; return what ``backup.json`` says of it.

    Raises:
        ConfigError: there is no workspace, the output is there already, or lies inside it.
        LogUnavailableError: the feedback is on a server that does not answer.
    """
    if not workspace.is_dir():
        raise ConfigError(f"expected a workspace at {workspace}, found none")
    if output.exists():
        raise ConfigError(f"--output expects a new folder, {output} is there already")
    if workspace.resolve() in output.resolve().parents:
        raise ConfigError(f"--output must not lie inside the workspace, got {output}")
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir(mode=0o700)
    try:
        # An erasure changes finished artifacts: never half before and half after one.
        with only_erasure(workspace):
            # Tombstones are keyed: with a key of its own a restored workspace would know none.
            load_or_create_key(workspace / KEY_FILE)
            for path in _in_order(workspace):
                _copy(path, aside / path.relative_to(workspace), is_final=_is_final(path))
            if read_place(workspace) is not None:
                copy_to_files(workspace, aside)
            content = {
                "format": BACKUP_FORMAT,
                "created_at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
                "last_seq": _last_seq(aside / LOG_FILE),
                "release": read_current(aside).get("release"),
                "files": _digests(aside),
            }
            write_json(aside / BACKUP_FILE, content)
            aside.rename(output)
            # Before the next erasure may begin: it tells this backup too.
            remember_backup(workspace, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return content


def restore(source: Path, workspace: Path) -> Mapping[str, Any]:
    """Make a workspace of a backup, after every file was compared with its sha256.

    Who was erased after the backup is erased again before the workspace takes its place, as far as
    the backup was told (``erased-since.json``). ``erased_again`` of the answer counts the users'
    rows.

    Raises:
        ArtifactError: no backup, a newer format, a file that is missing or changed, or a trace of
            an erased user is left. Nothing is written then.
        ConfigError: there is something at the workspace's place.
    """
    if workspace.exists() and any(workspace.iterdir()):
        raise ConfigError(f"--workspace expects a new folder, {workspace} holds something already")
    try:
        content: Mapping[str, Any] = json.loads((source / BACKUP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"expected a backup with {BACKUP_FILE} in {source}: {error}") from error
    if content.get("format") != BACKUP_FORMAT:
        raise ArtifactError(
            f"{source} has format {content.get('format')!r}, this version reads {BACKUP_FORMAT}: "
            "install the version that wrote it"
        )
    if str(STORE_FILE) in content["files"]:
        raise ArtifactError(
            f"{source} names the server of the workspace it was made of and holds none of its "
            "events: make a new backup, or delete that file's line from backup.json to go on "
            "without them"
        )
    workspace.parent.mkdir(parents=True, exist_ok=True)
    aside = workspace.with_name(f".{workspace.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir(mode=0o700)
    try:
        for name, digest in content["files"].items():
            # A folder of it may be a link too: what counts is where the file really lies.
            is_inside = source.resolve() in Path(os.path.realpath(source / name)).parents
            if Path(name).is_absolute() or ".." in Path(name).parts or not is_inside:
                raise ArtifactError(f"{source / BACKUP_FILE} names a file outside: {name}")
            target = aside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (source / name).is_symlink() or not (source / name).is_file():
                raise ArtifactError(f"{source / name} is missing: the backup is damaged")
            # Never a second name: what is restored is written to.
            shutil.copy2(source / name, target)
            if file_sha256(target) != digest:
                raise ArtifactError(
                    f"{source / name} has changed since the backup (sha256 differs)"
                )
        receipt = erase_marked(aside, read_tombstones(source / ERASED_SINCE_FILE))
        if receipt is not None and receipt["left"]:
            raise ArtifactError(
                f"expected no trace of erased users, found some in {', '.join(receipt['left'])}"
            )
        if workspace.exists():
            workspace.rmdir()
        aside.rename(workspace)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {**content, "erased_again": sum(receipt["rows"].values()) if receipt else 0}


def _in_order(workspace: Path) -> list[Path]:
    """Return the files, pointers first and the log last; what jobs write aside is left out."""
    batches = workspace / FEEDBACK_BATCHES

    def place(path: Path) -> int:
        if path == workspace / LOG_FILE:
            return 3
        if batches in path.parents:
            return 2
        return 1 if _is_final(path) else 0

    found = [
        path
        for path in workspace.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        # It may hold a password, and who restores it would write to the server that is in use.
        and path != workspace / STORE_FILE
        and not path.parent.name.startswith(DAMAGED)
        and not path.name.endswith(_SIDE_FILES)
        and not any(part.startswith(".") for part in path.relative_to(workspace).parts[:-1])
        and (not path.name.startswith(".") or path.name == ".gitignore")
    ]
    return sorted(found, key=lambda path: (place(path), str(path)))


def _is_final(path: Path) -> bool:
    """Return whether a file lies in a finished artifact or in the embeddings' store."""
    above = [path.parent, *path.parents]
    return any(
        (folder / MANIFEST).is_file() and folder.parent.name in ROOMS for folder in above[:4]
    ) or (path.suffix == ".parquet" and "store" in path.parts)


def _copy(source: Path, target: Path, *, is_final: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if is_final:
            link_or_copy(source, target)
        elif _is_database(source):
            with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
                live.backup(copy)
                # One file: what is restored begins without a write-ahead log.
                copy.execute("PRAGMA journal_mode=DELETE")
        else:
            shutil.copy2(source, target)
    except FileNotFoundError:
        return  # a job has just replaced or deleted it: what it replaced it with is newer


def _is_database(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_DATABASE)) == _DATABASE


def _last_seq(path: Path) -> int:
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()
    return int(row[0])


def _digests(folder: Path) -> dict[str, str]:
    return {
        os.fspath(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
