"""What a service refuses, as exceptions: one a kind of problem document (RFC 9457).

::

    RecError
    ├── ProblemError
    │   ├── KeyRefusedError     401, 403: no key, an unknown one, or one of too small a scope
    │   ├── NotFoundError       404: a named item, model or release is not there
    │   ├── InvalidError        413, 422: the request itself; sending it again is of no use
    │   ├── BusyError           429, 503: later; ``retry_after_s`` says when
    │   └── DeadlineError       504: no answer in time
    └── UnreachableError        no answer at all: refused, cut off, or timed out
"""

from collections.abc import Mapping

import httpx

from rec.errors import RecError


class ProblemError(RecError):
    """Hold a problem document.

    Attributes:
        status: of the answer.
        detail: what was wrong, in words.
        request_id: under which the service's log has it; empty where the answer was no problem
            document, such as a proxy's.
        retry_after_s: when to come again; ``None`` where the answer does not say.
    """

    def __init__(
        self, detail: str, *, status: int, request_id: str, retry_after_s: float | None
    ) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class KeyRefusedError(ProblemError):
    """Say that the key does not allow this."""


class NotFoundError(ProblemError):
    """Say that what was named is not there."""


class InvalidError(ProblemError):
    """Say that the request is not one the service can answer."""


class BusyError(ProblemError):
    """Say that the service has too much to do, or that a part of it is away."""


class DeadlineError(ProblemError):
    """Say that the service did not manage in time."""


class UnreachableError(RecError):
    """Say that no answer came."""


_KINDS: Mapping[int, type[ProblemError]] = {
    401: KeyRefusedError,
    403: KeyRefusedError,
    404: NotFoundError,
    413: InvalidError,
    422: InvalidError,
    429: BusyError,
    503: BusyError,
    504: DeadlineError,
}


def problem_of(answer: httpx.Response, *, retry_after_s: float | None) -> ProblemError:
    """Return the exception that an answer of 400 or more stands for."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    document = body if isinstance(body, dict) else {}
    kind = _KINDS.get(answer.status_code, ProblemError)
    return kind(
        str(document.get("detail") or answer.reason_phrase),
        status=answer.status_code,
        request_id=str(document.get("request_id", "")),
        retry_after_s=retry_after_s,
    )
