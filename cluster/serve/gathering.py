"""Handle calls for several requests at once: what comes while one is under way goes with the next.

A call costs the same processor time for one request as for eight. The first request goes alone and
at once; company gathers only behind a call that is under way, and not for long: a full call, or one
whose requests have waited, goes beside it, so that a replica that is silent holds up few. Each
request keeps its own deadline, its own tries and its own refusal: it is awaited and cancelled as if
it had a handle call of its own (``cluster.serve.calls``).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

from ray.serve.exceptions import BackPressureError

PATIENCE_S = 0.05
"""Longer than a call takes where nothing is wrong."""
T = TypeVar("T")
R = TypeVar("R")


class Part(Generic[T, R]):
    """Stand for one request in a call: awaited for its answer, cancelled by who gives up."""

    def __init__(self, request: T) -> None:
        self.request = request
        self.answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.call: Any = None
        """What the handle has returned; ``None`` while the request waits."""

    def __await__(self) -> Generator[Any, None, R]:
        return self.answer.__await__()

    def cancel(self) -> None:
        """Leave; a call that nobody waits for any more is cancelled."""
        self.answer.cancel()


class Gatherer(Generic[T, R]):
    """Make the handle calls of one event loop."""

    def __init__(self, send: Callable[[list[T]], Any], *, max_size: int, max_held: int) -> None:
        """Hold what makes a call.

        Args:
            send: makes a handle call that returns one answer for each request, in order; an answer
                that is an error is raised to whom it belongs.
            max_size: requests of one call.
            max_held: requests that wait or are under way, above which one more is refused.
        """
        self._send = send
        self._max_size = max_size
        self._max_held = max_held
        self._num_held = 0
        self._waiting: deque[Part[T, R]] = deque()
        self._calls: set[asyncio.Task[Sequence[R | Exception]]] = set()
        self._clock: asyncio.TimerHandle | None = None

    def remote(self, request: T) -> Part[T, R]:
        """Return a request's part of a call that goes now or soon.

        Raises:
            BackPressureError: as many as may be are held.
        """
        if self._num_held >= self._max_held:
            raise BackPressureError(self._num_held, self._max_held)
        part = Part[T, R](request)
        self._num_held += 1
        part.answer.add_done_callback(self._let_go)
        self._waiting.append(part)
        self._send_on()
        return part

    def _let_go(self, _: "asyncio.Future[R]") -> None:
        self._num_held -= 1

    def _send_on(self) -> None:
        """Make the calls that are due."""
        while self._waiting and (not self._calls or len(self._waiting) >= self._max_size):
            self._start()
        if self._waiting and self._clock is None:
            self._clock = asyncio.get_running_loop().call_later(PATIENCE_S, self._hurry)

    def _hurry(self) -> None:
        self._clock = None
        if self._waiting:
            self._start()
        self._send_on()

    def _start(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_size))]
        if self._clock is not None and not self._waiting:
            self._clock.cancel()
            self._clock = None
        parts = [part for part in taken if not part.answer.done()]
        if not parts:
            return
        # Serve cancels what was called for a request whose client leaves: this is for several, so
        # it is called for none of them.
        call = asyncio.create_task(self._call(parts), context=Context())
        self._calls.add(call)

        def leave(_: "asyncio.Future[R]") -> None:
            if all(part.answer.cancelled() for part in parts):
                call.cancel()

        for part in parts:
            part.answer.add_done_callback(leave)
        call.add_done_callback(lambda ended: self._end(ended, parts))

    async def _call(self, parts: Sequence[Part[T, R]]) -> Sequence[R | Exception]:
        response = self._send([part.request for part in parts])
        for part in parts:
            part.call = response
        try:
            answers: Sequence[R | Exception] = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        if len(answers) != len(parts):
            raise ValueError(f"expected {len(parts)} answers, got {len(answers)}")
        return answers

    def _end(
        self, call: "asyncio.Task[Sequence[R | Exception]]", parts: Sequence[Part[T, R]]
    ) -> None:
        self._calls.discard(call)
        error = None if call.cancelled() else call.exception()
        answers = [error] * len(parts) if call.cancelled() or error else call.result()
        for part, answer in zip(parts, answers, strict=True):
            if part.answer.done():
                continue
            if answer is None:
                part.answer.cancel()
            elif isinstance(answer, BaseException):
                part.answer.set_exception(answer)
            else:
                part.answer.set_result(answer)
        self._send_on()
