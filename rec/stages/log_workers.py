"""The workers of a preparation: what is done to one file, or to one partition of the users.

Each is a value that a :class:`rec.spread.Spread` can send to another process; what it works on
and what it makes are files, what it returns is small.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import xxhash

from rec.data.cleaning import ORDER, RAW_SCHEMA, CleaningConfig, last_order, normalise_events
from rec.data.counts import add_numbers
from rec.data.distinct import map_distinct
from rec.data.files import UnreadableFileError, read_chunks
from rec.data.items import load_items
from rec.data.log_merging import merge_partition
from rec.data.log_statistics import item_counts
from rec.data.privacy import Pseudonymizer, load_or_create_key
from rec.data.rows import RAW, REASON
from rec.data.tombstones import without_erased
from rec.data.user_cleaning import (
    SAME_ID,
    clean_partition,
    count_bot_days,
    trim_partition,
)
from rec.stages.bot_users import (
    SetAside,
    count_bots,
    set_bots_aside,
    without_bots,
)
from rec.stages.log_parts import (
    SUMMARISED,
    PartitionSummary,
    bots_path,
    link_part,
    part_name,
    read_part,
    summarise,
    with_bots,
    write_part,
)
from rec.stages.spilling import PieceWriter, find_pieces, read_batches

UNREADABLE_FILE = "unreadable_file"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpillFile:
    """Spill one file: its rows, normalised, go to one piece per partition and chunk."""

    config: CleaningConfig
    catalog: Path
    folder: Path
    num_partitions: int
    now_ms: int
    key_path: Path | None
    feedback: frozenset[str]
    """Files that serving wrote: their user ids are pseudonyms already."""
    tombstones: frozenset[str] = frozenset()
    """Who was erased: their rows count as if the files did not have them."""
    tombstone_key: Path | None = None
    """The key of the tombstones; needed where there are any."""

    def __call__(self, task: tuple[int, str]) -> "SpilledFile":
        """Return what was read of file ``(number, path)``."""
        number, path = task
        known_items = load_items(self.catalog)["item_id"]
        pseudonymize = None
        if self.key_path is not None and path not in self.feedback:
            pseudonymize = Pseudonymizer(load_or_create_key(self.key_path))
        num_rows, problem = 0, None
        with PieceWriter(self.folder, number) as pieces:
            try:
                for chunk in read_chunks(path):
                    rows = normalise_events(
                        chunk,
                        config=self.config,
                        file_number=number,
                        file_name=path,
                        known_items=known_items,
                        now_ms=self.now_ms,
                        pseudonymize=pseudonymize,
                    )
                    if self.tombstones:
                        assert self.tombstone_key is not None
                        rows = without_erased(
                            rows, tombstones=self.tombstones, key_path=self.tombstone_key
                        )
                    num_rows += rows.height
                    self._write(rows, pieces)
            except UnreadableFileError as error:
                # What was read of it stays; the rest counts as one row, as nobody knows its rows.
                problem = str(error)
                self._write(unreadable_file(number, problem), pieces)
                num_rows += 1
        return SpilledFile(num_rows=num_rows, problem=problem)

    def _write(self, rows: pl.DataFrame, pieces: PieceWriter) -> None:
        # Bad rows need not meet those of their user; many have none, and would fill one partition.
        of_user = partition_of(rows["user_id"], self.num_partitions)
        partitions = rows.select(
            pl.when(pl.col(REASON).is_null())
            .then(of_user)
            .otherwise(pl.col(ORDER) % self.num_partitions)
            .alias("partition")
        ).to_series()
        for (partition,), piece in rows.group_by(partitions, maintain_order=True):
            pieces.write(piece, int(str(partition)))


@dataclass(frozen=True, kw_only=True, slots=True)
class SpilledFile:
    """Hold what was read of one file."""

    num_rows: int
    problem: str | None = None
    """Why it could not be read to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanPartition:
    """Clean one partition: its pieces become a part of events and of the quarantine."""

    config: CleaningConfig
    spill: Path
    folder: Path
    item_counts: Path
    before: Path | None = None
    """Events of the rows before; the pieces are then those of the new rows alone."""

    def __call__(self, partition: int) -> PartitionSummary:
        """Return the summary of a partition; without new rows its files get a second name."""
        pieces = find_pieces(self.spill, partition)
        if self.before is not None and not pieces:
            link_part(partition, source=self.before, folder=self.folder)
            summarise = SummarisePartition(
                config=self.config, folder=self.folder, item_counts=self.item_counts
            )
            return summarise(partition)
        before = None if self.before is None else read_part(partition, folder=self.before)
        if not pieces and before is None:
            return PartitionSummary()
        old_bots = None if self.before is None else bots_path(partition, folder=self.before)
        path = bots_path(partition, folder=self.folder)
        aside = set_bots_aside(
            pieces,
            before,
            old_bots=old_bots if old_bots and old_bots.is_file() else None,
            path=path,
            config=self.config,
        )
        rows = _read_pieces(pieces, aside)
        for piece in pieces:
            piece.unlink()
        if before is None:
            cleaned = clean_partition(rows, config=self.config)
        else:
            before = without_bots(before, aside.bots)
            if rows.height:
                cleaned = merge_partition(before, rows, config=self.config)
            else:  # all new rows are a bot's
                bot_days = count_bot_days(before.kept, before.quarantined, self.config)
                cleaned = replace(before, bot_days=bot_days)
        if len(aside.duplicates):
            again = {SAME_ID: len(aside.duplicates)}
            cleaned = replace(cleaned, duplicates=add_numbers([cleaned.duplicates, again]))
        summary = write_part(cleaned, partition, folder=self.folder, item_folder=self.item_counts)
        return with_bots(summary, path, aside.bots)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrimPartition:
    """Take the events of rare items and users out of one cleaned partition."""

    config: CleaningConfig
    folder: Path
    item_counts: Path
    rare_items: Path
    """Parquet file with the ids of the items that are too rare."""

    def __call__(self, partition: int) -> PartitionSummary:
        """Return the summary of what is left, with the rows that were taken out."""
        path = self.folder / part_name(partition)
        if not path.is_file():
            return PartitionSummary()
        trimmed = trim_partition(
            pl.read_parquet(path),
            rare_items=pl.read_parquet(self.rare_items)["item_id"],
            config=self.config,
        )
        return write_part(trimmed, partition, folder=self.folder, item_folder=self.item_counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class SummarisePartition:
    """Summarise one partition that is there already; its duplicates are not known any more."""

    config: CleaningConfig
    folder: Path
    item_counts: Path

    def __call__(self, partition: int) -> PartitionSummary:
        """Return the summary, and write the partition's item counts."""
        cleaned = read_part(partition, folder=self.folder, columns=SUMMARISED)
        if cleaned is None:
            return PartitionSummary()
        item_counts(cleaned.kept).write_parquet(self.item_counts / part_name(partition))
        bot_days = count_bot_days(cleaned.kept, cleaned.quarantined, self.config)
        summary = summarise(replace(cleaned, bot_days=bot_days))
        path = bots_path(partition, folder=self.folder)
        return with_bots(summary, path, count_bots(path))


def partition_of(user_ids: pl.Series, num_partitions: int) -> pl.Series:
    """Return each user's partition, int32; a stable hash, equal on every machine.

    >>> partition_of(pl.Series(["a", "b", "a"]), 4).to_list()
    [3, 3, 3]
    """

    def numbers(distinct: list[str]) -> pl.Series:
        hashes = (xxhash.xxh3_64_intdigest(user_id.encode()) for user_id in distinct)
        return pl.Series([number % num_partitions for number in hashes], dtype=pl.Int32)

    return map_distinct(user_ids, numbers)


def unreadable_file(file_number: int, problem: str) -> pl.DataFrame:
    """Return the one row that stands for what could not be read of a file."""
    row = {REASON: UNREADABLE_FILE, RAW: problem, "user_id": "", ORDER: last_order(file_number)}
    return pl.DataFrame([row], schema=RAW_SCHEMA)


def _read_pieces(pieces: Sequence[Path], aside: SetAside) -> pl.DataFrame:
    """Return the rows of the users who are left, without what is known of them to be twice."""
    is_left = ~pl.col("user_id").is_in(list(aside.bots)) | pl.col(REASON).is_not_null()
    is_left &= ~pl.col(ORDER).is_in(aside.duplicates.implode())
    frames = [frame.filter(is_left) for frame in read_batches(pieces)]
    # In one chunk: what follows picks rows from all over, and each pick would look for its chunk.
    return pl.concat([pl.DataFrame(schema=RAW_SCHEMA), *frames], rechunk=True)
