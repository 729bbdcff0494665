"""The border: every request is authorised, bounded in size and given an id before it is parsed.

A pure ASGI middleware, so that a stranger's body is never read and a long one never held.
"""

from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.serve.keys import Scope as KeyScope
from cluster.serve.keys import allows, scope_of
from cluster.serve.problems import REQUEST_ID, new_request_id, problem

MAX_BODY_BYTES = 1 << 20
"""1 MiB: a thousand events of usual size are 0.3 MB."""
OPEN_PATHS = frozenset(
    {"/livez", "/readyz", "/healthz", "/docs", "/openapi.json", "/docs/oauth2-redirect"}
)


class _TooLargeError(Exception):
    """Say that a body went past the bound while it was read."""


class Border:
    """Wrap an ASGI application."""

    def __init__(
        self, app: ASGIApp, *, keys: Callable[[], Mapping[str, KeyScope]], max_bytes: int
    ) -> None:
        self._app = app
        self._keys = keys
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        scope["nextray_request_id"] = request_id
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            status, detail = refusal
            extra = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            response = problem(status, detail, request_id=request_id, headers=extra)
            await response(scope, receive, send)
            return
        read = 0
        has_started = False

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                raise _TooLargeError
            return message

        async def with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, bounded, with_id)
        except _TooLargeError:
            if has_started:
                raise
            response = problem(413, self._too_large(), request_id=request_id)
            await response(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        path = scope["path"]
        if path not in OPEN_PATHS:
            key = _key(headers)
            held = None if key is None else scope_of(key, self._keys())
            if held is None:
                return 401, "expected Authorization: Bearer KEY (or X-API-Key) with a valid key"
            wanted = _wanted(scope["method"], path)
            if not allows(held, wanted):
                return 403, f"this key may {held}, the request needs {wanted}"
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._max_bytes:
            return 413, self._too_large()
        return None

    def _too_large(self) -> str:
        return f"expected a body of at most {self._max_bytes} bytes: send fewer events at a time"


def _key(headers: Headers) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key")


def _wanted(method: str, path: str) -> KeyScope:
    """Return the scope that a route needs."""
    if path.startswith("/v1/release/"):
        return "admin"
    asks = path.startswith(("/v1/recommend", "/v1/search", "/v1/rerank", "/v1/embeddings"))
    return "read" if method in ("GET", "HEAD") or asks else "write"
