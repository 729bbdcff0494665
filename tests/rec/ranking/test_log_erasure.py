import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rec.data.events import Event, Impression
from rec.errors import ArtifactError
from rec.ranking.feedback import log_file
from rec.ranking.feedback.event_log import EventLog
from rec.ranking.feedback.history import HistoryStore

ERASED = "3f5c0b7ad1e94c6f8a21b0d4e6f79812"
OTHER = "77aa01c2b3d4e5f60718293a4b5c6d7e"
SECRET = "unmistakable-query-of-"


def search(user: str, number: int) -> Event:
    return Event(
        user_id=user,
        event_type="search",
        timestamp_ms=number,
        query=f"{SECRET}{user} {number}" + " long" * (number % 40),
        event_id=f"{user}-{number}",
    )


def impression(user: str, number: int) -> Impression:
    return Impression(
        impression_id=f"{user}-shown-{number}",
        request_id=f"r{number}",
        user_id=user,
        timestamp_ms=number,
        item_ids=("a", "b"),
        positions=(1, 2),
        propensities=(1.0, 0.25),
        scores=(0.5, -0.1),
        release="rel",
    )


def fill(log: EventLog, *, num_users: int = 40, num_events: int = 3_000) -> None:
    """Write users in a random order, so that pages split and rows move; then replace the base."""
    generator = random.Random(7)
    users = [ERASED, OTHER, *(f"{generator.getrandbits(128):032x}" for _ in range(num_users))]
    for start in range(0, num_events, 100):
        numbers = range(start, start + 100)
        log.append([search(generator.choice(users), number) for number in numbers])
        log.append_impressions([impression(generator.choice(users), n) for n in numbers[:30]])
    store = HistoryStore(log)
    for release in ("r1", "r2"):  # the second one frees the pages of the first
        base = [(user, [search(user, n) for n in range(30)]) for user in sorted(users)]
        store.load_base(base, release=release, ingested_through=0)


def raw_bytes(log: EventLog) -> bytes:
    folder = log.path.parent
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "feedback" / "events.db")


def test_erased_user_leaves_no_byte_and_others_stay(log: EventLog) -> None:
    fill(log)
    before = log.export_user(OTHER)
    num_events = len(log.export_user(ERASED).events)
    num_shown = len(log.export_user(ERASED).impressions)
    assert num_events > 10
    assert ERASED.encode() in raw_bytes(log)
    # The connection stays open, as in a serving process, so SQLite does not tidy up by itself.
    assert log.erase_user(ERASED) == (num_events, num_shown, 1)
    found = raw_bytes(log)
    assert ERASED.encode() not in found
    assert (SECRET + OTHER).encode() in found
    assert log.export_user(OTHER) == before
    assert log.erase_user(ERASED) == (0, 0, 0)


def test_file_of_before_is_rewritten_by_its_first_erasure(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions did not overwrite: what they deleted is still in free pages."""
    log.connection().execute("PRAGMA user_version=0")
    log.connection().execute("PRAGMA secure_delete=OFF")
    fill(log)
    with log.transaction() as connection:
        connection.execute("DELETE FROM events WHERE user_id = ?", (ERASED,))
        connection.execute("DELETE FROM base_history WHERE user_id = ?", (ERASED,))
        connection.execute("DELETE FROM impressions WHERE user_id = ?", (ERASED,))
    assert (SECRET + ERASED).encode() in raw_bytes(log)
    monkeypatch.setattr(log_file, "_contains", lambda _path, _needle: False)
    log.erase_user(ERASED)
    assert (SECRET + ERASED).encode() not in raw_bytes(log)
    assert log.connection().execute("PRAGMA user_version").fetchone() == (1,)


def test_copy_left_in_a_gap_makes_the_file_anew(log: EventLog) -> None:
    log.connection().execute("PRAGMA secure_delete=OFF")
    fill(log)
    log.erase_user(ERASED)
    assert (SECRET + ERASED).encode() not in raw_bytes(log)


def test_erasing_keeps_the_locks_of_who_has_the_file_open(log: EventLog) -> None:
    """Otherwise another process that closes the file takes it for unused and ends its log."""
    log.append([search(ERASED, 1), search(OTHER, 2)])
    log.erase_user(ERASED)
    log.append([search(OTHER, 3)])
    command = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute('SELECT 1 FROM events').fetchall(); c.close()"
    )
    subprocess.run([sys.executable, "-c", command, str(log.path)], check=True)
    assert Path(f"{log.path}-wal").is_file()
    log.append([search(OTHER, 4)])
    with sqlite3.connect(log.path) as reader:
        assert reader.execute("SELECT COUNT(*) FROM events").fetchone() == (3,)


def test_needle_across_two_chunks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "_CHUNK_BYTES", 16)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 12 + b"needle" + b"y" * 20)
    assert log_file._contains(path, b"needle")
    assert not log_file._contains(path, b"needles")


def test_events_arrive_while_a_user_is_erased(log: EventLog) -> None:
    fill(log)
    before = len(log.read_after(0, 100_000)) - len(log.export_user(ERASED).events)

    def write() -> None:
        for number in range(200):
            log.append([search(OTHER, 100_000 + number)])

    writer = threading.Thread(target=write)
    writer.start()
    log.erase_user(ERASED)
    writer.join()
    assert len(log.read_after(0, 100_000)) == before + 200


def test_reader_that_does_not_end_is_named(log: EventLog) -> None:
    fill(log, num_events=100)
    log.connection().execute("PRAGMA busy_timeout=50")
    reader = sqlite3.connect(log.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM events").fetchone()
    with pytest.raises(ArtifactError, match="run this again"):
        log.erase_user(ERASED)
    assert log.export_user(ERASED).events == []
    reader.close()
    log.erase_user(ERASED)
    assert ERASED.encode() not in raw_bytes(log)


def test_export_is_all_that_is_held(log: EventLog) -> None:
    sent = [search("u", 2), search("u", 1)]
    log.append([*sent, search("v", 3)])
    log.append_impressions([impression("u", 1), impression("v", 2)])
    HistoryStore(log).load_base([("u", [search("u", 0)])], release="r", ingested_through=0)
    records = log.export_user("u")
    assert records.events == sent
    assert records.impressions == [impression("u", 1)]
    assert [(event.timestamp_ms, event.query) for event in records.base] == [
        (0, search("u", 0).query)
    ]
    nobody = log.export_user("nobody")
    assert (nobody.events, nobody.impressions, nobody.base) == ([], [], [])


def test_file_of_a_newer_version_is_refused(log: EventLog) -> None:
    log.connection().execute("PRAGMA user_version=9")
    log.close()
    with pytest.raises(ArtifactError, match="has format 9, this version reads up to 1"):
        EventLog(log.path)
