import asyncio
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import ray

from cluster.resources import LAPTOP
from cluster.runtime import free_port
from cluster.serve.app import serving
from cluster.serve.keys import SCOPES, add_key, ensure_admin_key, revoke_key
from cluster.serve.state import HISTORY_EVENTS
from rec.data.cleaning import CleaningConfig, normalise_events
from rec.data.events import Event
from rec.data.files import read_chunks
from rec.data.privacy import Pseudonymizer, load_or_create_key, pseudonym
from rec.encoders import load_encoder
from rec.ranking.current import current_release
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.history import HistoryStore
from rec.ranking.recommender import Recommender
from rec.ranking.requests import RankedList, Request
from rec.stages.preparation import KEY_FILE
from tests.releases import copy_release

pytestmark = pytest.mark.ray

TOLERANCE = 1e-5
"""A batch of another size sums in another order."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """Hold what a test needs of the running service."""

    client: httpx.Client
    """Sends the admin key."""
    workspace: Path
    recommender: Recommender
    log: EventLog
    user_ids: list[str]
    """Users of the log, as the shop names them."""
    pseudonym_key: bytes

    def history(self, user_id: str) -> tuple[Event, ...]:
        stored = pseudonym(user_id, self.pseudonym_key)
        return tuple(HistoryStore(self.log).history(stored, limit=HISTORY_EVENTS))

    def ask(self, **body: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/recommend", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def send(self, *events: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.post("/v1/events", json={"events": events})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
def service(
    ray_cluster: None,  # noqa: ARG001 - Serve runs on it
    released_workspace: Path,
    shop_files: tuple[Path, Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    workspace = tmp_path_factory.mktemp("serve") / "workspace"
    shutil.copytree(released_workspace, workspace)
    key, _ = ensure_admin_key(workspace)
    recommender = Recommender.load(current_release(workspace))
    log = EventLog(workspace / LOG_FILE)
    headers = {"Authorization": f"Bearer {key}"}
    with (
        serving(workspace, profile=LAPTOP, port=free_port()) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        yield Service(
            client=client,
            workspace=workspace,
            recommender=recommender,
            log=log,
            user_ids=shop_users(shop_files[0]),
            pseudonym_key=load_or_create_key(workspace / KEY_FILE),
        )
    log.close()


def shop_users(path: Path) -> list[str]:
    events = pl.read_parquet(path)
    return sorted(events["user_id"].unique().to_list())[:20]


def wait_until(is_so: Callable[[], bool], *, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.05)


def assert_same_list(answer: dict[str, Any], expected: RankedList) -> None:
    assert [item["item_id"] for item in answer["items"]] == [i.item_id for i in expected.items]
    assert [item["position"] for item in answer["items"]] == [i.position for i in expected.items]
    np.testing.assert_allclose(
        [item["score"] for item in answer["items"]],
        [item.score for item in expected.items],
        rtol=0,
        atol=TOLERANCE,
    )


def assert_problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nobody"}])
def test_without_a_key_nothing_is_answered(service: Service, headers: dict[str, str]) -> None:
    url = service.client.base_url
    assert_problem(httpx.post(f"{url}/v1/recommend", json={"k": 1}, headers=headers), 401)
    assert_problem(httpx.get(f"{url}/v1/release", headers=headers), 401)


def test_keys_may_what_their_scope_says_from_the_moment_they_are_made(service: Service) -> None:
    url = service.client.base_url
    keys = {
        scope: {"X-API-Key": add_key(service.workspace, name=f"a {scope} key", scope=scope)}
        for scope in SCOPES
    }
    event = {"user_id": "keys", "item_id": service.recommender.item_ids[0]}
    for scope, headers in keys.items():
        assert httpx.post(f"{url}/v1/recommend", json={}, headers=headers).status_code == 200
        assert httpx.get(f"{url}/v1/release", headers=headers).status_code == 200
        stored = httpx.post(f"{url}/v1/events", json=[event], headers=headers)
        admin = httpx.post(f"{url}/v1/release/promote", headers=headers)
        if scope == "read":
            assert_problem(stored, 403)
        else:
            assert stored.status_code == 200
        if scope == "admin":
            # The newest index is the one that answers.
            assert admin.json() == {"release": service.recommender.release,
                                    "previous": service.recommender.release}  # fmt: skip
        else:
            assert_problem(admin, 403)
    revoke_key(service.workspace, name="a write key")
    assert_problem(httpx.post(f"{url}/v1/recommend", json={}, headers=keys["write"]), 401)
    assert httpx.post(f"{url}/v1/recommend", json={}, headers=keys["read"]).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xff",
        b"[" * 5000,
        b'{"k": ' + b"9" * 5000 + b"}",
        b'{"k": 0}',
        b'{"k": 101}',
        b'{"k": "many"}',
        b'{"kay": 3}',
        b'{"\\ud800": 3}',
        b'{"user_id": "\\ud800"}',
        b'{"user_id": ""}',
        b'{"user_id": " "}',
        b'{"user_id": "' + b"u" * 257 + b'"}',
        b'{"penalty_weight": -1}',
        b'{"penalty_weight": NaN}',
        b'{"filters": {"nonsense": ["x"]}}',
        b'{"events": [{"event_type": "view"}]}',
        b'{"events": [{"item_id": "no such item"}]}',
        b'{"events": [{"query": "red", "timestamp": "yesterday"}]}',
        b'{"events": [{"query": "red", "timestamp": 1e300}]}',
        b'{"events": [{"query": "red", "timestamp": NaN}]}',
        b'{"events": [{"query": "red", "timestamp": 1' + b"0" * 40 + b"}]}",
        b'{"events": [{"query": "red", "timestamp": "1' + b"0" * 40 + b'"}]}',
        b'{"events": [{"query": "' + b"q" * 513 + b'"}]}',
    ],
)
def test_malformed_body_is_422(service: Service, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert_problem(service.client.post("/v1/recommend", content=body, headers=headers), 422)


@pytest.mark.parametrize("path", ["%20", "u" * 300, "u?k=0", "u?k=101", "u?k=x"])
def test_malformed_path_is_422(service: Service, path: str) -> None:
    name, _, query = path.partition("?")
    url = f"/v1/users/{name}/recommendations" + (f"?{query}" if query else "")
    assert_problem(service.client.get(url), 422)


@pytest.mark.parametrize("body", [{"events": []}, [], {}, [{}] * 1001, [{"item_id": "i"}]])
def test_malformed_events_are_422(service: Service, body: Any) -> None:
    assert_problem(service.client.post("/v1/events", json=body), 422)


def test_large_body_is_413(service: Service) -> None:
    headers = {"Content-Type": "application/json"}
    pieces = (b" " * 100_000 for _ in range(100))
    assert_problem(service.client.post("/v1/events", content=pieces, headers=headers), 413)


def test_unknown_item_is_404(service: Service) -> None:
    assert_problem(service.client.get("/v1/items/nothing/similar"), 404)


def test_similar_items_equal_the_in_process_answer(service: Service) -> None:
    item_id = service.recommender.item_ids[3]
    answer = service.client.get(f"/v1/items/{item_id}/similar?k=7").json()
    assert_same_list(answer, service.recommender.similar(item_id, k=7))


def test_unknown_user_gets_the_cold_start_list(service: Service) -> None:
    expected = service.recommender.recommend([Request(k=5)])[0]
    for body in ({}, {"user_id": "never seen"}, {"user_id": "从未见过 %/?"}):
        answer = service.ask(**body, k=5)
        assert_same_list(answer, expected)
        assert answer["degraded"] == []
    by_path = service.client.get("/v1/users/never%20seen/recommendations?k=5")
    assert_same_list(by_path.json(), expected)


def test_answers_equal_the_recommender_in_process(service: Service) -> None:
    histories = [service.history(user_id) for user_id in service.user_ids]
    assert all(histories)
    encoder = load_encoder(dict(service.recommender.encoder_spec))
    queries = sorted({e.query for h in histories for e in h if e.query and e.item_id is None})
    assert queries
    embedded = dict(zip(queries, encoder.encode(queries), strict=True))
    requests = [Request(history=h, k=10, query_embeddings=embedded) for h in histories]
    expected = service.recommender.recommend(requests)

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            base_url=service.client.base_url, headers=service.client.headers, timeout=30
        ) as client:
            bodies = [{"user_id": user_id, "k": 10} for user_id in service.user_ids]
            return list(
                await asyncio.gather(*(client.post("/v1/recommend", json=b) for b in bodies))
            )

    for answer, ranked in zip(asyncio.run(ask_all()), expected, strict=True):
        body = answer.json()
        assert_same_list(body, ranked)
        assert body["degraded"] == []
        assert body["release"] == service.recommender.release


def test_options_of_a_request_reach_the_recommender(service: Service) -> None:
    user_id = service.user_ids[0]
    plain = service.ask(user_id=user_id, k=10)
    banned = plain["items"][0]["item_id"]
    items = service.recommender.files.items
    category = items["category"][0][0]
    allowed = set(items.filter(items["category"].list.contains(category))["item_id"].to_list())
    answer = service.ask(
        user_id=user_id, k=10, exclude=[banned], filters={"category": [category]}, penalty_weight=2
    )
    found = [item["item_id"] for item in answer["items"]]
    assert found
    assert set(found) <= allowed - {banned}
    item = answer["items"][0]
    expected = item["terms"]["relevance"] - 2 * item["terms"]["popularity_penalty"]
    assert item["score"] == pytest.approx(expected, abs=TOLERANCE)


def test_inline_events_count_for_one_request(service: Service) -> None:
    user_id = service.user_ids[1]
    before = service.ask(user_id=user_id)
    visit = service.ask(
        user_id=user_id,
        events=[{"item_id": service.recommender.item_ids[5]}, {"query": "red shoes"}],
    )
    assert visit["items"] != before["items"]
    assert service.ask(user_id=user_id)["items"] == before["items"]


def test_list_changes_after_feedback(service: Service) -> None:
    user_id = service.user_ids[2]
    before = service.ask(user_id=user_id)
    bought = before["items"][0]["item_id"]
    event = {
        "user_id": user_id,
        "item_id": bought,
        "event_type": "purchase",
        "timestamp": time.time(),
        "impression_id": before["impression_id"],
    }
    answer = service.send(event, event)
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (1, 1, [])
    # Durable before the answer: another reader of the file sees it.
    assert service.history(user_id)[-1].item_id == bought
    after = [item["item_id"] for item in service.ask(user_id=user_id)["items"]]
    assert bought not in after
    assert after != [item["item_id"] for item in before["items"]]
    assert service.send(event)["duplicates"] == 1


def test_event_without_id_gets_that_of_batch_cleaning(service: Service, tmp_path: Path) -> None:
    item_id = service.recommender.item_ids[1]
    event = {"user_id": "both ways", "item_id": item_id, "timestamp": 1_700_000_000}
    (tmp_path / "log.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")
    rows = normalise_events(
        next(iter(read_chunks(str(tmp_path / "log.jsonl")))),
        config=CleaningConfig(),
        file_number=0,
        file_name="log.jsonl",
        known_items=pl.Series(service.recommender.item_ids),
        now_ms=time.time_ns() // 1_000_000,
        pseudonymize=Pseudonymizer(service.pseudonym_key),
    )
    before = service.log.last_seq()
    service.send(event)
    stored = service.log.read_after(before, 1)[0][1]
    assert (stored.user_id, stored.event_id) == (rows["user_id"][0], rows["event_id"][0])


def test_user_ids_are_not_stored_as_they_came(service: Service) -> None:
    service.send({"user_id": "a-name", "item_id": service.recommender.item_ids[0]})
    stored = {event.user_id for _, event in service.log.read_after(0, 10_000)}
    assert "a-name" not in stored
    assert pseudonym("a-name", service.pseudonym_key) in stored


def test_each_bad_event_is_rejected_with_its_reason(service: Service) -> None:
    item_id, now = service.recommender.item_ids[0], time.time()
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"item_id": item_id, "timestamp": now}, None),
        ({"item_id": "nothing", "timestamp": now}, "unknown_item"),
        ({"item_id": item_id, "timestamp": now + 2 * 86_400}, "future_timestamp"),
        ({"item_id": item_id, "timestamp": 0}, "zero_timestamp"),
        ({"item_id": item_id, "timestamp": -5}, "negative_timestamp"),
        ({"item_id": item_id, "timestamp": "soon"}, "bad_timestamp"),
        ({"item_id": item_id, "timestamp": 10**30}, "bad_timestamp"),
        ({"event_type": "search", "timestamp": now}, "search_without_query"),
        ({"event_type": "purchase", "timestamp": now}, "missing_item_id"),
        ({"event_type": "search", "query": "红色", "timestamp": now}, None),
    ]
    answer = service.send(*({"user_id": "rejects", **event} for event, _ in cases))
    assert answer["rejected"] == [
        {"index": index, "reason": reason} for index, (_, reason) in enumerate(cases) if reason
    ]
    assert (answer["accepted"], answer["duplicates"]) == (2, 0)


def test_what_was_shown_is_logged(service: Service) -> None:
    answer = service.ask(user_id="looks", k=3)

    def find() -> list[Any]:
        wanted = answer["impression_id"]
        return [i for i in service.log.read_impressions(limit=50) if i.impression_id == wanted]

    wait_until(lambda: bool(find()))
    impression = find()[0]
    assert list(impression.item_ids) == [item["item_id"] for item in answer["items"]]
    assert impression.positions == (1, 2, 3)
    assert impression.release == answer["release"]
    assert impression.user_id == pseudonym("looks", service.pseudonym_key)
    assert impression.request_id == answer["request_id"]


def test_every_answer_has_one_request_id(service: Service) -> None:
    answer = service.client.post("/v1/recommend", json={})
    assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/docs", "/openapi.json"])
def test_probes_and_contract_are_open(service: Service, path: str) -> None:
    assert httpx.get(f"{service.client.base_url}{path}").status_code == 200


def test_release_is_named(service: Service) -> None:
    answer = service.client.get("/v1/release").json()
    assert answer["release"] == service.recommender.release
    assert answer["items"] == len(service.recommender.item_ids)


def test_put_item_answers_from_every_replica_within_two_seconds(service: Service) -> None:
    item = {"title": "Ultraviolet umbrella stand", "category": "umbrellas"}
    start = time.monotonic()
    assert service.client.put("/v1/items/uv-1", json=item).status_code == 200
    found = service.client.post("/v1/search", json={"query": item["title"], "k": 1}).json()
    assert [row["item_id"] for row in found["items"]] == ["uv-1"]
    listed = service.ask(filters={"category": ["umbrellas"]})
    assert [row["item_id"] for row in listed["items"]] == ["uv-1"]
    assert time.monotonic() - start < 2
    assert service.client.delete("/v1/items/uv-1").status_code == 200
    assert service.ask(filters={"category": ["umbrellas"]})["items"] == []


def test_log_lines_of_one_request_share_its_trace_and_name_nobody(service: Service) -> None:
    trace_id, user = secrets.token_hex(16), service.user_ids[3]
    service.send({"user_id": user, "query": "violet kettle", "event_type": "search"})
    answer = service.client.post(
        "/v1/recommend",
        json={"user_id": user},
        headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
    )
    service.client.get(f"/v1/users/{user}/recommendations")
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())

    def lines() -> list[dict[str, Any]]:
        text = "".join(path.read_text() for path in logs.glob("worker-*.err"))
        return [json.loads(line) for line in text.splitlines() if trace_id in line]

    wait_until(lambda: len(lines()) == 3)
    found = {line.get("span", line.get("route")): line for line in lines()}
    assert found.keys() == {"/v1/recommend", "Encoder.encode", "Ranker.recommend"}
    request = found.pop("/v1/recommend")
    assert request["request_id"] == answer.json()["request_id"]
    assert {line["parent_id"] for line in found.values()} == {request["span_id"]}
    # Neither ours nor Serve's own say who asked, or for what.
    stored = pseudonym(user, service.pseudonym_key)
    for path in logs.rglob("*"):
        if path.is_file():
            text = path.read_text(errors="replace")
            assert not any(word in text for word in (f'"{user}"', f"/{user}", stored, "violet"))


def test_canary_answers_its_share_of_the_users(service: Service) -> None:
    first = service.client.get("/v1/release").json()["release"]
    canary = {"release": "0" * 16, "share": 0.5}
    copy_release(service.workspace, "0" * 16, penalty_weight=2.0)

    def releases() -> set[str]:
        return {service.ask(user_id=user)["release"] for user in service.user_ids}

    def promote(**body: Any) -> Any:
        return service.client.post("/v1/release/promote", json=body).json()

    assert promote(release=canary["release"], canary=0.5)["canary"] == canary
    wait_until(lambda: releases() == {first, canary["release"]})
    assert service.client.get("/v1/release").json()["canary"] == canary
    # Promoting without a name finishes it.
    assert promote() == {"release": canary["release"], "previous": first}
    wait_until(lambda: releases() == {canary["release"]})
    assert service.client.post("/v1/release/rollback").json()["release"] == first
    wait_until(lambda: releases() == {first})


def test_texts_are_embedded_as_in_process(service: Service) -> None:
    texts = ["red dress", "a kettle"]
    body = {"model": "nextray", "input": texts}
    rows = service.client.post("/v1/embeddings", json=body).json()["data"]
    encoder = load_encoder(dict(service.recommender.encoder_spec))
    np.testing.assert_allclose([row["embedding"] for row in rows], encoder.encode(texts), atol=1e-6)
