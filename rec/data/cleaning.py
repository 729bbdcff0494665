"""Cleaning: from the rows of files to events that keep the contract.

Two steps, each a pure function of a frame. :func:`normalise_events` looks at one chunk of one
file: it maps columns, parses types and gives every bad row a *reason*.
:func:`rec.data.user_cleaning.clean_partition` looks at all rows of some users.
Nothing is dropped in silence: ``rows_in = kept + duplicates + quarantined``, exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl
import xxhash

from rec.data.columns import map_columns, mapping, read_column, text_column
from rec.data.csv_rows import split_swallowed_lines
from rec.data.event_ids import CONTENT_FIELDS
from rec.data.events import DEFAULT_EVENT_TYPE, EVENT_SCHEMA, SEARCH
from rec.data.privacy import Pseudonymizer
from rec.data.rows import MAX_RAW_CHARACTERS, NESTED, RAW, REASON, ROW
from rec.data.scrubbing import scrub_texts
from rec.data.storage import suffix_of
from rec.data.text import normalise_texts
from rec.data.timestamps import to_timestamp_ms
from rec.errors import ConfigError

ORDER = "input_order"
"""File number and row number in one int64: ties in time keep the input's order."""
FUTURE_TOLERANCE_MS = 24 * 3600 * 1000
"""A day: clocks and time zones differ by less."""
_MAX_ROWS_OF_A_FILE = 1 << 40
MAX_ID_CHARACTERS, MAX_TYPE_CHARACTERS, MAX_QUERY_CHARACTERS = 256, 64, 512
"""What the endpoint takes too; longer texts are no ids, kinds of acts or searches."""
_AT_LEAST_ONE = (
    "near_duplicate_ms", "max_events_per_day", "max_events_per_user", "min_user_events",
    "min_item_events", "session_gap_s",
)  # fmt: skip
_ID_COLUMNS = ("user_id", "item_id", "session_id", "event_id", "impression_id")
_TEXT_COLUMNS = (
    "user_id", "item_id", "event_type", "query", "session_id", "event_id", "impression_id",
)  # fmt: skip
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
    """Foreign column names of events as ``ours=theirs``, for instance ``user_id=customer``."""
    item_column: tuple[str, ...] = ()
    """The same for items: ``title=name``."""
    user_column: tuple[str, ...] = ()
    """The same for users: ``user_id=customer``."""
    max_bad_ratio: float = 0.5
    """Quarantined share of all rows above which the job fails; raising it tolerates more."""
    pseudonymize_users: bool = True
    """Store a keyed hash in place of each user id. Turn off only for public data."""
    scrub_queries: bool = True
    """Replace e-mail addresses, phone, identity and card numbers and IP addresses in queries by
    placeholders such as ``<email>``. Serving always does."""
    near_duplicate_ms: int | None = None
    """An event is a duplicate this many milliseconds or less after one of the same user, item,
    query and type (a double click). ``None`` keeps all: two may well be bought in one second."""
    collapse_repeats: bool = False
    """Keep only the first of a user's events that follow each other with the same item, query and
    type. Raises novelty, loses how often something was looked at."""
    max_events_per_day: int | None = 10_000
    """Events of one user on one UTC day above which that day is a bot's: one every nine seconds
    without sleep. Lowering it finds slower bots, and shop assistants. ``None`` looks for none."""
    max_events_per_user: int | None = 500_000
    """Distinct events of one user above which all of them are a bot's (``bot_user``): one a minute
    for a year. Memory follows it, never the largest user. ``None`` holds every user at once."""
    bots: Literal["quarantine", "report"] = "quarantine"
    """What becomes of a bot's day: its rows are quarantined (``bot_rate``), or only counted. With
    ``report`` a bot by ``max_events_per_user`` is kept too, and held at once."""
    min_user_events: int | None = None
    """Events a user needs; the others' are quarantined (``rare_user``)."""
    min_item_events: int | None = None
    """Events an item needs; the others' are quarantined (``rare_item``), the item stays."""
    session_gap_s: float | None = 1800.0
    """Seconds without an event after which a session ends, for events that came without a
    ``session_id``; half an hour, as in web analytics. ``None`` derives none."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_ratio <= 1:
            raise ConfigError(
                f"--cleaning.max-bad-ratio must be in [0, 1], got {self.max_bad_ratio}"
            )
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--cleaning.{flag} must be None or at least 1, got {value}")
        for name, example in (
            ("column", "user_id=customer"),
            ("item_column", "title=name"),
            ("user_column", "user_id=customer"),
        ):
            _check_pairs(getattr(self, name), name.replace("_", "-"), example)

    @property
    def is_trimmed(self) -> bool:
        """Return whether users or items need a minimum of events."""
        return self.min_user_events is not None or self.min_item_events is not None

    @property
    def mapping(self) -> Mapping[str, str]:
        """Return ``theirs -> ours``."""
        return mapping(self.column)


def _check_pairs(pairs: Sequence[str], flag: str, example: str) -> None:
    for pair in pairs:
        if pair.count("=") != 1 or not all(pair.split("=")):
            raise ConfigError(f"--cleaning.{flag} expects OURS=THEIRS ({example}), got {pair!r}")


def last_order(file_number: int) -> int:
    """Return the ``input_order`` behind every row that a file can have."""
    return (file_number + 1) * _MAX_ROWS_OF_A_FILE - 1


def normalise_events(
    chunk: pl.DataFrame,
    *,
    config: CleaningConfig,
    file_number: int,
    file_name: str,
    known_items: pl.Series,
    now_ms: int,
    pseudonymize: Pseudonymizer | None,
) -> pl.DataFrame:
    """Return the rows of one chunk in :data:`RAW_SCHEMA`, each bad one with its reason.

    Args:
        chunk: rows as :func:`rec.data.files.read_chunks` gives them.
        config: column mapping.
        file_number: place of the file in the input; orders ties across files.
        file_name: named in errors.
        known_items: ids of the catalog; events of others get ``unknown_item``.
        now_ms: the time of the run; later events (by more than a day) get a reason.
        pseudonymize: hashes user ids; ``None`` keeps them.

    Raises:
        DataError: a column of the contract is missing or of a type that cannot be read.
    """
    named = map_columns(chunk, mapping=config.mapping, file_name=file_name)
    if suffix_of(file_name).startswith(".csv"):
        named = split_swallowed_lines(named, (*_TEXT_COLUMNS, "timestamp", "timestamp_ms", "value"))
    columns = {name: text_column(named, name, file_name) for name in _TEXT_COLUMNS}
    queries = normalise_texts(columns["query"])
    if config.scrub_queries:
        queries = scrub_texts(queries)
    # A query of nothing but invisible characters is none.
    columns["query"] = queries.set(queries == "", None)
    clock = "timestamp_ms" if "timestamp_ms" in named.columns else "timestamp"
    source, given = (read_column(named, name, file_name) for name in (clock, "value"))
    value = given.cast(pl.Float64, strict=False)
    frame = pl.DataFrame(columns).with_columns(
        to_timestamp_ms(source).alias("timestamp_ms"),
        value.alias("value"),
        pl.col("event_type").fill_null(DEFAULT_EVENT_TYPE),
        (named[ROW] + file_number * _MAX_ROWS_OF_A_FILE).alias(ORDER),
        named[REASON].alias(REASON),
        _is_nested(named).alias("is_nested"),
    )
    bad_value = ~value.is_finite().fill_null(value=False) & given.is_not_null()
    stamp = pl.col("timestamp_ms")
    is_search = pl.col("event_type") == SEARCH
    reasons = (
        pl.when(pl.col(REASON).is_not_null())
        .then(pl.col(REASON))
        .when(pl.col("is_nested"))
        .then(pl.lit("wrong_type"))
        .when(pl.any_horizontal(pl.col(_ID_COLUMNS).str.len_chars() > MAX_ID_CHARACTERS))
        .then(pl.lit("id_too_long"))
        .when(pl.col("event_type").str.len_chars() > MAX_TYPE_CHARACTERS)
        .then(pl.lit("event_type_too_long"))
        .when(pl.col("query").str.len_chars() > MAX_QUERY_CHARACTERS)
        .then(pl.lit("query_too_long"))
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
    if pseudonymize is not None:
        # Rows without a user still need one to be partitioned by: the empty text.
        frame = frame.with_columns(pseudonymize(frame["user_id"].fill_null("")))
    frame = frame.with_columns(_raw_text(named, frame, config=config))
    # After the pseudonyms: serving hashes the stored id too, and nobody can test guesses at it.
    frame = frame.with_columns(_event_ids(frame))
    return frame.with_columns(pl.col("user_id").fill_null("")).select(
        pl.col(name).cast(dtype) for name, dtype in RAW_SCHEMA.items()
    )


def _raw_text(named: pl.DataFrame, frame: pl.DataFrame, *, config: CleaningConfig) -> pl.Series:
    """Return each bad row as one line of text for the quarantine, null for the good ones.

    It is written, so it names nobody: the user stands as in ``frame``, text is scrubbed, columns
    outside the contract are left out, and of a line that could not be read only its shape is
    kept, because the user id may stand anywhere in it.
    """
    is_bad = frame[REASON].is_not_null()
    shown = [name for name in ("timestamp", *EVENT_SCHEMA.names) if name in named.columns]
    rows = named.with_columns(frame["user_id"]).filter(is_bad)
    unreadable = rows[RAW].str.slice(0, MAX_RAW_CHARACTERS)
    if config.pseudonymize_users:
        unreadable = unreadable.str.replace_all(r"\p{L}", "x").str.replace_all(r"\p{N}", "0")
    lists = [name for name in shown if rows[name].dtype.is_nested()]
    rows = rows.with_columns(pl.col(lists).list.join(", "))
    shown_as_json = pl.struct(pl.col(shown).cast(pl.String, strict=False)).struct.json_encode()
    texts = rows.select(
        pl.coalesce(unreadable, shown_as_json).str.slice(0, MAX_RAW_CHARACTERS)
    ).to_series()
    if config.scrub_queries:
        texts = scrub_texts(texts)
    raw = pl.Series(RAW, [None] * frame.height, dtype=pl.String)
    return raw.scatter(is_bad.arg_true(), texts)


def _is_nested(named: pl.DataFrame) -> pl.Series:
    """Return which rows have a list or an object where the contract has a plain value."""
    if NESTED not in named.columns:
        return pl.Series([False]).new_from_index(0, named.height)
    wanted = pl.lit([*EVENT_SCHEMA.names, "timestamp"])
    marked = pl.col(NESTED).fill_null([]).list.set_intersection(wanted).list.len() > 0
    return named.select(marked).to_series()


def _event_ids(frame: pl.DataFrame) -> pl.Series:
    """Return the given ids, and the hash of the content where none was given."""
    given = frame["event_id"]
    if given.null_count() == 0:
        return given
    # Of the scrubbed query in any case: serving knows no other.
    content = frame.with_columns(scrub_texts(frame["query"]))
    texts = content.select(
        pl.concat_str(
            [pl.col(name).cast(pl.String).fill_null("") for name in CONTENT_FIELDS],
            separator="\x1f",
        ).alias("text")
    )["text"]
    hashes = map(xxhash.xxh3_128_hexdigest, texts.cast(pl.Binary).to_list())
    made = pl.Series("event_id", list(hashes), dtype=pl.String)
    return made if given.null_count() == len(given) else given.fill_null(made)
