"""The whole request path in one process: histories to ranked lists.

The serving graph wraps these steps and batch recommendation calls them: all three give the same
ids and scores, because there is one implementation.

Shapes: B users, L events, V items, Q queries, D width, C candidates, k places.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.artifacts import read_artifact
from rec.data.events import Event
from rec.data.sequences import Sequences
from rec.errors import ArtifactError, ConfigError, DataError
from rec.models.batches import history_batch
from rec.models.sequence_model import SequenceModel
from rec.ranking.index import ExactIndex
from rec.ranking.penalties import popularity_penalty
from rec.ranking.release import ReleaseFiles, read_release_files
from rec.ranking.requests import RankedItem, RankedList, Request

_USER_BLOCK = 512
"""Users of one forward pass: larger ones gain nothing on a CPU and cost memory."""
MISSING_QUERIES = "query_embeddings_missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedBatch:
    """Hold the lists of many users; empty places have item 0.

    Attributes:
        items: int64 ``(B, k)`` item indexes.
        scores: float32 ``(B, k)``, falling along k.
        relevance: float32 ``(B, k)``, cosine, or for users without events the popularity in 0..1.
        penalty: float32 ``(B, k)``, standardised popularity.
        is_cold: bool ``(B,)``, the list comes from popularity alone.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    relevance: NDArray[np.float32]
    penalty: NDArray[np.float32]
    is_cold: NDArray[np.bool_]


