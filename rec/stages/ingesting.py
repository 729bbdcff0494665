"""Ingestion: what serving has logged becomes a batch file that the next ``prepare`` reads.

A batch is named by the log numbers it holds, ``batch-FIRST-LAST.parquet``; the next one begins
after the largest LAST. The file's rename is the commit, so every event is taken exactly once.
"""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rec.data.events import EVENT_SCHEMA
from rec.ranking.feedback.stores import Feedback, found_feedback
from rec.stages.item_overlay import write_overlay
from rec.stages.preparation import FEEDBACK_BATCHES

BATCH_EVENTS = 100_000
"""Events of one file."""


def ingest(workspace: Path) -> dict[str, int]:
    """Drain the event log; return how many events and files were written, and items changed."""
    counts = {"events": 0, "batches": 0, "items": 0, "ingested_through": last_ingested(workspace)}
    folder = workspace / FEEDBACK_BATCHES
    with found_feedback(workspace) as feedback:
        if feedback is None:
            return counts
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _drain(workspace, feedback, counts)
    return counts


def _drain(workspace: Path, feedback: Feedback, counts: dict[str, int]) -> None:
    folder = workspace / FEEDBACK_BATCHES
    taken = counts["ingested_through"] = last_ingested(workspace)
    while rows := feedback.log.read_after(taken, BATCH_EVENTS):
        first, last = rows[0][0], rows[-1][0]
        columns = {name: [getattr(event, name) for _, event in rows] for name in EVENT_SCHEMA.names}
        aside = folder / f".batch.{uuid.uuid4().hex[:8]}"
        pq.write_table(pa.table(columns, schema=EVENT_SCHEMA), aside)
        aside.replace(folder / f"batch-{first:012d}-{last:012d}.parquet")
        counts["events"] += len(rows)
        counts["batches"] += 1
        taken = counts["ingested_through"] = last
    counts["items"] = write_overlay(workspace, feedback.changes)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process take batches at a time, and clear away what a killed one has left."""
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for path in folder.glob(".batch.*"):
            path.unlink()
        yield


def last_ingested(workspace: Path) -> int:
    """Return the largest log number that a batch holds; 0 before the first."""
    batches = (workspace / FEEDBACK_BATCHES).glob("batch-*.parquet")
    return max((int(batch.stem.rsplit("-", 1)[1]) for batch in batches), default=0)
