"""Calls from the gateway to the deployments behind it: bounded in time and in tries.

Ray does not retry a request that was sent to a replica that then died. Recommending changes
nothing, so it is safe to ask again. A deployment without any replica does not refuse, it keeps the
caller waiting: hence the memory of who did not answer lately.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from cluster.serve.gathering import Part
from rec.errors import RecError

MAX_TRIES = 3
DEADLINE_S = 5.0
"""An answer later than this is of no use to a page."""
TEXT_DEADLINE_S = 10.0
"""For explanations and summaries, which a language model may word. Above ``DEADLINE_S``: who waits
so long takes nobody for dead after a second."""
SUSPECT_DEADLINE_S = 0.5
"""For a deployment that was away at the last call: several times what an answer takes, and a
popular list after half a second is better than none."""
SILENT_S = 1.0
"""A call that found no replica for so long, while nobody was answered, met a deployment that has
none left: Serve tells the caller nothing then, unless the call itself met the dying replica."""
RETRY_AFTER_S = 1
_PAUSE_S = 0.02
"""Between tries: the router needs a moment to strike a dead replica off."""
_log = logging.getLogger(__name__)


class UnavailableError(Exception):
    """Say that a deployment could not be reached in any try."""


class Upstream:
    """Call one deployment, and remember whether it answered the last time."""

    def __init__(self, name: str, *, silent_s: float | None = None) -> None:
        """Set the name that messages use, and how long a call may look for a replica."""
        self.name = name
        self.is_suspect = False
        self._silent_s = silent_s
        self._num_answers = 0
        self._clocks: set[asyncio.Timeout] = set()

    async def call(self, send: Callable[[], Any], *, deadline_s: float = DEADLINE_S) -> Any:
        """Return the answer of a handle call, asked again if its replica died.

        Args:
            send: makes the call; a fresh one for every try.
            deadline_s: for all tries together.

        Raises:
            HTTPException: 503 where queues are full, 504 past the deadline.
            RecError: the deployment refused the request; without Ray's traceback in its message.
            UnavailableError: every try met a dead replica, or the deployment was away at the last
                call and is silent still.
        """
        limit_s = min(deadline_s, SUSPECT_DEADLINE_S) if self.is_suspect else deadline_s
        try:
            async with asyncio.timeout(limit_s) as clock:
                self._clocks.add(clock)
                sent: list[Any] = []
                look = self._look_later(deadline_s, sent)
                try:
                    answer = await self._try(send, sent)
                finally:
                    self._clocks.discard(clock)
                    if look is not None:
                        look.cancel()
        except TimeoutError as error:
            if self.is_suspect:
                raise UnavailableError(f"the {self.name} does not answer") from error
            self._suspect(f"no answer within {limit_s:g} s")
            raise HTTPException(
                504, f"the {self.name} did not answer within {limit_s:g} s"
            ) from error
        except BackPressureError as error:
            raise HTTPException(
                503, "too many requests at once", {"Retry-After": str(RETRY_AFTER_S)}
            ) from error
        self.is_suspect = False
        self._num_answers += 1
        return answer

    def _look_later(self, deadline_s: float, sent: list[Any]) -> asyncio.TimerHandle | None:
        """Suspect the deployment if this call found no replica in time and nobody was answered.

        Who has more patience than usual is left to wait.
        """
        if self._silent_s is None or deadline_s > DEADLINE_S:
            return None
        before = self._num_answers

        def look() -> None:
            if self._num_answers == before and any(map(_finds_no_replica, sent)):
                self._suspect(f"no replica for {self._silent_s:g} s")

        return asyncio.get_running_loop().call_later(self._silent_s, look)

    async def _try(self, send: Callable[[], Any], sent: list[Any]) -> Any:
        for number in range(1, MAX_TRIES + 1):
            response = send()
            sent[:] = [response]
            try:
                return await response
            except asyncio.CancelledError:
                # Nobody waits any more: take it out of the queue.
                response.cancel()
                raise
            except BackPressureError:
                raise
            except RayTaskError as error:
                # The deployment answered, with a refusal; Ray's text is a traceback.
                if isinstance(error.cause, RecError):
                    raise error.cause from None
                raise
            except (RayActorError, RayServeException) as error:
                self._suspect(type(error).__name__)
                if number == MAX_TRIES:
                    raise UnavailableError(f"the {self.name} is away: {error}") from error
                await asyncio.sleep(_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _suspect(self, reason: str) -> None:
        if not self.is_suspect:
            _log.warning("the %s is away: %s", self.name, reason)
        self.is_suspect = True
        # Who waits already may wait for the same dead replica, and learns of it from this call.
        for clock in self._clocks:
            _shorten(clock)


def _finds_no_replica(response: Any) -> bool:
    """Return whether Serve's router has not chosen a replica yet; Serve says so in private only."""
    call = response.call if isinstance(response, Part) else response
    chosen = getattr(call, "_replica_result_future", None)
    return chosen is not None and not chosen.done()


def _shorten(clock: asyncio.Timeout) -> None:
    """Leave a deployment that has just lost a replica only as long as a suspect one."""
    if clock.expired():
        return
    ends, latest = clock.when(), asyncio.get_running_loop().time() + SUSPECT_DEADLINE_S
    clock.reschedule(latest if ends is None else min(ends, latest))
