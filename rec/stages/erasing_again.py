"""Erasing once more those whom a restored backup has brought back.

A tombstone names nobody, so the restored workspace is asked: whoever is stored in it and has a
tombstone that came after the backup is erased as on the first day.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from rec.data.privacy import load_or_create_key
from rec.data.tombstones import add_tombstones, tombstone
from rec.ranking.feedback.event_log import LOG_FILE
from rec.stages.erasing import Erasure, erase_stored
from rec.stages.preparation import KEY_FILE


def erase_marked(workspace: Path, marks: Collection[str]) -> Mapping[str, Any] | None:
    """Erase the users of a workspace that have one of the tombstones; return the receipt.

    The tombstones stay with the workspace, so that no preparation brings the users back.

    Returns:
        ``None`` where none of them is stored.
    """
    if not marks:
        return None
    add_tombstones(workspace, marks)
    key = load_or_create_key(workspace / KEY_FILE)
    found = {user_id: tombstone(user_id, key) for user_id in stored_users(workspace)}
    stored = sorted(user_id for user_id, mark in found.items() if mark in marks)
    if not stored:
        return None
    _, receipt = erase_stored(
        workspace,
        Erasure(
            stored_ids=tuple(stored), tombstones=tuple(sorted(found[user_id] for user_id in stored))
        ),
    )
    return receipt


def stored_users(workspace: Path) -> set[str]:
    """Return every user id that a table or the log of a workspace holds."""
    found: set[str] = set()
    for path in workspace.rglob("*.parquet"):
        if "user_id" in pq.read_schema(path).names:
            found.update(pc.unique(pq.read_table(path, columns=["user_id"])["user_id"]).to_pylist())
    if (workspace / LOG_FILE).is_file():
        found.update(_log_users(workspace / LOG_FILE))
    return {user_id for user_id in found if user_id}


def _log_users(path: Path) -> Iterator[str]:
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            if any(column[1] == "user_id" for column in columns):
                for (user_id,) in connection.execute(f'SELECT DISTINCT user_id FROM "{table}"'):
                    yield str(user_id)
