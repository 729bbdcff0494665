"""What the ranker learns from: moments the towers have not seen, and what came next.

A moment is a user's history up to some time and the items of the next one. The sources' tables
know only the log before the window, as they know only the log before today when they serve.

A share of the moments forgets some items: no event of theirs is known, only their texts, as it is
with the catalog's items that no event names. From these the trees learn what a text is worth.
Moments without a history forget nothing: there is no text to compare with.

Shapes: M moments, C candidates of all moments, F features, V items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet, hold_out_last, next_moments, temporal_split
from rec.ranking.columns import FEATURES
from rec.ranking.features import CANDIDATE_EVENTS, find_candidates
from rec.ranking.ranker import RankerConfig
from rec.ranking.retrieval.sources import SourceTables

_BLOCK_CELLS = 1 << 22
"""Scores of one source held at once: 16 MB, a dozen sources beside each other."""
_HIDING_MOMENTS = 4
"""One moment in so many forgets items: enough to learn from, and the rest is as it will be."""
_SHARED_START = 0.5
"""Share of users whose first event is at the log's first moment: their clocks count events."""

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


def deal_moments(moments: EvaluationSet, *, num_hands: int, seed: int) -> list[NDArray[np.int64]]:
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


def join_examples(parts: Sequence[Examples]) -> Examples:
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
