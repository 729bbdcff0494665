"""What a clean log is like, in numbers that add up over its partitions.

A partition holds all events of its users, so whatever is counted by user is exact after adding.
Items meet in every partition: their counts are :func:`item_counts`, frames that are added one by
one. Memory follows the catalog and the distinct sequence lengths, never the log.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from rec.data.counts import add_numbers
from rec.data.text import detect_languages

TOP_USERS = 10
"""The users with most events that are named (under their stored ids)."""
_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class LogStatistics:
    """Count the events of one partition, or of the whole log."""

    events: int = 0
    users: int = 0
    sessions: int = 0
    """Distinct pairs of user and ``session_id``."""
    event_types: Mapping[str, int] = field(default_factory=dict)
    months: Mapping[str, int] = field(default_factory=dict)
    """Events by month of UTC, ``2024-05``."""
    query_languages: Mapping[str, int] = field(default_factory=dict)
    """Events with a query by its language."""
    lengths: Mapping[int, int] = field(default_factory=dict)
    """Users by their number of events."""
    tied_events: int = 0
    """Events that share user and millisecond with another: their order is not known."""
    first_ms: int | None = None
    last_ms: int | None = None
    heaviest_users: Sequence[tuple[str, int]] = ()
    """Stored ids and events of the users with most events, most first."""

    @property
    def tie_share(self) -> float:
        """Return the share of events whose order among others is not known; 0 without events."""
        return self.tied_events / self.events if self.events else 0.0


def log_statistics(events: pl.DataFrame) -> LogStatistics:
    """Return the statistics of clean events.

    Args:
        events: sorted by user, then time; all events of a user must be there.
    """
    if not events.height:
        return LogStatistics()
    stamp = pl.col("timestamp_ms")
    runs = events.select(pl.col("user_id").rle()).unnest("user_id")
    per_user = runs.select(user_id="value", len="len")
    per_user = per_user.sort(["len", "user_id"], descending=[True, False])
    queries = events["query"].drop_nulls()
    is_tied = (stamp == stamp.shift(1)) & (pl.col("user_id") == pl.col("user_id").shift(1))
    is_tied = is_tied.fill_null(value=False)
    return LogStatistics(
        events=events.height,
        users=per_user.height,
        sessions=_count_sessions(events),
        event_types=_counts(events["event_type"]),
        months=_count_months(events["timestamp_ms"]),
        query_languages=_counts(detect_languages(queries)) if len(queries) else {},
        lengths=dict(per_user["len"].value_counts().iter_rows()),
        tied_events=events.select((is_tied | is_tied.shift(-1, fill_value=False)).sum()).item(),
        first_ms=events["timestamp_ms"].min(),  # type: ignore[arg-type]
        last_ms=events["timestamp_ms"].max(),  # type: ignore[arg-type]
        heaviest_users=per_user.head(TOP_USERS).rows(),
    )


def add_statistics(parts: Iterable[LogStatistics]) -> LogStatistics:
    """Return the statistics of the whole log from those of its partitions."""
    parts = list(parts)
    lengths: dict[int, int] = {}
    for part in parts:
        for length, users in part.lengths.items():
            lengths[length] = lengths.get(length, 0) + users
    heaviest = [user for part in parts for user in part.heaviest_users]
    return LogStatistics(
        events=sum(part.events for part in parts),
        users=sum(part.users for part in parts),
        sessions=sum(part.sessions for part in parts),
        event_types=add_numbers(part.event_types for part in parts),
        months=add_numbers(part.months for part in parts),
        query_languages=add_numbers(part.query_languages for part in parts),
        lengths=dict(sorted(lengths.items())),
        tied_events=sum(part.tied_events for part in parts),
        first_ms=min((p.first_ms for p in parts if p.first_ms is not None), default=None),
        last_ms=max((p.last_ms for p in parts if p.last_ms is not None), default=None),
        heaviest_users=sorted(heaviest, key=lambda user: (-user[1], user[0]))[:TOP_USERS],
    )


def item_counts(events: pl.DataFrame) -> pl.DataFrame:
    """Return ``item_id, events`` of the items that occur, by id."""
    found = events.drop_nulls("item_id").group_by("item_id").len("events")
    return found.with_columns(pl.col("events").cast(pl.Int64)).sort("item_id")


def add_item_counts(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return the sum of several :func:`item_counts`; only two are held at a time."""
    total = pl.DataFrame(schema={"item_id": pl.String, "events": pl.Int64})
    for part in parts:
        total = pl.concat([total, part]).group_by("item_id").sum()
    return total.sort("item_id")


def weighted_quantiles(counts: Mapping[int, int], shares: Sequence[float]) -> list[int]:
    """Return the smallest value at or below which each share of the counted things lies.

    >>> weighted_quantiles({1: 3, 5: 1}, [0.5, 0.75, 0.9, 1])
    [1, 1, 5, 5]
    """
    values = sorted(counts)
    below = np.cumsum([counts[value] for value in values])
    places = np.searchsorted(below, np.asarray(shares) * below[-1], side="left")
    return [values[int(place)] for place in places]


def gini(counts: Sequence[int]) -> float:
    """Return how unevenly events are spread over items: 0 all equal, near 1 all on one.

    >>> gini([2, 2]), gini([0, 0, 0, 8]), gini([])
    (0.0, 0.75, 0.0)
    """
    values = np.sort(np.asarray(counts, dtype=np.float64))
    if not values.sum():
        return 0.0
    ranks = np.arange(1, len(values) + 1)
    return float(
        2 * (ranks @ values) / (len(values) * values.sum()) - (len(values) + 1) / len(values)
    )


def _count_sessions(events: pl.DataFrame) -> int:
    """Return the distinct pairs of user and session; most stand together, so few are compared.

    Where no two hashes are equal no two pairs are; only the few others are compared as text.
    """
    pair = [pl.col(name) for name in ("user_id", "session_id")]
    is_other = pl.any_horizontal(name.ne_missing(name.shift(1)) for name in pair)
    # Users are never null, so the first event is unlike the nothing before it.
    runs = events.select(*pair).filter(is_other)
    hashes = runs.select(pl.struct(*pair).hash()).to_series()
    is_again = hashes.is_duplicated()
    twice = runs.filter(is_again).select(pl.struct(*pair).n_unique()).item()
    return int(runs.height - is_again.sum() + twice)


def _count_months(timestamps_ms: pl.Series) -> dict[str, int]:
    """Return the events by month; days are counted first, so that few times become text."""
    days = (timestamps_ms // _DAY_MS).alias("day").value_counts()
    month = pl.from_epoch("day", time_unit="d").dt.strftime("%Y-%m").alias("month")
    counts = days.group_by(month).agg(pl.col("count").sum()).sort("month")
    return dict(counts.iter_rows())


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(values.alias("value").value_counts().sort("value").iter_rows())
