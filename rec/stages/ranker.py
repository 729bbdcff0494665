"""Fitting the ranker, a part of training: moments the towers have not seen, and what came next.

A moment is a user's history up to some time and the items of the next one. The sources' tables
know only the log before the window, as they know only the log before today when they serve. Folds
over users calibrate, and say whether trees are worth it: where they do not beat the best single
source out of fold, there are none.

Shapes: M moments, C candidates of all moments, F features.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet, next_moments
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.ranking.features import CANDIDATE_EVENTS, FEATURES, find_candidates
from rec.ranking.ranker import MODES, Ranker, RankerConfig, Trees
from rec.ranking.sources import SourceTables

VALIDATION_K = 10
_BLOCK_CELLS = 1 << 22
"""Scores of one source held at once: 16 MB, a dozen sources beside each other."""
_TRUNCATION = 20
"""Places that LambdaRank looks at: twice a list."""
_COMPARED = ("sequence", "personal", "accompanies", "recent_popularity")
"""Single features that the trees must beat."""
logger = logging.getLogger(__name__)

Cosines = Callable[[Sequences], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Hold the moments whose next items are among the candidates; of others nothing is learnt.

    Attributes:
        moments: M histories with their targets.
        num_asked: moments that were looked at, those without a hit included.
        rows: int64 ``(C,)``, the moment of each candidate, ascending.
        items: int64 ``(C,)``.
        features: float32 ``(C, F)``.
        is_target: bool ``(C,)``.
    """

    moments: EvaluationSet
    num_asked: int
    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    features: NDArray[np.float32]
    is_target: NDArray[np.bool_]

    @property
    def hit_share(self) -> float:
        """Return the share of the moments asked that are kept."""
        return self.moments.num_users / max(1, self.num_asked)


def fit_ranker(
    train: Sequences,
    *,
    since_ms: int,
    tables: SourceTables,
    cosines: Cosines,
    config: RankerConfig,
    num_candidates: int,
    num_threads: int = 1,
) -> Ranker | None:
    """Return a ranker, or ``None`` where the log is too small or trees do not help.

    Args:
        train: the log, the window included.
        since_ms: the window's begin; neither towers nor tables know it or anything later.
        tables: what the sources know.
        cosines: the sequence model's ``cos(e_u, e_i)`` of histories, float32 ``(B, V)``.
        config: how.
        num_candidates: most that one source proposes.
        num_threads: threads of the library.
    """
    moments = next_moments(
        train,
        since_ms=since_ms,
        per_user=config.moments_per_user,
        max_moments=config.max_moments,
        seed=config.seed,
    )
    trees = {}
    for mode in MODES:
        asked = moments.without_seen() if mode == "new" else moments
        shuffled = np.random.default_rng(config.seed).permutation(asked.num_users)
        examples = collect_examples(
            asked.select_users(shuffled),
            tables=tables,
            cosines=cosines,
            num_candidates=num_candidates,
            is_new_only=mode == "new",
            max_rows=config.max_rows,
        )
        fitted = _fit_trees(examples, config=config, num_threads=num_threads)
        if fitted is not None:
            trees[mode] = fitted
    return Ranker(trees=trees) if trees else None


