"""A longitudinal simulator: what lists do to what people get to see, round after round.

Users have tastes in a topic space, with a corner of it they do not know yet. Each round they get a
list, take one item of it (multinomial logit over true taste, with a bonus for what stands higher),
and the recommender learns from what they took. Nothing but the score's own terms differs between
two runs, so that the difference is theirs. It is a model of people, not people: read the direction,
not the size.

Shapes: B users, V items, D topics, R rounds, k places.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.ranking.lists.penalties import MAX_Z, popularity_penalty


@dataclass(frozen=True, kw_only=True, slots=True)
class BubbleConfig:
    """Say who lives in the simulator and how lists are made."""

    num_users: int = 200
    num_items: int = 400
    num_topics: int = 12
    """Topics; an item is mostly one of them, a user likes three."""
    num_rounds: int = 40
    k: int = 10
    """Places of a list."""
    popularity_weight: float = 0.0
    """Lambda of standardised popularity."""
    repetition_weight: float = 0.0
    """Lambda of what was shown and not taken, in doublings."""
    diversity: float = 0.0
    """Share of unlikeness to the items above, see ``rec.ranking.lists.reranking``."""
    seed: int = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Bubble:
    """Hold what came of it, float64 ``(R,)`` each.

    Attributes:
        topic_entropy: entropy in bits of the topics that a user has taken so far, mean over users.
        coverage: share of the catalog shown in the round.
        taste: mean true utility of what was taken: what the users got out of it.
        gini: how unequally all takings so far are spread over the items.
    """

    topic_entropy: NDArray[np.float64]
    coverage: NDArray[np.float64]
    taste: NDArray[np.float64]
    gini: NDArray[np.float64]


def simulate_bubble(config: BubbleConfig) -> Bubble:
    """Return how consumption develops under one setting of the score's terms.

    Source: Chaney, Stewart and Engelhardt 2018, How algorithmic confounding in recommendation
    systems increases homogeneity and decreases utility; the choice model: McFadden 1974.
    """
    random = np.random.default_rng(config.seed)
    topics = random.integers(0, config.num_topics, config.num_items)
    items = 0.15 * random.random((config.num_items, config.num_topics))
    items[np.arange(config.num_items), topics] += 1.0
    items /= np.linalg.norm(items, axis=1, keepdims=True)  # (V, D)
    likes = random.random((config.num_users, config.num_topics)).argsort(axis=1) < 3
    tastes = 3.0 * likes + 0.3 * random.random(likes.shape)  # (B, D)
    truth = tastes @ items.T  # (B, V)
    # The recommender starts knowing one liked topic of each user, and a little of everything.
    known = 0.1 + likes * (likes.cumsum(axis=1) == 1)
    counts = np.zeros(config.num_items, dtype=np.int64)
    ignored = np.zeros((config.num_users, config.num_items))
    taken_topics = np.zeros((config.num_users, config.num_topics))
    rows = np.arange(config.num_users)
    discounts = 1 / np.log2(np.arange(2, config.k + 2))
    series: dict[str, list[float]] = {
        "topic_entropy": [], "coverage": [], "taste": [], "gini": []
    }  # fmt: skip
    for _ in range(config.num_rounds):
        users = known / np.linalg.norm(known, axis=1, keepdims=True)
        scores = users @ items.T
        scores -= config.popularity_weight * popularity_penalty(counts)
        scores -= config.repetition_weight * np.minimum(np.log2(1 + ignored), MAX_Z)
        lists = _lists(scores, items, k=config.k, diversity=config.diversity)  # (B, k)
        wish = truth[rows[:, None], lists] + discounts
        noise = random.gumbel(size=wish.shape)
        picks = lists[rows, (wish + noise).argmax(axis=1)]
        ignored[rows[:, None], lists] += 1
        ignored[rows, picks] = 0
        np.add.at(counts, picks, 1)
        known = 0.95 * known + 0.2 * items[picks]
        taken_topics[rows, topics[picks]] += 1
        shares = taken_topics / taken_topics.sum(axis=1, keepdims=True)
        logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
        series["topic_entropy"].append(float(-(shares * logs).sum(axis=1).mean()))
        series["coverage"].append(len(np.unique(lists)) / config.num_items)
        series["taste"].append(float(truth[rows, picks].mean()))
        series["gini"].append(_gini(counts))
    return Bubble(**{name: np.asarray(values) for name, values in series.items()})


def _lists(
    scores: NDArray[np.float64], items: NDArray[np.float64], *, k: int, diversity: float
) -> NDArray[np.int64]:
    """Return the best items, or a greedy maximal marginal relevance over the best 5 k."""
    depth = k if diversity == 0 else min(scores.shape[1], 5 * k)
    pool = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    if diversity == 0:
        return pool
    rows = np.arange(len(scores))
    values = np.take_along_axis(scores, pool, axis=1)
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    relevance = (values - low) / np.maximum(high - low, 1e-9)
    likeness = np.zeros_like(relevance)
    free = np.ones_like(relevance, dtype=np.bool_)
    chosen = np.zeros((len(scores), k), dtype=np.int64)
    for place in range(k):
        gain = np.where(free, (1 - diversity) * relevance - diversity * likeness, -np.inf)
        best = gain.argmax(axis=1)
        free[rows, best] = False
        chosen[:, place] = pool[rows, best]
        cosines = (items[pool] @ items[chosen[:, place]][:, :, None])[:, :, 0]
        likeness = np.maximum(likeness, cosines)
    return chosen


def _gini(counts: NDArray[np.int64]) -> float:
    ordered = np.sort(counts)
    num_items, total = len(ordered), int(ordered.sum())
    ranks = np.arange(1, num_items + 1)
    return float(2 * (ranks @ ordered) / (num_items * total) - (num_items + 1) / num_items)
