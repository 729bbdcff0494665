"""Requests to arrays: the histories of a batch as sequences over a release's items.

Shapes: B requests, Q queries, X excluded pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.events import Event
from rec.data.sequences import Sequences
from rec.errors import ConfigError, DataError
from rec.ranking.release import check_weight
from rec.ranking.requests import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestBatch:
    """Hold what a batch of requests asks of.

    Attributes:
        histories: B sequences; events on unknown items are left out.
        query_embeddings: float32 ``(Q, D_text)`` of ``histories.queries``.
        excluded: int64 ``(2, X)``, pairs of row and item index.
        shown: int64 ``(3, X)``: row, item index, times shown and not taken.
        lacks_queries: rows of which a query came without its embedding.
    """

    histories: Sequences
    query_embeddings: NDArray[np.float32]
    excluded: NDArray[np.int64]
    shown: NDArray[np.int64]
    lacks_queries: frozenset[int]


class RequestReader:
    """Know a release's ids, so that requests become numbers."""

    def __init__(
        self, index_of: Mapping[str, int], *, event_type_names: Sequence[str], text_width: int
    ) -> None:
        self._index_of = index_of
        self._event_type_names = tuple(event_type_names)
        self._type_codes = {name: code for code, name in enumerate(event_type_names)}
        self._text_width = text_width

    def read(self, requests: Sequence[Request]) -> RequestBatch:
        """Return a batch.

        Raises:
            ConfigError: a number out of range.
            DataError: a query's embedding is of another encoder, or holds NaN.
        """
        for request in requests:
            _check(request)
            self._check_queries(request)
        queries: dict[str, NDArray[np.float32]] = {}
        for request in requests:
            queries.update(request.query_embeddings)
        places = {name: len(self._index_of) + 1 + place for place, name in enumerate(queries)}
        read: list[tuple[int, int, int]] = []  # token, time, type
        ends = [0]
        lacking: set[int] = set()
        for row, request in enumerate(requests):
            found = self._events(request.history, places)
            read += found
            ends.append(len(read))
            if len(found) < len(request.history) and any(
                event.item_id is None and (event.query or "") not in places
                for event in request.history
            ):
                lacking.add(row)
        tokens, stamps, types = zip(*read, strict=True) if read else ((), (), ())
        excluded = [
            (row, self._index_of[item_id])
            for row, request in enumerate(requests)
            for item_id in request.exclude
            if item_id in self._index_of
        ]
        shown = [
            (row, self._index_of[item_id], times)
            for row, request in enumerate(requests)
            for item_id, times in request.shown.items()
            if item_id in self._index_of
        ]
        vectors = [*queries.values()]
        empty = np.zeros((0, self._text_width), dtype=np.float32)
        return RequestBatch(
            histories=Sequences(
                user_ids=[str(row) for row in range(len(requests))],
                offsets=np.asarray(ends, dtype=np.int64),
                tokens=np.asarray(tokens, dtype=np.int32),
                timestamps_ms=np.asarray(stamps, dtype=np.int64),
                event_types=np.asarray(types, dtype=np.int16),
                event_type_names=self._event_type_names,
                num_items=len(self._index_of),
                queries=tuple(queries),
            ),
            query_embeddings=np.stack(vectors).astype(np.float32) if vectors else empty,
            excluded=np.asarray(excluded, dtype=np.int64).reshape(-1, 2).T,
            shown=np.asarray(shown, dtype=np.int64).reshape(-1, 3).T,
            lacks_queries=frozenset(lacking),
        )

    def _check_queries(self, request: Request) -> None:
        for query, row in request.query_embeddings.items():
            if row.shape != (self._text_width,) or not np.isfinite(row).all():
                raise DataError(
                    f"expected {self._text_width} finite numbers as the embedding of {query!r}, "
                    f"got shape {row.shape}: embed it with the release's encoder"
                )

    def _events(
        self, history: Sequence[Event], queries: Mapping[str, int]
    ) -> list[tuple[int, int, int]]:
        """Return token, time and type of the events that this release knows.

        In one expression: a list's history may be a thousand events long.
        """
        index_of, codes = self._index_of.get, self._type_codes.get
        return [
            (token, event.timestamp_ms, codes(event.event_type, -1))
            for event in history
            if (
                token := index_of(event.item_id)
                if event.item_id is not None
                else queries.get(event.query or "")
            )
        ]


def _check(request: Request) -> None:
    if request.k < 1:
        raise ConfigError(f"k must be >= 1, got {request.k}")
    if request.penalty_weight is not None:
        check_weight("penalty_weight", request.penalty_weight)
    for name in ("diversity", "exploration"):
        value = getattr(request, name)
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name} must be in [0, 1], got {value}")
    if request.seed < 0:
        raise ConfigError(f"seed must be >= 0, got {request.seed}")
