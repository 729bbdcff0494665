"""Damaged feedback: mended before it is served or ingested, and deleted when a user is erased."""

import shutil
from collections.abc import Callable
from pathlib import Path

from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.log_mending import DAMAGED, Mended, mend_log
from rec.ranking.feedback.log_replacing import mend_in_use
from rec.ranking.feedback.store_place import read_place
from rec.stages.ingesting import last_ingested


def mend_feedback(workspace: Path) -> Mended | None:
    """Mend the log of a workspace if its file is damaged; ``None`` where nothing is wrong.

    Raises:
        ArtifactError: it is damaged and in use, or nothing in it can be read.
    """
    if read_place(workspace) is not None:
        return None
    return mend_log(workspace / LOG_FILE, taken=last_ingested(workspace))


def mend_feedback_in_use(workspace: Path, *, fill: Callable[[EventLog], object]) -> Mended | None:
    """Mend the log of a workspace under those who have it open; ``None`` where nothing is wrong.

    Args:
        workspace: root of the artifacts.
        fill: loads the histories' base into the new log, before anybody sees it.

    Raises:
        sqlite3.Error: its file is so damaged that nobody can lock it.
        ArtifactError: nothing in it can be read.
    """
    if read_place(workspace) is not None:
        return None
    return mend_in_use(workspace / LOG_FILE, taken=last_ingested(workspace), fill=fill)


def forget_damaged(workspace: Path) -> int:
    """Delete the damaged logs that were put aside; return how many there were.

    For an erasure: such a file can be neither searched nor changed row by row with any certainty,
    and what could be read of it is in the log.
    """
    found = list((workspace / LOG_FILE.parent).glob(f"{DAMAGED}*"))
    for folder in found:
        shutil.rmtree(folder)
    return len(found)
