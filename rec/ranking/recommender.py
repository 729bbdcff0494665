"""The whole request path in one process: histories to ranked lists.

The serving graph wraps these steps and batch recommendation calls them: all three give the same
ids and scores, because there is one implementation. With a ranker, candidates of all sources are
ordered by calibrated log-odds; without one, the catalog is ordered by ``cos(e_u, e_i)`` and users
without events get what is popular. The penalty is subtracted from either.

Shapes: B users, V items, C candidates per user, D width, k places.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.artifacts import read_artifact
from rec.data.sequences import Sequences
from rec.errors import ArtifactError, DataError
from rec.models.inference import embed_histories
from rec.ranking.features import SOURCES
from rec.ranking.filters import Filters
from rec.ranking.index import ExactIndex
from rec.ranking.penalties import popularity_penalty
from rec.ranking.reading import RequestReader
from rec.ranking.release import ReleaseFiles, read_release_files
from rec.ranking.requests import RankedItem, RankedList, Request, SearchRequest
from rec.ranking.retrieval import CandidateFinder
from rec.ranking.searching import TextSearch

MISSING_QUERIES = "query_embeddings_missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedBatch:
    """Hold the lists of many users; empty places have item 0.

    Attributes:
        items: int64 ``(B, k)`` item indexes.
        scores: float32 ``(B, k)``, falling along k.
        relevance: float32 ``(B, k)``: the ranker's log-odds; without a ranker the cosine, and for
            users without events the popularity in 0..1.
        penalty: float32 ``(B, k)``, standardised popularity.
        sources: int8 ``(B, k)``, indexes into ``SOURCES``.
        is_cold: bool ``(B,)``, the user has no events.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    relevance: NDArray[np.float32]
    penalty: NDArray[np.float32]
    sources: NDArray[np.int8]
    is_cold: NDArray[np.bool_]


