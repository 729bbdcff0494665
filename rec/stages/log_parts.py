"""The files of one partition of a cleaned log, and what is known of them.

An events artifact holds a part a partition, its quarantine beside it, and a file of its bots. A
summary is small; the summaries of all partitions make the manifest and the data card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from rec.artifacts import link_or_copy
from rec.data.counts import CleaningCounts, add_numbers
from rec.data.events import EVENT_SCHEMA
from rec.data.log_statistics import LogStatistics, item_counts, log_statistics
from rec.data.rows import RAW, REASON
from rec.data.sequences import distinct_queries
from rec.data.user_cleaning import BOT_USER, Cleaned, empty_quarantine
from rec.stages.bot_users import first_bot_rows
from rec.stages.data_card import SAMPLES

QUARANTINE = "quarantine"
"""Folder of an events artifact with the rows that were not good enough, and why."""
SUMMARISED = ("user_id", "item_id", "event_type", "timestamp_ms", "query", "session_id")
"""Columns of events that a summary is made of; the ids of events are half of the bytes."""
QUARANTINE_NAMES = {REASON: "reason", RAW: "raw"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionSummary:
    """Hold what is known of one partition; summaries of all partitions make the manifest."""

    counts: CleaningCounts = field(default_factory=CleaningCounts)
    statistics: LogStatistics = field(default_factory=LogStatistics)
    queries: tuple[str, ...] = ()
    """Distinct queries of searches, sorted."""
    bot_days: int = 0
    num_unclear_sessions: int = 0
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The first quarantined rows of each reason."""
    bots: Mapping[str, int] = field(default_factory=dict)
    """Events by user of those who have more than a person can have."""


def bots_path(partition: int, *, folder: Path) -> Path:
    """Return where a partition's bots stand."""
    return folder / QUARANTINE / f"part-{partition:05d}-bots.parquet"


def with_bots(summary: PartitionSummary, path: Path, bots: Mapping[str, int]) -> PartitionSummary:
    """Return a summary with the users that were set aside."""
    if not bots:
        return summary
    counts = summary.counts
    quarantined = add_numbers([counts.quarantined, {BOT_USER: sum(bots.values())}])
    return replace(
        summary,
        counts=replace(counts, quarantined=quarantined),
        samples={**summary.samples, **_samples(first_bot_rows(path, SAMPLES))},
        bots=bots,
    )


def link_part(partition: int, *, source: Path, folder: Path) -> None:
    """Give the files of a partition that nothing was added to a second name."""
    (folder / QUARANTINE).mkdir(exist_ok=True)
    for name in (
        part_name(partition),
        f"{QUARANTINE}/{part_name(partition)}",
        str(bots_path(partition, folder=Path())),
    ):
        if (source / name).is_file():
            link_or_copy(source / name, folder / name)


def read_part(
    partition: int, *, folder: Path, columns: Sequence[str] | None = None
) -> Cleaned | None:
    """Return what is known of a partition's earlier rows; its duplicates are counted already.

    Of the events only some ``columns``, if any are named.
    """
    name = part_name(partition)
    if not (folder / name).is_file():
        return None
    kept = pl.read_parquet(folder / name, columns=None if columns is None else list(columns))
    path = folder / QUARANTINE / name
    if path.is_file():
        quarantined = pl.read_parquet(path).rename({v: k for k, v in QUARANTINE_NAMES.items()})
    else:
        quarantined = empty_quarantine()
    return Cleaned(kept=kept, quarantined=quarantined)


def write_part(
    cleaned: Cleaned, partition: int, *, folder: Path, item_folder: Path
) -> PartitionSummary:
    """Write a part, add to its quarantine, and say what was written."""
    name = f"part-{partition:05d}.parquet"
    # Half of the bytes are hashes, which a higher level does not make smaller.
    cleaned.kept.rechunk().write_parquet(folder / name, compression="zstd", compression_level=1)
    item_counts(cleaned.kept).write_parquet(item_folder / name)
    if cleaned.quarantined.height:
        rows = cleaned.quarantined.rename(QUARANTINE_NAMES)
        path = folder / QUARANTINE / name
        path.parent.mkdir(exist_ok=True)
        before = [pl.read_parquet(path)] if path.is_file() else []
        pl.concat([*before, rows], rechunk=True).write_parquet(path)
    return summarise(cleaned)


def part_name(partition: int) -> str:
    """Return the name of a partition's file."""
    return f"part-{partition:05d}.parquet"


def summarise(cleaned: Cleaned) -> PartitionSummary:
    """Return the summary of what a part holds."""
    return PartitionSummary(
        counts=CleaningCounts(
            kept=cleaned.kept.height,
            duplicates=cleaned.duplicates,
            quarantined=dict(cleaned.quarantined[REASON].value_counts().iter_rows()),
        ),
        statistics=log_statistics(cleaned.kept),
        queries=tuple(distinct_queries(cleaned.kept)),
        bot_days=cleaned.bot_days,
        num_unclear_sessions=cleaned.num_unclear_sessions,
        samples=_samples(cleaned.quarantined),
    )


def _samples(quarantined: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the first rows of each reason as text: as they came, or as JSON."""
    first = quarantined.group_by(REASON, maintain_order=True).head(SAMPLES)
    shown = pl.struct(EVENT_SCHEMA.names).struct.json_encode()
    texts = first.select(REASON, pl.coalesce(RAW, shown).alias(RAW))
    found = texts.group_by(REASON).agg(RAW).iter_rows()
    return {reason: tuple(rows) for reason, rows in found}
