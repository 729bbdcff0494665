"""What a Redis server adds: what it must promise, its death, its files, and the way there."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rec.artifacts import write_json
from rec.data.events import Event
from rec.errors import ArtifactError, ConfigError
from rec.ranking.feedback.event_log import LOG_FILE
from rec.ranking.feedback.item_changes import ItemChange
from rec.ranking.feedback.log_errors import LogUnavailableError
from rec.ranking.feedback.store_place import STORE_FILE, read_place
from rec.ranking.feedback.stores import Feedback, found_feedback, open_feedback
from rec.stages.backing_up import BACKUP_FILE, backup, restore
from rec.stages.erasing import erase
from rec.stages.exporting import export_user
from rec.stages.ingesting import ingest
from rec.stages.moving_feedback import use_store
from tests.rec.ranking.test_feedback_stores import shown, view
from tests.redis_server import RedisServer, needs_redis, running_redis

pytestmark = needs_redis
ERASED = "3f5c0b7ad1e94c6f8a21b0d4e6f79812"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as found:
        yield found


@pytest.fixture
def workspace(server: RedisServer, tmp_path: Path) -> Path:
    use_store(tmp_path / "workspace", server.url)
    return tmp_path / "workspace"


@pytest.fixture
def store(workspace: Path) -> Iterator[Feedback]:
    feedback = open_feedback(workspace)
    yield feedback
    feedback.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--appendonly", "no"), "appendonly yes"),
        (("--appendfsync", "everysec"), "appendfsync always"),
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy noeviction"),
    ],
)
def test_server_that_promises_too_little_is_refused(
    tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    is_refused = pytest.raises(LogUnavailableError, match=named)
    with running_redis(tmp_path / "redis", *options) as server, is_refused:
        use_store(tmp_path, server.url)
    assert read_place(tmp_path) is None


def test_killed_server_keeps_what_it_acknowledged(server: RedisServer, store: Feedback) -> None:
    acknowledged: list[str] = []

    def write(name: int) -> None:
        for number in range(10_000):
            event_id = f"{name}-{number}"
            try:
                store.log.append([view("u", "i", number, event_id)])
            except LogUnavailableError:
                return
            acknowledged.append(event_id)

    writers = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for writer in writers:
        writer.start()
    while len(acknowledged) < 200:
        writers[0].join(timeout=0.005)
    server.kill()
    for writer in writers:
        writer.join()
    with pytest.raises(LogUnavailableError, match=r"redis://127\.0\.0\.1"):
        store.log.append([view("u", "i", 1)])
    server.start()
    stored = [event.event_id for _, event in store.log.read_after(0, 100_000)]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)


def test_silent_server_is_not_waited_for_again_and_again(
    server: RedisServer, store: Feedback
) -> None:
    server._process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
    try:
        with pytest.raises(LogUnavailableError, match="Timeout"):
            store.history.history("u", limit=1)
        start = time.monotonic()
        with pytest.raises(LogUnavailableError, match="a moment ago"):
            store.changes.names_after(0)
        assert time.monotonic() - start < 0.1
    finally:
        server._process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]


def test_erased_user_leaves_no_byte_and_export_none(
    server: RedisServer, store: Feedback, workspace: Path, tmp_path: Path
) -> None:
    for user in (ERASED, "another-user"):
        query = f"secret-of-{user}"
        search = Event(user_id=user, event_type="search", timestamp_ms=1, query=query)
        store.log.append([search, view(user, "i", 2)])
        store.log.append_impressions([shown(f"m-{user}", user, 3, "a")])
    counts = export_user(workspace, ERASED, output=tmp_path / "export.json")
    assert (counts["logged_events"], counts["impressions"]) == (2, 1)
    assert ERASED.encode() in server.raw_bytes()
    _, receipt = erase(workspace, [ERASED])
    assert receipt["files"] == {str(STORE_FILE): 3}
    assert receipt["left"] == []
    found = server.raw_bytes()
    assert ERASED.encode() not in found
    assert b"secret-of-another-user" in found
    server.kill()
    server.start()
    assert len(store.log.export_user("another-user").events) == 2
    assert store.log.export_user(ERASED).events == []


def test_server_that_lost_its_files_is_not_taken_for_an_empty_log(
    server: RedisServer, workspace: Path, tmp_path: Path
) -> None:
    is_lost = pytest.raises(LogUnavailableError, match="lost or elsewhere")
    with running_redis(tmp_path / "other") as other, is_lost:
        use_store(workspace, other.url)
    assert read_place(workspace).url == server.url  # type: ignore[union-attr]


def test_what_files_hold_moves_with_its_numbers(server: RedisServer, tmp_path: Path) -> None:
    with_files = open_feedback(tmp_path)
    with_files.log.append([view("u", "i", n) for n in range(3)])
    ingest(tmp_path)
    with_files.log.append([view("u", "i", n) for n in (1, 5)])
    with_files.log.append([view("u", "i", n) for n in (2, 6, 7)])
    with_files.log.append_impressions([shown(f"m{n}", "u", n, "a") for n in range(3)])
    events = with_files.log.read_after(0, 100)
    lists = with_files.log.read_impressions(limit=9)
    with_files.close()
    assert use_store(tmp_path, server.url) == 6
    assert not list(tmp_path.glob(f"{LOG_FILE}*"))
    assert (tmp_path / STORE_FILE).stat().st_mode & 0o777 == 0o600
    with found_feedback(tmp_path) as store:
        assert store is not None
        assert store.log.read_after(0, 100) == events
        assert store.log.read_impressions(limit=9) == lists
    assert ingest(tmp_path)["events"] == 3
    assert use_store(tmp_path, server.url) == 0
    with pytest.raises(ConfigError, match="cannot move back"):
        use_store(tmp_path, "sqlite")


def test_backup_holds_what_the_server_holds_and_no_address_of_it(
    server: RedisServer, store: Feedback, workspace: Path, tmp_path: Path
) -> None:
    store.log.append([view("u", "i", n) for n in range(3)])
    ingest(workspace)
    store.log.append([view("u", "i", n) for n in (3, 4)])
    store.log.append_impressions([shown("m", "u", 5, "a")])
    store.changes.append([ItemChange(item_id="gone", timestamp_ms=6)])
    events = store.log.read_after(0, 100)
    content = backup(workspace, tmp_path / "backup")
    assert content["last_seq"] == 5
    left = b"".join(
        path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()
    )
    assert read_place(workspace).namespace.encode() not in left  # type: ignore[union-attr]
    # Whatever becomes of the server: the restored workspace does without it.
    server.stop()
    restored = tmp_path / "restored"
    restore(tmp_path / "backup", restored)
    with found_feedback(restored) as files:
        assert files is not None
        assert files.log.read_after(0, 100) == events
        assert files.log.read_impressions(limit=9) == [shown("m", "u", 5, "a")]
        assert files.changes.names_after(0) == [(1, "gone", True)]
        assert ingest(restored)["events"] == 2
        files.log.append([view("u", "i", 9)])
        assert files.log.last_seq() == 6
    server.start()
    assert use_store(restored, server.url) == 6
    assert store.log.last_seq() == 5


def test_backup_after_an_erasure_gives_no_number_again(
    store: Feedback, workspace: Path, tmp_path: Path
) -> None:
    store.log.append([view("u", "i", 1), view(ERASED, "i", 2)])
    ingest(workspace)
    erase(workspace, [ERASED])
    backup(workspace, tmp_path / "backup")
    restored = tmp_path / "restored"
    restore(tmp_path / "backup", restored)
    with found_feedback(restored) as files:
        assert files is not None
        files.log.append([view("u", "i", 3)])
        assert [seq for seq, _ in files.log.read_after(0, 9)] == [1, 3]
    assert ingest(restored)["events"] == 1


def test_backup_that_names_a_server_is_refused(tmp_path: Path) -> None:
    content = {"format": 1, "created_at": "then", "files": {str(STORE_FILE): "0"}}
    (tmp_path / "backup").mkdir()
    write_json(tmp_path / "backup" / BACKUP_FILE, content)
    with pytest.raises(ArtifactError, match="names the server"):
        restore(tmp_path / "backup", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize("url", ["", "http://x", "redis", "localhost:6379", "redis://"])
def test_what_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="--history expects"):
        use_store(tmp_path, url)
