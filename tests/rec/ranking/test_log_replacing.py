"""A log that is damaged under its writers is mended under them, and no promise is broken."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.log_mending import faults_of
from rec.ranking.feedback.log_replacing import mend_in_use
from rec.ranking.feedback.stores import open_files
from tests.processes import wait_until
from tests.rec.ranking.test_log_mending import (
    NUM_EVENTS,
    PAGE,
    event,
    leaf_of,
    root_of,
    sound,
    stored,
    workspace,
)

__all__ = ["sound", "workspace"]

NUM_WRITERS = 2
_WRITE = """
import itertools, sys
from pathlib import Path
from rec.data.events import Event
from rec.ranking.feedback.event_log import EventLog

log, name = EventLog(Path(sys.argv[1])), sys.argv[2]
for number in itertools.count():
    event = Event(user_id="u", event_type="view", timestamp_ms=number, item_id="i",
                  event_id=f"{name}-{number}")
    log.append([event])
    print(event.event_id, flush=True)
"""


class Writer:
    """Append events one by one in a process of its own; ``promised`` are those acknowledged."""

    def __init__(self, path: Path, name: str, told: Path) -> None:
        self._told = told
        with told.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WRITE, str(path), name], stdout=stream
            )

    def promised(self) -> list[str]:
        assert self._process.poll() is None, "the writer has failed"
        return self._lines()

    def stop(self) -> list[str]:
        self._process.kill()
        self._process.wait()
        return self._lines()

    def _lines(self) -> list[str]:
        # The last line may be half of one.
        return self._told.read_text().split("\n")[:-1]


@contextmanager
def writers(path: Path, folder: Path) -> Iterator[list[Writer]]:
    found = [Writer(path, f"w{number}", folder / f"told-{number}") for number in range(NUM_WRITERS)]
    try:
        yield found
    finally:
        for writer in found:
            writer.stop()


def spoil_in_use(path: Path, page: int) -> None:
    """Overwrite a page by a process of its own: closing the file here would give up our locks."""
    command = f"p = open(r'{path}', 'r+b'); p.seek({(page - 1) * PAGE}); p.write(b'\\xa5' * {PAGE})"
    subprocess.run([sys.executable, "-I", "-S", "-c", command], check=True)


def test_no_promise_is_broken_while_the_file_is_replaced_under_its_writers(
    workspace: Path, tmp_path: Path
) -> None:
    path = workspace / LOG_FILE
    whole, page = stored(workspace), leaf_of(path, "event-1501")
    log = EventLog(path)
    assert log.last_seq() == NUM_EVENTS
    with writers(path, tmp_path) as found:

        def each_has(number: int) -> bool:
            return all(len(writer.promised()) >= number for writer in found)

        wait_until(lambda: each_has(20), within_s=60, what="the writers write")
        spoil_in_use(path, page)
        mended = mend_in_use(path, taken=0, fill=lambda fresh: fresh.append([event(NUM_EVENTS)]))
        assert mended is not None
        most = max(len(writer.promised()) for writer in found)
        wait_until(lambda: each_has(most + 20), within_s=60, what="the writers go on")
        promised = [event_id for writer in found for event_id in writer.stop()]
    kept = dict(log.read_after(0, log.last_seq()))  # quick writers write tens of thousands
    ids = [one.event_id for one in kept.values()]
    assert set(promised) <= set(ids)
    assert len(ids) == len(set(ids))
    lost = [seq for seq in whole if seq not in kept]
    assert 0 < len(lost) == mended.lost_events < 60
    assert f"event-{NUM_EVENTS}" in ids
    # An old number is not given again, whoever has it would be taken for somebody else.
    assert log.append([event(NUM_EVENTS + 1)]).accepted == 1
    assert log.last_seq() > max(kept)
    log.close()
    assert faults_of(path) == []
    [folder] = path.parent.glob("damaged-*")
    names = {file.name for file in folder.iterdir()}
    assert {path.name, "report.json"} <= names <= {path.name, f"{path.name}-wal", "report.json"}


def test_who_comes_second_finds_nothing_to_mend(workspace: Path) -> None:
    path = workspace / LOG_FILE
    root = root_of(path, "impressions")
    feedback = open_files(workspace)
    spoil_in_use(path, root)
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        feedback.log.read_impressions(limit=5)
    assert mend_in_use(path, taken=0) is not None
    assert mend_in_use(path, taken=0) is None
    assert len(feedback.log.read_impressions(limit=400)) == 300
    assert feedback.changes.last_seq() == 2
    feedback.close()


def test_number_of_a_lost_item_change_is_not_given_again(workspace: Path) -> None:
    path = workspace / LOG_FILE
    feedback = open_files(workspace)
    newest = feedback.changes.after(0)[-1]
    feedback.changes.append([newest])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM item_changes WHERE seq = 3")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spoil_in_use(path, root_of(path, "impressions"))
    assert mend_in_use(path, taken=0) is not None
    assert feedback.changes.append([newest]) == 4
    feedback.close()


def test_file_that_cannot_be_locked_is_left_alone(workspace: Path) -> None:
    path = workspace / LOG_FILE
    before = shutil.copyfile(path, path.with_name("before")).read_bytes()
    spoil_in_use(path, 1)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        mend_in_use(path, taken=0)
    assert path.read_bytes()[PAGE:] == before[PAGE:]
    assert not list(path.parent.glob("damaged-*"))
