"""What an evaluation asks: the lists that serving would make, and the towers behind them alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.artifacts import Artifact
from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet
from rec.data.text import detect_languages
from rec.encoders import EncoderSpec, load_encoder
from rec.evaluation.calibration import Reliability, reliability
from rec.evaluation.slicing import frequency_labels
from rec.evaluation.sweeping import Scoring
from rec.models.baselines import ScoredLists
from rec.models.segments import Profile
from rec.models.text_tower import TextTower
from rec.ranking.lists.scoring import groups_of
from rec.ranking.recommender import Recommender
from rec.ranking.release import ReleaseFiles
from rec.ranking.retrieval.candidates import Found
from rec.stages.embedding import load_embeddings
from rec.stages.fitting import cosine_scorer

_SAMPLED_USERS = 2000
"""Users that the sweep and the calibration ask: enough for 1 % of NDCG."""


class ServedLists:
    """Make lists with a recommender, as serving would."""

    def __init__(
        self,
        recommender: Recommender,
        *,
        query_embeddings: NDArray[np.float32],
        profiles: Mapping[str, Profile] | None = None,
        name: str = "nextray",
    ) -> None:
        self.name = name
        self.recommender = recommender
        self._queries = query_embeddings
        self._profiles = profiles or {}

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        """Return int32 ``(B, k)`` item indexes, 0 where none is left."""
        ranked = self.recommender.rank(
            histories,
            k=k,
            query_embeddings=self._queries,
            exclude_seen=exclude_seen,
            profiles=[self._profiles.get(user_id, {}) for user_id in histories.user_ids],
        )
        return ranked.items.astype(np.int32)

    def scoring(self, histories: Sequences, *, exclude_seen: bool) -> Scoring:
        """Return everyone's candidates before the penalty."""
        parts = []
        for start in range(0, histories.num_users, _SAMPLED_USERS):
            rows = np.arange(start, min(start + _SAMPLED_USERS, histories.num_users))
            ranked = self.recommender.rank(
                histories.select_users(rows),
                k=1,
                query_embeddings=self._queries,
                exclude_seen=exclude_seen,
                penalty_weight=0.0,
            )
            parts.append(ranked.candidates)
        found = Found.stack(parts)
        return Scoring(
            items=found.items.numpy(),
            relevance=found.relevance.numpy(),
            penalty=self.recommender.popularity_of(found.items),
        )


def towers_alone(
    files: ReleaseFiles, embeddings: Artifact, *, with_text: bool
) -> list[ScoredLists]:
    """Return the user towers alone, by cosine: the trained one, and the text tower if asked."""
    items, queries = load_embeddings(embeddings)
    towers = [
        ScoredLists(
            Cosines(
                name=files.model.config.tower, score=cosine_scorer(files.model, queries=queries)
            )
        )
    ]
    if with_text:
        spec = EncoderSpec(**files.encoder)
        titles = files.items["title"].to_list()
        text = TextTower(load_encoder(spec), spec, titles=titles, items=items)
        towers.append(ScoredLists(text))
    return towers


@dataclass(kw_only=True, slots=True)
class Cosines:
    """Give the trained towers' ``cos(e_u, e_i)`` a name."""

    name: str
    score: Callable[[Sequences], NDArray[np.float32]]


def item_facets(items: pl.DataFrame, counts: NDArray[np.int64]) -> dict[str, list[str]]:
    """Return what target items are sliced by: warmth, frequency, language, and group if named.

    Args:
        items: the catalog, by item index.
        counts: int64 ``(V,)``, training events.
    """
    facets = {
        "warmth": ["warm" if count else "cold" for count in counts.tolist()],
        "frequency": frequency_labels(counts),
        "language": detect_languages(items["title"]).to_list(),
    }
    groups = groups_of(items)
    if groups is not None:
        facets["group"] = [own[0] if own else "" for own in groups]
    return facets


def reliability_of(
    ours: ServedLists, test: EvaluationSet, *, k: int, exclude_seen: bool
) -> Reliability:
    """Return how often what the lists promise comes true."""
    found = ours.scoring(
        test.select_users(sample_users(test.num_users, seed=0)).histories, exclude_seen=exclude_seen
    )
    order = np.argsort(-found.relevance, axis=1, kind="stable")[:, :k]
    return reliability(
        np.take_along_axis(found.items, order, axis=1).astype(np.int32),
        np.take_along_axis(found.relevance, order, axis=1),
        test.select_users(sample_users(test.num_users, seed=0)),
    )


def sample_users(num_users: int, *, seed: int) -> NDArray[np.int64]:
    """Return the rows of at most ``_SAMPLED_USERS`` users, ascending."""
    if num_users <= _SAMPLED_USERS:
        return np.arange(num_users)
    picked = np.random.default_rng(seed).choice(num_users, size=_SAMPLED_USERS, replace=False)
    return np.sort(picked)
