"""A damaged event log: what can be read is kept, the damaged file too, and the service goes on."""

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.stages import run_ingest
from rec.data.events import Event
from rec.errors import ArtifactError
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.item_changes import ItemChange
from rec.ranking.feedback.log_mending import mend_log
from rec.ranking.feedback.log_pages import read_rows
from rec.ranking.feedback.stores import open_files
from rec.stages.backing_up import backup
from rec.stages.erasing import erase
from rec.stages.mending import mend_feedback
from tests.rec.ranking.test_feedback_stores import shown

PAGE = 4096
NUM_EVENTS = 3_000
NUM_USERS = 60
LONG = "word " * 2_000


def event(number: int) -> Event:
    return Event(
        user_id=f"user-{number % NUM_USERS}",
        event_type="view",
        timestamp_ms=1_700_000_000_000 + number,
        item_id=f"item-{number % 7}",
        value=float(number % 3),
        # Some rows do not fit on a page, and go on on others.
        session_id=LONG if number % 100 == 0 else None,
        event_id=f"event-{number}",
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("sound")
    feedback = open_files(workspace)
    for start in range(0, NUM_EVENTS, 500):
        feedback.log.append([event(number) for number in range(start, start + 500)])
    feedback.log.append_impressions([shown(f"m{n}", f"user-{n}", n, "a", "b") for n in range(300)])
    vector = np.arange(400, dtype=np.float32)
    feedback.changes.append(
        [
            ItemChange(item_id="new", timestamp_ms=1, item={"title": "茶"}, embedding=vector),
            ItemChange(item_id="gone", timestamp_ms=2),
        ]
    )
    feedback.close()
    return workspace


@pytest.fixture
def workspace(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "workspace"))


def spoil(path: Path, page: int, content: bytes = b"\xa5" * PAGE) -> None:
    with path.open("r+b") as stream:
        stream.seek((page - 1) * PAGE)
        stream.write(content)


def root_of(path: Path, name: str) -> int:
    with sqlite3.connect(path) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        return int(connection.execute(query, (name,)).fetchone()[0])


def leaf_of(path: Path, event_id: str) -> int:
    """Return the page that holds the row of an event."""
    data = path.read_bytes()
    pages = (
        start // PAGE + 1
        for start in range(0, len(data), PAGE)
        if data[start] == 13 and event_id.encode() in data[start : start + PAGE]
    )
    return next(pages)


def stored(workspace: Path) -> dict[int, Event]:
    feedback = open_files(workspace)
    try:
        return dict(feedback.log.read_after(0, 10 * NUM_EVENTS))
    finally:
        feedback.close()


def test_pages_of_a_sound_file_hold_what_sqlite_reads(sound: Path) -> None:
    found = {row.row_id: row.values for row in read_rows(sound / LOG_FILE) if len(row.values) == 10}
    with sqlite3.connect(sound / LOG_FILE) as connection:
        rows = connection.execute("SELECT * FROM events").fetchall()
    assert {seq: [seq, *values[1:]] for seq, values in found.items()} == {
        row[0]: list(row) for row in rows
    }
    assert len(rows) == NUM_EVENTS


def test_sound_log_is_left_alone(workspace: Path) -> None:
    before = (workspace / LOG_FILE).read_bytes()
    assert mend_feedback(workspace) is None
    assert (workspace / LOG_FILE).read_bytes() == before
    assert mend_feedback(workspace / "nothing") is None


