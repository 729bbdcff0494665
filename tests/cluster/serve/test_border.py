import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Body, FastAPI

from cluster.serve.border import Border
from cluster.serve.keys import KeyEntry, key_hash
from cluster.serve.problems import add_problem_handlers

KEYS = {
    key_hash("reader"): KeyEntry(name="reader", scope="read"),
    key_hash("writer"): KeyEntry(name="writer", scope="write"),
    key_hash("admin"): KeyEntry(name="admin", scope="admin"),
    key_hash("slow"): KeyEntry(name="slow", scope="read", per_minute=3),
}


@pytest.fixture
def app() -> FastAPI:
    api = FastAPI()
    api.add_middleware(Border, keys=lambda: KEYS, max_bytes=20)
    add_problem_handlers(api)

    @api.post("/v1/events")
    async def store(body: list[int] = Body()) -> int:  # noqa: B008 - FastAPI's form
        return len(body)

    @api.post("/v1/recommend")
    async def recommend() -> int:
        return 0

    @api.post("/v1/release/promote")
    async def promote() -> int:
        return 0

    @api.get("/livez")
    async def live() -> int:
        return 0

    @api.get("/v1/broken")
    async def broken() -> int:
        raise RuntimeError("a secret of the machine")

    return api


def ask(
    app: FastAPI,
    method: str,
    path: str,
    *,
    key: str | None = "admin",
    content: bytes | AsyncIterator[bytes] | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            sent = {"Content-Type": "application/json"}
            if key is not None:
                sent["Authorization"] = f"Bearer {key}"
            return await client.request(
                method, path, content=content, headers={**sent, **(headers or {})}
            )

    return asyncio.run(run())


async def pieces(size: int, number: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield b" " * size


def assert_problem(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/v1/recommend", None, 401),
        ("POST", "/v1/recommend", "stranger", 401),
        ("POST", "/v1/recommend", "reader", 200),
        ("POST", "/v1/events", "reader", 403),
        ("POST", "/v1/events", "writer", 200),
        ("POST", "/v1/events", "admin", 200),
        ("POST", "/v1/release/promote", "writer", 403),
        ("POST", "/v1/release/promote", "admin", 200),
        ("GET", "/livez", None, 200),
        ("GET", "/nowhere", None, 401),
        ("GET", "/nowhere", "reader", 404),
        ("DELETE", "/v1/recommend", "admin", 405),
    ],
)
def test_scopes(app: FastAPI, method: str, path: str, key: str | None, status: int) -> None:
    content = b"[1]" if path == "/v1/events" else None
    response = ask(app, method, path, key=key, content=content)
    if status == 200:
        assert response.status_code == 200
        assert response.headers["x-request-id"]
    else:
        assert_problem(response, status)


@pytest.mark.parametrize("value", ["bearer reader", "Bearer  reader "])
def test_bearer_is_read_as_clients_write_it(app: FastAPI, value: str) -> None:
    headers = {"Authorization": value}
    assert ask(app, "POST", "/v1/recommend", key=None, headers=headers).status_code == 200


def test_api_key_header_is_read(app: FastAPI) -> None:
    headers = {"X-API-Key": "reader"}
    assert ask(app, "POST", "/v1/recommend", key=None, headers=headers).status_code == 200


@pytest.mark.parametrize("body", [b"[" + b"1" * 18 + b"]", b"[1,2]"])
def test_body_up_to_the_limit_is_read(app: FastAPI, body: bytes) -> None:
    assert ask(app, "POST", "/v1/events", content=body).status_code == 200


def test_declared_large_body_is_413(app: FastAPI) -> None:
    assert_problem(ask(app, "POST", "/v1/events", content=b" " * 21), 413)


def test_chunked_large_body_is_413(app: FastAPI) -> None:
    assert_problem(ask(app, "POST", "/v1/events", content=pieces(7, 3)), 413)


def test_length_of_five_thousand_digits_is_413(app: FastAPI) -> None:
    headers = {"content-length": "9" * 5000}
    assert_problem(ask(app, "POST", "/v1/events", content=b"", headers=headers), 413)


@pytest.mark.parametrize("body", [b"{", b"", b"[1", b"\xff\xfe", b'{"\\ud800": 1}', b"[1e999]"])
def test_body_that_is_no_contract_is_422(app: FastAPI, body: bytes) -> None:
    assert_problem(ask(app, "POST", "/v1/events", content=body), 422)


def test_body_is_not_read_before_the_key_is_checked(app: FastAPI) -> None:
    async def forbidden() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    assert_problem(ask(app, "POST", "/v1/events", key=None, content=forbidden()), 401)


def test_unexpected_error_tells_nothing_but_its_id(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    response = ask(app, "GET", "/v1/broken")
    assert_problem(response, 500)
    assert "secret" not in response.text
    assert response.json()["request_id"] in caplog.text
    assert "a secret of the machine" in caplog.text


def test_quota_is_429_with_the_time_to_wait(app: FastAPI) -> None:
    statuses = [ask(app, "POST", "/v1/recommend", key="slow").status_code for _ in range(3)]
    assert statuses == [200] * 3
    response = ask(app, "POST", "/v1/recommend", key="slow")
    assert_problem(response, 429)
    assert 1 <= int(response.headers["retry-after"]) <= 20
    assert ask(app, "POST", "/v1/recommend", key="reader").status_code == 200
    assert ask(app, "GET", "/livez", key="slow").status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP, identity"])
def test_packed_body_is_415_unread(app: FastAPI, encoding: str) -> None:
    bomb = gzip.compress(b"[" + b"1," * 1_000_000 + b"1]")[:20]
    headers = {"Content-Encoding": encoding}
    assert_problem(ask(app, "POST", "/v1/events", content=bomb, headers=headers), 415)
