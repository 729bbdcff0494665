"""One line of JSON and one count for every request, with ids that follow it; no person in either.

The route's template stands for the path, which may hold a user's id. The answer carries the
request's trace with a span of our own.
"""

import json
import logging
import sys
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.serve.metrics import Metrics
from cluster.serve.tracing import TRACEPARENT, begin, current

UNMATCHED = "unmatched"
"""Route of a request that none of ours answers: its path could be anything."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
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
        trace = begin(Headers(scope=scope).get(TRACEPARENT))
        status = 500

        async def with_trace(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[TRACEPARENT] = trace.header
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
                        "span_id": trace.span_id,
                        "parent_id": trace.parent_id,
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
        trace = current()
        line = {
            "time": f"{time.strftime('%FT%T', time.gmtime(record.created))}.{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "trace_id": None if trace is None else trace.trace_id,
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
