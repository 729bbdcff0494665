"""The gateway beside a ranker and an encoder in this process: what it says when something fails."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from cluster.serve.app import load_histories
from cluster.serve.gateway import Gateway
from cluster.serve.keys import ensure_admin_key
from cluster.serve.state import LOG_WITHIN_S
from cluster.serve.wire import plain, unpack
from rec.encoders import load_encoder
from rec.ranking.feedback.event_log import LOG_FILE
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from tests.releases import make_release

USER = "user-1"


class Answer:
    """What a handle call returns: awaited for the result."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Iterator[Any]:
        yield from ()
        return self._value

    def cancel(self) -> None:
        return


def method(work: Callable[..., Any]) -> SimpleNamespace:
    return SimpleNamespace(remote=lambda *arguments: Answer(work(*arguments)))


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Hold a gateway, and what stands behind it."""

    gateway: Gateway
    recommender: Recommender
    releases: list[str]
    """Names of the releases that the ranker's next answers come from; its own when empty."""
    database: Path
    key: str

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(
                app=self.gateway.__serve_build_asgi_app__(), raise_app_exceptions=False
            )
            headers = {"Authorization": f"Bearer {self.key}"}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://test", headers=headers
            ) as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(send())

    def recommend(self, **body: Any) -> dict[str, Any]:
        answer = self.ask("POST", "/v1/recommend", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    release = make_release(tmp_path)
    key, _ = ensure_admin_key(tmp_path)
    load_histories(tmp_path, release)
    recommender = Recommender.load(release)
    encoder = load_encoder(dict(recommender.encoder_spec))
    releases: list[str] = []

    def named(answer: Any) -> Any:
        return plain(releases.pop(0) if releases else recommender.release, answer)

    def recommend(packed: bytes, *_: Any) -> Any:
        return named(recommender.recommend([unpack(packed)])[0])

    ranker = SimpleNamespace(
        recommend=method(recommend),
        recommend_each=method(lambda asked: [recommend(*one) for one in asked]),
        similar=method(lambda item_id, k, _: named(recommender.similar(item_id, k=k))),
    )
    return Shop(
        gateway=Gateway(
            SimpleNamespace(encode=method(lambda texts, _: encoder.encode(texts))),
            ranker,
            str(tmp_path),
            str(release),
        ),
        recommender=recommender,
        releases=releases,
        database=tmp_path / LOG_FILE,
        key=key,
    )


@contextmanager
def without(table: str, database: Path) -> Iterator[None]:
    """Make every statement on a table fail while a block runs."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute(f"ALTER TABLE {table} RENAME TO away")
    try:
        yield
    finally:
        connection.execute(f"ALTER TABLE away RENAME TO {table}")
        connection.close()


def test_nothing_is_degraded_where_nothing_fails(shop: Shop) -> None:
    answer = shop.recommend(user_id=USER)
    assert answer["degraded"] == []
    connection = sqlite3.connect(shop.database)
    rows = connection.execute("SELECT impression_id FROM impressions").fetchall()
    connection.close()
    # Durable before the answer.
    assert rows == [(answer["impression_id"],)]


def test_impression_that_cannot_be_written_is_named(shop: Shop) -> None:
    whole = shop.recommend(user_id=USER)
    with without("impressions", shop.database):
        answer = shop.recommend(user_id=USER)
    assert answer["degraded"] == ["impression_not_logged"]
    assert answer["items"] == whole["items"]
    assert shop.recommend(user_id=USER)["degraded"] == []


def test_slow_disk_costs_no_list(shop: Shop) -> None:
    writer = sqlite3.connect(shop.database, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    # The lock is held until well after the gateway has stopped to wait for it.
    release = threading.Timer(4 * LOG_WITHIN_S, lambda: writer.execute("ROLLBACK"))
    release.start()
    try:
        answer = shop.recommend(user_id=USER)
    finally:
        release.join()
        writer.close()
    assert answer["degraded"] == ["impression_not_logged"]
    assert len(answer["items"]) == 10
    assert answer["timings_ms"]["log"] == pytest.approx(1000 * LOG_WITHIN_S, rel=0.5)


def test_history_that_cannot_be_read_is_named_and_the_visit_still_counts(shop: Shop) -> None:
    item_id = shop.recommender.item_ids[7]
    whole = shop.recommend(user_id=USER)
    visit = shop.recommend(events=[{"item_id": item_id}])
    with without("base_history", shop.database):
        cold = shop.recommend(user_id=USER)
        inline = shop.recommend(user_id=USER, events=[{"item_id": item_id}])
        by_path = shop.ask("GET", f"/v1/users/{USER}/recommendations")
    assert cold["degraded"] == inline["degraded"] == ["history_unavailable"]
    expected = shop.recommender.recommend([Request(k=10)])[0]
    assert [i["item_id"] for i in cold["items"]] == [i.item_id for i in expected.items]
    assert cold["items"] != whole["items"]
    assert inline["items"] == visit["items"]
    assert by_path.json()["degraded"] == ["history_unavailable"]


def test_health_says_that_the_log_cannot_be_read(shop: Shop) -> None:
    assert shop.ask("GET", "/healthz").status_code == 200
    with without("base_history", shop.database):
        answer = shop.ask("GET", "/healthz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["similar", "recommendations"])
def test_list_of_another_release_is_asked_for_again_and_then_refused(shop: Shop, path: str) -> None:
    item_id = shop.recommender.item_ids[3]
    url = f"/v1/items/{item_id}/similar" if path == "similar" else f"/v1/users/u/{path}"
    shop.releases.append("another")
    answer = shop.ask("GET", url)
    assert answer.status_code == 200
    assert answer.json()["release"] == shop.recommender.release
    shop.releases.extend(["another", "another"])
    answer = shop.ask("GET", url)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_inline_query_is_scrubbed_before_anything_reads_it(shop: Shop) -> None:
    clean = shop.recommend(events=[{"query": "red dress <email>"}])
    named = shop.recommend(events=[{"query": " red  dress jo@example.org"}])
    assert named["items"] == clean["items"]
    answer = shop.ask("POST", "/v1/recommend", json={"events": [{"query": "\u200b"}]})
    assert answer.status_code == 422
    assert "search_without_query" in answer.json()["detail"]
