"""Cleaning a log: files to clean events, their quarantine and the data card, as one artifact."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from rec.artifacts import Artifact, Draft, replace_file, write_json
from rec.data.cleaning import CleaningConfig
from rec.data.counts import CleaningCounts, add_numbers, check_counts
from rec.data.log_merging import can_merge
from rec.data.log_statistics import LogStatistics, add_item_counts, add_statistics
from rec.data.queries import save_queries
from rec.errors import DataError
from rec.spread import Spread, ready_worker
from rec.stages.data_card import CARD_FILE, PAGE_FILES, SAMPLES, make_card
from rec.stages.data_card_page import render_card
from rec.stages.log_parts import PartitionSummary
from rec.stages.log_workers import (
    CleanPartition,
    SpillFile,
    SummarisePartition,
    TrimPartition,
)

MAX_EVENT_TYPES = 1000
"""More are a wrong column: a type is a kind of act, and stands in every sequence as an int16."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Name what a log is made of."""

    files: Sequence[str]
    """Absolute paths, in the order in which ties are kept."""
    feedback: frozenset[str]
    """Those of them that serving wrote."""
    key_path: Path | None
    """The key of the pseudonyms; ``None`` stores ids as they are."""
    now_ms: int
    before: Artifact | None = None
    """Events of the first of the files: only the others are read, and merged into them."""
    num_known: int = 0
    """How many files those are."""
    tombstones: frozenset[str] = frozenset()
    """Who was erased."""
    tombstone_key: Path | None = None
    """The key of the tombstones."""


def clean_log(
    draft: Draft,
    sources: Sources,
    *,
    catalog: Artifact,
    config: CleaningConfig,
    num_partitions: int,
    spread: Spread,
) -> None:
    """Fill an events artifact: its parts, quarantine, data card, counts and details.

    Raises:
        DataError: a file or column that cannot be read, or a log that is too bad.
    """
    scratch = draft.path / "scratch"
    spill, item_folder = scratch / "spill", scratch / "items"
    for folder in (spill, item_folder):
        folder.mkdir(parents=True)
    spiller = SpillFile(
        config=config,
        catalog=catalog.path,
        folder=spill,
        num_partitions=num_partitions,
        now_ms=sources.now_ms,
        key_path=sources.key_path,
        feedback=sources.feedback,
        tombstones=sources.tombstones,
        tombstone_key=sources.tombstone_key,
    )
    before = sources.before
    files = list(enumerate(sources.files))[sources.num_known :]
    spilled = list(spread(ready_worker(spiller), files, label="reading the log"))
    _check_files([file.problem for file in spilled if file.problem], len(sources.files), config)
    num_rows = sum(file.num_rows for file in spilled) + (before.counts["rows_in"] if before else 0)
    cleaner = CleanPartition(
        config=config,
        spill=spill,
        folder=draft.path,
        item_counts=item_folder,
        before=before.path if before else None,
    )
    summaries = list(spread(ready_worker(cleaner), range(num_partitions), label="cleaning"))
    shutil.rmtree(spill)
    known_duplicates = before.counts["duplicates_by_reason"] if before else {}
    counts = _add_counts(summaries, known_duplicates)
    assert counts.rows_in == num_rows, "a row was lost or counted twice"
    if config.is_trimmed:
        summaries = _trim(draft.path, summaries, scratch=scratch, config=config, spread=spread)
        counts = _add_counts(summaries, known_duplicates)
        assert counts.rows_in == num_rows, "a row was lost or counted twice while trimming"
    check_counts(counts, config)
    _describe(draft, summaries, counts=counts, item_folder=item_folder, catalog=catalog)
    shutil.rmtree(scratch)
    save_queries(draft.path, sorted({query for part in summaries for query in part.queries}))
    draft.details |= {
        "pseudonymized": config.pseudonymize_users,
        "can_be_merged": _can_be_merged(counts, summaries, config),
        "merged_into": before.name if before else None,
    }


def recount_log(
    draft: Draft, *, catalog: Artifact, config: CleaningConfig, num_partitions: int
) -> frozenset[str]:
    """Count again an events artifact that rows were taken out of: data card, counts and details.

    Duplicates were counted once and are not kept, so an erased user's stay in their number. Types
    of events stay with a count of 0: sequences name them by their place.

    Returns:
        The queries that are left.
    """
    scratch = draft.path / "scratch"
    scratch.mkdir()
    worker = SummarisePartition(config=config, folder=draft.path, item_counts=scratch)
    summaries = [worker(partition) for partition in range(num_partitions)]
    before = draft.counts
    counts = _add_counts(summaries, before["duplicates_by_reason"])
    no_types = dict.fromkeys(before["event_types"], 0)
    _describe(draft, summaries, counts=counts, item_folder=scratch, catalog=catalog)
    draft.counts["event_types"] = no_types | draft.counts["event_types"]
    shutil.rmtree(scratch)
    return frozenset(query for summary in summaries for query in summary.queries)


