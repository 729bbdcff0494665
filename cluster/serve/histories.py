"""Put a release's histories where the gateways read them: once, by whoever comes first."""

import fcntl
import os
from pathlib import Path

from rec.artifacts import Artifact, read_artifact
from rec.data.items import load_items
from rec.data.sequences import load_sequences
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.history import HistoryStore, base_histories
from rec.ranking.feedback.stores import Histories, open_feedback

HISTORY_EVENTS = 1000
"""Newest events read of a user: what is left out as seen, and more than a tower reads."""


def load_histories(workspace: Path, release: Path) -> int:
    """Load a release's histories; return the number of users.

    Skipped, with 0, where they are there already. Processes that ask at once wait for each other.
    """
    artifact = read_artifact(release)
    feedback = open_feedback(workspace)
    (workspace / LOG_FILE.parent).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workspace / LOG_FILE.parent / ".histories.lock", os.O_WRONLY | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        store = feedback.history
        if store.base_release() == artifact.name:
            return 0
        return _load(store, workspace, artifact)
    finally:
        os.close(descriptor)
        feedback.close()


def fill_histories(log: EventLog, workspace: Path, release: Path) -> int:
    """Load a release's histories into a log of one's own; return the number of users."""
    return _load(HistoryStore(log), workspace, read_artifact(release))


def _load(store: Histories, workspace: Path, release: Artifact) -> int:
    sequences = load_sequences(workspace / "sequences" / release.parents["sequences"])
    item_ids = load_items(release.path)["item_id"].to_list()
    return store.load_base(
        base_histories(sequences, item_ids=item_ids, limit=HISTORY_EVENTS),
        release=release.name,
        ingested_through=release.manifest["details"]["ingested_through"],
    )
