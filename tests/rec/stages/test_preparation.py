from pathlib import Path

import polars as pl
import pytest

from rec.artifacts import read_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.sequences import load_sequences
from rec.errors import DataError
from rec.stages.preparation import Prepared, prepare

NOW_MS = 1_700_000_000_000
RAW = CleaningConfig(pseudonymize_users=False, max_bad_ratio=0.9)
ITEMS = "item_id,title\ni1,red dress\ni2,red shoes\ni3,\n"


def write(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def run(folder: Path, events: str | list[str], config: CleaningConfig = RAW) -> Prepared:
    items = write(folder, "items.csv", ITEMS)
    return prepare(
        folder / "workspace",
        events=[events] if isinstance(events, str) else events,
        items=[items],
        config=config,
        num_partitions=3,
        now_ms=NOW_MS,
    )


def test_every_bad_row_is_counted_by_its_reason(tmp_path: Path) -> None:
    lines = [
        b"user_id,item_id,event_type,timestamp,query,value",
        b"u1,i1,view,1600000000,,",
        b"u1,i1,view,1600000000,,",  # the same again
        b"u1,i2,view,1600000001,,2.5",
        b"u1,,search,1600000002,dress,",
        b"u1,,search,1600000002,,",
        b",i1,view,1600000000,,",
        b"u2,,view,1600000000,,",
        b"u2,i9,view,1600000000,,",
        b"u2,i3,view,1600000000,,",  # an item without any text is not in the catalog
        b"u2,i1,view,soon,,",
        b"u2,i1,view,,,",
        b"u2,i1,view,0,,",
        b"u2,i1,view,-5,,",
        b"u2,i1,view,1900000000,,",
        b"u2,i1,view,1600000000,,much",
        b"u2,\xff\xfe,view,1600000000,,",
        b"u2,i1,view",
    ]
    counts = run(tmp_path, write(tmp_path, "events.csv", b"\n".join(lines) + b"\n")).events.counts
    assert counts["quarantined"] == {
        "bad_timestamp": 1,
        "bad_value": 1,
        "broken_utf8": 1,
        "future_timestamp": 1,
        "missing_item_id": 1,
        "missing_timestamp": 1,
        "missing_user_id": 1,
        "negative_timestamp": 1,
        "search_without_query": 1,
        "unknown_item": 2,
        "wrong_field_count": 1,
        "zero_timestamp": 1,
    }
    assert (counts["rows_in"], counts["kept"], counts["duplicates"]) == (17, 3, 1)
    assert counts["rows_in"] == 3 + 1 + sum(counts["quarantined"].values())


def test_item_without_text_is_quarantined(tmp_path: Path) -> None:
    events = write(tmp_path, "e.csv", "user_id,item_id,timestamp\nu1,i1,1600000000\n")
    catalog = run(tmp_path, events).catalog
    assert catalog.counts["kept"] == 2
    assert catalog.counts["quarantined"] == {"item_without_text": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user,item_id,timestamp\nu,i1,1\n", "expected a column 'user_id'"),
        ("user_id,item_id,timestamp\n", "the log is empty"),
        ("", "the log is empty"),
        ("user_id,item_id,timestamp\nu,i9,1600000000\n", "1 unknown_item"),
    ],
)
def test_hopeless_log_is_one_error_and_leaves_nothing(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        run(tmp_path, write(tmp_path, "events.csv", text))
    rooms = tmp_path / "workspace" / "events"
    assert not rooms.exists() or not list(rooms.iterdir())


def test_truncated_parquet_is_one_error(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pl.DataFrame({"user_id": ["u"], "item_id": ["i1"], "timestamp": [1]}).write_parquet(whole)
    path = write(tmp_path, "cut.parquet", whole.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cannot read .*cut\.parquet"):
        run(tmp_path, path)


def test_second_run_changes_nothing(tmp_path: Path) -> None:
    events = write(tmp_path, "e.csv", "user_id,item_id,timestamp\nu1,i1,1600000000\n")
    first = run(tmp_path, events)
    second = run(tmp_path, events)
    assert not first.is_skipped
    assert second.is_skipped
    assert second.events.name == first.events.name


def test_files_of_all_kinds_become_the_same_events(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user_id": ["u1", "u2"],
            "item_id": ["i1", "i2"],
            "timestamp": [1_600_000_000, 1_600_000_009],
        }
    )
    frame.write_csv(tmp_path / "a.csv")
    frame.write_ndjson(tmp_path / "b.jsonl")
    frame.write_parquet(tmp_path / "c.parquet")
    paths = [str(tmp_path / name) for name in ("a.csv", "b.jsonl", "c.parquet")]
    counts = run(tmp_path, paths).events.counts
    assert (counts["rows_in"], counts["kept"], counts["duplicates"]) == (6, 2, 4)


def test_sequences_equal_a_plain_reference(tmp_path: Path) -> None:
    rows = [
        ("u1", "i2", 50), ("u2", "i1", 40), ("u1", "i1", 10), ("u1", "i2", 10), ("u2", "i2", 40),
    ]  # fmt: skip
    text = "user_id,item_id,timestamp\n" + "".join(
        f"{user},{item},{1_600_000_000 + second}\n" for user, item, second in rows
    )
    prepared = run(tmp_path, write(tmp_path, "e.csv", text))
    sequences = load_sequences(prepared.sequences.path)
    found = {
        user: sequences.tokens[sequences.offsets[row] : sequences.offsets[row + 1]].tolist()
        for row, user in enumerate(sequences.user_ids)
    }
    expected: dict[str, list[int]] = {}
    # sorted() is stable: ties keep the order of the file.
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        expected.setdefault(user, []).append({"i1": 1, "i2": 2}[item])
    assert found == expected


def test_user_ids_are_stored_as_pseudonyms_by_default(tmp_path: Path) -> None:
    events = write(tmp_path, "e.csv", "user_id,item_id,timestamp\nanna-smith,i1,1600000000\n")
    prepared = run(tmp_path, events, CleaningConfig())
    for path in (tmp_path / "workspace").rglob("*"):
        if path.is_file():
            assert b"anna-smith" not in path.read_bytes(), path
    assert (tmp_path / "workspace" / "pseudonym.key").stat().st_mode & 0o777 == 0o600
    assert read_artifact(prepared.events.path, verify=True).name == prepared.events.name


def test_foreign_column_names_are_mapped(tmp_path: Path) -> None:
    events = write(tmp_path, "e.csv", "customer,sku,when\nu1,i1,2020-09-13T12:26:40Z\n")
    config = CleaningConfig(
        column=("user_id=customer", "item_id=sku", "timestamp=when"), pseudonymize_users=False
    )
    log = pl.read_parquet(run(tmp_path, events, config).events.path / "part-*.parquet")
    assert log.select("user_id", "item_id", "timestamp_ms").rows() == [
        ("u1", "i1", 1_600_000_000_000)
    ]


def test_titles_and_queries_are_stored_normalised(tmp_path: Path) -> None:
    items = "item_id,title,text\ni1,Ｒｅｄ\u3000dress &amp; shoes,\u202eSilk\u200b  １００％\n"
    events = (
        "user_id,item_id,event_type,timestamp,query\n"
        "u1,i1,view,1600000000,\n"
        "u1,,search,1600000001,ｒｅｄ　&quot;dress&quot;\n"
        "u1,,search,1600000002,\u200b\u202e\n"
    )
    prepared = prepare(
        tmp_path / "workspace",
        events=[write(tmp_path, "e.csv", events)],
        items=[write(tmp_path, "items.csv", items)],
        config=RAW,
        num_partitions=1,
        now_ms=NOW_MS,
    )
    catalog = pl.read_parquet(prepared.catalog.path / "items.parquet")
    assert catalog.select("title", "text").row(0) == ("Red dress & shoes", "Silk 100%")
    log = pl.read_parquet(prepared.events.path / "part-*.parquet")
    assert log["query"].to_list() == [None, 'red "dress"']
    assert prepared.events.counts["quarantined"] == {"search_without_query": 1}


def test_only_the_workspaces_own_batches_count_as_feedback(tmp_path: Path) -> None:
    """A user's folder of that name holds plain ids: they are hashed; our batches' are not again."""
    rows = "user_id,item_id,timestamp\nanna,i1,1600000000\n"
    theirs, ours = (
        folder / "feedback" / "batches" for folder in (tmp_path, tmp_path / "workspace")
    )
    for folder in (theirs, ours):
        folder.mkdir(parents=True)
    events = write(theirs, "events.csv", rows)
    stored = pl.DataFrame({"user_id": ["0f" * 16], "item_id": ["i2"], "timestamp": [1_600_000_000]})
    stored.write_parquet(ours / "batch-000000000001-000000000001.parquet")
    prepared = run(tmp_path, events, CleaningConfig())
    log = pl.read_parquet(prepared.events.path / "part-*.parquet")
    users = dict(log.select("item_id", "user_id").iter_rows())
    assert users["i2"] == "0f" * 16
    assert len(users["i1"]) == 32
    assert users["i1"] != "anna"
