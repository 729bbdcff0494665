"""What the ranker reads of a candidate: the name of every column beside its computation.

Times are log seconds up to the user's *now*: the end of the log or the user's newest event,
whichever is later, so that a list does not depend on the clock. A moment is what a user had at one
time: a basket where events tie.

Shapes: B users, V items, C candidates of all users together, F columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.ranking.retrieval.own_items import FADES, OwnItems
from rec.ranking.retrieval.sources import SourceTables

RANKED = (
    "sequence",
    "personal",
    "accompanies",
    "follows",
    "lifts",
    "neighbors",
    "text",
    "kin",
)
"""Sources whose rank among the user's candidates is a column beside their score."""
NEWEST = ("follows", "accompanies", "lifts", "neighbors")
"""Sources that are asked of the newest moment alone, too: there the last click may say most."""
Values = NDArray[np.floating] | NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Hold what is known of the candidates of some users.

    Attributes:
        tables: what the sources know.
        own: what the users have had.
        scores: what every source says, float32 ``(B, V)``.
        rows: int64 ``(C,)``, the user of each candidate, ascending.
        items: int64 ``(C,)``, 0-based.
    """

    tables: SourceTables
    own: OwnItems
    scores: Mapping[str, NDArray[np.float32]]
    rows: NDArray[np.int64]
    items: NDArray[np.int64]

    @cached_property
    def now_ms(self) -> NDArray[np.int64]:
        """Return each candidate's user's now."""
        return np.maximum(self.own.newest_ms, self.tables.end_ms)[self.rows]

    @cached_property
    def shares(self) -> NDArray[np.float32]:
        """Return the candidates' log shares of the popularity windows, ``(C, W)``."""
        return self.tables.log_shares[self.items]

    @cached_property
    def pair_rows(self) -> NDArray[np.int64]:
        """Return the user of each pair, ``(P,)``."""
        return self.own.keys // self.tables.num_items

    @cached_property
    def pair_items(self) -> NDArray[np.int64]:
        """Return the 0-based item of each pair, ``(P,)``."""
        return self.own.keys % self.tables.num_items

    @cached_property
    def newest(self) -> sparse.csr_array:
        """Return the items of each user's newest moment, rows summing to 1, ``(B, V)``."""
        is_newest = self.own.pair_newest == 0
        rows, items = self.pair_rows[is_newest], self.pair_items[is_newest]
        shape = (len(self.own.events), self.tables.num_items)
        sizes = np.bincount(rows, minlength=shape[0])
        weights = (1 / sizes[rows]).astype(np.float32)
        return sparse.csr_array((weights, (rows, items)), shape=shape)

    @cached_property
    def taste(self) -> NDArray[np.float64]:
        """Return the mean log popularity of each user's events, ``(B,)``."""
        values = self.own.pair_events * self.tables.log_shares[self.pair_items, 0]
        sums = np.bincount(self.pair_rows, weights=values, minlength=len(self.own.events))
        result: NDArray[np.float64] = sums / np.maximum(self.own.events, 1)
        return result

    @cached_property
    def _pairs(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which candidates their users have had, and each such one's place in ``own``."""
        keys, wanted = self.own.keys, self.rows * self.tables.num_items + self.items
        places = np.searchsorted(keys, wanted)
        had = np.zeros(len(wanted), dtype=np.bool_)
        is_inside = places < len(keys)
        had[is_inside] = keys[places[is_inside]] == wanted[is_inside]
        return had, places[had]

    def score(self, name: str) -> NDArray[np.float32]:
        """Return what one source says of the candidates."""
        return self.scores[name][self.rows, self.items]

    def rank(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each candidate's 0-based rank within its user, best first, equals sharing it."""
        rows = self.rows
        order = np.lexsort((-values, rows))
        place = np.arange(len(order)) - np.searchsorted(rows, rows)
        is_new = np.ones(len(order), dtype=np.bool_)
        is_new[1:] = (np.diff(values[order]) != 0) | (np.diff(rows) != 0)
        leader = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
        ranks = np.empty(len(order), dtype=np.float32)
        ranks[order] = place[leader]
        return ranks

    def had(self, values: Values, *, otherwise: float = np.nan) -> NDArray[np.float64]:
        """Return values of pairs ``(P,)`` at the candidates; ``otherwise`` where not had."""
        had, places = self._pairs
        column = np.full(len(had), otherwise)
        column[had] = values[places]
        return column

    def of_user(self, values: Values) -> Values:
        """Return values of users ``(B,)`` at their candidates; NaN for a user without events."""
        return np.where(self.own.events > 0, values, np.nan)[self.rows]

    def since(self, times_ms: Values) -> NDArray[np.float64]:
        """Return the log seconds from ``(C,)`` to now; NaN stays."""
        return log_s(self.now_ms - times_ms)


def log_s(milliseconds: Values) -> NDArray[np.float64]:
    """Return the log of seconds, negative ones counting as 0."""
    result: NDArray[np.float64] = np.log1p(np.maximum(milliseconds, 0) / 1000)
    return result


def _mean_gap(total: Values, moments: Values) -> NDArray[np.float64]:
    """Return what lies between two of so many moments, NaN where there is one."""
    gaps: NDArray[np.float64] = np.where(moments > 1, total / np.maximum(moments - 1, 1), np.nan)
    return gaps


def _newest_category(facts: Facts) -> NDArray[np.float64]:
    """Return the share of the user's newest moment in a candidate's categories, ``(C,)``."""
    newest = (facts.newest @ facts.tables.categories).toarray()  # (B, G)
    mine = facts.tables.categories[facts.items]
    owners = np.repeat(np.arange(len(facts.items)), np.diff(mine.indptr))
    weights = mine.data * newest[facts.rows[owners], mine.indices]
    shares = np.zeros(len(facts.items))
    np.add.at(shares, owners, weights)
    return shares


def _newest_text(facts: Facts) -> NDArray[np.float32]:
    """Return the mean cosine between a candidate's text and the newest moment's, ``(C,)``."""
    read = facts.newest @ facts.tables.text  # (B, T)
    cosines: NDArray[np.float32] = np.einsum(
        "ct,ct->c", read[facts.rows], facts.tables.text[facts.items]
    )
    return cosines


def _newest(name: str) -> Callable[[Facts], Values]:
    """Return what a table says of what comes after the newest moment alone."""

    def follow(facts: Facts) -> Values:
        said: NDArray[np.float32] = (facts.newest @ getattr(facts.tables, name)).toarray()
        return said[facts.rows, facts.items]

    return follow


def _own_idle_over_own_gap(facts: Facts) -> NDArray[np.float64]:
    own = facts.own
    gaps = _mean_gap(own.pair_newest_ms - own.pair_oldest_ms, own.pair_moments)
    return facts.since(facts.had(own.pair_newest_ms)) - log_s(facts.had(gaps))


def _own_places_over_own_gap(facts: Facts) -> NDArray[np.float64]:
    own = facts.own
    gaps = _mean_gap(own.pair_oldest - own.pair_newest, own.pair_moments)
    places: NDArray[np.float64] = np.log(facts.had((own.pair_newest + 1) / gaps))
    return places


def _score(name: str) -> Callable[[Facts], Values]:
    return lambda facts: facts.score(name)


def _faded(decay: float) -> Callable[[Facts], Values]:
    return lambda facts: facts.had(facts.own.pair_faded[decay], otherwise=0.0)


def _score_rank(name: str) -> Callable[[Facts], Values]:
    return lambda facts: facts.rank(facts.score(name))


COLUMNS: Mapping[str, Callable[[Facts], Values]] = {
    # What the sources say.
    **{name: _score(name) for name in RANKED},
    **{f"{name}_rank": _score_rank(name) for name in RANKED},
    "popularity_rank": lambda facts: facts.rank(facts.shares[:, 1] + 1e-3 * facts.shares[:, 0]),
    "category": lambda facts: facts.score("category"),
    **{f"newest_{name}": _newest(name) for name in NEWEST},
    "newest_category": _newest_category,
    "newest_text": _newest_text,
    # The item by itself.
    "popularity": lambda facts: facts.shares[:, 0],
    "recent_popularity": lambda facts: facts.shares[:, 1],
    "current_popularity": lambda facts: facts.shares[:, 2],
    "newest_popularity": lambda facts: facts.shares[:, 3],
    "trend": lambda facts: facts.shares[:, 2] - facts.shares[:, 0],
    "item_age": lambda facts: facts.since(facts.tables.first_ms[facts.items]),
    "item_idle": lambda facts: np.where(
        facts.tables.last_ms[facts.items] >= 0,
        facts.since(facts.tables.last_ms[facts.items]),
        np.nan,
    ),
    "item_users": lambda facts: np.log1p(facts.tables.num_users[facts.items]),
    "item_repeat_share": lambda facts: (
        1 - facts.tables.num_users / np.maximum(facts.tables.counts, 1)
    )[facts.items],
    "item_repeat_gap": lambda facts: facts.tables.repeat_gap[facts.items],
    "kin_popularity": lambda facts: facts.tables.kin_popularity[facts.items],
    # What the user has had of the item.
    "own_count": lambda facts: facts.had(facts.own.pair_events, otherwise=0.0),
    "own_share": lambda facts: (
        facts.had(facts.own.pair_events, otherwise=0.0)
        / np.maximum(facts.own.events, 1)[facts.rows]
    ),
    "own_idle": lambda facts: facts.since(facts.had(facts.own.pair_newest_ms)),
    "own_ties_back": lambda facts: facts.had(facts.own.pair_newest),
    "own_idle_over_gap": lambda facts: (
        facts.since(facts.had(facts.own.pair_newest_ms)) - facts.tables.repeat_gap[facts.items]
    ),
    "own_last_type": lambda facts: facts.had(facts.own.pair_type),
    **{f"own_faded_{decay:g}": _faded(decay) for decay in FADES},
    "own_rate": lambda facts: (
        facts.had(facts.own.pair_moments, otherwise=0.0)
        / np.maximum(facts.own.moments, 1)[facts.rows]
    ),
    "own_rate_since": lambda facts: facts.had(facts.own.pair_moments / (facts.own.pair_oldest + 1)),
    "own_idle_over_own_gap": _own_idle_over_own_gap,
    "own_places_over_own_gap": _own_places_over_own_gap,
    # The user.
    "user_moments": lambda facts: np.log1p(facts.own.moments)[facts.rows],
    "user_moment_size": lambda facts: facts.of_user(
        facts.own.events / np.maximum(facts.own.moments, 1)
    ),
    "user_gap": lambda facts: log_s(
        facts.of_user(_mean_gap(facts.own.newest_ms - facts.own.oldest_ms, facts.own.moments))
    ),
    "user_popularity": lambda facts: facts.of_user(facts.taste),
    "popularity_over_user": lambda facts: facts.shares[:, 0] - facts.of_user(facts.taste),
    "history_length": lambda facts: np.log1p(facts.own.events)[facts.rows],
    "history_repeat_share": lambda facts: (
        1 - facts.own.distinct / np.maximum(facts.own.events, 1)
    )[facts.rows],
    "user_idle": lambda facts: facts.since(facts.of_user(facts.own.newest_ms)),
}
FEATURES = tuple(COLUMNS)
"""The columns in their order."""


def describe(facts: Facts) -> NDArray[np.float32]:
    """Return all columns, float32 ``(C, F)``; NaN where there is nothing to say."""
    columns = (np.asarray(make(facts), dtype=np.float32) for make in COLUMNS.values())
    return np.stack(list(columns), axis=1)
