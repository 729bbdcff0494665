"""Fitting the ranker, a part of training: trees over the examples of the window.

Folds over users calibrate, and say whether trees are worth it: where they do not beat the best
single source out of fold, that source orders alone.

Shapes: M moments, C candidates of all moments, F features.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from rec.data.splits import EvaluationSet
from rec.ranking.columns import FEATURES
from rec.ranking.ranker import (
    LEAD_WEIGHT,
    LEADS,
    MODES,
    Ranker,
    RankerConfig,
    Trees,
    follow_lead,
    is_of_cold_user,
    is_without_events,
)
from rec.stages.cold_items import find_cold_offset
from rec.stages.cold_users import choose_popularity
from rec.stages.example_lists import FEWEST_TO_COMPARE, ndcg_of
from rec.stages.ranker_examples import (
    Examples,
    Knowledge,
    collect_examples,
    deal_moments,
    join_examples,
)

_TRUNCATION = 20
"""Places that LambdaRank looks at: twice a list."""
_WEIGHTS = (1.0, 0.5, 0.25)
"""Shares of what the trees say that are tried: those of a small log believe too much of it."""
logger = logging.getLogger(__name__)


def fit_ranker(
    moments: EvaluationSet,
    *,
    knowledge: Sequence[Knowledge],
    config: RankerConfig,
    num_candidates: int,
    num_threads: int = 1,
) -> Ranker | None:
    """Return a ranker, or ``None`` where the log is too small or the cosine alone is as good.

    Args:
        moments: what came next, unknown to towers and tables.
        knowledge: what is known of all items, and optionally what is known where some are hidden.
        config: how.
        num_candidates: most that one source proposes.
        num_threads: threads of the library.
    """
    trees = {}
    for mode in MODES:
        examples = gather_examples(
            moments,
            knowledge=knowledge,
            config=config,
            num_candidates=num_candidates,
            is_new_only=mode == "new",
        )
        fitted = fit_trees(examples, config=config, num_threads=num_threads)
        if fitted is not None:
            trees[mode] = fitted
    return Ranker(trees=trees) if trees else None


def gather_examples(
    moments: EvaluationSet,
    *,
    knowledge: Sequence[Knowledge],
    config: RankerConfig,
    num_candidates: int,
    is_new_only: bool,
) -> Examples:
    """Return the examples of one question, of moments that know all and of those that forget."""
    dealt = deal_moments(moments, num_hands=len(knowledge), seed=config.seed)
    parts = []
    for picks, known in zip(dealt, knowledge, strict=True):
        mine = moments.select_users(picks)
        if known.is_hidden is not None:
            shown = np.concatenate([[True], ~known.is_hidden])
            histories = mine.histories
            is_told = ~histories.is_item
            is_told[~is_told] = shown[histories.tokens[histories.is_item]]
            mine = replace(mine, histories=histories.select_events(is_told))
        parts.append(
            collect_examples(
                mine.without_seen() if is_new_only else mine,
                known=known,
                num_candidates=num_candidates,
                is_new_only=is_new_only,
                max_rows=round(config.max_rows * len(picks) / max(1, moments.num_users)),
            )
        )
    return join_examples(parts)


def fit_trees(examples: Examples, *, config: RankerConfig, num_threads: int) -> Trees | None:
    """Return one set of trees, a single source, or ``None`` where the cosine is as good."""
    num_moments = examples.moments.num_users
    if num_moments < FEWEST_TO_COMPARE:
        logger.info("ranker: %d moments with a hit are too few", num_moments)
        return None
    metrics = {name: ndcg_of(examples, follow_lead(examples.features, name)) for name in LEADS}
    lead = max(metrics, key=lambda name: metrics[name])
    start = LEAD_WEIGHT * follow_lead(examples.features, lead)
    raw, weight, is_better = start, 1.0, False
    if num_moments >= max(config.min_moments, config.num_folds):
        added = _predict_out_of_fold(examples, start, config=config, num_threads=num_threads)
        found = {weight: ndcg_of(examples, start + weight * added) for weight in _WEIGHTS}
        weight = max(found, key=lambda weight: found[weight])
        metrics["trees"] = found[weight]
        is_better = metrics["trees"] > metrics[lead]
    if not is_better:
        logger.info("ranker: %s orders best on this log: %s", lead, metrics)
        if lead == "sequence":
            return None
    booster = None
    if is_better:
        raw = start + weight * added
        everyone = np.ones(num_moments, dtype=np.bool_)
        booster = _train(examples, start, everyone, config=config, num_threads=num_threads)
    cold_offset = find_cold_offset(examples, raw, max_loss=config.max_cold_loss)
    raw = raw + cold_offset * is_without_events(examples.features)
    cold_users = choose_popularity(examples, raw)
    is_others = ~is_of_cold_user(examples.features)
    if cold_users is None or not is_others.any():
        is_others[:] = True
    slope, intercept = _calibrate(raw[is_others], examples.is_target[is_others])
    return Trees(
        lead=lead,
        booster=booster,
        weight=weight,
        cold_offset=cold_offset,
        slope=slope,
        # Moments without a hit were left out: nothing in them was a target.
        intercept=intercept + float(np.log(examples.hit_share)),
        cold_users=cold_users,
        metrics=metrics,
    )


def _predict_out_of_fold(
    examples: Examples, start: NDArray[np.float64], *, config: RankerConfig, num_threads: int
) -> NDArray[np.float64]:
    """Return what trees fitted on other users add to ``start``, float64 ``(C,)``."""
    generator = np.random.default_rng(config.seed)
    users = np.unique(examples.moments.histories.user_ids, return_inverse=True)[1]
    folds = generator.integers(0, config.num_folds, size=users.max() + 1)[users]  # (M,)
    raw = np.zeros(len(examples.rows))
    for fold in np.unique(folds):
        booster = _train(examples, start, folds != fold, config=config, num_threads=num_threads)
        mine = folds[examples.rows] == fold
        raw[mine] = booster.predict(examples.features[mine], num_threads=num_threads)
    return raw


def _train(
    examples: Examples,
    start: NDArray[np.float64],
    picks: NDArray[np.bool_],
    *,
    config: RankerConfig,
    num_threads: int,
) -> lightgbm.Booster:
    """Fit trees that correct ``start`` (C,), on the moments where ``picks`` holds."""
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
        init_score=start[keep],
        feature_name=list(FEATURES),
    )
    return lightgbm.train(parameters, data, num_boost_round=config.num_trees)


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
