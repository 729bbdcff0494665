"""The border: every request is authorised, counted, bounded and named before it is parsed.

A pure ASGI middleware, so that a stranger's body is never read and a long one never held.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.serve.keys import KeyEntry, allows, holder_of
from cluster.serve.keys import Scope as KeyScope
from cluster.serve.problems import REQUEST_ID, new_request_id, problem
from cluster.serve.quotas import Quotas
from cluster.serve.routes.page import PAGE_PATHS

MAX_BODY_BYTES = 1 << 20
"""1 MiB: a thousand events of usual size are 0.3 MB."""
OPEN_PATHS = PAGE_PATHS | {
    "/livez",
    "/readyz",
    "/healthz",
    "/openapi.json",
}
_MAX_LENGTH_DIGITS = 20
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class _Refusal(NamedTuple):
    status: int
    detail: str
    headers: dict[str, str] | None = None


class Border:
    """Wrap an ASGI application."""

    def __init__(
        self, app: ASGIApp, *, keys: Callable[[], Mapping[str, KeyEntry]], max_bytes: int
    ) -> None:
        self._app = app
        self._keys = keys
        self._max_bytes = max_bytes
        self._quotas = Quotas()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # Serve names each request and puts that name on the answer; outside it, we do.
        given = headers.get(REQUEST_ID)
        request_id = given if given and _REQUEST_ID.fullmatch(given) else new_request_id()
        scope["nextray_request_id"] = request_id
        refusal = self._refusal(scope, headers)
        body = b"" if refusal else await self._read(receive)
        if body is None:
            refusal = _Refusal(413, self._too_large())
        if refusal is not None:
            response = problem(
                refusal.status, refusal.detail, request_id=request_id, headers=refusal.headers
            )
            await response(scope, receive, send if given is None else _without_id(send))
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self._app(scope, replay, with_id if given is None else _without_id(send))

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the whole body, or ``None`` as soon as it is too long."""
        body = bytearray()
        has_more = True
        while has_more and len(body) <= self._max_bytes:
            message = await receive()
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
        return bytes(body) if len(body) <= self._max_bytes else None

    def _refusal(self, scope: Scope, headers: Headers) -> "_Refusal | None":
        path = scope["path"]
        if path not in OPEN_PATHS:
            key = _key(headers)
            held = None if key is None else holder_of(key, self._keys())
            if held is None:
                return _Refusal(
                    401,
                    "expected Authorization: Bearer KEY (or X-API-Key) with a valid key",
                    {"WWW-Authenticate": "Bearer"},
                )
            wanted = _wanted(scope["method"], path)
            if not allows(held.scope, wanted):
                return _Refusal(403, f"this key may {held.scope}, the request needs {wanted}")
            wait_s = self._quotas.wait_s(held.name, held.per_minute)
            if wait_s is not None:
                return _Refusal(
                    429,
                    f"this key may ask {held.per_minute} times a minute",
                    {"Retry-After": str(wait_s)},
                )
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            # Nothing here unpacks: a small body stays small.
            return _Refusal(415, "expected a body without Content-Encoding")
        length = headers.get("content-length", "")
        # Python refuses to read numbers of thousands of digits.
        if len(length) > _MAX_LENGTH_DIGITS or (
            length.isdecimal() and int(length) > self._max_bytes
        ):
            return _Refusal(413, self._too_large())
        return None

    def _too_large(self) -> str:
        return f"expected a body of at most {self._max_bytes} bytes: send fewer events at a time"


def _without_id(send: Send) -> Send:
    """Leave the header to Serve, which adds it to every answer."""

    async def leave_out(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if REQUEST_ID in headers:
                del headers[REQUEST_ID]
        await send(message)

    return leave_out


def _key(headers: Headers) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key")


def _wanted(method: str, path: str) -> KeyScope:
    """Return the scope that a route needs; what is held of a person is not for a web shop's key."""
    if path.startswith(("/v1/release/", "/v1/erasures/")) or (
        path.startswith("/v1/users/")
        and not (method == "GET" and path.endswith("/recommendations"))
    ):
        return "admin"
    asks = path.startswith(("/v1/recommend", "/v1/search", "/v1/rerank", "/v1/embeddings"))
    return "read" if method in ("GET", "HEAD") or asks else "write"
