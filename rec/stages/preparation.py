"""Preparation: files of any size to a catalog, clean events and sequences.

Three passes, each over independent tasks: *spill* (a file to pieces by user partition), *clean* (a
partition's pieces to its events and quarantine) and *sequence* (a partition's events to tokens);
with minimum counts a fourth, *trim*, once every item is counted. A user's rows always meet in one
partition, nothing is sorted globally. Memory follows neither the log nor its largest user: a long
log has more partitions, and a user larger than one is a bot and set aside.

Where files were added behind those that the newest events were made of, only the new ones are read,
only the users that they name are cleaned, and a partition that they name nobody of keeps its files;
the result is that of a full rebuild.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rec.artifacts import (
    Artifact,
    config_hash,
    find_artifact,
    latest_artifact,
    point_latest,
    to_plain,
    write_artifact,
)
from rec.data.cleaning import CleaningConfig
from rec.data.files import estimate_rows, list_files
from rec.data.privacy import load_or_create_key, pseudonym
from rec.data.queries import load_queries
from rec.data.sequences import VOCABULARY_FILE, save_vocabulary, vocabulary_of
from rec.data.tombstones import load_tombstones
from rec.spread import Spread, in_process, ready_worker
from rec.stages.catalog import erased_setting, file_digests, prepare_catalog
from rec.stages.log_cleaning import Sources, clean_log
from rec.stages.sequence_workers import SequencePartition

KEY_FILE = "pseudonym.key"
EVENTS_VERSION = 3
"""Raising it makes events anew that older code made of the same files."""
PARTITION_ROWS = 1 << 19
"""Of one partition, on average: cleaning takes about 600 bytes for each."""
LOCAL_ROWS = 500_000
"""Of a log up to which no workers are started: Ray takes as many CPU-seconds to start them as one
process takes for these rows."""
FEEDBACK_BATCHES = Path("feedback") / "batches"
"""Where ``jobs.ingest`` leaves what serving has logged: part of every log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Hold the artifacts of one preparation, and whether nothing had to be done."""

    catalog: Artifact
    events: Artifact
    sequences: Artifact
    is_skipped: bool


def prepare(
    workspace: Path,
    *,
    events: Sequence[str],
    items: Sequence[str],
    users: Sequence[str] = (),
    config: CleaningConfig,
    num_partitions: int,
    spread: Spread = in_process,
    local: Spread | None = None,
    now_ms: int | None = None,
) -> Prepared:
    """Make catalog, events and sequences of the files, or find that they are there.

    Args:
        workspace: root of the artifacts.
        events: files, globs or folders of the log; feedback batches of the workspace are added.
        items: the same for the catalog.
        users: the same for user attributes; optional.
        config: what is good enough.
        num_partitions: parts the users are hashed into, at least; a long log gets more, so that
            memory does not follow it.
        spread: who does the tasks.
        local: who does them instead where the log is small, in this process.
        now_ms: the time of the run; now if absent.

    Raises:
        DataError: nothing to read, a column missing, or a log that is too bad. Nothing is
            written then.
    """
    key_path = workspace / KEY_FILE
    tombstones = load_tombstones(workspace)
    catalog, catalog_is_old = prepare_catalog(
        workspace,
        items=items,
        users=users,
        config=config,
        key_path=key_path,
        tombstones=tombstones,
    )
    batches = sorted(
        str(path.resolve()) for path in (workspace / FEEDBACK_BATCHES).glob("*.parquet")
    )
    given = [path for path in list_files(events) if path not in batches]
    num_rows = sum(map(estimate_rows, [*given, *batches]))
    num_partitions = enough_partitions(num_rows, at_least=num_partitions)
    if local is not None and num_rows <= LOCAL_ROWS:
        spread = local
    parents = {"catalog": catalog.name}
    settings = {
        "cleaning": asdict(config),
        "version": EVENTS_VERSION,
        "num_partitions": num_partitions,
        "files": file_digests([*given, *batches]),
        **erased_setting(tombstones),
    }
    name = config_hash("events", settings, parents)
    log = find_artifact(workspace, "events", name)
    events_is_old = log is not None
    if log is None:
        # Known by what it makes of nobody: events under two keys must not meet.
        key_mark = None
        if config.pseudonymize_users:
            key_mark = pseudonym("", load_or_create_key(key_path))
        before = _events_to_merge_into(workspace, settings, parents, key_mark=key_mark)
        sources = Sources(
            files=[*given, *batches],
            feedback=frozenset(batches),
            key_path=key_path if config.pseudonymize_users else None,
            now_ms=time.time_ns() // 1_000_000 if now_ms is None else now_ms,
            before=before,
            num_known=len(before.manifest["config"]["files"]) if before else 0,
            tombstones=tombstones,
            tombstone_key=key_path,
        )
        with write_artifact(workspace, "events", config=settings, parents=parents) as draft:
            clean_log(
                draft,
                sources,
                catalog=catalog,
                config=config,
                num_partitions=num_partitions,
                spread=spread,
            )
            draft.details |= {
                "ingested_through": _ingested_through(sources.feedback),
                "key_mark": key_mark,
            }
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


def enough_partitions(num_rows: int, *, at_least: int) -> int:
    """Return how many partitions bound the rows of one: ``at_least``, doubled as often as needed.

    Doubled, so that a growing log is seldom cut anew.
    """
    num_partitions = at_least
    while num_rows > num_partitions * PARTITION_ROWS:
        num_partitions *= 2
    return num_partitions


def _events_to_merge_into(
    workspace: Path,
    settings: Mapping[str, Any],
    parents: Mapping[str, str],
    *,
    key_mark: str | None,
) -> Artifact | None:
    """Return the newest events if they were made of the first of the same files, else nothing."""
    pointer = workspace / "events" / "latest"
    if not pointer.is_file():
        return None
    before = latest_artifact(workspace, "events", made_by="prepare")
    known = before.manifest["config"]
    files = known["files"]
    is_same = to_plain({**settings, "files": files}) == to_plain(known)
    is_start = len(files) < len(settings["files"]) and settings["files"][: len(files)] == files
    details = before.manifest["details"]
    can_be_merged = details.get("can_be_merged", False) and details["key_mark"] == key_mark
    return before if is_same and is_start and parents == before.parents and can_be_merged else None


def _sequence(
    workspace: Path, *, log: Artifact, catalog: Artifact, num_partitions: int, spread: Spread
) -> tuple[Artifact, bool]:
    parents = {"events": log.name, "catalog": catalog.name}
    name = config_hash("sequences", {}, parents)
    found = find_artifact(workspace, "sequences", name)
    if found is not None:
        point_latest(workspace, "sequences", found.name)
        return found, True
    queries = load_queries(log)
    event_type_names = tuple(log.counts["event_types"])
    before, unchanged = _sequences_to_keep(
        workspace, log=log, catalog=catalog, queries=queries, event_type_names=event_type_names
    )
    with write_artifact(workspace, "sequences", config={}, parents=parents) as draft:
        worker = SequencePartition(
            events=log.path,
            catalog=catalog.path,
            folder=draft.path,
            queries=queries,
            event_type_names=event_type_names,
            before=before,
            unchanged=unchanged,
        )
        users = list(spread(ready_worker(worker), range(num_partitions), label="sequences"))
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


def _sequences_to_keep(
    workspace: Path,
    *,
    log: Artifact,
    catalog: Artifact,
    queries: Sequence[str],
    event_type_names: Sequence[str],
) -> tuple[Path | None, frozenset[str]]:
    """Return the newest sequences' folder and the parts of it that still hold, by name.

    Where an item, a query or a type has another number, none do.
    """
    if not (workspace / "sequences" / "latest").is_file():
        return None, frozenset()
    newest = latest_artifact(workspace, "sequences", made_by="prepare")
    old_log = find_artifact(workspace, "events", newest.parents["events"])
    wanted = vocabulary_of(
        num_items=catalog.counts["kept"], queries=queries, event_type_names=event_type_names
    )
    known = json.loads((newest.path / VOCABULARY_FILE).read_text(encoding="utf-8"))
    if old_log is None or newest.parents["catalog"] != catalog.name or known != wanted:
        return None, frozenset()
    old, new = old_log.manifest["files"], log.manifest["files"]
    parts = frozenset(
        name
        for name in newest.manifest["files"]
        if name.startswith("part-") and name in old and old[name] == new.get(name)
    )
    return newest.path, parts


def _ingested_through(batches: frozenset[str]) -> int:
    """Return the last event-log number in the feedback batches (``batch-FIRST-LAST.parquet``)."""
    return max((int(Path(batch).stem.rsplit("-", 1)[1]) for batch in batches), default=0)
