"""One line of JSON and one count for every request, with ids that follow it; no person in either.

The route's template stands for the path, which may hold a user's id. A W3C ``traceparent`` that
came along is kept: the answer carries its trace with a span of our own.
"""

import json
import logging
import re
import secrets
import sys
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.serve.metrics import Metrics

TRACEPARENT = "traceparent"
UNMATCHED = "unmatched"
"""Route of a request that none of ours answers: its path could be anything."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
_log = logging.getLogger(__name__)


class Observing:
    """Wrap an ASGI application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection, count it and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        trace_id, flags = read_trace(Headers(scope=scope).get(TRACEPARENT))
        span_id = secrets.token_hex(8)
        _trace_id.set(trace_id)
        status = 500

        async def with_trace(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[TRACEPARENT] = f"00-{trace_id}-{span_id}-{flags}"
            await send(message)

        try:
            await self._app(scope, receive, with_trace)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", UNMATCHED)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.count_request(route, method=method, status=status, seconds=seconds)
            _log.info(
                "request",
                extra={
                    "fields": {
                        "request_id": scope.get("nextray_request_id"),
                        "trace_id": trace_id,
                        "span_id": span_id,
                        "method": method,
                        "route": route,
                        "status": status,
                        "duration_ms": round(seconds * 1000, 3),
                    }
                },
            )


class JsonFormatter(logging.Formatter):
    """Write a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; an error's traceback is one field of it."""
        line = {
            "time": f"{time.strftime('%FT%T', time.gmtime(record.created))}.{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "trace_id": _trace_id.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _ToStderr(logging.Handler):
    """Write to the process's own stderr: Serve replaces ``sys.stderr`` by a log that holds back."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.__stderr__ or sys.stderr
        stream.write(self.format(record) + "\n")
        stream.flush()


def log_as_json() -> None:
    """Write this process's own log to stderr as lines of JSON; Ray keeps them in its session."""
    logger = logging.getLogger("cluster.serve")
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
        return
    handler = _ToStderr()
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def read_trace(header: str | None) -> tuple[str, str]:
    """Return trace id and flags of a ``traceparent``, or of a trace that begins here.

    >>> read_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    ('4bf92f3577b34da6a3ce929d0e0e4736', '01')
    >>> trace_id, flags = read_trace("00-<script>-x-01")
    >>> len(trace_id), flags
    (32, '00')
    """
    match = _TRACEPARENT.fullmatch(header or "")
    if match and match[0][:2] != "ff" and set(match[1]) != {"0"} and set(match[2]) != {"0"}:
        return match[1], match[3]
    return secrets.token_hex(16), "00"
