"""Erasing a user: out of everything that a workspace holds, with a receipt.

The order makes it safe to stop at any point and to begin again: first the tombstone, so that no
preparation brings the user back; then the live log; then every artifact, each replaced in one step
under its own name, with a valid manifest; at last a search of every byte. What is done stays done,
a second run finds nothing. A journal holds the counts until the receipt is written.

Models are not changed: the receipt names those that were trained on the user. The next pipeline
prepares anew, because tombstones are part of what names events, and trains without the user.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from rec.artifacts import (
    MANIFEST,
    ROOMS,
    Artifact,
    Draft,
    finish_rewrites,
    read_artifact,
    replace_file,
    rewrite_artifact,
    write_json,
)
from rec.data.cleaning import CleaningConfig
from rec.data.privacy import load_or_create_key, pseudonyms
from rec.data.queries import QUERIES, load_queries, save_queries
from rec.data.sequences import VOCABULARY_FILE
from rec.data.tombstones import ERASURES, add_tombstones, known_backups, tombstones_of
from rec.encoders.store import text_hash
from rec.errors import ConfigError
from rec.ranking.feedback.stores import found_feedback
from rec.stages.embedding import EMBEDDINGS_FILE
from rec.stages.erasure_journal import Journal, only_erasure
from rec.stages.log_cleaning import recount_log
from rec.stages.mending import forget_damaged
from rec.stages.preparation import FEEDBACK_BATCHES, KEY_FILE
from rec.stages.user_rows import find_bytes, parquet_names_user, without_users

RECEIPT_FORMAT = 1
STALE_S = 3600
"""What still lies aside after an hour was left by a killed job: a folder is written in minutes."""
NOT_COVERED = (
    "the owner's input files: the tombstone keeps their rows out, the files are the owner's",
    "backups, until they are deleted: those listed as `noted` erase the user again when they are "
    "restored; after restoring one listed as `missing`, or a copy, erase again",
    "the weights of the models and releases named here, until they are trained anew and deleted",
    "lists and exports that were written outside the workspace",
    "logs of proxies and other systems; blocks that the file system has freed, and its snapshots",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Erasure:
    """Say who is erased."""

    stored_ids: tuple[str, ...]
    """Every form in which the ids may be stored: as they are, and as pseudonyms."""
    tombstones: tuple[str, ...]


def erase(workspace: Path, user_ids: Sequence[str]) -> tuple[Path, Mapping[str, Any]]:
    """Take users out of a workspace; return the receipt's path and content.

    ``left`` of the receipt names the files that still hold a user: none, unless another job wrote
    at the same time.

    Raises:
        ConfigError: no user is named.
        ArtifactError: an artifact or the log cannot be read. What was erased stays erased.
    """
    if not user_ids or not all(user_ids):
        raise ConfigError("--user-id expects at least one id, got an empty one")
    key = load_or_create_key(workspace / KEY_FILE)
    stored = (*user_ids, *pseudonyms(user_ids, key))
    return erase_stored(
        workspace, Erasure(stored_ids=stored, tombstones=tombstones_of(user_ids, key))
    )


def erase_stored(workspace: Path, erasure: Erasure) -> tuple[Path, Mapping[str, Any]]:
    """Take users out whose stored ids are known; as :func:`erase`."""
    marks = erasure.tombstones
    with only_erasure(workspace):
        finish_rewrites(workspace)
        stale = _clear_stale(workspace)
        add_tombstones(workspace, marks)
        journal = Journal(workspace, marks)
        _erase_log(workspace, erasure, journal)
        stale += forget_damaged(workspace)
        for artifact in _artifacts(workspace, "events"):
            _erase_events(workspace, artifact, erasure, journal)
        for artifact in _artifacts(workspace, "sequences"):
            _erase_sequences(artifact, erasure, journal)
        for artifact in _artifacts(workspace, "embeddings"):
            _erase_embeddings(workspace, artifact)
        _erase_store(workspace, journal)
        for room in sorted({*ROOMS} - {"events", "sequences"}):
            for artifact in _artifacts(workspace, room):
                _erase_tables(artifact, erasure, journal)
        _erase_loose_files(workspace, erasure, journal)
        left, num_files = _search(workspace, erasure)
        receipt = {
            "format": RECEIPT_FORMAT,
            "erased_at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "tombstones": list(marks),
            "rows": journal.totals(),
            "files": journal.rows,
            "queries": len(journal.query_hashes),
            "removed_leftovers": stale,
            "models": _trained_on(workspace, "models", erasure),
            "releases": _trained_on(workspace, "releases", erasure),
            "backups": _backups(workspace),
            "searched_files": num_files,
            "left": left,
            "not_covered": list(NOT_COVERED),
        }
        path = workspace / ERASURES / f"receipt-{time.time_ns():020d}.json"
        write_json(path, receipt)
        if not left:
            journal.close()
    return path, receipt


def _clear_stale(workspace: Path) -> int:
    """Delete folders that killed jobs left aside; return how many."""
    oldest = time.time() - STALE_S
    found = [
        path
        for room in ROOMS
        for path in (workspace / room).glob(".*")
        if path.is_dir() and path.stat().st_mtime < oldest
    ]
    for path in found:
        shutil.rmtree(path)
    return len(found)


def _artifacts(workspace: Path, room: str) -> list[Artifact]:
    found = sorted((workspace / room).glob(f"[!.]*/{MANIFEST}"))
    return [read_artifact(path.parent) for path in found]


def _erase_log(workspace: Path, erasure: Erasure, journal: Journal) -> None:
    with found_feedback(workspace) as feedback:
        if feedback is not None:
            counts = [feedback.log.erase_user(user_id) for user_id in erasure.stored_ids]
            journal.note(workspace / feedback.place, sum(map(sum, counts)))


def _erase_events(workspace: Path, artifact: Artifact, erasure: Erasure, journal: Journal) -> None:
    """Take users out of clean events, their quarantine and their data card."""
    tables = _filtered(artifact.path, erasure)
    if not tables:
        return
    catalog = read_artifact(workspace / "catalog" / artifact.parents["catalog"])
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in artifact.manifest["config"]["cleaning"].items()
    }
    with rewrite_artifact(artifact) as draft:
        _write_tables(draft, tables)
        known = recount_log(
            draft,
            catalog=catalog,
            config=CleaningConfig(**settings),
            num_partitions=artifact.manifest["config"]["num_partitions"],
        )
        queries = load_queries(artifact)
        gone = [query for query in queries if query and query not in known]
        journal.note_queries([text_hash(query) for query in gone])
        # The place of a query is its number in the sequences: it stays, empty.
        save_queries(draft.path, [query if query in known else "" for query in queries])
        draft.details.pop(QUERIES, None)
        _note(artifact, draft, tables, erasure=erasure, journal=journal)


def _erase_sequences(artifact: Artifact, erasure: Erasure, journal: Journal) -> None:
    """Take users out of sequences, and the queries that nobody else has asked."""
    tables = _filtered(artifact.path, erasure)
    if not tables:
        return
    with rewrite_artifact(artifact) as draft:
        _write_tables(draft, tables)
        vocabulary = json.loads((draft.path / VOCABULARY_FILE).read_text(encoding="utf-8"))
        num_items, queries = vocabulary["num_items"], vocabulary["queries"]
        is_used = np.zeros(1 + num_items + len(queries), dtype=bool)
        users = events = 0
        for part in sorted(draft.path.glob("part-*.parquet")):
            table = pq.read_table(part, columns=["tokens"])
            tokens = table["tokens"].combine_chunks().flatten().to_numpy()
            is_used[tokens] = True
            users, events = users + table.num_rows, events + len(tokens)
        vocabulary["queries"] = [
            query if is_used[1 + num_items + place] else "" for place, query in enumerate(queries)
        ]
        write_json(draft.path / VOCABULARY_FILE, vocabulary)
        draft.counts |= {"users": users, "events": events}
        _note(artifact, draft, tables, erasure=erasure, journal=journal)


def _erase_embeddings(workspace: Path, artifact: Artifact) -> None:
    """Set the embeddings of erased queries to zero; no sequence refers to them any more."""
    path = workspace / "sequences" / artifact.parents["sequences"] / VOCABULARY_FILE
    if not path.is_file():
        return
    queries = json.loads(path.read_text(encoding="utf-8"))["queries"]
    is_gone = np.asarray([query == "" for query in queries], dtype=bool)
    tensors = load_file(artifact.path / EMBEDDINGS_FILE)
    if not tensors["queries"][is_gone].any():
        return
    with rewrite_artifact(artifact) as draft:
        tensors["queries"] = np.where(is_gone[:, None], 0, tensors["queries"])
        replace_file(draft.path / EMBEDDINGS_FILE, lambda aside: save_file(tensors, aside))


def _erase_store(workspace: Path, journal: Journal) -> None:
    """Take the embeddings of erased queries out of the store."""
    if not journal.query_hashes:
        return
    for shard in sorted((workspace / "embeddings" / "store").glob("*/*.parquet")):
        table = pq.read_table(shard)
        left = without_users(table, journal.query_hashes, column="text_hash")
        if left.num_rows < table.num_rows:
            replace_file(shard, _writer(left))


def _erase_tables(artifact: Artifact, erasure: Erasure, journal: Journal) -> None:
    """Take users out of every table of an artifact that has a column for them."""
    tables = _filtered(artifact.path, erasure)
    if not tables:
        return
    with rewrite_artifact(artifact) as draft:
        _write_tables(draft, tables)
        if artifact.kind == "catalog" and "users" in draft.details:
            draft.details["users"] -= sum(rows for _, rows in tables.values())
        _note(artifact, draft, tables, erasure=erasure, journal=journal)


def _erase_loose_files(workspace: Path, erasure: Erasure, journal: Journal) -> None:
    """Take users out of feedback batches and of lists that lie in the workspace.

    An empty batch stays: its name says how far the log was read.
    """
    batches = [*(workspace / FEEDBACK_BATCHES).glob("*.parquet")]
    for path in sorted({*batches, *_loose_tables(workspace)}):
        table = pq.read_table(path)
        left = without_users(table, erasure.stored_ids)
        if left.num_rows < table.num_rows:
            journal.note(path, table.num_rows - left.num_rows)
            replace_file(path, _writer(left))


def _loose_tables(workspace: Path) -> list[Path]:
    rooms = {workspace / room for room in ROOMS}
    return [
        path
        for path in workspace.rglob("*.parquet")
        if not rooms.intersection(path.parents) and "user_id" in pq.read_schema(path).names
    ]


def _filtered(folder: Path, erasure: Erasure) -> dict[str, tuple[pa.Table, int]]:
    """Return the tables of a folder that lose rows, and how many, by relative path."""
    found: dict[str, tuple[pa.Table, int]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        if not {"user_id", "raw"}.intersection(pq.read_schema(path).names):
            continue
        table = pq.read_table(path)
        left = without_users(table, erasure.stored_ids)
        if left.num_rows < table.num_rows:
            found[str(path.relative_to(folder))] = left, table.num_rows - left.num_rows
    return found


def _write_tables(draft: Draft, tables: Mapping[str, tuple[pa.Table, int]]) -> None:
    for name, (table, _) in tables.items():
        replace_file(draft.path / name, _writer(table))


def _writer(table: pa.Table) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pq.write_table(table, path, compression="zstd")

    return write


def _note(
    artifact: Artifact,
    draft: Draft,
    tables: Mapping[str, tuple[pa.Table, int]],
    *,
    erasure: Erasure,
    journal: Journal,
) -> None:
    """Note in manifest and journal what an artifact loses, before it does."""
    for name, (_, rows) in tables.items():
        journal.note(artifact.path / name, rows)
    before = draft.details.get("erasures", [])
    rows = sum(rows for _, rows in tables.values())
    draft.details["erasures"] = [
        *before,
        {"tombstones": list(erasure.tombstones), "rows": rows},
    ]


def _backups(workspace: Path) -> dict[str, list[str]]:
    """Return which backups have been told, and which could not be reached."""
    found: dict[str, list[str]] = {"noted": [], "missing": []}
    for backup in known_backups(workspace):
        found["noted" if backup.is_dir() else "missing"].append(str(backup))
    return found


def _trained_on(workspace: Path, room: str, erasure: Erasure) -> list[str]:
    """Return the artifacts of a room that were made of events which held the users."""
    marks = set(erasure.tombstones)
    held = {
        artifact.name
        for artifact in _artifacts(workspace, "events")
        for entry in artifact.manifest["details"].get("erasures", [])
        if marks.intersection(entry["tombstones"])
    }
    made = _artifacts(workspace, room)
    return sorted(artifact.name for artifact in made if artifact.parents.get("events") in held)


def _search(workspace: Path, erasure: Erasure) -> tuple[list[str], int]:
    """Return the files that still hold a user, and the number of files that were searched."""
    files = sorted(path for path in workspace.rglob("*") if path.is_file())
    left = [
        str(path.relative_to(workspace))
        for path in files
        if find_bytes(path, erasure.stored_ids)
        or (path.suffix == ".parquet" and parquet_names_user(path, erasure.stored_ids))
    ]
    return left, len(files)
