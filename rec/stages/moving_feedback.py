"""Move a workspace's feedback from its SQLite files to a server, or follow a server that moved.

Done while nothing serves or reads the workspace. The pointer is written last: who is killed before
it has changed nothing, and a second try begins anew. The way back is a copy, for backups.
"""

from dataclasses import replace
from itertools import groupby
from pathlib import Path

from rec.errors import ConfigError
from rec.ranking.feedback.event_log import LOG_FILE
from rec.ranking.feedback.store_place import SQLITE, check_url, new_place, read_place, write_place
from rec.ranking.feedback.stores import Feedback, open_feedback, open_files, over_redis
from rec.stages.ingesting import last_ingested

BLOCK_EVENTS = 2_000
_ALL = 2**31 - 1


def use_store(workspace: Path, url: str) -> int:
    """Let a workspace keep its feedback at an address from now on; return how many events moved.

    Events keep their numbers, so that ``ingest`` goes on where it ended.

    Raises:
        ConfigError: the address is none, or the way leads from a server to files.
        LogUnavailableError: the server does not answer, promises too little, or is not the one
            that holds this workspace's feedback.
    """
    check_url(url)
    place = read_place(workspace)
    if place is None:
        return 0 if url == SQLITE else _move(workspace, url)
    if url == place.url:
        return 0
    if url == SQLITE:
        raise ConfigError(
            f"the feedback of {workspace} is at {place.shown} and cannot move back to sqlite: "
            "leave --history out"
        )
    from rec.ranking.feedback.redis_store.connection import RedisConnection

    moved = replace(place, url=url)
    RedisConnection(moved).close()
    write_place(workspace, moved)
    return 0


def copy_to_files(workspace: Path, target: Path) -> None:
    """Copy the feedback that a workspace keeps on a server into the SQLite files of another one.

    Events keep their numbers. What is written meanwhile is left out from some event on.

    Raises:
        LogUnavailableError: the server does not answer.
    """
    source, copy = open_feedback(workspace), open_files(target)
    try:
        _copy(source, copy, taken=last_ingested(workspace))
    finally:
        source.close()
        copy.close()


def _move(workspace: Path, url: str) -> int:
    from rec.ranking.feedback.redis_store.connection import RedisConnection

    place = new_place(url)
    taken = last_ingested(workspace)
    target = over_redis(RedisConnection.create(place, seq=taken))
    num_events = 0
    try:
        if (workspace / LOG_FILE).is_file():
            source = open_feedback(workspace)
            try:
                num_events = _copy(source, target, taken=taken)
            finally:
                source.close()
    finally:
        target.close()
    write_place(workspace, place)
    for path in workspace.glob(f"{LOG_FILE}*"):
        path.unlink()
    return num_events


def _copy(source: Feedback, target: Feedback, *, taken: int) -> int:
    """Copy what only the log has; the histories' base is loaded from the release again."""
    num_events = seq = 0
    while rows := source.log.read_after(seq, BLOCK_EVENTS):
        # Runs without a gap, so that each event gets its own number again.
        for _, run in groupby(enumerate(rows), key=lambda found: found[1][0] - found[0]):
            block = [row for _, row in run]
            target.log.count_on(block[0][0] - 1)
            target.log.append([event for _, event in block])
        seq, num_events = rows[-1][0], num_events + len(rows)
    # The newest ones may have been erased: their numbers are not given again.
    target.log.count_on(max(taken, seq))
    shown = source.log.read_impressions(limit=_ALL)[::-1]
    for start in range(0, len(shown), BLOCK_EVENTS):
        target.log.append_impressions(shown[start : start + BLOCK_EVENTS])
    changes = source.changes.after(0)
    if changes:
        target.changes.append(changes)
    return num_events
