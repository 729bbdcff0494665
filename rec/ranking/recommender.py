"""The whole request path in one process: histories to ranked lists.

The serving graph wraps these steps and batch recommendation calls them: all three give the same
ids and scores, because there is one implementation. With a ranker, candidates of all sources are
ordered by calibrated log-odds; without one, the catalog is ordered by ``cos(e_u, e_i)`` and users
without events get what is popular. Weighted penalties are subtracted from either; then the list is
re-ranked as a whole, and its tail may be drawn.

Shapes: B users, V items, C candidates per user, D width, k places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.artifacts import read_artifact
from rec.data.events import Event
from rec.data.sequences import Sequences
from rec.errors import DataError
from rec.models.inference import embed_histories
from rec.models.segments import Profile, Segments
from rec.ranking.batches import Asked, RankedBatch, join_batches, pairs_of, pairs_with
from rec.ranking.explanations.explaining import Explainer
from rec.ranking.explanations.interests import Interests
from rec.ranking.explanations.narrating import Narrator
from rec.ranking.lists.composing import shortfall
from rec.ranking.lists.listing import ListMaker
from rec.ranking.lists.new_items import NewItems
from rec.ranking.lists.scoring import Scorer
from rec.ranking.naming import Names
from rec.ranking.reading import RequestReader
from rec.ranking.release import ReleaseFiles, read_release_files
from rec.ranking.requests import Language, RankedList, Request, SearchRequest
from rec.ranking.retrieval.candidates import CandidateFinder
from rec.ranking.retrieval.filters import Filters
from rec.ranking.retrieval.index import ExactIndex, ItemIndex
from rec.ranking.retrieval.searching import TextSearch

MISSING_QUERIES = "query_embeddings_missing"
PROFILE_UNKNOWN = "profile_unknown"
"""No value of the profile is one whose users were worth telling apart."""
EXPLORATION_OFF = "exploration_off"
"""The release draws nothing, although the request asked for it."""
_LEDGER_USERS = 16
"""Lists made before the ledgers of exposure are read again: few, or a whole batch over-corrects."""


class Recommender:
    """Answer requests from one release."""

    def __init__(
        self, files: ReleaseFiles, *, release: str, times_shown: NDArray[np.int64] | None = None
    ) -> None:
        """Hold a release.

        Args:
            files: its content.
            release: its name.
            times_shown: ``times_shown`` of the recommender that this one goes on for.
        """
        self.release = release
        self.files = files
        self.ranking = files.ranking
        self.pseudonymized = files.is_pseudonymized
        self.encoder_spec: Mapping[str, Any] = files.encoder
        self._names = Names(files.items)
        self.item_ids = self._names.item_ids
        self._reader = RequestReader(
            self._names.index_of,
            event_type_names=files.event_type_names,
            text_width=files.text.shape[1],
        )
        self._filters = Filters(
            files.items, index_of=self._names.index_of, withdrawn=files.withdrawn
        )
        self._index: ItemIndex = files.shards or files.index or ExactIndex(files.embeddings)
        self._finder = CandidateFinder(files, self._index)
        self._texts = TextSearch(text=files.text[1:], embeddings=files.embeddings)
        self._scorer = Scorer(files)
        self._segments = None
        if files.segments is not None:
            counts = files.counts.sort("item_index")["count"].to_numpy()
            self._segments = Segments(files.segments, num_items=len(counts), counts=counts)
        self._explainer = Explainer(files, self._finder)
        self._blocked = self._names.of_rule("blocked", self.ranking.blocked)
        self._new_items = _new_items(files, times_shown)
        self._lists = ListMaker(
            files,
            finder=self._finder,
            scorer=self._scorer,
            pinned=self._names.of_rule("pinned", self.ranking.pinned),
            blocked=self._blocked,
            new_items=self._new_items,
        )

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
        place = self._names.index_of.get(item_id)
        withdrawn = self.files.withdrawn
        return place is not None and (withdrawn is None or not withdrawn[place - 1])

    def recommend(
        self, requests: Sequence[Request], *, is_narrated: bool = True
    ) -> list[RankedList]:
        """Return one list per request, in order.

        Args:
            requests: what is asked.
            is_narrated: have explanations worded by the release's narrator, if it has one; whoever
                answers several at once does it one by one, by ``narrate``.

        Raises:
            ConfigError: a k or a penalty weight out of range.
            DataError: a filter names an unknown attribute.
        """
        if not requests:
            return []
        batch = self._reader.read(requests)
        ranking = self.ranking
        ks = np.asarray([request.k for request in requests], dtype=np.int64)
        ranked = self.rank(
            batch.histories,
            k=ks,
            query_embeddings=batch.query_embeddings,
            exclude_seen=_choices(requests, "exclude_seen", ranking.exclude_seen),
            penalty_weight=_choices(requests, "penalty_weight", ranking.penalty_weight),
            diversity=_choices(requests, "diversity", ranking.diversity),
            exploration=np.asarray(
                [
                    ranking.epsilon(asked=request.exploration, request_class=request.request_class)
                    for request in requests
                ]
            ),
            seeds=np.asarray([request.seed for request in requests], dtype=np.int64),
            shown=batch.shown,
            excluded=batch.excluded,
            allowed=self._filters.allowed(requests),
            profiles=[request.profile for request in requests],
            # Who names the candidates wants them in order, and nothing else.
            keeps_new=np.asarray([request.candidates is None for request in requests]),
        )
        lists = []
        for row, request in enumerate(requests):
            items = self._names.of_list(
                ranked, row, k=request.k, has_quota=self._new_items is not None
            )
            if request.explain:
                seen = request.exclude_seen
                items = self._explainer.explain(
                    items,
                    places=ranked.items[row, : len(items)],
                    history=batch.histories.select_users(np.asarray([row])),
                    query_embeddings=batch.query_embeddings,
                    candidates=ranked.candidates.of_user(row),
                    hides_seen=ranking.exclude_seen if seen is None else seen,
                    language=request.language,
                )
                if is_narrated:
                    items = self._explainer.narrate(items)
            notes = ranked.notes[row]
            if request.profile and not (batch.histories.lengths[row] or self._in_segment(request)):
                notes = (PROFILE_UNKNOWN, *notes)
            if request.exploration and ranking.never_explore:
                notes = (EXPLORATION_OFF, *notes)
            if row in batch.lacks_queries:
                notes = (MISSING_QUERIES, *notes)
            lists.append(RankedList(items=items, degraded=notes))
        return lists

    def narrate(self, answer: RankedList) -> RankedList:
        """Return a list with its first explanations in the narrator's words, checked."""
        return replace(answer, items=self._explainer.narrate(answer.items))

    @property
    def narrator(self) -> Narrator | None:
        """Return who words explanations and interests; ``None`` for templates alone."""
        return self._explainer.narrator

    def interests(self, history: Sequence[Event], *, language: Language | None = None) -> Interests:
        """Return what a user's events are about, counted and in words; the catalog's language else.

        Args:
            history: oldest first.
            language: of the summary.
        """
        return self._explainer.interests(history, language=language)

    @torch.inference_mode()
    def rank(
        self,
        histories: Sequences,
        *,
        k: int | NDArray[np.int64],
        query_embeddings: NDArray[np.float32] | None = None,
        exclude_seen: NDArray[np.bool_] | bool | None = None,
        penalty_weight: NDArray[np.float32] | float | None = None,
        diversity: NDArray[np.float32] | float | None = None,
        exploration: NDArray[np.float32] | float = 0.0,
        seeds: NDArray[np.int64] | int = 0,
        shown: NDArray[np.int64] | None = None,
        excluded: NDArray[np.int64] | None = None,
        allowed: NDArray[np.bool_] | None = None,
        profiles: Sequence[Profile] | None = None,
        keeps_new: NDArray[np.bool_] | bool = True,
    ) -> RankedBatch:
        """Return the lists of all histories.

        Args:
            histories: sequences over this release's items and event types.
            k: places of each list, per user or for all; the result is as wide as the most, at
                most one place wider than the catalog.
            query_embeddings: float32 ``(Q, D_text)`` of ``histories.queries``.
            exclude_seen: per user or for all; the release's choice if absent.
            penalty_weight: lambda of popularity, per user or for all; the release's if absent.
            diversity: in 0..1, per user or for all; the release's choice if absent.
            exploration: epsilon, per user or for all. 0 unless given, whatever the release says:
                who cannot log propensities must not explore.
            seeds: of each user's draw.
            shown: int64 ``(3, X)``: row, item index, times shown and not taken.
            excluded: int64 ``(2, X)``, pairs of row and item index.
            allowed: bool ``(V,)`` or ``(B, V)``.
            profiles: attributes of each user; they choose the segment whose popularity a user
                without events gets.
            keeps_new: whether new items have places of their own, per user or for all; they have
                none where the release has no quota.
        """
        num_users = histories.num_users
        counts_lists = self._scorer.ledger is not None or self._new_items is not None
        block = _LEDGER_USERS if counts_lists else max(1, num_users)
        # One place more than there are items is enough to say that they are fewer.
        most = len(self.item_ids) + 1
        places = np.broadcast_to(np.minimum(np.asarray(k, dtype=np.int64), most), num_users)
        hides = self.ranking.exclude_seen if exclude_seen is None else exclude_seen
        weight = self.ranking.penalty_weight if penalty_weight is None else penalty_weight
        spread = self.ranking.diversity if diversity is None else diversity
        asked = Asked(
            num_places=places,
            hides_seen=np.broadcast_to(np.asarray(hides, dtype=np.bool_), num_users),
            penalty_weight=np.broadcast_to(np.asarray(weight, dtype=np.float32), num_users),
            diversity=np.broadcast_to(np.asarray(spread, dtype=np.float32), num_users),
            exploration=np.broadcast_to(np.asarray(exploration, dtype=np.float64), num_users),
            seeds=np.broadcast_to(np.asarray(seeds, dtype=np.int64), num_users),
            keeps_new=np.broadcast_to(np.asarray(keeps_new, dtype=np.bool_), num_users),
        )
        nothing = np.zeros((3, 0), dtype=np.int64)
        pairs = nothing[:2] if excluded is None else excluded
        times = nothing if shown is None else shown
        width = int(places.max(initial=0))
        parts = []
        for start in range(0, max(1, num_users), block):
            rows = np.arange(start, min(start + block, num_users))
            mine = histories if block >= num_users else histories.select_users(rows)
            parts.append(
                self._lists.make(
                    mine,
                    self.embed_users(mine, query_embeddings=query_embeddings),
                    asked.select(rows),
                    width=width,
                    shown=pairs_of(times, rows),
                    excluded=pairs_of(pairs, rows),
                    lifts=self._lifts(mine, rows, profiles),
                    allowed=allowed[rows] if allowed is not None and allowed.ndim == 2 else allowed,
                )
            )
        return join_batches(parts)

    def _lifts(
        self, histories: Sequences, rows: NDArray[np.int64], profiles: Sequence[Profile] | None
    ) -> dict[int, NDArray[np.float32]]:
        if self._segments is None or profiles is None:
            return {}
        return self._segments.lifts([profiles[row] for row in rows], histories.lengths == 0)

    def _in_segment(self, request: Request) -> bool:
        return self._segments is not None and self._segments.lift(request.profile) is not None

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

    @property
    def times_shown(self) -> NDArray[np.int64] | None:
        """Return on how many lists each item stood, int64 ``(V,)``; ``None`` without a quota."""
        return None if self._new_items is None else self._new_items.shown

    def popularity_of(self, items: Tensor) -> NDArray[np.float32]:
        """Return the standardised popularity of items, of any shape; 0 for item 0."""
        result: NDArray[np.float32] = self._scorer.popularity_of(items).numpy()
        return result

    def similar(self, item_id: str, *, k: int) -> RankedList:
        """Return the items nearest to one item in the towers' space; none that is blocked.

        Raises:
            DataError: the catalog has no such item.
        """
        if not self.has_item(item_id):
            raise DataError(f"expected an item of the catalog, got {item_id!r}")
        place = self._names.index_of[item_id]
        withdrawn = self.files.withdrawn
        found, scores = self._index.search(
            self.files.embeddings[place - 1 : place],
            k=k,
            excluded=torch.from_numpy(pairs_with(1, np.append(self._blocked, place))),
            allowed=None if withdrawn is None else torch.from_numpy(~withdrawn),
        )
        items = self._names.of_similar(found[0], scores[0])
        return RankedList(items=items, degraded=shortfall(items, k=k))

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
            excluded=np.concatenate(
                [batch.excluded, seen, pairs_with(len(requests), self._blocked)], axis=1
            ),
            allowed=self._filters.allowed(requests),
        )
        lists = []
        for row, request in enumerate(requests):
            items = self._names.of_texts(found, row, k=request.k)
            lacking = (MISSING_QUERIES,) if row in batch.lacks_queries else ()
            lists.append(
                RankedList(items=items, degraded=(*lacking, *shortfall(items, k=request.k)))
            )
        return lists


def _new_items(files: ReleaseFiles, shown: NDArray[np.int64] | None) -> NewItems | None:
    ranking = files.ranking
    if not ranking.new_item_places:
        return None
    return NewItems(
        files.counts.sort("item_index")["count"].to_numpy(),
        max_events=ranking.new_item_events,
        max_impressions=ranking.new_item_impressions,
        shown=shown,
    )


def _choices(requests: Sequence[Request], name: str, default: float | bool) -> NDArray[Any]:
    """Return what each request wants, the release's choice where it says nothing."""
    wanted = [getattr(request, name) for request in requests]
    return np.asarray([default if value is None else value for value in wanted])
