"""Each step of the cleaning plan on logs small enough to count by hand."""

from pathlib import Path

import polars as pl
import pytest

from rec.data.cleaning import ORDER, RAW_SCHEMA, CleaningConfig
from rec.data.rows import RAW, REASON
from rec.data.user_cleaning import Cleaned, clean_partition, trim_partition
from rec.errors import ConfigError, DataError
from rec.stages.preparation import Prepared, prepare

DAY_S = 86_400
Row = tuple[str, str | None, str, int]


def clean(rows: list[Row], **settings: object) -> Cleaned:
    """Clean rows of ``(user, item, type, second)``; every row has an id of its own."""
    frame = pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "event_type": [row[2] for row in rows],
            "timestamp_ms": [row[3] * 1000 for row in rows],
            "event_id": [f"e{number}" for number in range(len(rows))],
            ORDER: range(len(rows)),
        }
    )
    missing = [pl.lit(None, dtype=RAW_SCHEMA[n]).alias(n) for n in RAW_SCHEMA if n not in frame]
    whole = frame.with_columns(missing).select(
        pl.col(name).cast(dtype) for name, dtype in RAW_SCHEMA.items()
    )
    config = CleaningConfig(**settings)  # type: ignore[arg-type]
    return clean_partition(whole, config=config)


def ids(cleaned: Cleaned) -> list[str]:
    return cleaned.kept["event_id"].to_list()


def test_double_clicks_are_duplicates_within_the_time_given() -> None:
    rows: list[Row] = [
        ("u", "a", "view", 100),  # e0
        ("u", "a", "view", 101),  # e1: 1 s after e0
        ("u", "a", "view", 103),  # e2: 2 s after e1
        ("u", "a", "cart", 103),  # e3: another type
        ("u", "b", "view", 103),  # e4: another item
        ("v", "a", "view", 103),  # e5: another user
        ("u", "a", "view", 106),  # e6: 3 s after e2
    ]
    assert len(ids(clean(rows))) == 7
    cleaned = clean(rows, near_duplicate_ms=2000)
    assert ids(cleaned) == ["e0", "e3", "e4", "e6", "e5"]
    assert cleaned.duplicates == {"near_in_time": 2}
    assert clean(rows, near_duplicate_ms=1999).duplicates == {"near_in_time": 1}


def test_repeats_collapse_only_when_they_follow_each_other() -> None:
    rows: list[Row] = [
        ("u", "a", "view", 1), ("u", "a", "view", 500), ("u", "b", "view", 501),
        ("u", "a", "view", 502), ("u", "a", "cart", 503), ("v", "a", "cart", 1),
        ("w", None, "search", 1), ("w", None, "search", 2),
    ]  # fmt: skip
    assert len(ids(clean(rows))) == 8
    cleaned = clean(rows, collapse_repeats=True)
    # e7 has no query of its own either: the same search again.
    assert ids(cleaned) == ["e0", "e2", "e3", "e4", "e5", "e6"]
    assert cleaned.duplicates == {"consecutive_repeat": 2}


def test_a_day_above_the_limit_is_a_bots_and_others_of_that_user_stay() -> None:
    night: list[Row] = [("bot", "a", "view", DAY_S - 4 + n) for n in range(4)]
    day: list[Row] = [("bot", "a", "view", DAY_S + n) for n in range(3)]
    human: list[Row] = [("u", "a", "view", DAY_S + n) for n in range(3)]
    rows = night + day + human
    cleaned = clean(rows, max_events_per_day=3)
    assert cleaned.kept["user_id"].to_list() == ["bot"] * 3 + ["u"] * 3
    assert cleaned.quarantined[REASON].to_list() == ["bot_rate"] * 4
    assert cleaned.quarantined[ORDER].to_list() == [0, 1, 2, 3]
    assert cleaned.quarantined.row(0, named=True) == {
        REASON: "bot_rate", ORDER: 0, RAW: None, "user_id": "bot", "item_id": "a",
        "event_type": "view", "timestamp_ms": (DAY_S - 4) * 1000, "value": None, "query": None,
        "session_id": None, "event_id": "e0", "impression_id": None,
    }  # fmt: skip
    assert cleaned.bot_days == 1
    reported = clean(rows, max_events_per_day=3, bots="report")
    assert (reported.kept.height, reported.quarantined.height, reported.bot_days) == (10, 0, 1)
    assert clean(rows, max_events_per_day=None).bot_days == 0
    assert clean(rows).bot_days == 0


def test_sent_again_is_a_duplicate_and_makes_no_bot() -> None:
    rows: list[Row] = [("u", "a", "view", 1)]
    once = clean(rows)
    sent = pl.concat([once.kept] * 9).with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(ORDER),
        *(pl.lit(None, dtype=pl.String).alias(name) for name in (REASON, RAW)),
    )
    again = clean_partition(sent, config=CleaningConfig(max_events_per_day=2))
    assert (again.kept.height, again.bot_days) == (1, 0)
    assert again.duplicates == {"same_event_id": 8}


