"""Put a release's histories where the gateways read them: once, by whoever comes first."""

import fcntl
import os
from pathlib import Path

from rec.artifacts import read_artifact
from rec.data.items import load_items
from rec.data.sequences import load_sequences
from rec.ranking.feedback.event_log import LOG_FILE
from rec.ranking.feedback.history import base_histories
from rec.ranking.feedback.stores import open_feedback

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
        sequences = load_sequences(workspace / "sequences" / artifact.parents["sequences"])
        item_ids = load_items(release)["item_id"].to_list()
        return store.load_base(
            base_histories(sequences, item_ids=item_ids, limit=HISTORY_EVENTS),
            release=artifact.name,
            ingested_through=artifact.manifest["details"]["ingested_through"],
        )
    finally:
        os.close(descriptor)
        feedback.close()
