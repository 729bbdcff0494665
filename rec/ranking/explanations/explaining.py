"""Explain: an item of a list rests on those events whose removal lowers it most.

Evidence comes first and words come last. Each thing a user did (all events on one item, or one
query) is left out in turn, the same candidates are scored again by the same model, and the fall of
the relevance is the effect. What is said is only what was found: if nothing lowers the item, the
explanation says so instead of guessing.

The newest ``MAX_UNITS`` things are tried, so that the work is bounded: one batch of as many
histories, each scored like a request.

Shapes: U units (things the user did), C candidates, k places.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from rec.data.events import Event
from rec.data.sequences import Sequences
from rec.models.inference import embed_histories
from rec.ranking.explanations.attributes import SharedAttributes
from rec.ranking.explanations.interests import QUERY, Interests, summarise
from rec.ranking.explanations.narrating import Narrator, load_narrator, narrate_items
from rec.ranking.explanations.wording import Words, catalog_language, explain_in_words
from rec.ranking.features import CANDIDATE_EVENTS
from rec.ranking.naming import NEW_ITEM
from rec.ranking.release import ReleaseFiles
from rec.ranking.requests import Evidence, Explanation, Language, RankedItem
from rec.ranking.retrieval.candidates import CandidateFinder, Found

MAX_UNITS = 50
"""Things the user did that are left out in turn, newest first."""
MAX_EVIDENCE = 2
"""Named per item: the first says most, a third only makes the sentence long."""
_SMALLEST_EFFECT = 1e-4
"""Below this a fall is rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """Hold what leaving out each unit does.

    Attributes:
        tokens: int32 ``(U,)``, the units, newest first: item indexes, or ``V + query index``.
        values: float32 ``(U, C)``, by how much the relevance of each candidate falls.
    """

    tokens: NDArray[np.int32]
    values: NDArray[np.float32]


