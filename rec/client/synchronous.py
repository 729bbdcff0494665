"""The synchronous client."""

import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from rec.client import calls
from rec.client.results import EventsReceipt, ItemList, ItemReceipt, Release
from rec.client.retrying import RetryConfig
from rec.client.sending import outcome, wanted_pause_s

T = TypeVar("T")
TIMEOUT_S = 10.0
"""For one try: twice the service's own deadline."""


class Client:
    """Ask one service; hold its connections. Use it in a ``with`` block, or close it."""

    def __init__(
        self,
        url: str,
        *,
        key: str,
        timeout_s: float = TIMEOUT_S,
        retries: RetryConfig | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect lazily: nothing is sent before the first call.

        Args:
            url: of the service, such as ``http://127.0.0.1:8000``.
            key: an API key.
            timeout_s: for one try, to connect and to answer.
            retries: how patient to be; ``None`` takes the defaults.
            transport: another way to send, such as a proxy or an application in this process.
        """
        self._retries = retries or RetryConfig()
        self._generator = random.Random(self._retries.seed)
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout_s,
            transport=transport,
        )

    def recommend(
        self,
        user_id: str | None = None,
        *,
        k: int = 10,
        events: Sequence[Mapping[str, Any]] = (),
        filters: Mapping[str, Sequence[str] | Mapping[str, object]] | None = None,
        exclude: Sequence[str] = (),
        exclude_seen: bool | None = None,
        penalty_weight: float | None = None,
        diversity: float | None = None,
        explain: bool = False,
    ) -> ItemList:
        """Return a list for a user, for inline events, or for both; ``None`` follows the release.

        Raises:
            ProblemError: the service refused, at the last try too.
            UnreachableError: no answer came, at the last try too.
        """
        call = calls.recommend(
            user_id,
            k=k,
            events=list(events),
            filters=dict(filters or {}),
            exclude=list(exclude),
            exclude_seen=exclude_seen,
            penalty_weight=penalty_weight,
            diversity=diversity,
            explain=explain or None,
        )
        return self._ask(call)

    def send_events(self, events: Sequence[calls.Event]) -> EventsReceipt:
        """Store 1 to 1000 events; they are on disk when this returns, each counted once.

        Raises:
            ProblemError, UnreachableError: as ``recommend``. Whether they were stored is then
                unknown; sending them again under the same ``event_id`` is safe.
        """
        return self._ask(calls.send_events(events))

    def search(self, query: str, *, user_id: str | None = None, k: int = 10) -> ItemList:
        """Return the items that a text describes, those nearer to the user first."""
        return self._ask(calls.search(query, user_id=user_id, k=k))

    def similar(self, item_id: str, *, k: int = 10) -> ItemList:
        """Return the items nearest to one item."""
        return self._ask(calls.similar(item_id, k=k))

    def put_item(self, item_id: str, fields: Mapping[str, Any]) -> ItemReceipt:
        """Add an item or replace it whole: ``title``, ``text``, ``category``, attributes."""
        return self._ask(calls.put_item(item_id, fields))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the embeddings of 1 to 2048 texts."""
        return self._ask(calls.embed(texts))

    def release(self) -> Release:
        """Return which release answers."""
        return self._ask(calls.release())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, call: calls.Call[T]) -> T:
        for tries in range(1, self._retries.max_tries + 1):
            answer: httpx.Response | httpx.TransportError
            try:
                answer = self._http.request(call.method, call.path, json=call.body)
            except httpx.TransportError as error:
                answer = error
            pause = wanted_pause_s(answer, tries, config=self._retries, generator=self._generator)
            if pause is None:
                return call.read(outcome(answer))
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")
