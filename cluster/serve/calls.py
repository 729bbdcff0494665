"""Calls from the gateway to the deployments behind it: bounded in time and in tries.

Ray does not retry a request that was sent to a replica that then died. Recommending changes
nothing, so it is safe to ask again.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException

MAX_TRIES = 3
DEADLINE_S = 5.0
"""An answer later than this is of no use to a page."""
RETRY_AFTER_S = 1


class UnavailableError(Exception):
    """Say that a deployment could not be reached in any try."""


async def call(send: Callable[[], Any], *, deadline_s: float = DEADLINE_S) -> Any:
    """Return the answer of a handle call, asked again if its replica died.

    Args:
        send: makes the call; a fresh one for every try.
        deadline_s: for all tries together.

    Raises:
        HTTPException: 503 where queues are full, 504 past the deadline.
        UnavailableError: every try met a dead replica.
    """
    try:
        async with asyncio.timeout(deadline_s):
            for last in (False, False, True):
                try:
                    return await send()
                except BackPressureError as error:
                    raise HTTPException(
                        503, "too many requests at once", {"Retry-After": str(RETRY_AFTER_S)}
                    ) from error
                except (RayActorError, RayServeException) as error:
                    if last:
                        raise UnavailableError(str(error)) from error
    except TimeoutError as error:
        raise HTTPException(504, f"no answer within {deadline_s:g} s") from error
