"""What a gateway replica holds: its release, the files it opens, the deployments it calls.

Stateless but for those files: any replica answers any request. It loads no model.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, HTTPException, Request

from cluster.resources import LISTS_PER_CALL
from cluster.serve.calls import DEADLINE_S, RETRY_AFTER_S, SILENT_S, Upstream
from cluster.serve.gathering import Gatherer
from cluster.serve.histories import HISTORY_EVENTS, fill_histories
from cluster.serve.keys import KeyRing
from cluster.serve.live_items import LiveCatalogIds, LiveItems
from cluster.serve.log_care import LogCare
from cluster.serve.metrics import Metrics, shared_folder
from cluster.serve.served_release import ServedRelease
from cluster.serve.served_releases import ServedReleases
from cluster.serve.tracing import outgoing
from cluster.serve.wire import PlainList, pack, ranked
from rec.data.events import Event, Impression
from rec.data.privacy import load_or_create_key, pseudonym
from rec.ranking import requests as asking
from rec.ranking.feedback.group_commit import GroupCommit
from rec.ranking.feedback.log_mending import Mended
from rec.ranking.feedback.stores import LOG_ERRORS, open_feedback
from rec.stages.erasure_request import Eraser
from rec.stages.mending import mend_feedback_in_use
from rec.stages.preparation import KEY_FILE

ENCODE_WITHIN_S = 1.0
"""A list without the queries in time is better than one with them too late."""
LOG_WITHIN_S = 0.25
"""Many times what a commit takes; a list later than this would be worse than an unlogged one."""
MAX_HELD = 256
"""Lists that one replica asks the rankers for at once: several times what it takes on."""
_REASONS = {
    sqlite3.SQLITE_FULL: "its disk is full, free some space",
    sqlite3.SQLITE_READONLY: "its disk is read-only",
    sqlite3.SQLITE_CORRUPT: "its file is damaged and is being mended",
    sqlite3.SQLITE_NOTADB: "its file is damaged and is mended when the service starts anew",
    sqlite3.SQLITE_BUSY: "another process holds it, perhaps to mend it",
}
_log = logging.getLogger(__name__)


class Ranked(NamedTuple):
    """Hold a list and the one release that it is of."""

    release: str
    items: Sequence[asking.RankedItem]
    degraded: Sequence[str]


class GatewayState:
    """Hold and do what the routes share."""

    def __init__(self, encoder: Any, ranker: Any, *, workspace: Path, release: Path) -> None:
        self.encoder = encoder
        self.ranker = ranker
        # Kept: a handle's attribute is another handle each time, a tenth of the gateway's work.
        self._encode, self._recommend = encoder.encode, ranker.recommend
        self._recommend_each = ranker.recommend_each
        self._lists = Gatherer[tuple[bytes, str | None, str | None], PlainList](
            lambda asked: self._recommend_each.remote(asked),
            max_size=LISTS_PER_CALL,
            max_held=MAX_HELD,
        )
        self.workspace = workspace
        self.releases = ServedReleases(workspace, release)
        self.fingerprint = self.releases.fingerprint
        self.keys = KeyRing(workspace)
        self._pseudonym_key = (
            load_or_create_key(workspace / KEY_FILE) if self.release.is_pseudonymized else None
        )
        feedback = open_feedback(workspace)
        self.log, self.history, self.changes = feedback.log, feedback.history, feedback.changes
        self._live_items = LiveItems(self.changes)
        self.commits = GroupCommit(self.log)
        self.eraser = Eraser(workspace)
        self.encoder_calls = Upstream("encoder")
        self.ranker_calls = Upstream("ranker", silent_s=SILENT_S)
        # Apart: a summary that is late must not make a list come from elsewhere.
        self.text_calls = Upstream("ranker (summaries)")
        self.metrics = Metrics(shared_folder(workspace))
        self.log_care = LogCare(self._mend_log, count=self.metrics.count_damage)
        self.is_ready = False
        self._background: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Stop following and close the files."""
        self.releases.close()
        self.eraser.close()
        self.log.close()

    def _mend_log(self) -> Mended | None:
        release = self.workspace / "releases" / self.release.name
        return mend_feedback_in_use(
            self.workspace, fill=lambda log: fill_histories(log, self.workspace, release)
        )

    @property
    def release(self) -> ServedRelease:
        """Return the promoted release."""
        return self.releases.promoted

    def known_items(self) -> LiveCatalogIds:
        """Return the ids of the items that there are now."""
        return self._live_items.over(self.releases.item_ids)

    def stored_id(self, user_id: str) -> str:
        """Return the id under which a user is stored."""
        return user_id if self._pseudonym_key is None else pseudonym(user_id, self._pseudonym_key)

    async def encode(self, texts: Sequence[str], *, deadline_s: float = ENCODE_WITHIN_S) -> Any:
        """Return the embeddings of texts, float32 ``(N, D_text)``; raises as ``Upstream.call``."""
        wanted = list(texts)
        return await self.encoder_calls.call(
            lambda: self._encode.remote(wanted, outgoing()), deadline_s=deadline_s
        )

    async def rank(
        self,
        request: asking.Request,
        *,
        release: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Ranked:
        """Return the ranker's list and its release; raises as ``ask_ranker``.

        Args:
            request: what is asked.
            release: the one that shall answer; where a replica has not got it, the promoted one.
            deadline_s: for all tries together.
        """
        packed = pack(request)
        if request.explain:
            # Alone: its neighbours must not wait for a language model.
            return await self.ask_ranker(
                lambda: self._recommend.remote(packed, release, outgoing()), deadline_s=deadline_s
            )
        return await self.ask_ranker(
            lambda: self._lists.remote((packed, release, outgoing())), deadline_s=deadline_s
        )

    async def ask_ranker(
        self, send: Callable[[], Any], *, deadline_s: float = DEADLINE_S
    ) -> Ranked:
        """Return the ranker's list and its release.

        Around a promotion it may be the one before or the one after this replica's own: the whole
        list is of the release that it names. One that cannot be read here is asked for once more.

        Raises:
            HTTPException: 503 where queues are full or the release is unknown, 504 past the
                deadline.
            RecError: the ranker refused the request.
            UnavailableError: no replica answers.
        """
        for _ in range(2):
            name, answer = ranked(await self.ranker_calls.call(send, deadline_s=deadline_s))
            if self.releases.has(name) or await asyncio.to_thread(self.releases.knows, name):
                return Ranked(release=name, items=answer.items, degraded=answer.degraded)
        raise retry_later("a new release is being rolled out")

    async def read_history(self, user_id: str | None, inline: Sequence[Event]) -> list[Event]:
        """Return what is held of a user and what came along, oldest first.

        Raises:
            One of ``LOG_ERRORS``: the history cannot be read.
        """
        events: list[Event] = []
        if user_id is not None:
            events = await asyncio.to_thread(self.history.history, user_id, limit=HISTORY_EVENTS)
        return sorted([*events, *inline], key=lambda event: event.timestamp_ms)

    async def log_impression(self, impression: Impression) -> bool:
        """Return whether an impression is durable; a disk that is slow or broken costs no list."""
        task = asyncio.create_task(self.commits.append_impressions([impression]))
        # A late write is finished all the same, and its error is read by the callback.
        self._background.add(task)
        task.add_done_callback(self._finish_log)
        try:
            await asyncio.wait_for(asyncio.shield(task), LOG_WITHIN_S)
        except TimeoutError:
            return False
        except LOG_ERRORS as error:
            self.log_care.notice(error)
            return False
        return True

    def count_followed(self, events: Sequence[Event]) -> None:
        """Count events that name an impression by its release, behind the answer."""
        named = [event.impression_id for event in events if event.impression_id]
        if named:
            task = asyncio.create_task(asyncio.to_thread(self._count_followed, named))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _count_followed(self, impression_ids: Sequence[str]) -> None:
        try:
            found = self.log.count_releases(impression_ids)
        except LOG_ERRORS as error:
            self.log_care.notice(error)
            _log.warning("the releases of %d impressions cannot be read", len(impression_ids))
            return
        for release, number in found.items():
            self.metrics.count_clicks(release, number)

    def not_stored(self, error: Exception) -> HTTPException:
        """Return a 503 that says why the event log has not taken something."""
        self.log_care.notice(error)
        number = error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) else 0
        reason = _REASONS.get(number, "see the server's log")
        return retry_later(
            f"the event log cannot write ({reason}): nothing is acknowledged, send the same again "
            "later, it counts once"
        )

    async def settle(self) -> None:
        """Wait for what goes on behind the answers."""
        await asyncio.gather(*self._background)

    def _finish_log(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("an impression was not logged", exc_info=task.exception())


async def _of_request(request: Request) -> GatewayState:
    state: GatewayState = request.app.state.gateway
    return state


State = Annotated[GatewayState, Depends(_of_request)]
"""A route's parameter of this type is the replica's state."""


def retry_later(detail: str) -> HTTPException:
    """Return a 503 that says when to come again."""
    return HTTPException(503, detail, {"Retry-After": str(RETRY_AFTER_S)})