class Recommender:
    """Answer requests from one release."""

    def __init__(self, files: ReleaseFiles, *, release: str) -> None:
        self.release = release
        self.files = files
        self.ranking = files.ranking
        self.pseudonymized = files.is_pseudonymized
        self.encoder_spec: Mapping[str, Any] = files.encoder
        self.item_ids: list[str] = files.items["item_id"].to_list()
        self._titles: list[str] = files.items["title"].to_list()
        self._reader = RequestReader(
            self.item_ids,
            event_type_names=files.event_type_names,
            text_width=files.text.shape[1],
        )
        self._filters = Filters(files.items)
        self._index = ExactIndex(files.embeddings)
        self._finder = CandidateFinder(files, self._index)
        self._texts = TextSearch(text=files.text[1:], embeddings=files.embeddings)
        counts = files.counts.sort("item_index")["count"].to_numpy()
        self._penalty = torch.from_numpy(popularity_penalty(counts))  # (V,)

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
        place = self._reader.index_of.get(item_id)
        withdrawn = self.files.withdrawn
        return place is not None and (withdrawn is None or not withdrawn[place - 1])

    def recommend(self, requests: Sequence[Request]) -> list[RankedList]:
        """Return one list per request, in order.

        Raises:
            ConfigError: a k or a penalty weight out of range.
            DataError: a filter names an unknown attribute.
        """
        if not requests:
            return []
        batch = self._reader.read(requests)
        ranking = self.ranking
        ranked = self.rank(
            batch.histories,
            k=max(request.k for request in requests),
            query_embeddings=batch.query_embeddings,
            exclude_seen=np.asarray(
                [
                    ranking.exclude_seen if request.exclude_seen is None else request.exclude_seen
                    for request in requests
                ]
            ),
            penalty_weight=np.asarray(
                [
                    ranking.penalty_weight
                    if request.penalty_weight is None
                    else request.penalty_weight
                    for request in requests
                ],
                dtype=np.float32,
            ),
            excluded=batch.excluded,
            allowed=self._allowed(requests),
        )
        return [
            RankedList(
                items=self._items(ranked, row, k=request.k),
                degraded=(MISSING_QUERIES,) if row in batch.lacks_queries else (),
            )
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
        rows = histories.rows()
        is_hidden = histories.is_item & hides_seen[rows]
        pairs = [np.stack([rows[is_hidden], histories.tokens[is_hidden].astype(np.int64)])]
        if excluded is not None:
            pairs.append(excluded)
        hidden = np.concatenate(pairs, axis=1)
        users = self.embed_users(histories, query_embeddings=query_embeddings)
        found = self._finder.find(
            histories, users, k=k, hides_seen=hides_seen, hidden=hidden, allowed=allowed
        )
        penalty = torch.where(found.items > 0, self._penalty[(found.items - 1).clamp(min=0)], 0.0)
        scores = found.relevance - weights.unsqueeze(1) * penalty
        # Stable, so that equal scores keep the order of retrieval.
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]

        def cut(values: Tensor) -> NDArray[Any]:
            picked = values.gather(1, order)
            return torch.nn.functional.pad(picked, (0, k - order.shape[1])).numpy()

        return RankedBatch(
            items=cut(found.items),
            scores=cut(scores),
            relevance=cut(found.relevance),
            penalty=cut(penalty),
            sources=cut(found.sources),
            is_cold=histories.lengths == 0,
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
        if not self.has_item(item_id):
            raise DataError(f"expected an item of the catalog, got {item_id!r}")
        place = self._reader.index_of[item_id]
        withdrawn = self.files.withdrawn
        found, scores = self._index.search(
            self.files.embeddings[place - 1 : place],
            k=k,
            excluded=torch.tensor([[0], [place]]),
            allowed=None if withdrawn is None else torch.from_numpy(~withdrawn),
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

    @torch.inference_mode()
    def search(self, searches: Sequence[SearchRequest]) -> list[RankedList]:
        """Return the items that each text describes, those nearer to the user first.

        ``score = cos(text, text_i) + personal_weight * cos(e_u, e_i)``; a user without events adds
        nothing.

        Raises:
            ConfigError: a k or a weight out of range.
            DataError: a filter names an unknown attribute.
        """
        if not searches:
            return []
        requests = [search.request for search in searches]
        batch = self._reader.read(requests)
        histories = batch.histories
        rows = histories.rows()
        hides = np.asarray([request.exclude_seen is True for request in requests])
        is_hidden = histories.is_item & hides[rows]
        seen = np.stack([rows[is_hidden], histories.tokens[is_hidden].astype(np.int64)])
        found = self._texts.search(
            np.stack([search.text for search in searches]),
            self.embed_users(histories, query_embeddings=batch.query_embeddings),
            weights=np.asarray([search.personal_weight for search in searches], dtype=np.float32),
            k=max(request.k for request in requests),
            num_candidates=self.ranking.num_candidates,
            excluded=np.concatenate([batch.excluded, seen], axis=1),
            allowed=self._allowed(requests),
        )
        return [
            RankedList(
                items=tuple(
                    RankedItem(
                        item_id=self.item_ids[item - 1],
                        title=self._titles[item - 1],
                        position=place + 1,
                        score=float(found.scores[row, place]),
                        source="text",
                        propensity=1.0,
                        terms={
                            "text": float(found.text[row, place]),
                            "personal": float(found.personal[row, place]),
                        },
                    )
                    for place, item in enumerate(found.items[row, : request.k].tolist())
                    if item > 0
                ),
                degraded=(MISSING_QUERIES,) if row in batch.lacks_queries else (),
            )
            for row, request in enumerate(requests)
        ]

    def _allowed(self, requests: Sequence[Request]) -> NDArray[np.bool_] | None:
        """Return the items that filters, candidates and withdrawals leave, bool; ``None`` = all."""
        allowed = self._filters.allowed([request.filters for request in requests])
        if any(request.candidates is not None for request in requests):
            shape = (len(requests), len(self.item_ids))
            chosen = np.zeros(shape, dtype=np.bool_)
            index_of = self._reader.index_of
            for row, request in enumerate(requests):
                if request.candidates is None:
                    chosen[row] = True
                    continue
                known = [index_of[name] - 1 for name in request.candidates if name in index_of]
                chosen[row, known] = True
            allowed = chosen if allowed is None else allowed & chosen
        if self.files.withdrawn is not None:
            kept = ~self.files.withdrawn
            allowed = kept if allowed is None else allowed & kept
        return allowed

    def _items(self, ranked: RankedBatch, row: int, *, k: int) -> tuple[RankedItem, ...]:
        return tuple(
            RankedItem(
                item_id=self.item_ids[item - 1],
                title=self._titles[item - 1],
                position=place + 1,
                score=float(ranked.scores[row, place]),
                source=SOURCES[ranked.sources[row, place]],
                propensity=1.0,
                terms={
                    "relevance": float(ranked.relevance[row, place]),
                    "popularity_penalty": float(ranked.penalty[row, place]),
                },
            )
            for place, item in enumerate(ranked.items[row, :k].tolist())
            if item > 0
        )


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