def _describe(
    draft: Draft,
    summaries: Sequence[PartitionSummary],
    *,
    counts: CleaningCounts,
    item_folder: Path,
    catalog: Artifact,
) -> None:
    """Write the data card, and what the summaries say into the manifest."""
    statistics = add_statistics(summary.statistics for summary in summaries)
    _check_event_types(statistics)
    warnings: list[Mapping[str, Any]] = []
    if statistics.events:
        card = make_card(
            counts=counts,
            statistics=statistics,
            items=_read_item_counts(item_folder),
            samples=_first_samples(summaries),
            bot_days=sum(summary.bot_days for summary in summaries),
            bots={user: number for summary in summaries for user, number in summary.bots.items()},
            catalog=catalog,
        )
        _write_card(draft.path, card)
        _warn(card)
        warnings = card["warnings"]
    else:  # only where the last user was erased: there is nothing to describe
        for name in (CARD_FILE, *PAGE_FILES.values()):
            (draft.path / name).unlink(missing_ok=True)
    draft.counts |= {
        "rows_in": counts.rows_in,
        "kept": counts.kept,
        "duplicates": counts.num_duplicates,
        "duplicates_by_reason": counts.duplicates,
        "quarantined": counts.quarantined,
        "users": statistics.users,
        "sessions": statistics.sessions,
        "event_types": statistics.event_types,
    }
    draft.details |= {
        "first_ms": statistics.first_ms,
        "last_ms": statistics.last_ms,
        "warnings": warnings,
    }


def _trim(
    folder: Path,
    cleaned: Sequence[PartitionSummary],
    *,
    scratch: Path,
    config: CleaningConfig,
    spread: Spread,
) -> list[PartitionSummary]:
    """Take rare items and users out of every part; return the summaries of what is left."""
    counts = _read_item_counts(scratch / "items")
    is_rare = pl.col("events") < (config.min_item_events or 0)
    rare_items = scratch / "rare.parquet"
    counts.filter(is_rare).select("item_id").write_parquet(rare_items)
    trimmer = TrimPartition(
        config=config, folder=folder, item_counts=scratch / "items", rare_items=rare_items
    )
    trimmed = spread(ready_worker(trimmer), range(len(cleaned)), label="trimming")
    return [
        replace(
            after,
            counts=CleaningCounts(
                kept=after.counts.kept,
                duplicates=before.counts.duplicates,
                quarantined=add_numbers([before.counts.quarantined, after.counts.quarantined]),
            ),
            bot_days=before.bot_days,
            bots=before.bots,
            samples=_first_samples([before, after]),
        )
        for before, after in zip(cleaned, trimmed, strict=True)
    ]


def _can_be_merged(
    counts: CleaningCounts, summaries: Sequence[PartitionSummary], config: CleaningConfig
) -> bool:
    """Return whether later rows can be merged into these events with a full rebuild's result."""
    return (
        can_merge(config)
        # What is of the future today may be good tomorrow.
        and "future_timestamp" not in counts.quarantined
        and not any(summary.num_unclear_sessions for summary in summaries)
    )


def _add_counts(
    summaries: Sequence[PartitionSummary], known_duplicates: Mapping[str, int]
) -> CleaningCounts:
    duplicates = [known_duplicates, *(summary.counts.duplicates for summary in summaries)]
    return CleaningCounts(
        kept=sum(summary.counts.kept for summary in summaries),
        duplicates=add_numbers(duplicates),
        quarantined=add_numbers(summary.counts.quarantined for summary in summaries),
    )


def _read_item_counts(folder: Path) -> pl.DataFrame:
    return add_item_counts(map(pl.read_parquet, sorted(folder.iterdir())))


def _first_samples(summaries: Sequence[PartitionSummary]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for summary in summaries:
        for reason, rows in summary.samples.items():
            found[reason] = (*found.get(reason, ()), *rows)[:SAMPLES]
    return found


def _write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card beside the events."""
    write_json(folder / CARD_FILE, card)
    for name, page in (
        (PAGE_FILES["en"], render_card(card, language="en")),
        (PAGE_FILES["zh"], render_card(card, language="zh")),
    ):
        replace_file(folder / name, partial(Path.write_text, data=page, encoding="utf-8"))


def _warn(card: Mapping[str, Any]) -> None:
    """Log who may be a bot; the rest of the warnings can wait until somebody reads the card."""
    for warning in card["warnings"]:
        if warning["code"] == "heavy_user":
            share = 100 * warning["share"]
            _log.warning("user %s has %.1f %% of all events", warning["user_id"], share)
        if warning["code"] == "bot_user":
            _log.warning("user %s is a bot: %d events", warning["user_id"], warning["number"])
        if warning["code"] == "bot_days":
            _log.warning("%d user days have more events than the limit", warning["number"])


def _check_files(problems: Sequence[str], num_files: int, config: CleaningConfig) -> None:
    for problem in problems:
        _log.warning("%s; the other files are read", problem)
    if len(problems) > config.max_bad_ratio * num_files:
        raise DataError(
            f"{problems[0]} ({len(problems)} of {num_files} files, more than "
            f"--cleaning.max-bad-ratio {config.max_bad_ratio} allows)"
        )


def _check_event_types(statistics: LogStatistics) -> None:
    if len(statistics.event_types) > MAX_EVENT_TYPES:
        raise DataError(
            f"expected at most {MAX_EVENT_TYPES} different values in event_type, found "
            f"{len(statistics.event_types)}: map the column that names the kind of act with "
            "--column event_type=THEIR_NAME"
        )
