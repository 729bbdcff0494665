"""Added files are merged into the events that are there, with the result of a full rebuild."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rec.artifacts import Artifact
from rec.data import log_merging
from rec.data.cleaning import CleaningConfig
from rec.stages import log_workers
from rec.stages.preparation import FEEDBACK_BATCHES, KEY_FILE, Prepared, prepare

T = 1_600_000_000
DAY = 86_400
PLAN = CleaningConfig(
    pseudonymize_users=False, max_bad_ratio=1.0, max_events_per_day=4, session_gap_s=2.0
)


def run(
    workspace: Path,
    files: list[Path],
    *,
    config: CleaningConfig = PLAN,
    now_ms: int = (T + 9 * DAY) * 1000,
) -> Prepared:
    workspace.mkdir(exist_ok=True)
    items = workspace.parent / "items.csv"
    items.write_text("item_id,title\ni1,tea\ni2,cup\n")
    return prepare(
        workspace,
        events=[str(path) for path in files],
        items=[str(items)],
        config=config,
        num_partitions=3,
        now_ms=now_ms,
    )


def write(folder: Path, files: list[list[dict[str, Any]]]) -> list[Path]:
    paths = [folder / f"{number}.jsonl" for number in range(len(files))]
    for path, rows in zip(paths, files, strict=True):
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return paths


def row(user: str, second: int, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": "i1", "timestamp": T + second, **more}


def files_of(prepared: Prepared) -> dict[str, str]:
    """Return the sha256 of every file of the events but their manifest."""
    return digests(prepared.events)


def digests(artifact: Artifact) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}


def merged_into(prepared: Prepared) -> str | None:
    name: str | None = prepared.events.manifest["details"]["merged_into"]
    return name


ROWS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u1", "u2", "u3", "u4", None]),
        "item_id": st.sampled_from(["i1", "i2", "i1", "unknown"]),
        "timestamp": st.integers(T, T + 8) | st.integers(T + DAY, T + DAY + 8),
    },
    optional={
        "event_id": st.sampled_from(["e1", "e2"]),
        "session_id": st.sampled_from(["s1", "s2"]),
        "event_type": st.sampled_from(["cart", "search"]),
        "query": st.sampled_from(["tea", "call 13800138000"]),
    },
)
FILES = st.lists(st.lists(ROWS, min_size=1, max_size=10), min_size=2, max_size=4)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files=FILES, bots=st.sampled_from(["quarantine", "report"]))
def test_merging_equals_a_full_rebuild(
    files: list[list[dict[str, Any]]], bots: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    # One good row, so that no log is without an event.
    paths = write(folder, [[row("good", 0)], *files])
    config = CleaningConfig(
        pseudonymize_users=False, max_bad_ratio=1.0, max_events_per_day=2, session_gap_s=2.0,
        bots=bots,
    )  # fmt: skip
    for number in range(1, len(paths) + 1):
        merged = run(folder / "merged", paths[:number], config=config)
        assert (merged_into(merged) is None) == (number == 1)
    full = run(folder / "full", paths, config=config)
    assert merged_into(full) is None
    assert merged.events.name == full.events.name
    assert merged.events.counts == full.events.counts
    assert files_of(merged) == files_of(full)
    details = merged.events.manifest["details"]
    assert {**details, "merged_into": None} == full.events.manifest["details"]


def test_late_event_joins_two_sessions_and_turns_a_day_into_a_bots(tmp_path: Path) -> None:
    first = [row("u", 0), row("u", 3), row("v", 0), row("v", 1), row("v", 2), row("v", 3)]
    paths = write(tmp_path, [first, [row("u", 2), row("v", 4)]])
    before = run(tmp_path / "w", paths[:1])
    assert before.events.counts["sessions"] == 3
    after = run(tmp_path / "w", paths)
    assert merged_into(after) == before.events.name
    log = pl.read_parquet(after.events.path / "part-*.parquet")
    assert log["session_id"].to_list() == [f"u-{T}000"] * 3
    assert after.events.counts["quarantined"] == {"bot_rate": 5}
    assert after.events.manifest["details"]["warnings"][0] == {"code": "bot_days", "number": 1}


def test_day_of_a_bot_grows_and_its_other_days_stay(tmp_path: Path) -> None:
    first = [row("bot", second) for second in range(5)] + [row("u", 0)]
    paths = write(tmp_path, [first, [row("bot", 7), row("bot", 2), row("bot", DAY)]])
    run(tmp_path / "w", paths[:1])
    counts = run(tmp_path / "w", paths).events.counts
    # The second of the new rows is known, although it stands in the quarantine.
    assert counts["quarantined"] == {"bot_rate": 6}
    assert counts["duplicates_by_reason"] == {"same_event_id": 1}
    assert counts["kept"] == 2


def test_users_that_the_new_file_does_not_name_are_not_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, [[row(f"u{n}", 0) for n in range(50)], [row("u7", 5)]])
    run(tmp_path / "w", paths[:1])
    cleaned: list[str] = []
    opened: list[str] = []
    original, original_read = log_merging.clean_partition, log_workers.read_chunks

    def note(rows: pl.DataFrame, *, config: CleaningConfig) -> Any:
        cleaned.extend(rows["user_id"].to_list())
        return original(rows, config=config)

    def note_file(path: str) -> Any:
        opened.append(path)
        return original_read(path)

    monkeypatch.setattr(log_merging, "clean_partition", note)
    monkeypatch.setattr(log_workers, "read_chunks", note_file)
    after = run(tmp_path / "w", paths)
    assert opened == [str(paths[1].resolve())]
    assert after.events.counts["kept"] == 51
    assert cleaned == ["u7", "u7"]


def test_feedback_is_merged(tmp_path: Path) -> None:
    paths = write(tmp_path, [[row("u", 0)]])
    first = run(tmp_path / "w", paths)
    batches = tmp_path / "w" / FEEDBACK_BATCHES
    batches.mkdir(parents=True)
    pl.DataFrame([row("u", 1)]).write_parquet(batches / "batch-000000000001-000000000001.parquet")
    second = run(tmp_path / "w", paths)
    assert merged_into(second) == first.events.name
    assert second.events.counts["kept"] == 2
    assert second.events.manifest["details"]["ingested_through"] == 1


NEAR = CleaningConfig(pseudonymize_users=False, near_duplicate_ms=2000, session_gap_s=2.0)


@pytest.mark.parametrize(
    ("first", "config", "order"),
    [
        ([row("u", 0), row("u", 2)], NEAR, 1),
        ([row("u", 0), row("u", 30 * DAY)], PLAN, 1),  # of the future today
        ([row("u", 0, session_id="u-5")], PLAN, 1),  # looks like a derived session
        ([row("u", 0)], PLAN, -1),  # the new file stands before the old one
    ],
    ids=["lossy plan", "future", "unclear session", "other order"],
)
def test_what_cannot_be_merged_is_made_anew(
    tmp_path: Path, first: list[dict[str, Any]], config: CleaningConfig, order: int
) -> None:
    paths = write(tmp_path, [first, [row("u", 4)]])
    run(tmp_path / "w", paths[:1], config=config)
    after = run(tmp_path / "w", paths[::order], config=config, now_ms=(T + 40 * DAY) * 1000)
    full = run(tmp_path / "v", paths[::order], config=config, now_ms=(T + 40 * DAY) * 1000)
    assert merged_into(after) is None
    assert files_of(after) == files_of(full)


def test_changed_plan_or_catalog_is_made_anew(tmp_path: Path) -> None:
    paths = write(tmp_path, [[row("u", 0)], [row("u", 4)]])
    run(tmp_path / "w", paths[:1])
    changed = CleaningConfig(pseudonymize_users=False, max_bad_ratio=0.9)
    assert merged_into(run(tmp_path / "w", paths, config=changed)) is None


def test_with_a_new_key_everything_is_made_anew(tmp_path: Path) -> None:
    """Otherwise one user would stand there under two pseudonyms."""
    paths = write(tmp_path, [[row("u", 0)], [row("u", 4)], [row("u", 5)]])
    config = CleaningConfig()
    first = run(tmp_path / "w", paths[:1], config=config)
    second = run(tmp_path / "w", paths[:2], config=config)
    assert merged_into(second) == first.events.name
    (tmp_path / "w" / KEY_FILE).unlink()
    third = run(tmp_path / "w", paths, config=config)
    assert merged_into(third) is None
    assert third.events.counts["users"] == 1


def test_partitions_that_the_new_file_does_not_name_keep_their_files(tmp_path: Path) -> None:
    first = [row(f"u{n}", n) for n in range(50)] + [row("u3", 60 + n) for n in range(9)]
    bad = [{"user_id": "u9", "item_id": "i1", "timestamp": "never"}]
    paths = write(tmp_path, [first + bad, [row("u7", 99)]])
    before = run(tmp_path / "w", paths[:1])
    after = run(tmp_path / "w", paths)
    for old, new in ((before.events, after.events), (before.sequences, after.sequences)):
        parts = sorted(path.relative_to(new.path) for path in new.path.rglob("part-*"))
        is_same = [(old.path / p).stat().st_ino == (new.path / p).stat().st_ino for p in parts]
        assert is_same.count(False) <= 2  # u7's partition, and its quarantine
        assert is_same.count(True) >= 2
    full = run(tmp_path / "v", paths)
    assert files_of(after) == files_of(full)
    assert digests(after.sequences) == digests(full.sequences)
    assert after.sequences.counts == full.sequences.counts


def test_new_query_moves_the_numbers_of_all_sequences(tmp_path: Path) -> None:
    search = {"event_type": "search", "item_id": None}
    first = [row(f"u{n}", n) for n in range(9)] + [row("u1", 60, query="tea", **search)]
    paths = write(tmp_path, [first, [row("u7", 99, query="cup", **search)]])
    run(tmp_path / "w", paths[:1])
    after, full = run(tmp_path / "w", paths), run(tmp_path / "v", paths)
    assert digests(after.sequences) == digests(full.sequences)
