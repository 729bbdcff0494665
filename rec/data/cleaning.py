"""Cleaning: from the rows of files to events that keep the contract.

Two steps, each a pure function of a frame. :func:`normalise_events` looks at one chunk of one
file: it maps columns, parses types and gives every bad row a *reason*.
:func:`clean_partition` looks at all rows of some users: it finds duplicates and sorts.
Nothing is dropped in silence: ``rows_in = kept + duplicates + quarantined``, exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl
import xxhash

from rec.data.events import DEFAULT_EVENT_TYPE, EVENT_SCHEMA, SEARCH
from rec.data.files import RAW, REASON, ROW
from rec.data.privacy import pseudonyms
from rec.data.text import normalise_texts
from rec.data.timestamps import to_timestamp_ms
from rec.errors import ConfigError, DataError

ORDER = "input_order"
"""File number and row number in one int64: ties in time keep the input's order."""
ALIASES: Mapping[str, str] = {"event": "event_type"}
"""Names that are read without a mapping because common logs use them."""
FUTURE_TOLERANCE_MS = 24 * 3600 * 1000
"""A day: clocks and time zones differ by less."""
_MAX_ROWS_OF_A_FILE = 1 << 40
_TEXT_COLUMNS = ("user_id", "item_id", "event_type", "query", "session_id", "event_id")
RAW_SCHEMA: Mapping[str, pl.DataType] = {
    **{
        name: {"timestamp_ms": pl.Int64(), "value": pl.Float64()}.get(name, pl.String())
        for name in EVENT_SCHEMA.names
    },
    ORDER: pl.Int64(),
    REASON: pl.String(),
    RAW: pl.String(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CleaningConfig:
    """Say which rows are good enough."""

    column: tuple[str, ...] = ()
    """Foreign column names as ``ours=theirs``, for instance ``user_id=customer``."""
    max_bad_ratio: float = 0.5
    """Quarantined share of all rows above which the job fails; raising it tolerates more."""
    pseudonymize_users: bool = True
    """Store a keyed hash in place of each user id. Turn off only for public data."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_ratio <= 1:
            raise ConfigError(
                f"--cleaning.max-bad-ratio must be in [0, 1], got {self.max_bad_ratio}"
            )
        for pair in self.column:
            if pair.count("=") != 1 or not all(pair.split("=")):
                raise ConfigError(
                    f"--cleaning.column expects OURS=THEIRS (user_id=customer), got {pair!r}"
                )

    @property
    def mapping(self) -> Mapping[str, str]:
        """Return ``theirs -> ours``."""
        return {theirs: ours for ours, theirs in (pair.split("=") for pair in self.column)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """Hold what cleaning made of some users' rows."""

    kept: pl.DataFrame
    """Events in the contract's columns, sorted by user, time and input order."""
    num_duplicates: int
    quarantined: pl.DataFrame
    """``reason``, ``input_order`` and ``raw`` of every bad row."""


@dataclass(slots=True)
class CleaningCounts:
    """Add up what became of the rows."""

    rows_in: int = 0
    kept: int = 0
    duplicates: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)

    @property
    def num_quarantined(self) -> int:
        """Return the quarantined rows of all reasons."""
        return sum(self.quarantined.values())


def normalise_events(
    chunk: pl.DataFrame,
    *,
    config: CleaningConfig,
    file_number: int,
    file_name: str,
    known_items: pl.Series,
    now_ms: int,
    pseudonym_key: bytes | None,
) -> pl.DataFrame:
    """Return the rows of one chunk in :data:`RAW_SCHEMA`, each bad one with its reason.

    Args:
        chunk: rows as :func:`rec.data.files.read_chunks` gives them.
        config: column mapping.
        file_number: place of the file in the input; orders ties across files.
        file_name: named in errors.
        known_items: ids of the catalog; events of others get ``unknown_item``.
        now_ms: the time of the run; later events (by more than a day) get a reason.
        pseudonym_key: hashes user ids; ``None`` keeps them.

    Raises:
        DataError: a column of the contract is missing or of a type that cannot be read.
    """
    named = _map_columns(chunk, config=config, file_name=file_name)
    raw = _raw_text(chunk)
    columns = {name: _text_column(named, name, file_name) for name in _TEXT_COLUMNS}
    queries = normalise_texts(columns["query"])
    # A query of nothing but invisible characters is none.
    columns["query"] = queries.set(queries == "", None)
    stamps = named["timestamp_ms"] if "timestamp_ms" in named.columns else named["timestamp"]
    source = stamps
    value_text = named["value"] if "value" in named.columns else None
    value = (
        pl.Series("value", [None] * named.height, dtype=pl.Float64)
        if value_text is None
        else value_text.cast(pl.Float64, strict=False)
    )
    impressions = _text_column(named, "impression_id", file_name)
    frame = pl.DataFrame(columns).with_columns(
        to_timestamp_ms(stamps).alias("timestamp_ms"),
        value.alias("value"),
        impressions.alias("impression_id"),
        pl.col("event_type").fill_null(DEFAULT_EVENT_TYPE),
        (named[ROW] + file_number * _MAX_ROWS_OF_A_FILE).alias(ORDER),
        named[REASON].alias(REASON),
        raw.alias(RAW),
    )
    bad_value = value.is_null() & (
        value_text.is_not_null() if value_text is not None else pl.Series([False])
    )
    stamp = pl.col("timestamp_ms")
    is_search = pl.col("event_type") == SEARCH
    reasons = (
        pl.when(pl.col(REASON).is_not_null())
        .then(pl.col(REASON))
        .when(pl.col("user_id").is_null())
        .then(pl.lit("missing_user_id"))
        .when(is_search & pl.col("item_id").is_null() & pl.col("query").is_null())
        .then(pl.lit("search_without_query"))
        .when(~is_search & pl.col("item_id").is_null())
        .then(pl.lit("missing_item_id"))
        .when(stamp.is_null() & pl.lit(source.is_null()))
        .then(pl.lit("missing_timestamp"))
        .when(stamp.is_null())
        .then(pl.lit("bad_timestamp"))
        .when(stamp == 0)
        .then(pl.lit("zero_timestamp"))
        .when(stamp < 0)
        .then(pl.lit("negative_timestamp"))
        .when(stamp > now_ms + FUTURE_TOLERANCE_MS)
        .then(pl.lit("future_timestamp"))
        .when(pl.lit(bad_value))
        .then(pl.lit("bad_value"))
        .when(pl.col("item_id").is_not_null() & ~pl.col("item_id").is_in(known_items.implode()))
        .then(pl.lit("unknown_item"))
    )
    frame = frame.with_columns(reasons.alias(REASON))
    frame = frame.with_columns(pl.when(pl.col(REASON).is_not_null()).then(pl.col(RAW)).alias(RAW))
    if pseudonym_key is not None:
        # Rows without a user still need one to be partitioned by: the empty text.
        ids = frame["user_id"].fill_null("")
        frame = frame.with_columns(
            pl.Series("user_id", pseudonyms(ids.to_list(), pseudonym_key), dtype=pl.String)
        )
    # After the pseudonyms: serving hashes the stored id too, and nobody can test guesses at it.
    frame = frame.with_columns(_event_ids(frame))
    return frame.with_columns(pl.col("user_id").fill_null("")).select(
        pl.col(name).cast(dtype) for name, dtype in RAW_SCHEMA.items()
    )


def clean_partition(rows: pl.DataFrame) -> Cleaned:
    """Return the clean events of some users; all rows of one user must be there.

    Of events with the same ``event_id`` the first in input order stays. Events are sorted by
    user, then time; ties in time keep the input's order.
    """
    bad = rows.filter(pl.col(REASON).is_not_null())
    good = rows.filter(pl.col(REASON).is_null()).sort(ORDER)
    unique = good.unique(["user_id", "event_id"], keep="first", maintain_order=True)
    kept = unique.sort("user_id", "timestamp_ms", ORDER).select(EVENT_SCHEMA.names)
    return Cleaned(
        kept=kept,
        num_duplicates=good.height - unique.height,
        quarantined=bad.select(REASON, ORDER, RAW).sort(ORDER),
    )


def check_counts(counts: CleaningCounts, config: CleaningConfig) -> None:
    """Refuse a log that is empty or too bad.

    Raises:
        DataError: no event was kept, or the quarantined share is above ``max_bad_ratio``.
    """
    reasons = ", ".join(
        f"{number} {reason}" for reason, number in sorted(counts.quarantined.items())
    )
    if counts.rows_in == 0:
        raise DataError("expected at least one event, the log is empty: check --events")
    ratio = counts.num_quarantined / counts.rows_in
    if ratio > config.max_bad_ratio:
        raise DataError(
            f"{counts.num_quarantined} of {counts.rows_in} events are bad ({reasons}), more than "
            f"--cleaning.max-bad-ratio {config.max_bad_ratio} allows: mend the log or raise it"
        )
    if counts.kept == 0:
        raise DataError(f"no event of {counts.rows_in} could be kept ({reasons}): mend the log")


def _map_columns(chunk: pl.DataFrame, *, config: CleaningConfig, file_name: str) -> pl.DataFrame:
    mapping = {theirs: ours for theirs, ours in config.mapping.items() if theirs in chunk.columns}
    taken = set(chunk.columns) | set(mapping.values())
    mapping |= {
        alias: ours
        for alias, ours in ALIASES.items()
        if alias in chunk.columns and ours not in taken
    }
    chunk = chunk.drop([ours for ours in mapping.values() if ours in chunk.columns])
    named = chunk.rename(mapping)
    # A chunk of nothing but unreadable rows has no columns to look for.
    if named.height and named[REASON].null_count() == 0:
        return named.with_columns(
            pl.lit(None, dtype=pl.String).alias(name)
            for name in ("user_id", "item_id", "timestamp")
            if name not in named.columns
        )
    for name in ("user_id", "item_id", "timestamp"):
        found = {name, "timestamp_ms"} if name == "timestamp" else {name}
        if not found & set(named.columns):
            columns = [c for c in chunk.columns if c not in (ROW, REASON, RAW)]
            raise DataError(
                f"{file_name}: expected a column {name!r}, found {', '.join(columns)}: "
                f"map it with --cleaning.column {name}=THEIR_NAME"
            )
    return named


def _text_column(frame: pl.DataFrame, name: str, file_name: str) -> pl.Series:
    """Return a column as text; empty text is null, whole floats lose their ``.0``."""
    if name not in frame.columns:
        return pl.Series(name, [None] * frame.height, dtype=pl.String)
    values = frame[name]
    if values.dtype.is_nested() or values.dtype == pl.Binary or values.dtype == pl.Object:
        raise DataError(
            f"{file_name}: expected text or numbers in column {name!r}, got {values.dtype}"
        )
    text = values.cast(pl.String)
    if values.dtype.is_float():
        text = text.str.replace(r"\.0$", "")
    text = text.str.strip_chars()
    cleaned: pl.Series = text.to_frame().select(pl.when(pl.col(name) != "").then(pl.col(name)))[
        name
    ]
    return cleaned


def _raw_text(chunk: pl.DataFrame) -> pl.Series:
    """Return each row as one line of text, for the quarantine."""
    shown = [name for name in chunk.columns if name not in (REASON, RAW, ROW)]
    if not shown:
        return chunk[RAW]
    return chunk.select(pl.coalesce(pl.col(RAW), pl.struct(shown).struct.json_encode()).alias(RAW))[
        RAW
    ]


def _event_ids(frame: pl.DataFrame) -> pl.Series:
    """Return the given ids, and the hash of the content where none was given."""
    given = frame["event_id"]
    if given.null_count() == 0:
        return given
    names = [name for name in EVENT_SCHEMA.names if name not in ("event_id", "impression_id")]
    texts = frame.select(
        pl.concat_str(
            [pl.col(name).cast(pl.String).fill_null("") for name in names], separator="\x1f"
        ).alias("text")
    )["text"]
    hashes = [xxhash.xxh3_128_hexdigest(text.encode()) for text in texts.to_list()]
    return given.fill_null(pl.Series("event_id", hashes, dtype=pl.String))
