"""Fitting the ranker, a part of training: moments the towers have not seen, and what came next.

A moment is a user's history up to some time and the items of the next one. The sources' tables
know only the log before the window, as they know only the log before today when they serve. Folds
over users calibrate, and say whether trees are worth it: where they do not beat the best single
source out of fold, that source orders alone.

A share of the moments forgets some items: no event of theirs is known, only their texts, as it is
with the catalog's items that no event names. From these the trees learn what a text is worth.
Moments without a history forget nothing: there is no text to compare with.

Shapes: M moments, C candidates of all moments, F features.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet, hold_out_last, next_moments, temporal_split
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.ranking.features import CANDIDATE_EVENTS, FEATURES, find_candidates
from rec.ranking.ranker import (
    LEAD_WEIGHT,
    LEADS,
    MODES,
    Ranker,
    RankerConfig,
    Trees,
    follow_lead,
)
from rec.ranking.sources import SourceTables

VALIDATION_K = 10
_BLOCK_CELLS = 1 << 22
"""Scores of one source held at once: 16 MB, a dozen sources beside each other."""
_TRUNCATION = 20
"""Places that LambdaRank looks at: twice a list."""
_HIDING_MOMENTS = 4
"""One moment in so many forgets items: enough to learn from, and the rest is as it will be."""
_SHARED_START = 0.5
"""Share of users whose first event is at the log's first moment: their clocks count events."""
_FEWEST_TO_COMPARE = 10
"""Moments with a hit below which not even single sources are compared."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """Hold what is known of the catalog before the window.

    Attributes:
        tables: what the sources know.
        cosines: the sequence model's ``cos(e_u, e_i)`` of histories, float32 ``(B, V)``.
        is_hidden: bool ``(V,)``, items whose events the histories must not tell; none if absent.
        is_offered: bool ``(V,)``, items that may be candidates; all if absent.
    """

    tables: SourceTables
    cosines: Cosines
    is_hidden: NDArray[np.bool_] | None = None
    is_offered: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Hold what is known before the window, and the moments in it."""

    known: Sequences
    moments: EvaluationSet


def open_window(train: Sequences, config: RankerConfig) -> Window | None:
    """Return the newest part of a log as moments, the rest as known; ``None`` if it has too little.

    Time cuts it, the same for all users. Where most users begin at the log's very first moment,
    timestamps only count each one's events and say nothing of what happened at the same time:
    then the moments are the last ones of some users, other users stay known whole.
    """
    has_any = train.lengths > 0
    firsts = train.timestamps_ms[train.offsets[:-1][has_any]]
    if len(firsts) and (firsts == firsts.min()).mean() > _SHARED_START:
        share = config.window_share * int(train.is_item.sum())
        users = max(1, round(min(share, train.num_users / 2, config.max_moments)))
        known, moments = hold_out_last(train, max_users=users, seed=config.seed)
    else:
        split = temporal_split(train, quantile=1 - config.window_share)
        known = split.train
        moments = next_moments(
            train,
            since_ms=split.cut_ms,
            per_user=config.moments_per_user,
            max_moments=config.max_moments,
            seed=config.seed,
        )
    return Window(known=known, moments=moments) if (known.lengths >= 2).any() else None


def draw_hidden(tables: SourceTables, config: RankerConfig) -> NDArray[np.bool_]:
    """Return as large a share of the items with events as the catalog has without, ``(V,)``."""
    has_events = tables.counts > 0
    share = min(config.max_hidden_share, float((~has_events).mean()))
    generator = np.random.default_rng(config.seed)
    is_hidden: NDArray[np.bool_] = has_events & (generator.random(len(has_events)) < share)
    return is_hidden


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
    dealt = _deal(moments, num_hands=len(knowledge), seed=config.seed)
    trees = {}
    for mode in MODES:
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
                    mine.without_seen() if mode == "new" else mine,
                    known=known,
                    num_candidates=num_candidates,
                    is_new_only=mode == "new",
                    max_rows=round(config.max_rows * len(picks) / max(1, moments.num_users)),
                )
            )
        fitted = _fit_trees(_join(parts), config=config, num_threads=num_threads)
        if fitted is not None:
            trees[mode] = fitted
    return Ranker(trees=trees) if trees else None


