"""Preparation: files of any size to a catalog, clean events and sequences.

Three passes, each over independent tasks: *spill* (a file to pieces by user partition), *clean* (a
partition's pieces to its events and quarantine) and *sequence* (a partition's events to tokens).
A user's rows always meet in one partition, nothing is sorted globally, and memory is bounded by
the largest partition.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import xxhash

from rec.artifacts import (
    Artifact,
    config_hash,
    file_sha256,
    find_artifact,
    point_latest,
    write_artifact,
)
from rec.data.cleaning import (
    CleaningConfig,
    CleaningCounts,
    check_counts,
    clean_partition,
    normalise_events,
)
from rec.data.files import RAW, REASON, ROW, list_files, read_chunks
from rec.data.items import CATALOG_FILE, clean_items, load_items
from rec.data.privacy import load_or_create_key, pseudonyms
from rec.data.sequences import build_sequences, distinct_queries, save_part, save_vocabulary
from rec.errors import DataError
from rec.spread import Spread, in_process

KEY_FILE = "pseudonym.key"
USERS_FILE = "users.parquet"
"""User attributes, beside the items: kept for cold start, under pseudonyms."""
FEEDBACK_BATCHES = Path("feedback") / "batches"
"""Where ``jobs.ingest`` leaves what serving has logged: part of every log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Hold the artifacts of one preparation, and whether nothing had to be done."""

    catalog: Artifact
    events: Artifact
    sequences: Artifact
    is_skipped: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SpillFile:
    """Spill one file: its rows, normalised, go to one piece per partition and chunk."""

    config: CleaningConfig
    catalog: Path
    folder: Path
    num_partitions: int
    now_ms: int
    key_path: Path | None

    def __call__(self, task: tuple[int, str]) -> int:
        """Return the number of rows of file ``(number, path)``."""
        number, path = task
        known_items = load_items(self.catalog)["item_id"]
        key = None if self.key_path is None else load_or_create_key(self.key_path)
        # What serving logged has pseudonyms already.
        is_feedback = str(FEEDBACK_BATCHES) in path
        num_rows = 0
        for chunk_number, chunk in enumerate(read_chunks(path)):
            rows = normalise_events(
                chunk,
                config=self.config,
                file_number=number,
                file_name=path,
                known_items=known_items,
                now_ms=self.now_ms,
                pseudonym_key=None if is_feedback else key,
            )
            num_rows += rows.height
            partitions = partition_of(rows["user_id"], self.num_partitions)
            for (partition,), piece in rows.group_by(partitions, maintain_order=True):
                name = f"partition-{partition:05d}-{number:06d}-{chunk_number:06d}.parquet"
                piece.write_parquet(self.folder / name, compression="lz4")
        return num_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanPartition:
    """Clean one partition: its pieces become a part of events and of the quarantine."""

    spill: Path
    folder: Path

    def __call__(self, partition: int) -> dict[str, Any]:
        """Return the counts, distinct queries and event types of a partition."""
        pieces = sorted(self.spill.glob(f"partition-{partition:05d}-*.parquet"))
        if not pieces:
            return {}
        cleaned = clean_partition(pl.concat([pl.read_parquet(piece) for piece in pieces]))
        name = f"part-{partition:05d}.parquet"
        cleaned.kept.write_parquet(self.folder / name, compression="zstd")
        if cleaned.quarantined.height:
            quarantine = self.folder / "quarantine"
            quarantine.mkdir(exist_ok=True)
            cleaned.quarantined.write_parquet(quarantine / name)
        stamps = cleaned.kept["timestamp_ms"]
        return {
            "kept": cleaned.kept.height,
            "duplicates": cleaned.num_duplicates,
            "quarantined": dict(cleaned.quarantined[REASON].value_counts().iter_rows()),
            "users": cleaned.kept["user_id"].n_unique(),
            "queries": distinct_queries(cleaned.kept),
            "event_types": dict(cleaned.kept["event_type"].value_counts().iter_rows()),
            "first_ms": stamps.min(),
            "last_ms": stamps.max(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencePartition:
    """Turn one part of events into a part of sequences."""

    events: Path
    catalog: Path
    folder: Path
    queries: tuple[str, ...]
    event_type_names: tuple[str, ...]

    def __call__(self, partition: int) -> int:
        """Return the number of users with at least one event."""
        name = f"part-{partition:05d}.parquet"
        if not (self.events / name).is_file():
            return 0
        sequences = build_sequences(
            pl.read_parquet(self.events / name),
            item_ids=load_items(self.catalog)["item_id"].to_list(),
            queries=self.queries,
            event_type_names=self.event_type_names,
        )
        save_part(sequences, self.folder / name)
        return sequences.num_users


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
    catalog, catalog_is_old = _prepare_catalog(workspace, items=items, users=users, config=config)
    batches = workspace / FEEDBACK_BATCHES
    sources = list_files(events)
    sources += sorted(str(path.resolve()) for path in batches.glob("*.parquet"))
    parents = {"catalog": catalog.name}
    settings = {
        "cleaning": asdict(config),
        "num_partitions": num_partitions,
        "files": _digests(sources),
    }
    name = config_hash("events", settings, parents)
    log = find_artifact(workspace, "events", name)
    events_is_old = log is not None
    if log is None:
        key_path = workspace / KEY_FILE if config.pseudonymize_users else None
        if key_path is not None:
            load_or_create_key(key_path)
        _clean(
            workspace,
            sources,
            catalog=catalog,
            config=config,
            settings=settings,
            spread=spread,
            key_path=key_path,
            now_ms=time.time_ns() // 1_000_000 if now_ms is None else now_ms,
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


def partition_of(user_ids: pl.Series, num_partitions: int) -> pl.Series:
    """Return each user's partition, int32; a stable hash, equal on every machine.

    >>> partition_of(pl.Series(["a", "b", "a"]), 4).to_list()
    [3, 3, 3]
    """
    distinct = user_ids.unique()
    numbers = [xxhash.xxh3_64_intdigest(user_id.encode()) % num_partitions for user_id in distinct]
    table = pl.DataFrame({"user_id": distinct, "partition": pl.Series(numbers, dtype=pl.Int32)})
    frame = user_ids.alias("user_id").to_frame()
    return frame.join(table, on="user_id", how="left", maintain_order="left")["partition"]


def _digests(paths: Sequence[str]) -> list[str]:
    return [file_sha256(Path(path)) for path in paths]


def _prepare_catalog(
    workspace: Path, *, items: Sequence[str], users: Sequence[str], config: CleaningConfig
) -> tuple[Artifact, bool]:
    files = list_files(items)
    user_files = list_files(users) if users else []
    settings = {
        "files": _digests(files),
        "users": _digests(user_files),
        "pseudonymize_users": config.pseudonymize_users,
    }
    found = find_artifact(workspace, "catalog", config_hash("catalog", settings, {}))
    if found is not None:
        point_latest(workspace, "catalog", found.name)
        return found, True
    catalog = clean_items([(path, chunk) for path in files for chunk in read_chunks(path)])
    attributes = _read_users(workspace, user_files, config=config)
    with write_artifact(workspace, "catalog", config=settings, parents={}) as draft:
        if attributes is not None:
            attributes.write_parquet(draft.path / USERS_FILE, compression="zstd")
            draft.details["users"] = attributes.height
        catalog.items.write_parquet(draft.path / CATALOG_FILE, compression="zstd")
        if catalog.quarantined.height:
            catalog.quarantined.write_parquet(draft.path / "quarantine.parquet")
        draft.counts |= {
            "rows_in": catalog.num_rows_in,
            "kept": catalog.items.height,
            "duplicates": catalog.num_duplicates,
            "quarantined": dict(catalog.quarantined[REASON].value_counts().iter_rows()),
        }
    return _found(workspace, "catalog", settings, {}), False


def _read_users(
    workspace: Path, files: Sequence[str], *, config: CleaningConfig
) -> pl.DataFrame | None:
    if not files:
        return None
    frames = []
    for path in files:
        for chunk in read_chunks(path):
            if "user_id" not in chunk.columns:
                found = ", ".join(chunk.columns)
                raise DataError(f"{path}: expected a column 'user_id', found {found}")
            frames.append(chunk.drop(REASON, RAW, ROW).drop_nulls("user_id"))
    users = pl.concat(frames, how="diagonal_relaxed").with_columns(
        pl.col("user_id").cast(pl.String)
    )
    if config.pseudonymize_users:
        key = load_or_create_key(workspace / KEY_FILE)
        names = pseudonyms(users["user_id"].to_list(), key)
        users = users.with_columns(pl.Series("user_id", names, dtype=pl.String))
    return users.unique("user_id", keep="last", maintain_order=True).sort("user_id")


def _clean(
    workspace: Path,
    sources: Sequence[str],
    *,
    catalog: Artifact,
    config: CleaningConfig,
    settings: Mapping[str, Any],
    spread: Spread,
    key_path: Path | None,
    now_ms: int,
) -> None:
    parents = {"catalog": catalog.name}
    num_partitions = int(settings["num_partitions"])
    with write_artifact(workspace, "events", config=settings, parents=parents) as draft:
        spill = draft.path / "spill"
        spill.mkdir()
        spiller = SpillFile(
            config=config,
            catalog=catalog.path,
            folder=spill,
            num_partitions=num_partitions,
            now_ms=now_ms,
            key_path=key_path,
        )
        rows = list(spread(_make(spiller), list(enumerate(sources)), label="reading the log"))
        cleaner = CleanPartition(spill=spill, folder=draft.path)
        summaries = [
            summary
            for summary in spread(_make(cleaner), range(num_partitions), label="cleaning")
            if summary
        ]
        for piece in spill.iterdir():
            piece.unlink()
        spill.rmdir()
        counts = _add_up(summaries)
        assert counts.rows_in == sum(rows), "a row was lost or counted twice"
        check_counts(counts, config)
        event_types: dict[str, int] = {}
        for summary in summaries:
            for event_type, number in summary["event_types"].items():
                event_types[event_type] = event_types.get(event_type, 0) + number
        draft.counts |= {
            "rows_in": counts.rows_in,
            "kept": counts.kept,
            "duplicates": counts.duplicates,
            "quarantined": dict(sorted(counts.quarantined.items())),
            "users": sum(summary["users"] for summary in summaries),
            "event_types": dict(sorted(event_types.items())),
        }
        draft.details |= {
            "queries": sorted({q for summary in summaries for q in summary["queries"]}),
            "first_ms": min(s["first_ms"] for s in summaries if s["first_ms"] is not None),
            "last_ms": max(s["last_ms"] for s in summaries if s["last_ms"] is not None),
            "ingested_through": _ingested_through(sources),
            "pseudonymized": config.pseudonymize_users,
        }


def _sequence(
    workspace: Path, *, log: Artifact, catalog: Artifact, num_partitions: int, spread: Spread
) -> tuple[Artifact, bool]:
    parents = {"events": log.name, "catalog": catalog.name}
    found = find_artifact(workspace, "sequences", config_hash("sequences", {}, parents))
    if found is not None:
        point_latest(workspace, "sequences", found.name)
        return found, True
    queries = tuple(log.manifest["details"]["queries"])
    names = tuple(log.counts["event_types"])
    with write_artifact(workspace, "sequences", config={}, parents=parents) as draft:
        worker = SequencePartition(
            events=log.path,
            catalog=catalog.path,
            folder=draft.path,
            queries=queries,
            event_type_names=names,
        )
        users = list(spread(_make(worker), range(num_partitions), label="sequences"))
        save_vocabulary(
            draft.path,
            num_items=catalog.counts["kept"],
            queries=queries,
            event_type_names=names,
        )
        draft.counts |= {"users": sum(users), "events": log.counts["kept"]}
    return _found(workspace, "sequences", {}, parents), False


def _add_up(summaries: Sequence[Mapping[str, Any]]) -> CleaningCounts:
    counts = CleaningCounts()
    for summary in summaries:
        counts.kept += summary["kept"]
        counts.duplicates += summary["duplicates"]
        for reason, number in summary["quarantined"].items():
            counts.quarantined[reason] = counts.quarantined.get(reason, 0) + number
    counts.rows_in = counts.kept + counts.duplicates + counts.num_quarantined
    return counts


def _ingested_through(sources: Sequence[str]) -> int:
    """Return the last event-log number in the feedback batches (``batch-FIRST-LAST.parquet``)."""
    batches = [Path(path) for path in sources if str(FEEDBACK_BATCHES) in path]
    return max((int(batch.stem.rsplit("-", 1)[1]) for batch in batches), default=0)


def _make(worker: Callable[[Any], Any]) -> Callable[[], Callable[[Any], Any]]:
    """Return a factory of a worker that needs no set-up of its own."""
    return lambda: worker


def _found(workspace: Path, kind: str, config: Any, parents: Mapping[str, str]) -> Artifact:
    artifact = find_artifact(workspace, kind, config_hash(kind, config, parents))
    assert artifact is not None
    return artifact
