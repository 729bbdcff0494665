"""New rows into clean events: only the users that they name are cleaned again.

The result equals a cleaning of all rows from the beginning, because nothing that it needs is lost:
kept events carry their ``input_order``, and a bot's stand in the quarantine in full. Duplicates
are lost, so a plan for which a lost duplicate matters is not merged (:func:`can_merge`).
"""

import numpy as np
import polars as pl

from rec.data.cleaning import ORDER, RAW_SCHEMA, CleaningConfig
from rec.data.events import EVENT_SCHEMA
from rec.data.rows import RAW, REASON
from rec.data.user_cleaning import (
    BOT_RATE,
    Cleaned,
    clean_partition,
    count_bot_days,
    looks_derived,
)

_NAMES = [*EVENT_SCHEMA.names, ORDER, REASON, RAW]


def can_merge(config: CleaningConfig) -> bool:
    """Return whether new rows can be merged under a plan.

    A near duplicate counts from the duplicate before it, and a minimum from the whole log.
    """
    return not (config.near_duplicate_ms or config.collapse_repeats or config.is_trimmed)


def merge_partition(before: Cleaned, rows: pl.DataFrame, *, config: CleaningConfig) -> Cleaned:
    """Return what :func:`clean_partition` would make of the rows of ``before`` and the new ones.

    Args:
        before: what was made of the partition's earlier rows; its duplicates are not needed.
        rows: new rows in ``RAW_SCHEMA``, all later in the input's order.
        config: the plan, the same as before.

    Returns:
        The events and the quarantine of all rows; ``duplicates`` counts the new ones only.
    """
    users = rows["user_id"].unique().implode()
    is_named = pl.col("user_id").is_in(users)
    old_bots = pl.col(REASON) == BOT_RATE
    runs = _runs(before.kept)
    of_named, of_others = runs.filter(is_named), runs.filter(~is_named)
    known = [
        _as_rows(forget_sessions(_gather(before.kept, of_named))),
        _as_rows(before.quarantined.filter(old_bots & is_named)),
    ]
    cleaned = clean_partition(pl.concat([*known, rows.select(_NAMES)]), config=config)
    # Each user's events stand together and in order in one of the two: whole runs are put in
    # order, no event is compared.
    both = pl.concat([before.kept, cleaned.kept], rechunk=True)
    ours = _runs(cleaned.kept).with_columns(pl.col("start") + before.kept.height)
    kept = _gather(both, pl.concat([of_others, ours]).sort("user_id"))
    stays = before.quarantined.filter(~(old_bots & is_named).fill_null(value=False))
    quarantined = pl.concat([stays, cleaned.quarantined]).sort(ORDER, maintain_order=True)
    return Cleaned(
        kept=kept,
        quarantined=quarantined,
        duplicates=cleaned.duplicates,
        bot_days=count_bot_days(kept, quarantined, config),
        num_unclear_sessions=before.num_unclear_sessions + cleaned.num_unclear_sessions,
    )


def forget_sessions(events: pl.DataFrame) -> pl.DataFrame:
    """Take the derived session ids away: a new event may join two sessions or begin one."""
    return events.with_columns(
        pl.when(~looks_derived()).then(pl.col("session_id")).alias("session_id")
    )


def _runs(events: pl.DataFrame) -> pl.DataFrame:
    """Return ``user_id, len, start`` of each user of events that are sorted by user."""
    runs = events.select(pl.col("user_id").rle()).unnest("user_id")
    size = pl.col("len").cast(pl.Int64)
    return runs.select(user_id="value", len=size, start=size.cum_sum() - size)


def _gather(events: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """Return the events of runs, in the order of the runs."""
    starts, sizes = runs["start"].to_numpy(), runs["len"].to_numpy()
    before = np.cumsum(sizes) - sizes
    return events[np.repeat(starts - before, sizes) + np.arange(sizes.sum())]


def _as_rows(events: pl.DataFrame) -> pl.DataFrame:
    """Return events as rows that no reason speaks against."""
    return events.with_columns(
        pl.lit(None, pl.String).alias(REASON), pl.lit(None, pl.String).alias(RAW)
    ).select(pl.col(name).cast(RAW_SCHEMA[name]) for name in _NAMES)
