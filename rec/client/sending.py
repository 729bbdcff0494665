"""What both clients do with an answer, or with none."""

import random
from datetime import UTC, datetime
from typing import Any

import httpx

from rec.client.problems import UnreachableError, problem_of
from rec.client.retrying import RETRIED_STATUSES, RetryConfig, pause_s, read_retry_after

PROBLEM = "application/problem+json"
_FIRST_ERROR = 400
_FIRST_SERVER_ERROR = 500


def wanted_pause_s(
    answer: httpx.Response | httpx.TransportError,
    tries: int,
    *,
    config: RetryConfig,
    generator: random.Random,
) -> float | None:
    """Return how long to wait before the next try; ``None`` where this answer stands."""
    if isinstance(answer, httpx.TransportError):
        return pause_s(config, tries, retry_after_s=None, generator=generator)
    if answer.status_code not in RETRIED_STATUSES and not _is_of_a_proxy(answer):
        return None
    return pause_s(config, tries, retry_after_s=_retry_after_s(answer), generator=generator)


def _is_of_a_proxy(answer: httpx.Response) -> bool:
    """Return whether an error is not the gateway's own, which is a problem document.

    Serve's proxy says 500 in plain text where a gateway replica died under the request.
    """
    kind = answer.headers.get("content-type", "")
    return answer.status_code >= _FIRST_SERVER_ERROR and not kind.startswith(PROBLEM)


def outcome(answer: httpx.Response | httpx.TransportError) -> Any:
    """Return the body of an answer.

    Raises:
        ProblemError: the service refused.
        UnreachableError: there was no answer.
    """
    if isinstance(answer, httpx.TransportError):
        what = str(answer) or type(answer).__name__
        raise UnreachableError(f"no answer from the service: {what}") from answer
    if answer.status_code >= _FIRST_ERROR:
        raise problem_of(answer, retry_after_s=_retry_after_s(answer))
    return answer.json()


def _retry_after_s(answer: httpx.Response) -> float | None:
    return read_retry_after(answer.headers.get("retry-after"), now=datetime.now(UTC))
