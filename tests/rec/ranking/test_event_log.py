import asyncio
import contextlib
import multiprocessing
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rec.data.events import Event, Impression
from rec.data.sequences import Sequences
from rec.errors import ArtifactError
from rec.ranking.feedback.event_log import Appended, EventLog, Write
from rec.ranking.feedback.group_commit import GroupCommit
from rec.ranking.feedback.history import HistoryStore, base_histories
from tests.processes import wait_until

IMPRESSION = Impression(
    impression_id="m1",
    request_id="r1",
    user_id=None,
    timestamp_ms=5,
    item_ids=("a", "b"),
    positions=(1, 2),
    propensities=(1.0, 0.25),
    scores=(0.5, -0.1),
    release="rel",
)


def view(user: str, item: str, time_ms: int, event_id: str | None = None) -> Event:
    return Event(
        user_id=user, event_type="view", timestamp_ms=time_ms, item_id=item, event_id=event_id
    )


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "feedback" / "events.db")


def test_append_is_durable_when_it_returns(log: EventLog) -> None:
    log.append([view("u", "i", 1)])
    # A second reader, without the first one closing or committing anything more.
    with sqlite3.connect(f"file:{log.path}?mode=ro", uri=True) as reader:
        assert reader.execute("SELECT COUNT(*) FROM events").fetchone() == (1,)
    assert log.connection().execute("PRAGMA synchronous").fetchone() == (2,)
    assert log.connection().execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_failed_commit_leaves_nothing(log: EventLog) -> None:
    broken = Event(user_id="u", event_type=None, timestamp_ms=1)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        log.commit([Write(events=[view("u", "i", 1)]), Write(events=[broken])])
    assert log.last_seq() == 0
    assert log.append([view("u", "i", 1)]) == (1, 0)


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(b"not a database, but long enough to be read as one" * 50)
    with pytest.raises(ArtifactError, match="cannot open the event log"):
        EventLog(path)


def _write_many(path: Path, name: str, num_events: int) -> None:
    log = EventLog(path)
    for number in range(num_events):
        log.append([view(name, "i", number, f"{name}-{number}"), view("both", "i", number)])


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write_many, args=(path, name, 100)) for name in ("left", "right")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
        assert writer.exitcode == 0
    events = [event for _, event in EventLog(path).read_after(0, 1000)]
    # 100 of each writer, and 100 that both sent with equal content.
    assert len(events) == 300
    for name in ("left", "right"):
        mine = [event.timestamp_ms for event in events if event.user_id == name]
        assert mine == list(range(100))


def test_new_base_replaces_the_old_one_only_when_whole(log: EventLog) -> None:
    store = HistoryStore(log)
    store.load_base([("u", [view("u", "old", 1)])], release="r1", ingested_through=0)

    def fails_halfway():  # type: ignore[no-untyped-def]
        yield "u", [view("u", "half", 1)]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.load_base(fails_halfway(), release="r2", ingested_through=0)
    assert store.base_release() == "r1"
    assert [event.item_id for event in store.history("u", limit=9)] == ["old"]
    store.load_base([("v", [view("v", "new", 1)])], release="r3", ingested_through=0)
    assert store.history("u", limit=9) == []
    rows = log.connection().execute("SELECT DISTINCT generation FROM base_history").fetchall()
    assert len(rows) == 1


def test_base_histories_are_what_the_sequences_hold() -> None:
    sequences = Sequences(
        user_ids=["u", "v"],
        offsets=np.array([0, 3, 4]),
        tokens=np.array([2, 3, 1, 1], dtype=np.int32),
        timestamps_ms=np.array([1, 2, 3, 4]),
        event_types=np.array([0, 1, 0, 0], dtype=np.int16),
        event_type_names=("view", "search"),
        num_items=2,
        queries=("red",),
    )
    found = dict(base_histories(sequences, item_ids=["a", "b"], limit=2))
    search = Event(user_id="u", event_type="search", timestamp_ms=2, query="red")
    assert found == {"u": [search, view("u", "a", 3)], "v": [view("v", "a", 4)]}


class SlowLog(EventLog):
    def commit(self, writes):  # type: ignore[no-untyped-def]
        time.sleep(0.02)
        return super().commit(writes)


def test_concurrent_appends_share_commits(tmp_path: Path) -> None:
    log = SlowLog(tmp_path / "events.db")
    commits = GroupCommit(log)

    async def run() -> list[Appended]:
        return await asyncio.gather(
            *(commits.append([view("u", "i", number), view("u", "i", 0)]) for number in range(50)),
        )

    counts = asyncio.run(run())
    assert sum(count.accepted for count in counts) == 50
    assert sum(count.duplicates for count in counts) == 50
    assert len(log.read_after(0, 1000)) == 50
    assert commits.num_commits <= 2


def test_events_are_durable_when_the_caller_resumes(log: EventLog) -> None:
    async def run() -> None:
        commits = GroupCommit(log)
        for number in range(3):
            await commits.append([view("u", "i", number)])
            assert log.last_seq() == number + 1
        await commits.append_impressions([IMPRESSION])
        assert log.read_impressions(limit=1) == [IMPRESSION]

    asyncio.run(run())


def test_an_error_reaches_every_caller_of_the_group(log: EventLog) -> None:
    broken = Event(user_id="u", event_type=None, timestamp_ms=1)  # type: ignore[arg-type]

    async def run() -> list[Appended | BaseException]:
        commits = GroupCommit(log)
        group = [commits.append([view("u", "i", 1)]), commits.append([broken])]
        results = await asyncio.gather(*group, return_exceptions=True)
        # The next group starts afresh.
        assert await commits.append([view("u", "i", 1)]) == (1, 0)
        return results

    results = asyncio.run(run())
    assert [type(result) for result in results] == [sqlite3.IntegrityError] * 2


@pytest.mark.parametrize("number", range(20))
def test_log_is_closed_while_other_threads_read(log: EventLog, number: int) -> None:
    """Closing a connection under its thread's statement would end the whole process."""
    del number  # once is not enough to meet the moment
    log.append([view("ada", "a", 1)])
    is_over = threading.Event()
    reads: list[int] = []

    def read() -> None:
        while not is_over.is_set():
            # Closed between its look and its read, it is told so.
            with contextlib.suppress(sqlite3.ProgrammingError):
                reads.append(len(log.read_after(0, 10)))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(reads) > 20, within_s=60, what="reads")
    log.close()
    is_over.set()
    for thread in threads:
        thread.join()
    log.close()  # what was opened after the first time
    assert set(reads) == {1}
