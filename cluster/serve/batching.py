"""Batches without waiting: what comes while one batch runs is the next one.

``serve.batch`` waits a fixed time for company, which a lone caller pays and nobody gains: where
there is load, company gathers behind the batch that runs.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Answer requests of one event loop in batches, one batch at a time, in a thread."""

    def __init__(self, answer: Callable[[Sequence[T]], Sequence[R]], *, max_size: int) -> None:
        """Hold what answers.

        Args:
            answer: returns one answer for each request, in order; runs in a thread.
            max_size: requests of one batch.
        """
        self._answer = answer
        self._max_size = max_size
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, request: T) -> R:
        """Return the answer to a request; who gives up before its batch begins is left out.

        Raises:
            Exception: whatever the batch has raised, for each of its callers.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while batch := self._take():
            futures = [future for _, future in batch]
            try:
                answers = await asyncio.to_thread(self._answer, [asked for asked, _ in batch])
                pairs = list(zip(futures, answers, strict=True))
            except BaseException as error:
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for future, answer in pairs:
                if not future.done():
                    future.set_result(answer)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._max_size:
            asked = self._waiting.popleft()
            if not asked[1].done():
                batch.append(asked)
        return batch