def collect_examples(
    moments: EvaluationSet,
    *,
    tables: SourceTables,
    cosines: Cosines,
    num_candidates: int,
    is_new_only: bool,
    max_rows: int,
) -> Examples:
    """Return the candidates of moments, with those marked that came next.

    Args:
        moments: histories and targets, in no order that matters: where their candidates exceed
            ``max_rows``, the rest is not looked at.
        tables: what the sources know.
        cosines: the sequence model's scores.
        num_candidates: most that one source proposes.
        is_new_only: propose only what is not in the history.
        max_rows: bounds time and memory.
    """
    size = max(1, _BLOCK_CELLS // tables.num_items)
    base = tables.num_items + 1
    kept, rows, items, features, hits = [], [], [], [], []
    num_rows = num_asked = num_kept = 0
    while num_asked < moments.num_users and num_rows < max_rows:
        picks = np.arange(num_asked, min(num_asked + size, moments.num_users))
        num_asked += len(picks)
        block = moments.select_users(picks)
        histories = block.histories.newest(CANDIDATE_EVENTS)
        allowed = None
        if is_new_only:
            allowed = np.ones((len(picks), tables.num_items), dtype=np.bool_)
            is_item = histories.is_item
            allowed[histories.rows()[is_item], histories.tokens[is_item] - 1] = False
        found = find_candidates(
            tables,
            histories,
            cosines=cosines(histories),
            num_candidates=num_candidates,
            allowed=allowed,
        )
        owners = np.repeat(np.arange(len(picks)), np.diff(block.target_offsets))
        is_target = np.isin(found.rows * base + found.items, owners * base + block.targets)
        has_hit = np.bincount(found.rows[is_target], minlength=len(picks)) > 0
        is_kept = has_hit[found.rows]
        kept.append(picks[has_hit])
        rows.append((np.cumsum(has_hit) - 1)[found.rows[is_kept]] + num_kept)
        items.append(found.items[is_kept])
        features.append(found.features[is_kept])
        hits.append(is_target[is_kept])
        num_kept += int(has_hit.sum())
        num_rows += len(rows[-1])
    none = np.zeros(0, dtype=np.int64)
    return Examples(
        moments=moments.select_users(np.concatenate([none, *kept])),
        num_asked=num_asked,
        rows=np.concatenate([none, *rows]),
        items=np.concatenate([none, *items]),
        features=np.concatenate([np.zeros((0, len(FEATURES)), np.float32), *features]),
        is_target=np.concatenate([none.astype(np.bool_), *hits]),
    )


def _fit_trees(examples: Examples, *, config: RankerConfig, num_threads: int) -> Trees | None:
    """Return one set of trees, or ``None`` where they would not be better than what they read."""
    num_moments = examples.moments.num_users
    if num_moments < max(config.min_moments, config.num_folds):
        logger.info("ranker: %d moments with a hit are too few", num_moments)
        return None
    generator = np.random.default_rng(config.seed)
    users = np.unique(examples.moments.histories.user_ids, return_inverse=True)[1]
    folds = generator.integers(0, config.num_folds, size=users.max() + 1)[users]  # (M,)
    raw = np.zeros(len(examples.rows))
    for fold in np.unique(folds):
        booster = _train(examples, folds != fold, config=config, num_threads=num_threads)
        mine = folds[examples.rows] == fold
        raw[mine] = booster.predict(examples.features[mine], num_threads=num_threads)
    metrics = {"trees": _ndcg(examples, raw)}
    for name in _COMPARED:
        column = examples.features[:, FEATURES.index(name)]
        metrics[name] = _ndcg(examples, np.nan_to_num(column, nan=-np.inf))
    if metrics["trees"] <= max(metrics[name] for name in _COMPARED):
        logger.info("ranker: trees do not help on this log: %s", metrics)
        return None
    slope, intercept = _calibrate(raw, examples.is_target)
    everyone = np.ones(num_moments, dtype=np.bool_)
    booster = _train(examples, everyone, config=config, num_threads=num_threads)
    return Trees(
        booster=booster,
        slope=slope,
        # Moments without a hit were left out: nothing in them was a target.
        intercept=intercept + float(np.log(examples.hit_share)),
        metrics=metrics,
    )


def _train(
    examples: Examples, picks: NDArray[np.bool_], *, config: RankerConfig, num_threads: int
) -> lightgbm.Booster:
    """Fit trees on the moments where ``picks`` holds."""
    parameters = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": _TRUNCATION,
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": config.min_leaf_rows,
        "max_bin": 63,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": num_threads,
        "verbosity": -1,
    }
    keep = picks[examples.rows]
    sizes = np.bincount(examples.rows[keep], minlength=len(picks))
    data = lightgbm.Dataset(
        examples.features[keep],
        examples.is_target[keep].astype(np.int8),
        group=sizes[sizes > 0],
        feature_name=list(FEATURES),
    )
    return lightgbm.train(parameters, data, num_boost_round=config.num_trees)


def _ndcg(examples: Examples, scores: NDArray[np.floating]) -> float:
    """Return the mean NDCG over all moments asked, their candidates ordered by ``scores``."""
    order = np.lexsort((-scores, examples.rows))
    starts = np.searchsorted(examples.rows, np.arange(examples.moments.num_users))
    place = np.arange(len(order)) - starts[examples.rows[order]]
    shown = (place < VALIDATION_K) & np.isfinite(scores[order])
    lists = np.zeros((examples.moments.num_users, VALIDATION_K), dtype=np.int32)
    lists[examples.rows[order][shown], place[shown]] = examples.items[order][shown]
    moments = examples.moments
    scored = ndcg_at_k(lists, moments.target_offsets, moments.targets)
    return float(scored.sum()) / max(1, examples.num_asked)


def _calibrate(raw: NDArray[np.float64], is_target: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of the log-odds of a target in the trees' output.

    The slope stays positive, so that calibration changes no order.

    Source: Platt 1999, Probabilistic outputs for support vector machines.
    """
    centre, spread = float(raw.mean()), max(float(raw.std()), 1e-9)
    standard = (raw - centre) / spread
    sign = np.where(is_target, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> float:
        margin = sign * (np.exp(parameters[0]) * standard + parameters[1])
        return float(np.logaddexp(0, -margin).mean())

    rate = min(max(float(is_target.mean()), 1e-9), 1 - 1e-9)
    start = np.array([0.0, np.log(rate / (1 - rate))])
    log_slope, offset = minimize(loss, start, method="Nelder-Mead").x
    slope = float(np.exp(log_slope)) / spread
    return slope, float(offset) - slope * centre
