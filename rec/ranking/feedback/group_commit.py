"""Group commit: many callers, one disk flush.

A flush costs milliseconds whatever it holds. While one runs, the writes of all other callers
gather, and the next one takes them together; a lone caller never waits for company.
"""

import asyncio
from collections.abc import Sequence

from rec.data.events import Event, Impression
from rec.ranking.feedback.event_log import Appended, Write
from rec.ranking.feedback.stores import Log

_MAX_GROUP_EVENTS = 5_000
"""Bounds how long one transaction holds the write lock (about 0.3 s)."""


class GroupCommit:
    """Append to an event log from one event loop; every caller awaits its own durability."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: list[tuple[Write, asyncio.Future[Appended]]] = []
        self._worker: asyncio.Task[None] | None = None
        self.num_commits = 0

    async def append(self, events: Sequence[Event]) -> Appended:
        """Return once the events are durable.

        Raises:
            One of ``LOG_ERRORS``: the group could not be committed; none of it is stored.
        """
        return await self._commit(Write(events=events))

    async def append_impressions(self, impressions: Sequence[Impression]) -> None:
        """Return once the impressions are durable; raises as ``append`` does."""
        await self._commit(Write(impressions=impressions))

    async def _commit(self, write: Write) -> Appended:
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while group := self._take_group():
            try:
                counts = await asyncio.to_thread(self._log.commit, [write for write, _ in group])
            except BaseException as error:
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            self.num_commits += 1
            for (_, future), count in zip(group, counts, strict=True):
                # Who gave up has cancelled the future; the events are stored all the same.
                if not future.done():
                    future.set_result(count)

    def _take_group(self) -> list[tuple[Write, asyncio.Future[Appended]]]:
        num_events = 0
        for place, (write, _) in enumerate(self._waiting):
            num_events += len(write.events)
            if place and num_events > _MAX_GROUP_EVENTS:
                group, self._waiting = self._waiting[:place], self._waiting[place:]
                return group
        group, self._waiting = self._waiting, []
        return group
