"""Evaluate: models and a test set to metrics, comparisons and slices.

Shapes: B users, k places, V items, E events of all histories.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet
from rec.errors import DataError
from rec.evaluation.beyond_accuracy import debiased_ndcg_at_k, intra_list_diversity_at_k
from rec.evaluation.bilingual import LanguagePair, language_pairs
from rec.evaluation.classification import (
    accuracy_at_k,
    f1_at_k,
    group_auc_at_k,
    roc_auc_at_k,
)
from rec.evaluation.popularity_bias import PopularityBias, popularity_bias
from rec.evaluation.ranking_metrics import (
    coverage_at_k,
    gini_at_k,
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    precision_at_k,
    recall_at_k,
)
from rec.evaluation.significance import Interval, paired_bootstrap
from rec.evaluation.slicing import Slice, slice_by_target

HISTORY_SLICES = (("0", 0, 0), ("1-5", 1, 5), ("6-20", 6, 20), (">20", 21, None))
"""Name, shortest and longest history in events. The first is the cold users."""


class TopKModel(Protocol):
    """Make lists for histories: whatever can be evaluated."""

    name: str

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        """Return int32 ``(B, k)`` item indexes, best first, 0 where none is left."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Hold what one test set says about some models.

    Attributes:
        k: places of a list.
        num_users: B, the users asked.
        metrics: ``{model: {"ndcg@10": mean over users, ...}}``, in the order of the models.
        user_ndcg: ``{model: float64 (B,)}``, in the order of the test users.
        intervals: ``{model: ...}``, the mean NDCG with its 95 % interval, as a difference from 0.
        comparisons: ``{model: ...}``, the first model's NDCG against each other one's: above 0,
            or a ratio above 1, says that the first is better.
        slices: by length of history, see ``HISTORY_SLICES``; the other models beside the first.
        facets: facet -> label -> the targets of that label alone; empty where none was asked for.
        bias: what is shown against what is asked for, by popularity.
        languages: users by their history's language, targets by their own; where a facet names
            ``language`` and the catalog has two.
    """

    k: int
    num_users: int
    metrics: Mapping[str, Mapping[str, float]]
    user_ndcg: Mapping[str, NDArray[np.float64]]
    intervals: Mapping[str, Interval]
    comparisons: Mapping[str, Interval]
    slices: Mapping[str, Slice]
    facets: Mapping[str, Mapping[str, Slice]] = field(default_factory=dict)
    bias: PopularityBias | None = None
    languages: Sequence[LanguagePair] = ()

    @property
    def name(self) -> str:
        """Return the name of the first model, the one that is evaluated."""
        return next(iter(self.metrics))

    def to_json(self) -> dict[str, Any]:
        """Return everything but the single users' values, as JSON's own types."""
        return {
            "k": self.k,
            "num_users": self.num_users,
            "metrics": {name: dict(values) for name, values in self.metrics.items()},
            "intervals": {name: asdict(value) for name, value in self.intervals.items()},
            "comparisons": {name: asdict(value) for name, value in self.comparisons.items()},
            "slices": {name: asdict(value) for name, value in self.slices.items()},
            "facets": {
                facet: {name: asdict(value) for name, value in slices.items()}
                for facet, slices in self.facets.items()
            },
            "popularity_bias": None if self.bias is None else asdict(self.bias),
            "languages": [asdict(pair) for pair in self.languages],
        }


def evaluate(
    models: Sequence[TopKModel],
    test: EvaluationSet,
    *,
    train: Sequences,
    k: int = 10,
    exclude_seen: bool,
    batch_size: int = 512,
    seed: int = 7,
    embeddings: NDArray[np.float32] | None = None,
    facets: Mapping[str, Sequence[str]] | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> Evaluation:
    """Return metrics of every model over the full catalog, with paired comparisons.

    Args:
        models: at least one, of distinct names; the first is compared with each other one.
        test: the users asked; cold ones (empty history) are asked too.
        train: gives the catalog's size and the item counts that novelty is measured by.
        k: places of a list.
        exclude_seen: lists leave out items of the history, and so do the target sets: users whose
            whole target set they have met before are not asked.
        batch_size: users asked at a time; bounds the memory of models, changes no number.
        seed: of the bootstrap.
        embeddings: float32 ``(V, D)``, normalised; gives the diversity within lists.
        facets: facet -> label of each item, for slices by target.
        on_progress: called with the model's name and the number of users done.

    Raises:
        DataError: nobody is left to ask.
    """
    names = [model.name for model in models]
    assert len(set(names)) == len(names), f"models of one name: {names}"
    if exclude_seen:
        test = test.without_seen()
    if test.num_users == 0:
        raise DataError(
            "expected at least one test user with a target, got none: "
            "take an earlier cut, or include seen items"
        )
    counts = np.bincount(train.tokens[train.is_item], minlength=train.num_items + 1)[1:]
    metrics: dict[str, dict[str, float]] = {}
    user_ndcg: dict[str, NDArray[np.float64]] = {}
    all_lists: dict[str, NDArray[np.int32]] = {}
    for model in models:
        lists = make_lists(
            model,
            test.histories,
            k=k,
            exclude_seen=exclude_seen,
            batch_size=batch_size,
            on_progress=on_progress,
        )
        all_lists[model.name] = lists
        user_ndcg[model.name], metrics[model.name] = _measure(
            lists, test, counts=counts, embeddings=embeddings
        )
    ours = user_ndcg[names[0]]
    return Evaluation(
        k=k,
        num_users=test.num_users,
        metrics=metrics,
        user_ndcg=user_ndcg,
        intervals={
            name: paired_bootstrap(values, np.zeros_like(values), seed=seed)
            for name, values in user_ndcg.items()
        },
        comparisons={
            name: paired_bootstrap(ours, user_ndcg[name], seed=seed) for name in names[1:]
        },
        slices=_slice_by_length(test.histories.lengths, user_ndcg),
        facets={
            facet: slice_by_target(all_lists, test, labels)
            for facet, labels in (facets or {}).items()
        },
        bias=popularity_bias(all_lists, targets=test.targets, counts=counts),
        languages=language_pairs(all_lists, test, (facets or {}).get("language", ())),
    )


def make_lists(
    model: TopKModel,
    histories: Sequences,
    *,
    k: int,
    exclude_seen: bool,
    batch_size: int = 512,
    on_progress: Callable[[str, int], None] | None = None,
) -> NDArray[np.int32]:
    """Ask a model for all lists, int32 ``(B, k)``, a batch of users at a time."""
    lists = np.zeros((histories.num_users, k), dtype=np.int32)
    for start in range(0, histories.num_users, batch_size):
        stop = min(start + batch_size, histories.num_users)
        batch = histories.select_users(np.arange(start, stop))
        made = model.top_k(batch, k=k, exclude_seen=exclude_seen)
        assert made.shape == (stop - start, k), f"{model.name} made lists of shape {made.shape}"
        lists[start:stop] = made
        if on_progress is not None:
            on_progress(model.name, stop)
    return lists


def _measure(
    lists: NDArray[np.int32],
    test: EvaluationSet,
    *,
    counts: NDArray[np.int64],
    embeddings: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Return NDCG of each user, float64 ``(B,)``, and all metrics by name."""
    sets = (test.target_offsets, test.targets)
    num_items = len(counts)
    ndcg = ndcg_at_k(lists, *sets)
    values = {
        "ndcg": float(ndcg.mean()),
        "recall": float(recall_at_k(lists, *sets).mean()),
        "mrr": float(mrr_at_k(lists, *sets).mean()),
        "precision": float(precision_at_k(lists, *sets).mean()),
        "hit_rate": float(hit_rate_at_k(lists, *sets).mean()),
        "coverage": coverage_at_k(lists, num_items=num_items),
        "gini": gini_at_k(lists, num_items=num_items),
        "novelty": novelty_at_k(lists, counts=counts),
        "f1": float(f1_at_k(lists, *sets).mean()),
        "debiased_ndcg": debiased_ndcg_at_k(lists, *sets, counts=counts),
        "group_auc": float(group_auc_at_k(lists, *sets, num_items=num_items).mean()),
        "roc_auc": roc_auc_at_k(lists, *sets, num_items=num_items),
        "accuracy": float(accuracy_at_k(lists, *sets, num_items=num_items).mean()),
    }
    if embeddings is not None:
        values["diversity"] = float(intra_list_diversity_at_k(lists, embeddings=embeddings).mean())
    return ndcg, {f"{name}@{lists.shape[1]}": value for name, value in values.items()}


def _slice_by_length(
    lengths: NDArray[np.int64], user_ndcg: Mapping[str, NDArray[np.float64]]
) -> dict[str, Slice]:
    slices = {}
    for name, shortest, longest in HISTORY_SLICES:
        is_in = lengths >= shortest
        if longest is not None:
            is_in &= lengths <= longest
        num_users = int(is_in.sum())
        means = {
            model: float(values[is_in].mean()) for model, values in user_ndcg.items() if num_users
        }
        slices[name] = Slice(num_users=num_users, ndcg=means)
    return slices
