"""Sweep lambda: what popularity's penalty costs in hits and gives in variety.

The candidates and their relevance do not depend on lambda, so the model is asked once and the lists
of every lambda are cut from the same candidates, just as serving cuts them.

Shapes: B users, C candidates per user, k places, V items, D width, G groups.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rec.data.splits import EvaluationSet
from rec.evaluation.beyond_accuracy import intra_list_diversity_at_k
from rec.evaluation.ranking_metrics import coverage_at_k, gini_at_k, ndcg_at_k, novelty_at_k
from rec.evaluation.significance import Interval, paired_bootstrap

DEFAULT_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
TOLERANCE = 0.01
"""Share of NDCG that variety may cost: what nobody notices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """Hold scored candidates before the penalty, all ``(B, C)``, item 0 where there is none."""

    items: NDArray[np.int64]
    relevance: NDArray[np.float32]
    penalty: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """Hold what one lambda gives.

    Attributes:
        weight: lambda.
        ndcg: mean over users.
        against_none: the difference in NDCG to lambda 0, paired over users.
        coverage: share of the catalog in at least one list.
        gini: how unequally places are spread over items; lower is more equal.
        novelty: mean bits of the shown items.
        diversity: mean distance within lists.
        group_gap: largest difference between a group's share of exposure and of the catalog;
            ``None`` without groups.
        is_on_front: no other lambda is at least as good in NDCG, coverage, Gini and diversity and
            better in one.
    """

    weight: float
    ndcg: float
    against_none: Interval
    coverage: float
    gini: float
    novelty: float
    diversity: float
    group_gap: float | None
    is_on_front: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Hold the points in order of lambda, the recommended one and the reason."""

    points: tuple[SweepPoint, ...]
    recommended: float
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON's own types."""
        return {
            "points": [asdict(point) for point in self.points],
            "recommended": self.recommended,
            "reason": self.reason,
        }


def sweep_penalty(
    scoring: Scoring,
    test: EvaluationSet,
    *,
    weights: Sequence[float],
    k: int,
    counts: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    groups: Sequence[Sequence[str]] | None = None,
    seed: int = 7,
) -> Sweep:
    """Return one point per lambda, and the largest lambda that costs no more than ``TOLERANCE``.

    Args:
        scoring: candidates of the test users.
        test: whom and what was asked.
        weights: lambdas; 0 is added if it is not there.
        k: places of a list.
        counts: int64 ``(V,)``, training events.
        embeddings: float32 ``(V, D)``, normalised.
        groups: of each item, for exposure; none if absent.
        seed: of the bootstrap.
    """
    base: NDArray[np.float64] | None = None
    points = []
    for weight in sorted({0.0, *weights}):
        scores = scoring.relevance - np.float32(weight) * scoring.penalty
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        lists = np.take_along_axis(scoring.items, order, axis=1).astype(np.int32)
        lists = np.pad(lists, ((0, 0), (0, k - lists.shape[1])))
        ndcg = ndcg_at_k(lists, test.target_offsets, test.targets)
        base = ndcg if base is None else base
        points.append(
            SweepPoint(
                weight=weight,
                ndcg=float(ndcg.mean()),
                against_none=paired_bootstrap(ndcg, base, seed=seed),
                coverage=coverage_at_k(lists, num_items=len(counts)),
                gini=gini_at_k(lists, num_items=len(counts)),
                novelty=novelty_at_k(lists, counts=counts),
                diversity=float(intra_list_diversity_at_k(lists, embeddings=embeddings).mean()),
                group_gap=None if groups is None else _group_gap(lists, groups),
            )
        )
    fronted = tuple(_with_front(point, points) for point in points)
    floor = (1 - TOLERANCE) * points[0].ndcg
    cheap = [p for p in fronted if points[0].ndcg + p.against_none.low >= floor]
    best = max(cheap, key=lambda point: (point.coverage, -point.weight), default=fronted[0])
    reason = (
        f"of the lambdas whose NDCG@{k} is, with 97.5 % confidence, at most "
        f"{TOLERANCE:.0%} below that of lambda 0, it covers most of the catalog: "
        f"{best.coverage:.2%} against {fronted[0].coverage:.2%}"
    )
    if best.weight == 0:
        reason = f"no larger lambda keeps NDCG@{k} within {TOLERANCE:.0%} and covers more"
    return Sweep(points=fronted, recommended=best.weight, reason=reason)


def _with_front(point: SweepPoint, points: Sequence[SweepPoint]) -> SweepPoint:
    own = _goods(point)
    is_beaten = any(
        all(a >= b for a, b in zip(_goods(other), own, strict=True)) and _goods(other) != own
        for other in points
    )
    return SweepPoint(
        **{name: getattr(point, name) for name in SweepPoint.__slots__ if name != "is_on_front"},
        is_on_front=not is_beaten,
    )


def _goods(point: SweepPoint) -> tuple[float, ...]:
    return (point.ndcg, point.coverage, -point.gini, point.diversity)


def _group_gap(lists: NDArray[np.int32], groups: Sequence[Sequence[str]]) -> float:
    """Return the largest distance of a group's share of the places from its share of the items."""
    exposure: dict[str, float] = {}
    catalog: dict[str, float] = {}
    shown = np.bincount(lists.ravel(), minlength=len(groups) + 1)[1:]
    for own, count in zip(groups, shown.tolist(), strict=True):
        for name in set(own):
            exposure[name] = exposure.get(name, 0.0) + count / len(set(own))
            catalog[name] = catalog.get(name, 0.0) + 1 / len(set(own))
    all_shown, all_items = sum(exposure.values()), sum(catalog.values())
    if not all_shown or not all_items:
        return 0.0
    return max(abs(exposure[name] / all_shown - catalog[name] / all_items) for name in catalog)
