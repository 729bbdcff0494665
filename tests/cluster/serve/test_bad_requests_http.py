"""Whatever is malformed, oversized, forged or mistyped: its 4xx at once, over a real connection."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.serve.border import MAX_BODY_BYTES
from cluster.serve.keys import add_key
from tests.cluster.graph import over_http, running_graph
from tests.releases import make_release

WITHIN_S = 0.1
TRIES = 5
"""The fastest one counts: a busy machine may hold up any of them."""
EVENT = {"user_id": "u", "item_id": "item/1"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    workspace: Path = tmp_path_factory.mktemp("bad")
    with running_graph(workspace, make_release(workspace)) as graph, over_http(graph) as url:
        reader = add_key(workspace, name="a reader", scope="read")
        yield {"url": url, "admin": graph.key, "reader": reader, "nobody": "nextray_stranger"}


def pieces(content: bytes) -> Iterator[bytes]:
    """Yield a body that tells no length: it is sent in chunks."""
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


LARGE = b'{"events": [' + b" " * MAX_BODY_BYTES + b"]}"
LONG = " " * 300 + "u"
"""Longer than the schema allows, and short without its white space."""
BOMB = gzip.compress(b"[" + b"1," * 5_000_000 + b"1]")
BAD: dict[str, tuple[str, str, str, Any, int]] = {
    # name: key, method, path, body (bytes: sent as they are), status
    "stranger": ("nobody", "POST", "/v1/recommend", {}, 401),
    "reader that writes": ("reader", "POST", "/v1/events", [EVENT], 403),
    "unknown path": ("admin", "GET", "/v1/nothing", None, 404),
    "unknown item": ("admin", "GET", "/v1/items/nothing/similar", None, 404),
    "wrong method": ("admin", "PATCH", "/v1/recommend", {}, 405),
    "large": ("admin", "POST", "/v1/events", LARGE, 413),
    "large in chunks": ("admin", "POST", "/v1/events", pieces, 413),
    "gzip bomb": ("admin", "POST", "/v1/events", BOMB, 415),
    "no JSON": ("admin", "POST", "/v1/events", b'[{"user_id": ', 422),
    "no text": ("admin", "POST", "/v1/events", b"\xff\xfe\x00", 422),
    "nothing": ("admin", "POST", "/v1/events", b"", 422),
    "deep lists": ("admin", "POST", "/v1/events", b"[" * 400_000, 422),
    "deep objects": ("admin", "POST", "/v1/recommend", b'{"filters":' * 60_000, 422),
    "number of a million digits": (
        *("admin", "POST", "/v1/recommend"),
        b'{"k": ' + b"9" * 1_000_000 + b"}",
        422,
    ),
    "too many events": ("admin", "POST", "/v1/events", [EVENT] * 1_001, 422),
    "no events": ("admin", "POST", "/v1/events", [], 422),
    "long id": ("admin", "POST", "/v1/events", [{**EVENT, "user_id": "u" * 100_000}], 422),
    "long id in white space": ("admin", "POST", "/v1/events", [{**EVENT, "user_id": LONG}], 422),
    "id of white space": ("admin", "POST", "/v1/events", [{**EVENT, "user_id": " \t "}], 422),
    "empty id": ("admin", "POST", "/v1/events", [{**EVENT, "user_id": ""}], 422),
    "mistyped": ("admin", "POST", "/v1/recommend", {"k": "ten"}, 422),
    "too many": ("admin", "POST", "/v1/recommend", {"k": 10**9}, 422),
    "negative": ("admin", "POST", "/v1/recommend", {"k": -1}, 422),
    "no number": ("admin", "POST", "/v1/recommend", b'{"k": 1, "diversity": NaN}', 422),
    "unknown filter": ("admin", "POST", "/v1/recommend", {"filters": {"nothing": ["x"]}}, 422),
    "image that nothing sees": (
        *("admin", "PUT", "/v1/items/new"),
        {"title": "lamp", "image_embedding": [1.0, 2.0]},
        422,
    ),
    "image of no numbers": (
        *("admin", "PUT", "/v1/items/new"),
        b'{"title": "lamp", "image_embedding": [1, NaN]}',
        422,
    ),
    "long query": ("admin", "POST", "/v1/search", {"query": "word " * 50_000}, 422),
    "many candidates": (
        *("admin", "POST", "/v1/rerank"),
        {"query": "red", "texts": ["a"] * 100_000},
        422,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_request_gets_its_problem_within_a_tenth_of_a_second(
    site: dict[str, Any], name: str
) -> None:
    holder, method, path, body, status = BAD[name]
    headers = {"Authorization": f"Bearer {site[holder]}", "Content-Type": "application/json"}
    if body is BOMB:
        headers["Content-Encoding"] = "gzip"
    content = (
        body if isinstance(body, bytes) else b"" if callable(body) else json.dumps(body).encode()
    )
    times = []
    with httpx.Client(base_url=site["url"], headers=headers, timeout=30) as client:
        for _ in range(TRIES):
            sent = pieces(LARGE) if body is pieces else content
            start = time.perf_counter()
            answer = client.request(method, path, content=sent)
            times.append(time.perf_counter() - start)
            assert answer.status_code == status, answer.text[:300]
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
            assert "Traceback" not in answer.text
            assert len(answer.content) < 4_000
    assert min(times) < WITHIN_S, times


def test_replayed_event_counts_once(site: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {site['admin']}"}
    with httpx.Client(base_url=site["url"], headers=headers, timeout=30) as client:
        counts = [
            client.post("/v1/events", json=[{**EVENT, "event_id": "once"}]).json() for _ in range(3)
        ]
    assert [count["accepted"] for count in counts] == [1, 0, 0]
    assert [count["duplicates"] for count in counts] == [0, 1, 1]
