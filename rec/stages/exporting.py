"""Exporting a user: all that a workspace holds of one person, as one JSON file (access right)."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rec.artifacts import latest_artifact, write_json
from rec.data.privacy import load_or_create_key, pseudonym
from rec.errors import ArtifactError
from rec.ranking.feedback.stores import found_feedback
from rec.stages.catalog import USERS_FILE
from rec.stages.log_parts import QUARANTINE
from rec.stages.preparation import KEY_FILE
from rec.stages.user_rows import only_users

EXPORT_FORMAT = 1


def export_user(workspace: Path, user_id: str, *, output: Path) -> dict[str, int]:
    """Write what is held of a user, and return how many rows of each kind.

    The newest prepared events speak for the older ones, which are parts of them, and for feedback
    batches that they were made of; the event log adds what serving has logged.

    Raises:
        ArtifactError: nothing is held of the user. No file is written.
    """
    ids = [user_id, pseudonym(user_id, load_or_create_key(workspace / KEY_FILE))]
    found: dict[str, Any] = {"events": [], "quarantined": [], "attributes": []}
    if (workspace / "events" / "latest").is_file():
        log = latest_artifact(workspace, "events", made_by="prepare")
        catalog = workspace / "catalog" / log.parents["catalog"]
        found["events"] = _rows(log.path.glob("part-*.parquet"), ids)
        found["quarantined"] = _rows((log.path / QUARANTINE).glob("part-*.parquet"), ids)
        found["attributes"] = _rows(catalog.glob(USERS_FILE), ids)
    found |= _logged(workspace, ids)
    counts = {name: len(rows) for name, rows in found.items()}
    if not any(counts.values()):
        raise ArtifactError(f"expected data of user {user_id!r} in {workspace}, found none")
    write_json(output, {"format": EXPORT_FORMAT, "user_id": user_id, **found})
    return counts


def _logged(workspace: Path, ids: list[str]) -> Mapping[str, list[Any]]:
    found: dict[str, list[Any]] = {"logged_events": [], "impressions": [], "history": []}
    with found_feedback(workspace) as feedback:
        for records in map(feedback.log.export_user, ids) if feedback else ():
            found["logged_events"] += map(dataclasses.asdict, records.events)
            found["impressions"] += map(dataclasses.asdict, records.impressions)
            found["history"] += map(dataclasses.asdict, records.base)
    return found


def _rows(paths: Iterable[Path], ids: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted(paths):
        rows += only_users(pq.read_table(path), ids).to_pylist()
    return rows