def test_session_ends_after_the_gap() -> None:
    rows: list[Row] = [
        ("u", "a", "view", 10), ("u", "b", "view", 70), ("u", "c", "view", 131),
        ("v", "a", "view", 71),
    ]  # fmt: skip
    cleaned = clean(rows, session_gap_s=60.0)
    assert cleaned.kept["session_id"].to_list() == ["u-10000", "u-10000", "u-131000", "v-71000"]
    assert clean(rows, session_gap_s=None).kept["session_id"].null_count() == 4


def test_given_session_stays() -> None:
    frame = clean([("u", "a", "view", 1), ("u", "a", "view", 2)], session_gap_s=None).kept
    rows = frame.with_columns(
        pl.Series("session_id", ["theirs", None]),
        pl.int_range(pl.len(), dtype=pl.Int64).alias(ORDER),
        *(pl.lit(None, dtype=pl.String).alias(name) for name in (REASON, RAW)),
    )
    kept = clean_partition(rows, config=CleaningConfig()).kept
    assert kept["session_id"].to_list() == ["theirs", "u-1000"]


def test_rare_items_go_first_and_then_users_with_few_events() -> None:
    rows: list[Row] = [
        ("u", "a", "view", 1), ("u", "b", "view", 2), ("u", "a", "view", 3),
        ("v", "a", "view", 1), ("v", "b", "view", 2), ("w", None, "search", 5),
        ("w", "a", "view", 6),
    ]  # fmt: skip
    config = CleaningConfig(min_user_events=2, min_item_events=3)
    cleaned = clean(rows, min_user_events=2, min_item_events=3)
    trimmed = trim_partition(cleaned.kept, rare_items=pl.Series(["b"]), config=config)
    assert ids(trimmed) == ["e0", "e2", "e5", "e6"]
    assert trimmed.quarantined.select(REASON, ORDER).rows() == [
        ("rare_item", 1), ("rare_user", 3), ("rare_item", 4),
    ]  # fmt: skip
    assert trimmed.kept["session_id"].null_count() == 0


def run(folder: Path, rows: list[Row], config: CleaningConfig) -> Prepared:
    lines = ["user_id,item_id,event_type,timestamp"]
    lines += [f"{user},{item or ''},{kind},{second}" for user, item, kind, second in rows]
    (folder / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "items.csv").write_text("item_id,title\na,red\nb,blue\nc,green\n", encoding="utf-8")
    return prepare(
        folder / "workspace",
        events=[str(folder / "events.csv")],
        items=[str(folder / "items.csv")],
        config=config,
        num_partitions=3,
        now_ms=1_700_000_000_000,
    )


def test_minimum_counts_are_of_the_whole_log(tmp_path: Path) -> None:
    # Item b has one event of each of three users, who may be in three partitions.
    rows: list[Row] = [(f"u{n}", "b", "view", 1_600_000_000 + n) for n in range(3)]
    rows += [("u0", "c", "view", 1_600_000_100), ("u0", "a", "view", 1_600_000_200)]
    rows += [("u1", "a", "view", 1_600_000_200), ("u9", "nothing", "view", 1_600_000_000)]
    config = CleaningConfig(min_item_events=2, min_user_events=2, pseudonymize_users=False)
    prepared = run(tmp_path, rows, config)
    counts = prepared.events.counts
    assert counts["quarantined"] == {"rare_item": 1, "rare_user": 1, "unknown_item": 1}
    assert (counts["rows_in"], counts["kept"], counts["users"]) == (7, 4, 2)
    assert counts["event_types"] == {"view": 4}
    quarantine = pl.read_parquet(prepared.events.path / "quarantine" / "*.parquet")
    assert dict(quarantine["reason"].value_counts().iter_rows()) == counts["quarantined"]
    assert not (prepared.events.path / "scratch").exists()


def test_what_the_plan_takes_out_is_not_bad(tmp_path: Path) -> None:
    rows: list[Row] = [(f"u{n}", "a", "view", 1_600_000_000) for n in range(9)]
    rows += [("u", "a", "view", 1_600_000_000), ("u", "b", "view", 1_600_000_001)]
    counts = run(tmp_path, rows, CleaningConfig(min_user_events=2, max_bad_ratio=0.1)).events.counts
    assert (counts["kept"], counts["quarantined"]) == (2, {"rare_user": 9})
    with pytest.raises(DataError, match=r"2 of 11 events are bad \(2 bot_rate\)"):
        run(tmp_path, rows, CleaningConfig(max_bad_ratio=0.1, max_events_per_day=1))


def test_too_many_event_types_are_a_wrong_column(tmp_path: Path) -> None:
    rows: list[Row] = [("u", "a", f"type{n}", 1_600_000_000 + n) for n in range(1001)]
    with pytest.raises(DataError, match="expected at most 1000 different values in event_type"):
        run(tmp_path, rows, CleaningConfig())


@pytest.mark.parametrize(
    "name",
    ["near_duplicate_ms", "max_events_per_day", "min_user_events", "min_item_events"],
)
def test_limit_below_one_is_refused(name: str) -> None:
    flag = name.replace("_", "-")
    with pytest.raises(ConfigError, match=f"--cleaning.{flag} must be None or at least 1, got 0"):
        CleaningConfig(**{name: 0})  # type: ignore[arg-type]