def _deal(moments: EvaluationSet, *, num_hands: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the moments, shuffled, of those that know all and of those that forget items."""
    shuffled = np.random.default_rng(seed).permutation(moments.num_users)
    if num_hands == 1:
        return [shuffled]
    forgets = (np.arange(len(shuffled)) % _HIDING_MOMENTS == 0) & (
        moments.histories.lengths[shuffled] > 0
    )
    return [shuffled[~forgets], shuffled[forgets]]


def collect_examples(
    moments: EvaluationSet,
    *,
    known: Knowledge,
    num_candidates: int,
    is_new_only: bool,
    max_rows: int,
) -> Examples:
    """Return the candidates of moments, with those marked that came next.

    Args:
        moments: histories and targets, in no order that matters: where their candidates exceed
            ``max_rows``, the rest is not looked at.
        known: what tables and towers know.
        num_candidates: most that one source proposes.
        is_new_only: propose only what is not in the history.
        max_rows: bounds time and memory.
    """
    tables = known.tables
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
        if is_new_only or known.is_offered is not None:
            allowed = np.ones((len(picks), tables.num_items), dtype=np.bool_)
        if allowed is not None and known.is_offered is not None:
            allowed &= known.is_offered
        if allowed is not None and is_new_only:
            is_item = histories.is_item
            allowed[histories.rows()[is_item], histories.tokens[is_item] - 1] = False
        found = find_candidates(
            tables,
            histories,
            cosines=known.cosines(histories),
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


def _join(parts: Sequence[Examples]) -> Examples:
    """Return the examples of all parts behind each other."""
    starts = np.cumsum([0, *(part.moments.num_users for part in parts)])
    first = parts[0].moments
    histories = [part.moments.histories for part in parts]
    lengths = np.concatenate([history.lengths for history in histories])
    sizes = np.concatenate([np.diff(part.moments.target_offsets) for part in parts])
    return Examples(
        moments=EvaluationSet(
            histories=replace(
                first.histories,
                user_ids=[user for history in histories for user in history.user_ids],
                offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                tokens=np.concatenate([history.tokens for history in histories]),
                timestamps_ms=np.concatenate([history.timestamps_ms for history in histories]),
                event_types=np.concatenate([history.event_types for history in histories]),
            ),
            target_offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            targets=np.concatenate([part.moments.targets for part in parts]),
        ),
        num_asked=sum(part.num_asked for part in parts),
        rows=np.concatenate(
            [part.rows + start for part, start in zip(parts, starts, strict=False)]
        ),
        items=np.concatenate([part.items for part in parts]),
        features=np.concatenate([part.features for part in parts]),
        is_target=np.concatenate([part.is_target for part in parts]),
    )


def _fit_trees(examples: Examples, *, config: RankerConfig, num_threads: int) -> Trees | None:
    """Return one set of trees, a single source, or ``None`` where the cosine is as good."""
    num_moments = examples.moments.num_users
    if num_moments < _FEWEST_TO_COMPARE:
        logger.info("ranker: %d moments with a hit are too few", num_moments)
        return None
    metrics = {name: _ndcg(examples, follow_lead(examples.features, name)) for name in LEADS}
    lead = max(metrics, key=lambda name: metrics[name])
    start = LEAD_WEIGHT * follow_lead(examples.features, lead)
    raw, is_better = start, False
    if num_moments >= max(config.min_moments, config.num_folds):
        added = _predict_out_of_fold(examples, start, config=config, num_threads=num_threads)
        metrics["trees"] = _ndcg(examples, start + added)
        is_better = metrics["trees"] > metrics[lead]
    if not is_better:
        logger.info("ranker: %s orders best on this log: %s", lead, metrics)
        if lead == "sequence":
            return None
    booster = None
    if is_better:
        raw = start + added
        everyone = np.ones(num_moments, dtype=np.bool_)
        booster = _train(examples, start, everyone, config=config, num_threads=num_threads)
    slope, intercept = _calibrate(raw, examples.is_target)
    return Trees(
        lead=lead,
        booster=booster,
        slope=slope,
        # Moments without a hit were left out: nothing in them was a target.
        intercept=intercept + float(np.log(examples.hit_share)),
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