class Explainer:
    """Explain the lists of one release."""

    def __init__(self, files: ReleaseFiles, finder: CandidateFinder) -> None:
        self._files = files
        self._finder = finder
        self._titles: list[str] = files.items["title"].to_list()
        self._item_ids: list[str] = files.items["item_id"].to_list()
        name = files.ranking.narrator
        self.narrator: Narrator | None = None if name is None else load_narrator(name)

    @cached_property
    def language(self) -> Language:
        """Return the language that most titles are in."""
        return catalog_language(self._titles)

    @cached_property
    def _shared(self) -> SharedAttributes:
        return SharedAttributes(self._files.items)

    def explain(
        self,
        items: Sequence[RankedItem],
        *,
        places: NDArray[np.int64],
        history: Sequences,
        query_embeddings: NDArray[np.float32],
        candidates: Found,
        hides_seen: bool,
        language: Language | None,
    ) -> tuple[RankedItem, ...]:
        """Return the items with an explanation each.

        Args:
            items: one user's list.
            places: int64 ``(k,)``, item indexes of the list.
            history: that user's events alone.
            query_embeddings: float32 ``(Q, D_text)`` of ``history.queries``.
            candidates: what the list was taken from, ``(1, C)``.
            hides_seen: whether seen items were left out.
            language: of the text; the catalog's if absent.
        """
        spoken = language or self.language
        effects = self.effects(
            history,
            query_embeddings=query_embeddings,
            candidates=candidates,
            hides_seen=hides_seen,
        )
        columns = {int(item): place for place, item in enumerate(candidates.items[0].tolist())}
        explained = []
        for item, index in zip(items, places.tolist(), strict=True):
            evidence = self._evidence(index, columns.get(index), history, effects)
            words = Words(
                title=item.title,
                source=item.source,
                is_own=[piece.item_id == item.item_id for piece in evidence],
                has_history=history.num_events > 0,
                is_quota=item.terms.get(NEW_ITEM, 0.0) > 0,
            )
            text = explain_in_words(words, evidence, language=spoken)
            explained.append(
                replace(
                    item,
                    explanation=Explanation(text=text, language=spoken, evidence=evidence),
                )
            )
        return tuple(explained)

    def narrate(self, items: Sequence[RankedItem]) -> tuple[RankedItem, ...]:
        """Return an explained list, the first texts in the narrator's words if there is one."""
        if self.narrator is None:
            return tuple(items)
        ranking = self._files.ranking
        return narrate_items(
            items,
            self.narrator,
            num_items=ranking.narrated_items,
            seconds=ranking.narrator_seconds,
        )

    def interests(self, history: Sequence[Event], *, language: Language | None) -> Interests:
        """Return what a user's events are about; unknown items are passed over."""
        events = []
        for event in history:
            place = self._index_of.get(event.item_id) if event.item_id else None
            if place is not None:
                events.append(self._shared.of(place))
            elif event.query:
                events.append({QUERY: (event.query,)})
        return summarise(
            events,
            language=language or self.language,
            narrator=self.narrator,
            seconds=self._files.ranking.narrator_seconds,
        )

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {item_id: place for place, item_id in enumerate(self._item_ids, start=1)}

    @torch.inference_mode()
    def effects(
        self,
        history: Sequences,
        *,
        query_embeddings: NDArray[np.float32],
        candidates: Found,
        hides_seen: bool,
        max_units: int = MAX_UNITS,
    ) -> Effects:
        """Return by how much each candidate falls when a unit is left out.

        The candidates stay the same, so that a rank among them means the same in every variant.
        With one unit only, what is left is a user without events.
        """
        known = history.newest(CANDIDATE_EVENTS)
        _, first = np.unique(known.tokens[::-1], return_index=True)
        units = known.tokens[::-1][np.sort(first)][:max_units]
        num_candidates = candidates.items.shape[1]
        if not len(units) or not num_candidates:
            return Effects(tokens=units[:0], values=np.zeros((0, num_candidates), np.float32))
        copies = known.select_users(np.zeros(len(units) + 1, dtype=np.int64))
        left_out = np.concatenate([[0], units])[copies.rows()]  # the first copy keeps everything
        variants = copies.select_events(copies.tokens != left_out)
        users = embed_histories(
            self._files.model,
            variants,
            items=self._files.embeddings,
            query_embeddings=query_embeddings,
        )
        items = candidates.items[0]
        if self._files.ranker is None:
            relevance = users @ self._files.embeddings[items - 1].T
        else:
            # Twins of one item cannot be: candidates are distinct.
            relevance = self._finder.find_given(
                variants,
                users,
                items=items.numpy(),
                hides_seen=np.full(len(units) + 1, hides_seen),
                hidden=np.zeros((2, 0), dtype=np.int64),
            ).relevance
        values = (relevance[:1] - relevance[1:]).numpy()
        return Effects(tokens=units, values=np.where(np.isfinite(values), values, 0.0))

    def _evidence(
        self, item: int, column: int | None, history: Sequences, effects: Effects
    ) -> tuple[Evidence, ...]:
        if column is None or not len(effects.tokens):
            return ()
        falls = effects.values[:, column]
        best = np.argsort(-falls, kind="stable")[:MAX_EVIDENCE]
        found = []
        for unit in best[falls[best] > _SMALLEST_EFFECT].tolist():
            token = int(effects.tokens[unit])
            places = np.flatnonzero(history.tokens == token)
            newest = int(places[-1])
            code = int(history.event_types[newest])
            is_item = token <= history.num_items
            found.append(
                Evidence(
                    item_id=self._item_ids[token - 1] if is_item else None,
                    title=self._titles[token - 1]
                    if is_item
                    else history.queries[token - 1 - history.num_items],
                    event_type=history.event_type_names[code] if code >= 0 else "",
                    timestamp_ms=int(history.timestamps_ms[newest]),
                    num_events=len(places),
                    num_of_type=int((history.event_types[places] == code).sum()),
                    effect=float(falls[unit]),
                    shared=self._shared.between(item, token) if is_item else {},
                )
            )
        return tuple(found)
