"""Preparation: files of any size to a catalog, clean events and sequences.

Three passes, each over independent tasks: *spill* (a file to pieces by user partition), *clean* (a
partition's pieces to its events and quarantine) and *sequence* (a partition's events to tokens);
with minimum counts a fourth, *trim*, once every item is counted. A user's rows always meet in one
partition, nothing is sorted globally, and memory is bounded by the largest partition.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from rec.artifacts import (
    Artifact,
    Draft,
    config_hash,
    find_artifact,
    point_latest,
    write_artifact,
)
from rec.data.cleaning import CleaningConfig
from rec.data.counts import CleaningCounts, add_numbers, check_counts
from rec.data.files import list_files
from rec.data.log_statistics import LogStatistics, add_item_counts, add_statistics
from rec.data.privacy import load_or_create_key
from rec.data.sequences import save_vocabulary
from rec.errors import DataError
from rec.spread import Spread, in_process
from rec.stages.catalog import file_digests, prepare_catalog
from rec.stages.log_workers import (
    CleanPartition,
    PartitionSummary,
    SequencePartition,
    SpillFile,
    TrimPartition,
)

KEY_FILE = "pseudonym.key"
FEEDBACK_BATCHES = Path("feedback") / "batches"
"""Where ``jobs.ingest`` leaves what serving has logged: part of every log."""
MAX_EVENT_TYPES = 1000
"""More are a wrong column: a type is a kind of act, and stands in every sequence as an int16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Hold the artifacts of one preparation, and whether nothing had to be done."""

    catalog: Artifact
    events: Artifact
    sequences: Artifact
    is_skipped: bool


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


def prepare(
    workspace: Path,
    *,
    events: Sequence[str],
    items: Sequence[str],
    users: Sequence[str] = (),
    config: CleaningConfig,
    num_partitions: int,
    spread: Spread = in_process,
    now_ms: int | None = None,
) -> Prepared:
    """Make catalog, events and sequences of the files, or find that they are there.

    Args:
        workspace: root of the artifacts.
        events: files, globs or folders of the log; feedback batches of the workspace are added.
        items: the same for the catalog.
        users: the same for user attributes; optional.
        config: what is good enough.
        num_partitions: parts the users are hashed into.
        spread: who does the tasks.
        now_ms: the time of the run; now if absent.

    Raises:
        DataError: nothing to read, a column missing, or a log that is too bad. Nothing is
            written then.
    """
    key_path = workspace / KEY_FILE
    catalog, catalog_is_old = prepare_catalog(
        workspace, items=items, users=users, config=config, key_path=key_path
    )
    batches = sorted(
        str(path.resolve()) for path in (workspace / FEEDBACK_BATCHES).glob("*.parquet")
    )
    given = [path for path in list_files(events) if path not in batches]
    parents = {"catalog": catalog.name}
    settings = {
        "cleaning": asdict(config),
        "num_partitions": num_partitions,
        "files": file_digests([*given, *batches]),
    }
    name = config_hash("events", settings, parents)
    log = find_artifact(workspace, "events", name)
    events_is_old = log is not None
    if log is None:
        sources = Sources(
            files=[*given, *batches],
            feedback=frozenset(batches),
            key_path=key_path if config.pseudonymize_users else None,
            now_ms=time.time_ns() // 1_000_000 if now_ms is None else now_ms,
        )
        if sources.key_path is not None:
            load_or_create_key(sources.key_path)
        with write_artifact(workspace, "events", config=settings, parents=parents) as draft:
            _clean(
                draft,
                sources,
                catalog=catalog,
                config=config,
                num_partitions=num_partitions,
                spread=spread,
            )
        log = find_artifact(workspace, "events", name)
    assert log is not None
    point_latest(workspace, "events", log.name)
    sequences, sequences_is_old = _sequence(
        workspace, log=log, catalog=catalog, num_partitions=num_partitions, spread=spread
    )
    return Prepared(
        catalog=catalog,
        events=log,
        sequences=sequences,
        is_skipped=catalog_is_old and events_is_old and sequences_is_old,
    )


def _clean(
    draft: Draft,
    sources: Sources,
    *,
    catalog: Artifact,
    config: CleaningConfig,
    num_partitions: int,
    spread: Spread,
) -> None:
    """Fill an events artifact: its parts, quarantine, counts and details."""
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
    )
    rows = list(spread(_make(spiller), list(enumerate(sources.files)), label="reading the log"))
    cleaner = CleanPartition(config=config, spill=spill, folder=draft.path, item_counts=item_folder)
    summaries = list(spread(_make(cleaner), range(num_partitions), label="cleaning"))
    shutil.rmtree(spill)
    counts = _add_counts(summaries)
    assert counts.rows_in == sum(rows), "a row was lost or counted twice"
    if config.is_trimmed:
        summaries = _trim(draft.path, summaries, scratch=scratch, config=config, spread=spread)
        counts = _add_counts(summaries)
        assert counts.rows_in == sum(rows), "a row was lost or counted twice while trimming"
    check_counts(counts, config)
    statistics = add_statistics(summary.statistics for summary in summaries)
    _check_event_types(statistics)
    shutil.rmtree(scratch)
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
        "queries": sorted({query for summary in summaries for query in summary.queries}),
        "first_ms": statistics.first_ms,
        "last_ms": statistics.last_ms,
        "bot_days": sum(summary.bot_days for summary in summaries),
        "ingested_through": _ingested_through(sources.feedback),
        "pseudonymized": config.pseudonymize_users,
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
    counts = add_item_counts(map(pl.read_parquet, sorted((scratch / "items").iterdir())))
    is_rare = pl.col("events") < (config.min_item_events or 0)
    rare_items = scratch / "rare.parquet"
    counts.filter(is_rare).select("item_id").write_parquet(rare_items)
    trimmer = TrimPartition(
        config=config, folder=folder, item_counts=scratch / "items", rare_items=rare_items
    )
    trimmed = spread(_make(trimmer), range(len(cleaned)), label="trimming")
    return [
        replace(
            after,
            counts=CleaningCounts(
                kept=after.counts.kept,
                duplicates=before.counts.duplicates,
                quarantined=add_numbers([before.counts.quarantined, after.counts.quarantined]),
            ),
            bot_days=before.bot_days,
        )
        for before, after in zip(cleaned, trimmed, strict=True)
    ]


def _sequence(
    workspace: Path, *, log: Artifact, catalog: Artifact, num_partitions: int, spread: Spread
) -> tuple[Artifact, bool]:
    parents = {"events": log.name, "catalog": catalog.name}
    name = config_hash("sequences", {}, parents)
    found = find_artifact(workspace, "sequences", name)
    if found is not None:
        point_latest(workspace, "sequences", found.name)
        return found, True
    queries = tuple(log.manifest["details"]["queries"])
    event_type_names = tuple(log.counts["event_types"])
    with write_artifact(workspace, "sequences", config={}, parents=parents) as draft:
        worker = SequencePartition(
            events=log.path,
            catalog=catalog.path,
            folder=draft.path,
            queries=queries,
            event_type_names=event_type_names,
        )
        users = list(spread(_make(worker), range(num_partitions), label="sequences"))
        save_vocabulary(
            draft.path,
            num_items=catalog.counts["kept"],
            queries=queries,
            event_type_names=event_type_names,
        )
        draft.counts |= {"users": sum(users), "events": log.counts["kept"]}
    made = find_artifact(workspace, "sequences", name)
    assert made is not None
    return made, False


def _add_counts(summaries: Sequence[PartitionSummary]) -> CleaningCounts:
    return CleaningCounts(
        kept=sum(summary.counts.kept for summary in summaries),
        duplicates=add_numbers(summary.counts.duplicates for summary in summaries),
        quarantined=add_numbers(summary.counts.quarantined for summary in summaries),
    )


def _check_event_types(statistics: LogStatistics) -> None:
    if len(statistics.event_types) > MAX_EVENT_TYPES:
        raise DataError(
            f"expected at most {MAX_EVENT_TYPES} different values in event_type, found "
            f"{len(statistics.event_types)}: map the column that names the kind of act with "
            "--cleaning.column event_type=THEIR_NAME"
        )


def _ingested_through(batches: frozenset[str]) -> int:
    """Return the last event-log number in the feedback batches (``batch-FIRST-LAST.parquet``)."""
    return max((int(Path(batch).stem.rsplit("-", 1)[1]) for batch in batches), default=0)


def _make(worker: Callable[[Any], Any]) -> Callable[[], Callable[[Any], Any]]:
    """Return a factory of a worker that needs no set-up of its own."""
    return lambda: worker