def test_lost_page_costs_its_own_rows_only(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = workspace / LOG_FILE
    whole = stored(workspace)
    spoil(path, leaf_of(path, "event-1501"))
    spoiled = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        mended = mend_feedback(workspace)
    assert mended is not None
    kept = stored(workspace)
    assert 0 < len(whole) - len(kept) < 60
    assert kept.items() <= whole.items()
    assert mended.lost_events == len(whole) - len(kept)
    assert mended.kept == {"events": len(kept), "impressions": 300, "item_changes": 2}
    [line] = [record.getMessage() for record in caplog.records]
    assert f"lost {mended.lost_events} events" in line
    [folder] = path.parent.glob("damaged-*")
    assert (folder / path.name).read_bytes() == spoiled
    assert json.loads((folder / "report.json").read_text())["kept"] == mended.kept
    assert {found.name for found in folder.iterdir()} == {path.name, "report.json"}
    assert mend_feedback(workspace) is None
    # What was lost may be sent again; the rest still counts once.
    log = EventLog(path)
    assert log.append([event(n) for n in range(NUM_EVENTS)]) == (
        mended.lost_events,
        len(kept),
    )
    assert len(log.read_after(NUM_EVENTS, 10 * NUM_EVENTS)) == mended.lost_events
    log.close()


@pytest.mark.parametrize("name", ["events", "impressions", "sqlite_autoindex_events_1"])
def test_lost_root_of_a_tree_costs_no_event(workspace: Path, name: str) -> None:
    path = workspace / LOG_FILE
    whole = stored(workspace)
    spoil(path, root_of(path, name))
    mended = mend_feedback(workspace)
    assert mended is not None
    assert stored(workspace) == whole
    assert (mended.kept["events"], mended.lost_events) == (NUM_EVENTS, 0)


def test_lost_first_page_costs_no_event(workspace: Path) -> None:
    path = workspace / LOG_FILE
    whole = stored(workspace)
    spoil(path, 1)
    with pytest.raises(ArtifactError, match="not a database"):
        EventLog(path)
    assert mend_feedback(workspace) is not None
    assert stored(workspace) == whole


@pytest.mark.parametrize(
    "cut",
    [
        lambda path: path.write_bytes(path.read_bytes()[: -40 * PAGE]),
        lambda path: spoil(path, 20, bytes(30 * PAGE)),
        lambda path: spoil(path, 30, np.random.default_rng(0).bytes(9 * PAGE)),
    ],
    ids=["cut short", "zeros", "noise"],
)
def test_whatever_is_lost_the_rest_is_as_it_was(
    workspace: Path, cut: Callable[[Path], object]
) -> None:
    whole = stored(workspace)
    cut(workspace / LOG_FILE)
    mended = mend_feedback(workspace)
    assert mended is not None
    kept = stored(workspace)
    assert NUM_EVENTS / 4 < len(kept) < NUM_EVENTS
    assert kept.items() <= whole.items()
    assert 0 < mended.lost_events <= len(whole) - len(kept)


def test_damaged_log_in_use_is_left_alone(workspace: Path) -> None:
    path = workspace / LOG_FILE
    log = EventLog(path)
    page = leaf_of(path, "event-1501")
    spoil(path, page)
    spoiled = path.read_bytes()
    with pytest.raises(ArtifactError, match="in use: stop what serves"):
        mend_feedback(workspace)
    assert path.read_bytes() == spoiled
    assert not list(path.parent.glob("damaged-*"))
    log.close()
    assert mend_feedback(workspace) is not None


def test_ingest_of_a_damaged_log_takes_each_event_once(workspace: Path) -> None:
    path = workspace / LOG_FILE
    assert run_ingest(workspace)["counts"]["events"] == NUM_EVENTS
    # The newest page: its numbers must not be given again, or they would never be ingested.
    spoil(path, leaf_of(path, f"event-{NUM_EVENTS - 1}"))
    fields = run_ingest(workspace)
    assert fields["mended"]["lost_events"] > 0
    assert fields["counts"]["events"] == 0
    newer = [event(NUM_EVENTS + number) for number in range(10)]
    log = EventLog(path)
    log.append(newer)
    log.close()
    fields = run_ingest(workspace)
    assert fields["counts"]["events"] == len(newer)
    assert "mended" not in fields
    files = (workspace / "feedback" / "batches").glob("*.parquet")
    ids = [name for file in files for name in pq.read_table(file)["event_id"].to_pylist()]
    assert sorted(ids) == sorted(f"event-{number}" for number in range(NUM_EVENTS + 10))


def test_file_without_a_row_is_not_taken_for_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / LOG_FILE
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be read as one" * 500)
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match="nothing in it can be read: restore it"):
        mend_log(path, taken=0)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir() if found.is_dir()] == []


def test_damaged_file_is_not_backed_up_and_goes_when_a_user_is_erased(
    workspace: Path, tmp_path: Path
) -> None:
    path = workspace / LOG_FILE
    spoil(path, leaf_of(path, "event-1501"))
    mend_feedback(workspace)
    backup(workspace, tmp_path / "backup")
    assert not list((tmp_path / "backup").rglob("damaged-*"))
    _, receipt = erase(workspace, ["user-3"])
    assert (receipt["removed_leftovers"], receipt["left"]) == (1, [])
    assert not list(path.parent.glob("damaged-*"))