class Recommender:
    """Answer requests from one release."""

    def __init__(self, files: ReleaseFiles, *, release: str) -> None:
        self.release = release
        self.files = files
        self.ranking = files.ranking
        self.pseudonymized = files.is_pseudonymized
        self.encoder_spec: Mapping[str, Any] = files.encoder
        self.history_length = files.model.config.max_length
        self.item_ids: list[str] = files.items["item_id"].to_list()
        self._titles: list[str] = files.items["title"].to_list()
        self._index_of = {item_id: place + 1 for place, item_id in enumerate(self.item_ids)}
        self._type_codes = {name: code for code, name in enumerate(files.event_type_names)}
        self._index = ExactIndex(files.embeddings)
        by_index = files.counts.sort("item_index")
        counts = by_index["count"].to_numpy()
        self._penalty = torch.from_numpy(popularity_penalty(counts))  # (V,)
        self._popularity = torch.from_numpy(by_index["cold_score"].to_numpy().copy())  # (V,)
        self._filters: dict[tuple[str, str], NDArray[np.bool_]] = {}

    @classmethod
    def load(cls, release: Path, *, verify: bool = True) -> "Recommender":
        """Return the recommender of a release (or index) folder.

        Raises:
            ArtifactError: the folder is incomplete, or a file's sha256 differs.
        """
        artifact = read_artifact(release, verify=verify)
        return cls(read_release_files(release), release=artifact.name)

    def has_item(self, item_id: str) -> bool:
        """Return whether the catalog has an item."""
        return item_id in self._index_of

    def recommend(self, requests: Sequence[Request]) -> list[RankedList]:
        """Return one list per request, in order.

        Raises:
            ConfigError: a k or a penalty weight out of range.
            DataError: a filter names an unknown attribute.
        """
        if not requests:
            return []
        for request in requests:
            _check(request)
        histories, queries, missing = self._sequences(requests)
        k = max(request.k for request in requests)
        excluded = [
            (row, self._index_of[item_id])
            for row, request in enumerate(requests)
            for item_id in request.exclude
            if item_id in self._index_of
        ]
        seen = [
            self.ranking.exclude_seen if request.exclude_seen is None else request.exclude_seen
            for request in requests
        ]
        weights = [
            self.ranking.penalty_weight
            if request.penalty_weight is None
            else request.penalty_weight
            for request in requests
        ]
        ranked = self.rank(
            histories,
            k=k,
            query_embeddings=queries,
            exclude_seen=np.asarray(seen),
            penalty_weight=np.asarray(weights, dtype=np.float32),
            excluded=np.asarray(excluded, dtype=np.int64).reshape(-1, 2).T,
            allowed=self._allowed(requests),
        )
        return [
            self._list(ranked, row, k=request.k, is_degraded=row in missing)
            for row, request in enumerate(requests)
        ]

    @torch.inference_mode()
    def rank(
        self,
        histories: Sequences,
        *,
        k: int,
        query_embeddings: NDArray[np.float32] | None = None,
        exclude_seen: NDArray[np.bool_] | bool | None = None,
        penalty_weight: NDArray[np.float32] | float | None = None,
        excluded: NDArray[np.int64] | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> RankedBatch:
        """Return the lists of all histories.

        Args:
            histories: sequences over this release's items and event types.
            k: places of each list.
            query_embeddings: float32 ``(Q, D_text)`` of ``histories.queries``.
            exclude_seen: per user or for all; the release's choice if absent.
            penalty_weight: lambda, per user or for all; the release's choice if absent.
            excluded: int64 ``(2, X)``, pairs of row and item index.
            allowed: bool ``(V,)`` or ``(B, V)``.
        """
        num_users = histories.num_users
        hides = self.ranking.exclude_seen if exclude_seen is None else exclude_seen
        hides_seen = np.broadcast_to(hides, num_users)
        weight = self.ranking.penalty_weight if penalty_weight is None else penalty_weight
        weights = torch.from_numpy(np.broadcast_to(weight, num_users).astype(np.float32))
        pairs = [np.zeros((2, 0), dtype=np.int64)] if excluded is None else [excluded]
        rows = histories.rows()
        is_hidden = histories.is_item & hides_seen[rows]
        pairs.append(np.stack([rows[is_hidden], histories.tokens[is_hidden].astype(np.int64)]))
        hidden = torch.from_numpy(np.concatenate(pairs, axis=1))
        mask = None if allowed is None else torch.from_numpy(allowed)
        is_cold = histories.lengths == 0
        num_candidates = max(k, self.ranking.num_candidates)
        users = self.embed_users(histories, query_embeddings=query_embeddings)
        found, relevance = self._index.search(
            users, k=num_candidates, excluded=hidden, allowed=mask
        )
        cold = torch.from_numpy(is_cold)
        if bool(cold.any()):
            popular, share = self._popular(hidden, mask, rows=cold, k=num_candidates)
            found[cold], relevance[cold] = popular, share
        penalty = torch.where(found > 0, self._penalty[(found - 1).clamp(min=0)], 0.0)
        scores = relevance - weights.unsqueeze(1) * penalty
        # Stable, so that equal scores keep the order of retrieval.
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        picked = [value.gather(1, order) for value in (found, scores, relevance, penalty)]
        short = k - picked[0].shape[1]
        items, scores, relevance, penalty = (
            torch.nn.functional.pad(value, (0, short)) if short > 0 else value for value in picked
        )
        return RankedBatch(
            items=items.numpy(),
            scores=scores.numpy(),
            relevance=relevance.numpy(),
            penalty=penalty.numpy(),
            is_cold=is_cold,
        )

    def embed_users(
        self, histories: Sequences, *, query_embeddings: NDArray[np.float32] | None = None
    ) -> Tensor:
        """Return e_u, float32 ``(B, D)``; zeros for a user without events."""
        return embed_histories(
            self.files.model,
            histories,
            items=self.files.embeddings,
            query_embeddings=query_embeddings,
        )

    def similar(self, item_id: str, *, k: int) -> RankedList:
        """Return the items nearest to one item in the towers' space.

        Raises:
            DataError: the catalog has no such item.
        """
        if item_id not in self._index_of:
            raise DataError(f"expected an item of the catalog, got {item_id!r}")
        place = self._index_of[item_id]
        found, scores = self._index.search(
            self.files.embeddings[place - 1 : place], k=k, excluded=torch.tensor([[0], [place]])
        )
        items = tuple(
            RankedItem(
                item_id=self.item_ids[item - 1],
                title=self._titles[item - 1],
                position=position,
                score=score,
                source="similar",
                propensity=1.0,
                terms={"relevance": score},
            )
            for position, (item, score) in enumerate(
                zip(found[0].tolist(), scores[0].tolist(), strict=True), start=1
            )
            if item > 0
        )
        return RankedList(items=items)

    def _sequences(
        self, requests: Sequence[Request]
    ) -> tuple[Sequences, NDArray[np.float32], set[int]]:
        """Return the histories as sequences, their queries' embeddings, and rows lacking some."""
        queries: dict[str, NDArray[np.float32]] = {}
        for request in requests:
            queries.update(request.query_embeddings)
        names = list(queries)
        places = {name: len(self.item_ids) + 1 + place for place, name in enumerate(names)}
        tokens: list[int] = []
        stamps: list[int] = []
        types: list[int] = []
        lengths: list[int] = []
        missing: set[int] = set()
        for row, request in enumerate(requests):
            before = len(tokens)
            for event in request.history:
                token = self._token(event, places)
                if token is None:
                    if event.item_id is None:
                        missing.add(row)
                    continue
                tokens.append(token)
                stamps.append(event.timestamp_ms)
                types.append(self._type_codes.get(event.event_type, -1))
            lengths.append(len(tokens) - before)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        sequences = Sequences(
            user_ids=[str(row) for row in range(len(requests))],
            offsets=offsets.astype(np.int64),
            tokens=np.asarray(tokens, dtype=np.int32),
            timestamps_ms=np.asarray(stamps, dtype=np.int64),
            event_types=np.asarray(types, dtype=np.int16),
            event_type_names=tuple(self.files.event_type_names),
            num_items=len(self.item_ids),
            queries=tuple(names),
        )
        width = self.files.text.shape[1]
        table = np.stack([*queries.values()]) if queries else np.zeros((0, width), np.float32)
        return sequences, table.astype(np.float32), missing

    def _token(self, event: Event, queries: Mapping[str, int]) -> int | None:
        if event.item_id is not None:
            return self._index_of.get(event.item_id)
        return queries.get(event.query or "")

    def _allowed(self, requests: Sequence[Request]) -> NDArray[np.bool_] | None:
        if not any(request.filters for request in requests):
            return None
        mask = np.ones((len(requests), len(self.item_ids)), dtype=np.bool_)
        for row, request in enumerate(requests):
            for name, values in request.filters.items():
                matches = [self._matches(name, value) for value in values]
                mask[row] &= np.logical_or.reduce(matches) if matches else False
        return mask

    def _matches(self, name: str, value: str) -> NDArray[np.bool_]:
        """Return which items have a value in an attribute, bool ``(V,)``; remembered."""
        key = (name, value)
        if key not in self._filters:
            items = self.files.items
            known = [c for c in items.columns if c != "item_index"]
            if name not in known:
                raise DataError(f"unknown filter {name!r}, the items have {', '.join(known)}")
            column = items[name]
            if isinstance(column.dtype, pl.List):
                hit = column.cast(pl.List(pl.String)).list.contains(value)
            else:
                hit = column.cast(pl.String) == value
            if len(self._filters) > 1000:
                self._filters.clear()
            self._filters[key] = hit.fill_null(False).to_numpy()
        return self._filters[key]

    def _popular(
        self, excluded: Tensor, allowed: Tensor | None, *, rows: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """Return the most popular allowed items of the users where ``rows`` holds."""
        users = torch.flatten(torch.nonzero(rows))
        scores = self._popularity.expand(len(users), -1).clone()
        if allowed is not None:
            mask = allowed[rows] if allowed.dim() == 2 else allowed
            scores = scores.masked_fill(~mask, float("-inf"))
        place = torch.full((len(rows),), -1, dtype=torch.int64)
        place[users] = torch.arange(len(users))
        mine = place[excluded[0]] >= 0
        scores[place[excluded[0][mine]], excluded[1][mine] - 1] = float("-inf")
        best, picks = scores.topk(min(k, scores.shape[1]), dim=1)
        return torch.where(best.isfinite(), picks + 1, 0), best

    def _list(self, ranked: RankedBatch, row: int, *, k: int, is_degraded: bool) -> RankedList:
        source = "popularity" if ranked.is_cold[row] else "sequence"
        items = tuple(
            RankedItem(
                item_id=self.item_ids[item - 1],
                title=self._titles[item - 1],
                position=place + 1,
                score=float(ranked.scores[row, place]),
                source=source,
                propensity=1.0,
                terms={
                    "relevance": float(ranked.relevance[row, place]),
                    "popularity_penalty": float(ranked.penalty[row, place]),
                },
            )
            for place, item in enumerate(ranked.items[row, :k].tolist())
            if item > 0
        )
        return RankedList(items=items, degraded=(MISSING_QUERIES,) if is_degraded else ())


@torch.inference_mode()
def embed_histories(
    model: SequenceModel,
    histories: Sequences,
    *,
    items: Tensor,
    query_embeddings: NDArray[np.float32] | None = None,
) -> Tensor:
    """Return e_u of each history, float32 ``(B, D)``; zeros for a user without events.

    Args:
        model: the towers, in evaluation mode.
        histories: any lengths; the newest ``max_length`` events are read.
        items: float32 ``(V, D)``, e_i of the catalog.
        query_embeddings: float32 ``(Q, D_text)`` of ``histories.queries``.
    """
    width = items.shape[1]
    queries = torch.zeros((0, width))
    if query_embeddings is not None and len(query_embeddings):
        queries = model.items.embed_text(torch.from_numpy(query_embeddings))
    table = torch.cat([torch.zeros((1, width)), items, queries])
    users = torch.zeros((histories.num_users, width))
    # Users of like length share a batch: padding is work.
    order = np.argsort(histories.lengths, kind="stable")
    for start in range(0, len(order), _USER_BLOCK):
        rows = order[start : start + _USER_BLOCK]
        batch = history_batch(histories.select_users(rows), max_length=model.config.max_length)
        tokens = torch.from_numpy(batch.tokens)
        states = model.encode(
            table[tokens],
            tokens > 0,
            torch.from_numpy(batch.timestamps_s),
            torch.from_numpy(batch.event_types),
        )  # (B, L, D)
        users[torch.from_numpy(rows)] = states[:, -1]
    users[torch.from_numpy(histories.lengths == 0)] = 0.0
    return users


def _check(request: Request) -> None:
    if request.k < 1:
        raise ConfigError(f"k must be >= 1, got {request.k}")
    if request.penalty_weight is not None and not request.penalty_weight >= 0:
        raise ConfigError(f"penalty_weight must be >= 0, got {request.penalty_weight}")


def load_current(workspace: Path) -> Recommender:
    """Return the recommender of the promoted release of a workspace.

    Raises:
        ArtifactError: nothing has been promoted, or the release is damaged.
    """
    return Recommender.load(current_release(workspace))


def current_release(workspace: Path) -> Path:
    """Return the folder of the promoted release.

    Raises:
        ArtifactError: nothing has been promoted.
    """
    pointer = workspace / "current"
    if not pointer.is_file():
        raise ArtifactError(
            f"expected a promoted release in {workspace}, found none: "
            f"run `python -m jobs.promote RECIPE --workspace {workspace}` first"
        )
    name = json.loads(pointer.read_text(encoding="utf-8"))["release"]
    return workspace / "releases" / str(name)
