"""What every store of feedback does, asked of SQLite files and of a real Redis server alike."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rec.data.event_ids import content_event_id
from rec.data.events import Event, Impression
from rec.ranking.feedback.event_log import Write
from rec.ranking.feedback.group_commit import GroupCommit
from rec.ranking.feedback.item_changes import ItemChange
from rec.ranking.feedback.stores import Feedback, open_feedback
from rec.stages import ingesting
from rec.stages.ingesting import ingest
from rec.stages.moving_feedback import use_store
from rec.stages.preparation import FEEDBACK_BATCHES
from tests.redis_server import RedisServer, needs_redis, running_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=needs_redis)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Feedback]:
    if request.param == "redis":
        use_store(tmp_path, request.getfixturevalue("server").url)
    feedback = open_feedback(tmp_path)
    yield feedback
    feedback.close()


def view(user: str, item: str, time_ms: int, event_id: str | None = None) -> Event:
    return Event(
        user_id=user, event_type="view", timestamp_ms=time_ms, item_id=item, event_id=event_id
    )


def shown(name: str, user: str | None, time_ms: int, *items: str, release: str = "r") -> Impression:
    return Impression(
        impression_id=name,
        request_id=f"q-{name}",
        user_id=user,
        timestamp_ms=time_ms,
        item_ids=items,
        positions=tuple(range(1, len(items) + 1)),
        propensities=(1.0,) * len(items),
        scores=(0.5,) * len(items),
        release=release,
    )


def test_events_come_back_whole_and_in_order_of_arrival(store: Feedback) -> None:
    full = Event(
        user_id="u",
        event_type="search",
        timestamp_ms=9,
        query="红 shoes",
        value=1.5,
        session_id="s",
        event_id="e1",
        impression_id="m",
    )
    late = view("u", "i", 3, "e2")
    assert store.log.last_seq() == 0
    assert store.log.append([full, late]) == (2, 0)
    assert store.log.read_after(0, 10) == [(1, full), (2, late)]
    assert store.log.read_after(1, 10) == [(2, late)]
    assert store.log.read_after(0, 1) == [(1, full)]
    assert store.log.last_seq() == 2


def test_same_event_id_counts_once(store: Feedback) -> None:
    writes = [Write(events=[view("u", "i", 1, "e"), view("u", "j", 2, "e")])]
    writes += [Write(events=[view("v", "k", 3, "e"), view("v", "k", 3, "f")])]
    assert store.log.commit(writes) == [(1, 1), (1, 1)]
    assert store.log.append([view("u", "k", 3, "e")]) == (0, 1)
    assert [event.item_id for _, event in store.log.read_after(0, 10)] == ["i", "k"]


def test_event_without_id_is_known_by_its_content(store: Feedback) -> None:
    assert store.log.append([view("u", "i", 1), view("u", "i", 1), view("u", "i", 2)]) == (2, 1)
    [(_, first)] = store.log.read_after(0, 1)
    assert first.event_id == content_event_id(view("u", "i", 1))


def test_queries_are_scrubbed_on_their_way_in(store: Feedback) -> None:
    query = "write to ann@example.org"
    store.log.append([Event(user_id="u", event_type="search", timestamp_ms=1, query=query)])
    [(_, event)] = store.log.read_after(0, 1)
    assert "ann@example.org" not in str(event.query)


def test_impressions_round_trip_and_repeat_harmlessly(store: Feedback) -> None:
    lists = [shown("m1", "u", 5, "a", "b"), shown("m2", None, 6, "c"), shown("m3", "u", 6, "b")]
    for _ in range(2):
        store.log.append_impressions(lists)
    assert store.log.read_impressions(limit=10) == lists[::-1]
    assert store.log.read_impressions(limit=1) == [lists[2]]
    assert store.log.shown_items(limit=10) == {"a", "b", "c"}
    assert store.log.shown_items(limit=1) == {"b"}
    [newest] = store.history.shown_lists("u", limit=1)
    assert (newest.timestamp_ms, list(newest.item_ids)) == (6, ["b"])
    assert store.log.count_releases(["m1", "m2", "nothing"]) == {"r": 2}


def test_history_is_the_newest_events_oldest_first(store: Feedback) -> None:
    assert store.history.history("nobody", limit=5) == []
    store.log.append([view("u", item, time) for item, time in [("c", 3), ("a", 1), ("b", 2)]])
    store.log.append([view("other", "x", 9)])
    assert [event.item_id for event in store.history.history("u", limit=2)] == ["b", "c"]


def test_base_and_log_merge_without_double_counting(store: Feedback) -> None:
    store.log.append([view("u", "ingested", 10)])
    ingested = store.log.last_seq()
    store.log.append([view("u", "late", 5), view("u", "new", 20)])
    base = [("u", [view("u", "old", 1), view("u", "ingested", 10)])]
    assert store.history.base_release() is None
    assert store.history.load_base(base, release="r1", ingested_through=ingested) == 1
    assert store.history.base_release() == "r1"
    items = [event.item_id for event in store.history.history("u", limit=10)]
    assert items == ["old", "late", "ingested", "new"]
    assert [e.item_id for e in store.history.history("u", limit=2)] == ["ingested", "new"]


def test_equal_times_keep_base_before_log_and_order_of_arrival(store: Feedback) -> None:
    store.history.load_base([("u", [view("u", "a", 7)])], release="r", ingested_through=0)
    store.log.append([view("u", "z", 7), view("u", "b", 7)])
    assert [e.item_id for e in store.history.history("u", limit=9)] == ["a", "z", "b"]


def test_new_base_replaces_the_old_one_only_when_whole(store: Feedback) -> None:
    store.history.load_base([("u", [view("u", "old", 1)])], release="r1", ingested_through=0)

    def fails_halfway():  # type: ignore[no-untyped-def]
        yield "u", [view("u", "half", 1)]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.history.load_base(fails_halfway(), release="r2", ingested_through=0)
    assert store.history.base_release() == "r1"
    assert [e.item_id for e in store.history.history("u", limit=9)] == ["old"]
    store.history.load_base([("v", [view("v", "new", 1)])], release="r3", ingested_through=0)
    assert store.history.history("u", limit=9) == []


def test_export_is_all_that_is_held_and_erasure_takes_it_all(store: Feedback) -> None:
    sent = [view("u", "i", 2, "u2"), view("u", "j", 1, "u1")]
    store.log.append([*sent, view("v", "k", 3, "v3")])
    store.log.append_impressions([shown("m1", "u", 1, "a"), shown("m2", "v", 2, "b")])
    base = [(user, [view(user, "old", 0)]) for user in ("u", "v")]
    store.history.load_base(base, release="r", ingested_through=0)
    held = store.log.export_user("u")
    assert held.events == sent
    assert held.impressions == [shown("m1", "u", 1, "a")]
    assert [event.item_id for event in held.base] == ["old"]
    others = store.log.export_user("v")
    assert store.log.erase_user("u") == (2, 1, 1)
    assert store.log.erase_user("u") == (0, 0, 0)
    assert store.log.export_user("u") == store.log.export_user("nobody")
    assert store.log.export_user("v") == others
    assert store.history.history("u", limit=9) == []
    # Who is erased may come back, and is then stored like anybody.
    assert store.log.append(sent) == (2, 0)


def test_item_changes_are_followed_in_order(store: Feedback) -> None:
    vector = np.arange(3, dtype=np.float32)
    put = ItemChange(
        item_id="+红", timestamp_ms=1, item={"title": "茶"}, embedding=vector, fingerprint="f"
    )
    assert store.changes.append([put, ItemChange(item_id="-b", timestamp_ms=2)]) == 2
    assert store.changes.append([put]) == 3
    first, second, _ = store.changes.after(0)
    assert (first.seq, first.item_id, first.item, first.fingerprint) == (1, "+红", put.item, "f")
    assert first.embedding is not None
    assert first.embedding.tolist() == vector.tolist()
    assert (second.seq, second.item, second.embedding) == (2, None, None)
    assert store.changes.names_after(1) == [(2, "-b", True), (3, "+红", False)]
    assert store.changes.names_after(3) == store.changes.after(3) == []
    assert store.changes.last_seq() == 3


def test_many_callers_share_a_commit_and_each_gets_its_own_count(store: Feedback) -> None:
    commits = GroupCommit(store.log)

    async def run() -> list[tuple[int, int]]:
        return await asyncio.gather(
            *(commits.append([view("u", "i", n), view("u", "i", 0)]) for n in range(50))
        )

    counts = asyncio.run(run())
    assert sum(count[0] for count in counts) == 50
    assert sum(count[1] for count in counts) == 50
    assert commits.num_commits < 50


def test_log_is_ingested_exactly_once(store: Feedback, tmp_path: Path) -> None:
    store.log.append([view("u", "i", n) for n in range(3)])
    assert ingest(tmp_path)["events"] == 3
    assert ingest(tmp_path)["events"] == 0
    store.log.append([view("u", "i", 2), view("u", "i", 3)])
    counts = ingest(tmp_path)
    assert (counts["events"], counts["ingested_through"]) == (1, store.log.last_seq())


def test_two_ingests_at_once_take_each_event_once(
    store: Feedback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "BATCH_EVENTS", 20)
    store.log.append([view("u", "i", n) for n in range(400)])
    left_over = tmp_path / FEEDBACK_BATCHES / ".batch.killed"
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(ingest, [tmp_path] * 4))
    assert sum(count["events"] for count in counts) == 400
    assert {count["ingested_through"] for count in counts} == {400}
    files = left_over.parent.glob("batch-*.parquet")
    assert sum(pq.read_metadata(file).num_rows for file in files) == 400
    assert not left_over.exists()
