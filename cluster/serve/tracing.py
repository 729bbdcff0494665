"""W3C traces: a request's trace id in the log lines of every deployment that worked for it.

A ``traceparent`` that came along is kept, else a trace begins at the gateway. It goes on to
Encoder and Ranker where the caller has set its *sampled* flag; each of them then logs a line with a
span of its own. Unsampled requests cost them nothing.

Source: W3C Trace Context, https://www.w3.org/TR/trace-context/
"""

import logging
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

TRACEPARENT = "traceparent"
_SAMPLED = 1
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Hold the trace of a request, and the span of who works for it now."""

    trace_id: str
    parent_id: str | None
    """Span of who asked; ``None`` where the trace begins here."""
    span_id: str
    flags: str

    @property
    def header(self) -> str:
        """Return the ``traceparent`` that this span sends on."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    @property
    def is_sampled(self) -> bool:
        """Return whether the caller wants to see the whole trace."""
        return bool(int(self.flags, 16) & _SAMPLED)


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def begin(header: str | None) -> Trace:
    """Take up the trace of a header, or begin one; it is this context's from now on.

    >>> trace = begin("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    >>> trace.trace_id, trace.parent_id, trace.is_sampled
    ('4bf92f3577b34da6a3ce929d0e0e4736', '00f067aa0ba902b7', True)
    >>> trace = begin("00-<script>-x-01")
    >>> len(trace.trace_id), trace.parent_id, trace.is_sampled
    (32, None, False)
    """
    match = _FORM.fullmatch(header or "")
    trace_id, parent_id, flags = secrets.token_hex(16), None, "00"
    if match and match[1] != "ff" and set(match[2]) != {"0"} and set(match[3]) != {"0"}:
        trace_id, parent_id, flags = match[2], match[3], match[4]
    trace = Trace(trace_id=trace_id, parent_id=parent_id, span_id=secrets.token_hex(8), flags=flags)
    _current.set(trace)
    return trace


def current() -> Trace | None:
    """Return the trace that this context works for."""
    return _current.get()


def outgoing() -> str | None:
    """Return the header for a call to another deployment; ``None`` where nobody wants to see it."""
    trace = _current.get()
    return trace.header if trace is not None and trace.is_sampled else None


@contextmanager
def span(header: str | None, name: str) -> Iterator[None]:
    """Work for a trace while a block runs, and log how long that took; nothing without a header."""
    if header is None:
        yield
        return
    before, start = _current.get(), time.perf_counter()
    trace = begin(header)
    try:
        yield
    finally:
        fields = {
            "span": name,
            "span_id": trace.span_id,
            "parent_id": trace.parent_id,
            "duration_ms": round(1000 * (time.perf_counter() - start), 3),
        }
        _log.info("span", extra={"fields": fields})
        _current.set(before)
