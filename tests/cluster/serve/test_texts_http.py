"""Search, rerank, embeddings and items over HTTP, on the real graph in this process."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from rec.encoders import load_encoder
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request, SearchRequest
from tests.cluster.graph import Graph, ids, running_graph
from tests.releases import make_release

NEW = "ultra/violet 1"
NEW_PATH = "/v1/items/ultra%2Fviolet%201"


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    with running_graph(tmp_path, make_release(tmp_path), num_rankers=2) as found:
        yield found


@pytest.fixture
def client(graph: Graph) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url="http://test/v1",
        api_key=graph.key,
        http_client=httpx.AsyncClient(transport=httpx.ASGITransport(app=graph.app)),
        max_retries=0,
    )


def recommender(graph: Graph) -> Recommender:
    return Recommender.load(graph.workspace / "releases" / graph.gateway.state.release.name)


def test_search_answers_as_the_recommender_does(graph: Graph) -> None:
    ours = recommender(graph)
    encoder = load_encoder(dict(ours.encoder_spec))
    answer = graph.good("POST", "/v1/search", json={"query": "red dress", "k": 5})
    search = SearchRequest(
        text=encoder.encode(["red dress"])[0], request=Request(k=5), personal_weight=0.2
    )
    [expected] = ours.search([search])
    assert ids(answer) == [item.item_id for item in expected.items]
    assert answer["items"][0]["title"] == "red dress"
    assert answer["items"][0]["terms"]["personal"] == 0.0
    shown = graph.gateway.state.log.read_impressions(limit=1)[0]
    assert shown.impression_id == answer["impression_id"]
    assert list(shown.item_ids) == ids(answer)


def test_search_is_personal_bounded_and_scrubbed(graph: Graph) -> None:
    body = {"query": "dress", "k": 10}
    plain = graph.good("POST", "/v1/search", json=body)
    mine = graph.good("POST", "/v1/search", json={**body, "user_id": "user-1",
                                                  "personal_weight": 5})  # fmt: skip
    assert {item["terms"]["personal"] for item in mine["items"]} != {0.0}
    assert ids(mine) != ids(plain)
    blue = graph.good("POST", "/v1/search", json={**body, "filters": {"colour": ["blue"]}})
    assert len(blue["items"]) == 10
    first = ids(plain)[0]
    without = graph.good("POST", "/v1/search", json={**body, "exclude": [first]})
    assert first not in ids(without)
    named = graph.good("POST", "/v1/search", json={"query": "dress jo@example.org"})
    assert ids(named) == ids(graph.good("POST", "/v1/search", json={"query": "dress <email>"}))
    assert graph.ask("POST", "/v1/search", json={"query": "\u200b"}).status_code == 422


def test_rerank_orders_given_items_as_the_whole_list_would(graph: Graph) -> None:
    everything = graph.good(
        "POST", "/v1/recommend", json={"user_id": "user-2", "k": 60, "exclude_seen": False}
    )
    wanted = ids(everything)[::7]
    answer = graph.good(
        "POST",
        "/v1/rerank",
        json={"user_id": "user-2", "item_ids": [*reversed(wanted), "nothing"]},
    )
    assert ids(answer) == wanted
    assert answer["degraded"] == ["unknown_items"]
    assert [item["position"] for item in answer["items"]] == list(range(1, len(wanted) + 1))


def test_rerank_takes_the_schema_of_text_embeddings_inference(graph: Graph) -> None:
    body: dict[str, Any] = {"query": "red dress", "texts": ["blue sofa", "red dress", "red coat"]}
    answer = graph.good("POST", "/v1/rerank", json=body)
    assert [set(row) for row in answer] == [{"index", "score"}] * 3
    assert answer[0]["index"] == 1
    assert answer[0]["score"] == pytest.approx(1.0, abs=1e-5)
    raw = graph.good("POST", "/v1/rerank", json={**body, "raw_scores": True, "return_text": True})
    assert [row["text"] for row in raw] == ["red dress", "red coat", "blue sofa"]
    assert raw[2]["score"] == pytest.approx(2 * answer[2]["score"] - 1, abs=1e-6)


def test_openai_client_works_unchanged(graph: Graph, client: openai.AsyncOpenAI) -> None:
    texts = [f"text {number}" for number in range(150)]
    expected = load_encoder(dict(recommender(graph).encoder_spec)).encode(texts)
    made = graph.run(client.embeddings.create(model="nextray", input=texts))
    found = np.asarray([row.embedding for row in made.data])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [row.index for row in made.data] == list(range(150))
    assert made.usage.prompt_tokens == made.usage.total_tokens == 300
    floats = graph.run(
        client.embeddings.create(model="nextray", input="text 7", encoding_format="float")
    )
    np.testing.assert_allclose(floats.data[0].embedding, expected[7], atol=1e-6)
    names = [model["id"] for model in graph.good("GET", "/v1/models")["data"]]
    assert names[0] == "nextray"
    assert graph.gateway.state.fingerprint in names


def test_base64_is_little_endian_float32(graph: Graph) -> None:
    body = {"model": "nextray", "input": ["red dress"]}
    [plain] = graph.good("POST", "/v1/embeddings", json=body)["data"]
    [packed] = graph.good("POST", "/v1/embeddings", json={**body, "encoding_format": "base64"})[
        "data"
    ]
    values = np.frombuffer(base64.b64decode(packed["embedding"]), dtype="<f4")
    np.testing.assert_array_equal(values, np.asarray(plain["embedding"], dtype=np.float32))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"input": "x", "model": "text-embedding-3-small"}, 404),
        ({"input": [], "model": "nextray"}, 422),
        ({"input": "", "model": "nextray"}, 422),
        ({"input": [[1, 2]], "model": "nextray"}, 422),
        ({"input": "x", "model": "nextray", "dimensions": 7}, 422),
        ({"input": ["x"] * 2049, "model": "nextray"}, 422),
        ({"input": "x", "model": "nextray", "encoding_format": "hex"}, 422),
    ],
)
def test_embeddings_that_cannot_be_are_refused(
    graph: Graph, body: dict[str, Any], status: int
) -> None:
    answer = graph.ask("POST", "/v1/embeddings", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_openai_client_reads_a_refusal(graph: Graph, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="404"):
        graph.run(client.embeddings.create(model="another", input="x"))


def test_put_item_is_in_the_next_answer_of_every_replica(graph: Graph) -> None:
    body = {"title": "Ultraviolet umbrella", "category": "umbrellas", "shade": "uv", "size": 3}
    assert graph.good("PUT", NEW_PATH, json=body)["status"] == "created"
    assert graph.good("PUT", NEW_PATH, json=body)["status"] == "updated"
    for _ in graph.rankers:
        found = graph.good("POST", "/v1/search", json={"query": "ultraviolet umbrella", "k": 1})
        assert ids(found) == [NEW]
        listed = graph.good("POST", "/v1/recommend", json={"filters": {"shade": ["uv"]}})
        assert ids(listed) == [NEW]
        assert NEW not in ids(graph.good("GET", f"{NEW_PATH}/similar"))
    sent = graph.good("POST", "/v1/events", json=[{"user_id": "u", "item_id": NEW}])
    assert sent["accepted"] == 1
    assert graph.good("GET", "/v1/release")["items"] == 61


def test_deleted_item_is_gone_at_once_and_after_a_restart(graph: Graph) -> None:
    graph.good("PUT", NEW_PATH, json={"title": "Ultraviolet umbrella"})
    first = ids(graph.good("POST", "/v1/recommend", json={}))[0]
    path = f"/v1/items/{first.replace('/', '%2F')}"
    assert graph.good("DELETE", path)["status"] == "deleted"
    for _ in graph.rankers:
        assert first not in ids(graph.good("POST", "/v1/recommend", json={"k": 100}))
    assert graph.ask("DELETE", path).status_code == 404
    assert graph.ask("GET", f"{path}/similar").status_code == 404
    rejected = graph.good("POST", "/v1/events", json=[{"user_id": "u", "item_id": first}])
    assert rejected["rejected"] == [{"index": 0, "reason": "unknown_item"}]
    release = graph.workspace / "releases" / graph.gateway.state.release.name
    with running_graph(graph.workspace, release) as again:
        everything = ids(again.good("POST", "/v1/recommend", json={"k": 100}))
        assert first not in everything
        assert NEW in everything


@pytest.mark.parametrize(
    "body",
    [{}, {"title": " "}, {"price": 3}, {"title": "x", "shape": {"a": 1}}, {"title": 7}, [], "x"],
)
def test_item_that_is_none_is_refused(graph: Graph, body: Any) -> None:
    assert graph.ask("PUT", NEW_PATH, json=body).status_code == 422
    assert graph.good("GET", "/v1/release")["items"] == 60
