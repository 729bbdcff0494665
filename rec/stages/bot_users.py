"""Users with more events than a person can have, set aside without ever being held at once.

A user's rows meet in one partition, so one user may be larger than memory. Such a user's rows are
streamed in the input's order: once to find the duplicates, a share of the event ids at a time, and
once into the quarantine. What is held follows ``max_events_per_user``, never the user.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec.data.cleaning import ORDER, RAW_SCHEMA, CleaningConfig
from rec.data.events import EVENT_SCHEMA
from rec.data.log_merging import forget_sessions
from rec.data.rows import RAW, REASON
from rec.data.user_cleaning import BOT_RATE, BOT_USER, Cleaned
from rec.stages.spilling import read_batches

_NAMES = (*EVENT_SCHEMA.names, ORDER)
_GROUP_ROWS = 1 << 17
"""Rows of one group of a bots' file: its bytes do not depend on the batches that came in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetAside:
    """Hold what was found in one partition."""

    bots: Mapping[str, int] = field(default_factory=dict)
    """Events by user."""
    duplicates: pl.Series = field(default_factory=lambda: pl.Series(ORDER, [], dtype=pl.Int64))
    """``input_order`` of the new rows of heavy users that are known already."""


def set_bots_aside(
    pieces: Sequence[Path],
    before: Cleaned | None,
    *,
    old_bots: Path | None,
    path: Path,
    config: CleaningConfig,
) -> SetAside:
    """Write the events of users with too many of them to ``path``; nothing if there are none.

    Args:
        pieces: new rows of the partition.
        before: what was made of its earlier rows.
        old_bots: the file that this function made of them.
        path: Parquet file in the quarantine's columns, by user and then in the input's order.
        config: ``max_events_per_user``, of distinct events.
    """
    limit = config.max_events_per_user
    if limit is None or config.bots != "quarantine":
        return SetAside()
    suspects = _suspects(pieces, before, old_bots, limit=limit)
    if not suspects:
        return SetAside()
    known = _known_rows(before)
    bots: dict[str, int] = {}
    duplicates: list[pl.Series] = []
    with _QuarantineWriter(path) as writer:
        for user_id, num_rows in suspects.items():

            def rows(columns: Sequence[str], user: str = user_id) -> Iterator[pl.DataFrame]:
                return _rows_of(user, pieces, known, old_bots, columns=columns)

            again = _duplicates(rows, num_shares=-(-num_rows // limit))
            duplicates.append(again)
            if num_rows - len(again) > limit:
                bots[user_id] = num_rows - len(again)
                for frame in rows(_NAMES):
                    writer.write(frame.filter(~pl.col(ORDER).is_in(again.implode())))
    found = pl.concat(duplicates) if duplicates else SetAside().duplicates
    return SetAside(bots=bots, duplicates=found)


def without_bots(cleaned: Cleaned, bots: Mapping[str, int]) -> Cleaned:
    """Return a partition's earlier events and quarantine without users who have become bots."""
    if not bots:
        return cleaned
    is_bot = pl.col("user_id").is_in(list(bots)).fill_null(value=False)
    return Cleaned(
        kept=cleaned.kept.filter(~is_bot), quarantined=cleaned.quarantined.filter(~is_bot)
    )


def count_bots(path: Path) -> dict[str, int]:
    """Return the events by user of a file of :func:`set_bots_aside`; none where there is none."""
    counts: dict[str, int] = {}
    for frame in _read(path if path.is_file() else None, ["user_id"]):
        for user_id, number in frame["user_id"].value_counts().iter_rows():
            counts[user_id] = counts.get(user_id, 0) + number
    return dict(sorted(counts.items()))


def first_bot_rows(path: Path, number: int) -> pl.DataFrame:
    """Return the first rows of a file of :func:`set_bots_aside`, as the quarantine holds them."""
    frame = next(_read(path, [*_NAMES, "reason", "raw"]))
    return frame.head(number).rename({"reason": REASON, "raw": RAW})


def _known_rows(before: Cleaned | None) -> pl.DataFrame:
    """Return earlier events: those that were kept, and those of a bot's days."""
    if before is None:
        return pl.DataFrame(schema={name: RAW_SCHEMA[name] for name in _NAMES})
    of_days = before.quarantined.filter(pl.col(REASON) == BOT_RATE)
    kept = forget_sessions(before.kept)
    return pl.concat([kept.select(_NAMES), of_days.select(_NAMES)])


def _count_known(before: Cleaned | None) -> pl.DataFrame:
    """Return ``user_id, len`` of :func:`_known_rows`."""
    if before is None:
        return pl.DataFrame(schema={"user_id": pl.String, "len": pl.UInt32})
    # Sorted by user: runs are found without a look at all of them at once.
    runs = before.kept.select(pl.col("user_id").rle()).unnest("user_id")
    kept = runs.select(user_id="value", len="len")
    of_days = before.quarantined.filter(pl.col(REASON) == BOT_RATE)
    return pl.concat([kept, of_days.group_by("user_id").len()]).group_by("user_id").sum()


def _suspects(
    pieces: Sequence[Path], before: Cleaned | None, old_bots: Path | None, *, limit: int
) -> dict[str, int]:
    """Return users with more rows than the limit, duplicates included, sorted."""
    counts = _count_known(before)
    sources = (read_batches(pieces, ["user_id", REASON]), _read(old_bots, ["user_id"]))
    for source in sources:
        for frame in source:
            good = frame.filter(pl.col(REASON).is_null()) if REASON in frame.columns else frame
            found = good.group_by("user_id").len()
            counts = pl.concat([counts, found]).group_by("user_id").sum()
    heavy = counts.filter(pl.col("len") > limit).sort("user_id")
    return dict(heavy.iter_rows())


def _rows_of(
    user_id: str,
    pieces: Sequence[Path],
    known: pl.DataFrame,
    old_bots: Path | None,
    *,
    columns: Sequence[str],
) -> Iterator[pl.DataFrame]:
    """Yield the good rows of a user in the input's order; earlier rows come before new ones."""
    is_user = pl.col("user_id") == user_id
    yield known.filter(is_user).sort(ORDER).select(columns)
    for frame in _read(old_bots, [*columns, "user_id"]):
        yield frame.filter(is_user).select(columns)
    for frame in read_batches(pieces, [*{*columns, "user_id", REASON}]):
        yield frame.filter(is_user & pl.col(REASON).is_null()).select(columns)


def _duplicates(
    rows: Callable[[Sequence[str]], Iterator[pl.DataFrame]], *, num_shares: int
) -> pl.Series:
    """Return ``input_order`` of the rows whose event id came before; a share of the ids a time."""
    found = []
    for share in range(num_shares):
        is_mine = pl.col("event_id").hash() % num_shares == share
        frames = [frame.filter(is_mine) for frame in rows(["event_id", ORDER])]
        mine = pl.concat([frame for frame in frames if frame.height] or frames[:1])
        found.append(mine.filter(~pl.col("event_id").is_first_distinct())[ORDER])
    return pl.concat(found)


def _read(path: Path | None, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    if path is None:
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_GROUP_ROWS, columns=[*dict.fromkeys(columns)]):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame


class _QuarantineWriter:
    """Write rows in groups of one size; the file is there once there is a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pl.DataFrame] = []

    def __enter__(self) -> "_QuarantineWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._flush(1)
        if self._writer is not None:
            self._writer.close()

    def write(self, events: pl.DataFrame) -> None:
        self._waiting.append(
            events.select(
                pl.lit(BOT_USER).alias("reason"),
                ORDER,
                pl.lit(None, pl.String).alias("raw"),
                *EVENT_SCHEMA.names,
            )
        )
        self._flush(_GROUP_ROWS)

    def _flush(self, least: int) -> None:
        if sum(frame.height for frame in self._waiting) < least:
            return
        rows = pl.concat(self._waiting)
        while rows.height >= least:
            self._write_group(rows.head(_GROUP_ROWS).to_arrow())
            rows = rows.slice(_GROUP_ROWS)
        self._waiting = [rows]

    def _write_group(self, table: pa.Table) -> None:
        schema = pa.schema(
            [
                (field.name, pa.large_string() if _is_text(field.type) else field.type)
                for field in table.schema
            ]
        )
        if self._writer is None:
            self._path.parent.mkdir(exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        self._writer.write_table(table.cast(schema).combine_chunks())


def _is_text(dtype: pa.DataType) -> bool:
    return bool(
        pa.types.is_string_view(dtype)
        or pa.types.is_large_string(dtype)
        or pa.types.is_string(dtype)
    )
