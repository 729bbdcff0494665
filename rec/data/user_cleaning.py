"""Cleaning that needs all rows of a user: duplicates, bots, minimum counts, sessions.

Each step is switched by :class:`rec.data.cleaning.CleaningConfig` and takes the events that the
step before left: same id, bots, near in time, repeats, rare items and users, sessions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from rec.data.cleaning import ORDER, RAW_SCHEMA, CleaningConfig
from rec.data.events import EVENT_SCHEMA
from rec.data.rows import RAW, REASON

SAME_ID, NEAR_IN_TIME, REPEAT = "same_event_id", "near_in_time", "consecutive_repeat"
"""Why an event is a duplicate."""
BOT_RATE, BOT_USER, RARE_ITEM, RARE_USER = "bot_rate", "bot_user", "rare_item", "rare_user"
"""Why a good row is quarantined."""
DAY_MS = 24 * 3600 * 1000
_COLUMNS = tuple(EVENT_SCHEMA.names)
_CONTENT = ("user_id", "item_id", "query", "event_type")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """Hold what cleaning made of some users' rows."""

    kept: pl.DataFrame
    """Events in the contract's columns and ``input_order``, sorted by user, time and that."""
    quarantined: pl.DataFrame
    """``reason`` and ``input_order`` of every row that is neither kept nor a duplicate; what could
    not be read stands in ``raw``, what could be read and is not wanted in the contract's columns.
    """
    duplicates: Mapping[str, int] = field(default_factory=dict)
    """Rows by the reason why they say nothing new."""
    bot_days: int = 0
    """Days of one user with more events than ``max_events_per_day``, quarantined or not."""
    num_unclear_sessions: int = 0
    """Events that came with a ``session_id`` that looks like a derived one."""


def clean_partition(rows: pl.DataFrame, *, config: CleaningConfig) -> Cleaned:
    """Return the clean events of some users; all rows of one user must be there.

    Of events with the same ``event_id`` the first in input order stays. Events are sorted by
    user, then time; ties in time keep the input's order.
    """
    is_bad = rows[REASON].is_not_null()
    bad = _unreadable(rows.filter(is_bad))
    # One user may be a tenth of the log: each step lets go of what it was made from.
    good = (rows.filter(~is_bad) if bad.height else rows).drop(REASON, RAW)
    del rows
    kept = sorted_by_user(_without_same_ids(good))
    duplicates = {SAME_ID: good.height - kept.height}
    del good
    named = kept.lazy().filter(pl.col("session_id").is_not_null())
    num_unclear = named.select(looks_derived().sum()).collect().item()
    bots, bot_days = _bots(kept, config)
    if config.bots == "quarantine":
        bad = pl.concat([bad, _quarantine(kept.filter(bots), BOT_RATE)])
        kept = kept.filter(~bots) if bot_days else kept
    if config.near_duplicate_ms is not None:
        before = kept.height
        gap = pl.col("timestamp_ms") - pl.col("timestamp_ms").shift(1).over(_CONTENT)
        kept = kept.filter((gap > config.near_duplicate_ms).fill_null(value=True))
        duplicates[NEAR_IN_TIME] = before - kept.height
    if config.collapse_repeats:
        before = kept.height
        kept = kept.filter(
            ~pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in _CONTENT)
        )
        duplicates[REPEAT] = before - kept.height
    if not config.is_trimmed:
        kept = derive_sessions(kept, config=config)
    return Cleaned(
        kept=kept.select(*_COLUMNS, ORDER),
        quarantined=bad.sort(ORDER, maintain_order=True),
        duplicates={reason: number for reason, number in duplicates.items() if number},
        bot_days=bot_days,
        num_unclear_sessions=num_unclear,
    )


def trim_partition(
    events: pl.DataFrame, *, rare_items: pl.Series, config: CleaningConfig
) -> Cleaned:
    """Return the events of some users without rare items, then without users of few events.

    Each count is taken once: leaving a user out can make an item rare again (no k-core). Searches
    count as events of their user.

    Args:
        events: clean events, as :func:`clean_partition` gives them.
        rare_items: ids of the items with fewer than ``min_item_events`` events in the whole log.
        config: how many events a user needs.
    """
    is_rare = pl.col("item_id").is_in(rare_items.implode()).fill_null(value=False)
    bad = _quarantine(events.filter(is_rare), RARE_ITEM)
    kept = events.filter(~is_rare)
    if config.min_user_events is not None:
        is_short = pl.len().over("user_id") < config.min_user_events
        bad = pl.concat([bad, _quarantine(kept.filter(is_short), RARE_USER)])
        kept = kept.filter(~is_short)
    kept = derive_sessions(kept, config=config)
    return Cleaned(kept=kept, quarantined=bad.sort(ORDER, maintain_order=True))


