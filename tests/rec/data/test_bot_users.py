"""Users with more events than a person can have: set aside whole, counted, never held at once."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rec.data.cleaning import CleaningConfig
from rec.data.files import estimate_rows
from rec.stages import bot_users, log_workers
from rec.stages.preparation import Prepared, enough_partitions, prepare
from tests.rec.stages.test_incremental import T, files_of, merged_into, row, run, write

PLAN = CleaningConfig(
    pseudonymize_users=False, max_bad_ratio=1.0, max_events_per_user=3, session_gap_s=2.0
)


def quarantine(prepared: Prepared) -> pl.DataFrame:
    return pl.read_parquet(prepared.events.path / "quarantine" / "*.parquet")


def test_user_with_too_many_events_is_set_aside_and_reported(tmp_path: Path) -> None:
    rows = [row("bot", second) for second in (5, 1, 9, 3)] + [row("u", 0)]
    rows += [row("bot", 5), {"user_id": "bot", "timestamp": T}]  # the same again; a bad one
    prepared = run(tmp_path / "w", write(tmp_path, [rows]), config=PLAN)
    counts = prepared.events.counts
    assert counts["quarantined"] == {"bot_user": 4, "missing_item_id": 1}
    assert (counts["rows_in"], counts["kept"], counts["duplicates"]) == (7, 1, 1)
    bots = quarantine(prepared).filter(pl.col("reason") == "bot_user")
    # In full and in the input's order: nothing of them is lost.
    assert [stamp // 1000 - T for stamp in bots["timestamp_ms"]] == [5, 1, 9, 3]
    assert prepared.events.manifest["details"]["warnings"][0] == {
        "code": "bot_user", "user_id": "bot", "number": 4,
    }  # fmt: skip
    page = (prepared.events.path / "data_card.html").read_text()
    assert "User bot is a bot: 4 events" in page


def test_who_only_repeats_is_no_bot(tmp_path: Path) -> None:
    rows = [row("u", second) for second in (1, 2, 1, 2, 1, 2, 3)]
    prepared = run(tmp_path / "w", write(tmp_path, [rows]), config=PLAN)
    counts = prepared.events.counts
    assert (counts["kept"], counts["quarantined"]) == (3, {})
    assert counts["duplicates_by_reason"] == {"same_event_id": 4}


def test_bot_can_be_reported_and_kept(tmp_path: Path) -> None:
    rows = [row("bot", second) for second in range(8)]
    config = CleaningConfig(pseudonymize_users=False, max_events_per_user=3, bots="report")
    assert run(tmp_path / "w", write(tmp_path, [rows]), config=config).events.counts["kept"] == 8


ROWS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u1", "u2", "u3"]),
        "item_id": st.sampled_from(["i1", "i2", "unknown"]),
        "timestamp": st.integers(T, T + 5),
    },
    optional={"event_id": st.sampled_from(["e1", "e2"]), "session_id": st.just("s1")},
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files=st.lists(st.lists(ROWS, min_size=1, max_size=10), min_size=2, max_size=3))
def test_merging_equals_a_full_rebuild_whoever_becomes_a_bot(
    files: list[list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    paths = write(folder, [[row("good", 0)], *files])
    config = CleaningConfig(
        pseudonymize_users=False, max_bad_ratio=1.0, max_events_per_user=3, max_events_per_day=2,
        session_gap_s=2.0,
    )  # fmt: skip
    for number in range(1, len(paths) + 1):
        merged = run(folder / "merged", paths[:number], config=config)
        assert (merged_into(merged) is None) == (number == 1)
    full = run(folder / "full", paths, config=config)
    assert merged.events.counts == full.events.counts
    assert files_of(merged) == files_of(full)


def test_bot_of_a_day_becomes_a_bot_as_a_whole(tmp_path: Path) -> None:
    """The events of a bot's day stand in the quarantine, and count."""
    config = CleaningConfig(
        pseudonymize_users=False, max_bad_ratio=1.0, max_events_per_user=4, max_events_per_day=2
    )
    first = [row("good", 0), *(row("bot", second) for second in range(3))]
    paths = write(tmp_path, [first, [row("bot", 10), row("bot", 11)]])
    before = run(tmp_path / "w", paths[:1], config=config)
    assert before.events.counts["quarantined"] == {"bot_rate": 3}
    merged = run(tmp_path / "w", paths, config=config)
    assert merged_into(merged) == before.events.name
    assert merged.events.counts["quarantined"] == {"bot_user": 5}
    assert files_of(merged) == files_of(run(tmp_path / "full", paths, config=config))


def test_no_more_rows_are_held_than_the_limit_and_a_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cleaned at once does not hold the bot; its ids are looked at a share a time."""
    rows = [row("bot", second) for second in range(1000)]
    rows += [row(f"u{n}", 0) for n in range(50)]
    held: list[int] = []
    clean = log_workers.clean_partition

    def note(frame: pl.DataFrame, *, config: CleaningConfig) -> Any:
        held.append(frame.height)
        return clean(frame, config=config)

    monkeypatch.setattr(log_workers, "clean_partition", note)
    shares: list[int] = []
    find = bot_users._duplicates

    def note_shares(source: Any, *, num_shares: int) -> Any:
        shares.append(num_shares)
        return find(source, num_shares=num_shares)

    monkeypatch.setattr(bot_users, "_duplicates", note_shares)
    config = CleaningConfig(pseudonymize_users=False, max_bad_ratio=1.0, max_events_per_user=100)
    prepared = run(tmp_path / "w", write(tmp_path, [rows]), config=config)
    assert prepared.events.counts["quarantined"] == {"bot_user": 1000}
    assert sum(held) == 50
    assert shares == [10]


def test_bad_rows_without_a_user_are_spread_over_the_partitions(tmp_path: Path) -> None:
    rows = [row("u", 0), *({"item_id": "i1", "timestamp": T + n} for n in range(300))]
    prepared = run(tmp_path / "w", write(tmp_path, [rows]), config=PLAN)
    parts = list((prepared.events.path / "quarantine").glob("*.parquet"))
    assert [pl.read_parquet(part).height for part in sorted(parts)] == [100, 100, 100]


def test_long_log_has_more_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": ["u"] * 900}).write_parquet(path)
    num_rows = estimate_rows(str(path))
    assert num_rows == 900
    assert enough_partitions(num_rows, at_least=4) == 4
    monkeypatch.setattr("rec.stages.preparation.PARTITION_ROWS", 100)
    assert enough_partitions(num_rows, at_least=4) == 16
    assert enough_partitions(2 * num_rows, at_least=3) == 24


def test_long_log_gives_the_same_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(f"u{n % 7}", n) for n in range(90)]
    paths = write(tmp_path, [rows])
    config = CleaningConfig(pseudonymize_users=False)
    few = run(tmp_path / "few", paths, config=config)
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    monkeypatch.setattr("rec.stages.preparation.PARTITION_ROWS", 10)
    many = prepare(
        tmp_path / "many",
        events=[str(tmp_path / "log.parquet")],
        items=[str(tmp_path / "items.csv")],
        config=config,
        num_partitions=3,
        now_ms=(T + 10**6) * 1000,
    )
    assert many.events.manifest["config"]["num_partitions"] == 12
    columns = ["user_id", "item_id", "timestamp_ms"]
    logs = [
        pl.read_parquet(made.events.path / "part-*.parquet", columns=columns).sort(columns)
        for made in (few, many)
    ]
    assert logs[0].equals(logs[1])