def derive_sessions(events: pl.DataFrame, *, config: CleaningConfig) -> pl.DataFrame:
    """Give events without a ``session_id`` one: the user and the time at which the session began.

    Args:
        events: sorted by user, then time.
        config: a gap of more than ``session_gap_s`` begins a session; ``None`` derives none.
    """
    if config.session_gap_s is None:
        return events
    stamp = pl.col("timestamp_ms")
    is_late = stamp - stamp.shift(1) > config.session_gap_s * 1000
    begins = events.select((is_late | _is_other("user_id")).fill_null(value=True))
    is_first = begins.to_series()
    names = events.filter(is_first).select(pl.format("{}-{}", "user_id", stamp)).to_series()
    # Each name is made once and pointed to, so a session costs its events no text of their own.
    derived = names.gather(is_first.cast(pl.UInt32).cum_sum() - 1)
    return events.with_columns(events["session_id"].fill_null(derived).alias("session_id"))


def looks_derived() -> pl.Expr:
    """Return the expression that says of an event whether its ``session_id`` looks like ours."""
    prefix = pl.format("{}-", "user_id")
    rest = pl.col("session_id").str.strip_prefix(prefix)
    is_ours = pl.col("session_id").str.starts_with(prefix) & rest.str.contains("^[0-9]+$")
    return is_ours.fill_null(value=False)


def count_bot_days(kept: pl.DataFrame, quarantined: pl.DataFrame, config: CleaningConfig) -> int:
    """Return the days above the limit, of events that were cleaned under ``config``.

    Args:
        kept: sorted by user, then time.
        quarantined: what was not kept, in any order.
        config: the plan.
    """
    if config.bots == "report":
        return _bots(kept, config)[1]
    day = pl.col("timestamp_ms") // DAY_MS
    bots = quarantined.filter(pl.col(REASON) == BOT_RATE)
    return int(bots.select(pl.struct("user_id", day).n_unique()).item())


def sorted_by_user(events: pl.DataFrame) -> pl.DataFrame:
    """Return events by user, then time, then the input's order; texts are compared once a user."""
    users = events["user_id"].unique().sort()
    places = pl.int_range(len(users), dtype=pl.UInt32, eager=True)
    keys = (events[ORDER], events["timestamp_ms"], events["user_id"].replace_strict(users, places))
    return events[np.lexsort([key.to_numpy() for key in keys])] if events.height else events


def _bots(kept: pl.DataFrame, config: CleaningConfig) -> tuple[pl.Series, int]:
    """Return which events are of a day with too many, and how many such days there are.

    Args:
        kept: sorted by user, then time, so that the events of a day stand together.
        config: how many are too many.
    """
    if config.max_events_per_day is None or not kept.height:
        return pl.Series([False], dtype=pl.Boolean).new_from_index(0, kept.height), 0
    day = pl.col("timestamp_ms") // DAY_MS
    is_first = kept.select((_is_other("user_id") | (day != day.shift(1))).fill_null(value=True))
    starts = is_first.to_series().arg_true().to_numpy()
    sizes = np.diff(starts, append=kept.height)
    is_bot_day = sizes > config.max_events_per_day
    return pl.Series(np.repeat(is_bot_day, sizes)), int(is_bot_day.sum())


def _without_same_ids(events: pl.DataFrame) -> pl.DataFrame:
    """Return of each user's events with one ``event_id`` the first in the input's order.

    Whose hash is there once is there once; only the few others are compared as text.
    """
    hashes = pl.struct("user_id", "event_id").hash()
    twice = events.select("user_id", "event_id", ORDER).filter(hashes.is_duplicated())
    is_first = pl.col(ORDER) == pl.col(ORDER).min().over("user_id", "event_id")
    again = twice.filter(~is_first)[ORDER]
    return events.filter(~pl.col(ORDER).is_in(again.implode())) if len(again) else events


def _is_other(name: str) -> pl.Expr:
    """Return the expression that says whether an event differs from the one before."""
    return pl.col(name) != pl.col(name).shift(1)


def empty_quarantine() -> pl.DataFrame:
    """Return a quarantine without rows."""
    return pl.DataFrame(schema={name: RAW_SCHEMA[name] for name in (REASON, ORDER, RAW, *_COLUMNS)})


def _unreadable(rows: pl.DataFrame) -> pl.DataFrame:
    """Return bad rows as the quarantine holds them."""
    return rows.select(
        REASON, ORDER, RAW, *(pl.lit(None, RAW_SCHEMA[name]).alias(name) for name in _COLUMNS)
    )


def _quarantine(events: pl.DataFrame, reason: str) -> pl.DataFrame:
    """Return good rows as the quarantine holds them: as they would have been stored."""
    raw = pl.lit(None, pl.String).alias(RAW)
    return events.select(pl.lit(reason).alias(REASON), ORDER, raw, *_COLUMNS)
