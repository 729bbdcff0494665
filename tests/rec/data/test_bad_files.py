"""Files that are broken or hostile: every row is accounted for, or one line says why not."""

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rec.data.cleaning import CleaningConfig
from rec.data.csv_rows import TextLines
from rec.data.files import list_files, read_chunks
from rec.errors import DataError, RecError
from rec.stages.preparation import Prepared, prepare

NOW_MS = 1_700_000_000_000
LENIENT = CleaningConfig(max_bad_ratio=1.0, pseudonymize_users=False)
GOOD = '{"user_id":"u","item_id":"i1","timestamp":1600000000}'


def run(folder: Path, *paths: Path, config: CleaningConfig = LENIENT) -> Prepared:
    items = folder / "items.csv"
    items.write_text("item_id,title\ni1,tea\ni2,cup\n", encoding="utf-8")
    return prepare(
        folder / "workspace",
        events=[str(path) for path in paths],
        items=[str(items)],
        config=config,
        num_partitions=2,
        now_ms=NOW_MS,
    )


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def quarantined(prepared: Prepared) -> dict[str, int]:
    """Return the reasons, after checking that the counts add up and that each row is there."""
    counts = prepared.events.counts
    reasons: dict[str, int] = counts["quarantined"]
    assert counts["rows_in"] == counts["kept"] + counts["duplicates"] + sum(reasons.values())
    assert counts["duplicates"] == sum(counts["duplicates_by_reason"].values())
    folder = prepared.events.path / "quarantine"
    if reasons:
        rows = pl.read_parquet(folder / "*.parquet")
        assert dict(rows["reason"].value_counts().iter_rows()) == reasons
    return reasons


JSON_LINES = {
    "not_json": ["{", "nope", '{"a":1}}', "[" * 100_000, '{"user_id":' * 50_000, "9" * 5000],
    "not_an_object": ["[]", "1", '"text"', "null", "[[[[1]]]]"],
    "too_many_fields": ["{" + ",".join(f'"f{n}":0' for n in range(1001)) + "}"],
    "wrong_type": [
        '{"user_id":["u"],"item_id":"i1","timestamp":1600000000}',
        '{"user_id":{"id":"u"},"item_id":"i1","timestamp":1600000000}',
        '{"user_id":"u","item_id":"i1","timestamp":{"s":1}}',
        '{"user_id":"u","item_id":"i1","timestamp":1600000000,"value":[1]}',
        '{"user_id":"u","item_id":[[["i1"]]],"timestamp":1600000000}',
    ],
    "broken_utf8": [
        '{"user_id":"\\ud800","item_id":"i1","timestamp":1600000000}',
        '{"user_id":"u","item_id":"i1","timestamp":1600000000,"query":"a\\uDC00b"}',
    ],
    "missing_user_id": ['{"item_id":"i1","timestamp":1600000000}', '{"user_id":" "}'],
    "missing_timestamp": ['{"user_id":"u","item_id":"i1"}'],
    "bad_timestamp": [
        '{"user_id":"u","item_id":"i1","timestamp":"soon"}',
        '{"user_id":"u","item_id":"i1","timestamp":1e400}',
        '{"user_id":"u","item_id":"i1","timestamp":true}',
    ],
    "negative_timestamp": [
        '{"user_id":"u","item_id":"i1","timestamp":"1969-07-20T20:17:40Z"}',
        '{"user_id":"u","item_id":"i1","timestamp":-14182940}',
        '{"user_id":"u","item_id":"i1","timestamp":"0001-01-01T00:00:00+23:59"}',
    ],
    "future_timestamp": ['{"user_id":"u","item_id":"i1","timestamp":"2999-01-01"}'],
    "zero_timestamp": ['{"user_id":"u","item_id":"i1","timestamp":"1970-01-01T00:00:00Z"}'],
    "unknown_item": [
        '{"user_id":"u","item_id":-1,"timestamp":1600000000}',
        '{"user_id":"u","item_id":"i1\\u0000","timestamp":1600000000}',
        '{"user_id":"u","item_id":"\\u202ei1","timestamp":1600000000}',
    ],
    "bad_value": [
        '{"user_id":"u","item_id":"i1","timestamp":1600000000,"value":"much"}',
        '{"user_id":"u","item_id":"i1","timestamp":1600000000,"value":NaN}',
        '{"user_id":"u","item_id":"i1","timestamp":1600000000,"value":-Infinity}',
    ],
    "id_too_long": [
        json.dumps({"user_id": "u" * 257, "item_id": "i1", "timestamp": 1_600_000_000}),
        json.dumps({"user_id": "u", "item_id": "i1", "session_id": "s" * 257, "timestamp": 1}),
    ],
    "event_type_too_long": [
        json.dumps({"user_id": "u", "item_id": "i1", "timestamp": 1, "event_type": "t" * 65})
    ],
    "query_too_long": [
        json.dumps({"user_id": "u", "query": "q" * 513, "event_type": "search", "timestamp": 1})
    ],
    "search_without_query": [
        '{"user_id":"u","event_type":"search","query":"\\u200b\\u202e","timestamp":1600000000}'
    ],
}


@pytest.mark.parametrize("reason", JSON_LINES)
def test_bad_json_line_is_quarantined_among_good_ones(tmp_path: Path, reason: str) -> None:
    lines = [GOOD, *JSON_LINES[reason], GOOD.replace("i1", "i2")]
    prepared = run(tmp_path, write(tmp_path / "e.jsonl", "\n".join(lines)))
    assert quarantined(prepared) == {reason: len(JSON_LINES[reason])}
    assert prepared.events.counts["kept"] == 2


def test_all_bad_json_lines_together(tmp_path: Path) -> None:
    lines = [line for group in JSON_LINES.values() for line in group]
    prepared = run(tmp_path, write(tmp_path / "e.jsonl", "\n".join([*lines, GOOD])))
    assert quarantined(prepared) == {r: len(group) for r, group in sorted(JSON_LINES.items())}


def test_names_of_our_marks_can_be_used_by_a_file(tmp_path: Path) -> None:
    row = json.loads(GOOD) | {"reason": "gift", "raw": "x", "row": 3, "__reason__": "forged"}
    assert quarantined(run(tmp_path, write(tmp_path / "e.jsonl", json.dumps(row)))) == {}
    csv = "user_id,item_id,timestamp,reason,__reason__,__nested__\nu,i1,1600000000,gift,forged,x\n"
    assert quarantined(run(tmp_path, write(tmp_path / "e.csv", csv))) == {}
    pl.DataFrame([row]).write_parquet(tmp_path / "e.parquet")
    assert quarantined(run(tmp_path, tmp_path / "e.parquet")) == {}


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "e.jsonl", GOOD.encode() + b'\n{"user_id":"\xff"}\n\x00\x00\n')
    assert quarantined(run(tmp_path, jsonl)) == {"broken_utf8": 1, "not_json": 1}
    csv = b"user_id,item_id,timestamp\nu,i1,1600000000\n\xff,i1,1600000000\nu,i\x00,1600000000\n"
    assert quarantined(run(tmp_path, write(tmp_path / "e.csv", csv))) == {
        "broken_utf8": 1, "unknown_item": 1,
    }  # fmt: skip


def test_line_of_ten_megabytes(tmp_path: Path) -> None:
    long = "x" * 10_000_000
    row = {"user_id": "u", "event_type": "search", "query": long, "timestamp": 1_600_000_000}
    jsonl = write(tmp_path / "e.jsonl", f"{GOOD}\n{json.dumps(row)}\n{GOOD}\n")
    prepared = run(tmp_path, jsonl)
    assert quarantined(prepared) == {"query_too_long": 1}
    written = sum(f.stat().st_size for f in prepared.events.path.rglob("*") if f.is_file())
    assert written < 100_000
    csv = f"user_id,item_id,timestamp,query\nu,i1,1600000000,\nu,i1,1600000000,{long}\n"
    assert quarantined(run(tmp_path, write(tmp_path / "e.csv", csv))) == {"query_too_long": 1}


def test_line_longer_than_any_row_is_skipped_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(f"{GOOD}\n".encode())
        for _ in range(40):
            stream.write(b"x" * (1 << 20))
        stream.write(f"\n{GOOD.replace('i1', 'i2')}\n".encode())
    prepared = run(tmp_path, path)
    assert quarantined(prepared) == {"line_too_long": 1}
    assert prepared.events.counts["kept"] == 2


def test_fields_that_differ_in_every_row_are_one_error(tmp_path: Path) -> None:
    rows = [json.loads(GOOD) | {f"field{n}": 0} for n in range(1200)]
    path = write(tmp_path / "e.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="expected at most 1000 different fields"):
        run(tmp_path, path)


def test_stray_quote_costs_the_lines_that_it_swallows(tmp_path: Path) -> None:
    lines = [
        "user_id,item_id,timestamp,query",
        "u,i1,1600000000,",
        'u,i1,1600000001,"tea',  # swallows two lines, up to the next quote
        "u,i1,1600000002,",
        'u,i1,1600000003,cup"',
        "u,i2,1600000004,",
        'u,i2,1600000005,5" cup',  # inside a value a quote is a letter
        'u,"i1,1600000006,',  # swallows the rest
        "u,i1,1600000007,",
        "u,i1,1600000008,",
    ]
    prepared = run(tmp_path, write(tmp_path / "e.csv", "\n".join(lines) + "\n"))
    assert quarantined(prepared) == {"stray_quote": 6}
    assert prepared.events.counts["rows_in"] == len(lines) - 1
    log = pl.read_parquet(prepared.events.path / "part-*.parquet").sort("timestamp_ms")
    assert [stamp // 1000 % 100 for stamp in log["timestamp_ms"]] == [0, 4, 5]
    assert log["query"][2] == '5" cup'


def test_line_breaks_outside_the_contract_are_text(tmp_path: Path) -> None:
    text = 'user_id,item_id,timestamp,review\nu,i1,1600000000,"good\ntea"\n'
    assert quarantined(run(tmp_path, write(tmp_path / "e.csv", text))) == {}


def test_wrong_number_of_fields(tmp_path: Path) -> None:
    text = "user_id,item_id,timestamp\nu,i1,1600000000\nu,i1\nu,i1,1600000000,x\n,,\n\n"
    assert quarantined(run(tmp_path, write(tmp_path / "e.csv", text))) == {
        "missing_user_id": 1, "wrong_field_count": 2,
    }  # fmt: skip


def test_header_with_quotes_a_mark_and_a_blank_line_before(tmp_path: Path) -> None:
    text = '\ufeff\n"user_id","item_id","timestamp","a,b"\nu,i1,1600000000,x\n'
    assert (
        quarantined(run(tmp_path, write(tmp_path / "e.csv", text.replace("\ufeff\n", "\n")))) == {}
    )
    marked = "\ufeffuser_id,item_id,timestamp\nu,i1,1600000000\n"
    assert quarantined(run(tmp_path, write(tmp_path / "f.csv", marked))) == {}


def test_column_that_stands_there_twice_is_one_error(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", "user_id,item_id,user_id,timestamp\nu,i1,v,1600000000\n")
    with pytest.raises(DataError, match="'user_id' twice"):
        run(tmp_path, path)


def test_names_of_columns_reach_no_terminal_unseen(tmp_path: Path) -> None:
    header = ",".join(["\x1b[2Jevil", *(f"c{n}" for n in range(5000))])
    with pytest.raises(DataError, match="expected a column 'user_id'") as caught:
        run(tmp_path, write(tmp_path / "e.csv", f"{header}\n" + "," * 5000 + "\n"))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["e.csv.gz", "e.jsonl.gz"])
def test_damaged_gzip_is_one_line(tmp_path: Path, name: str) -> None:
    text = "user_id,item_id,timestamp\n" + "u,i1,1600000000\n" * 1000
    whole = gzip.compress(text.encode())
    middle = len(whole) // 2
    for blob in (
        b"no gzip",
        whole[:middle],
        whole[:middle] + b"\x00\xff" * 9 + whole[middle + 18 :],
    ):
        with pytest.raises(DataError) as caught:
            list(read_chunks(str(write(tmp_path / name, blob))))
        assert "\n" not in str(caught.value)


def test_empty_files_among_good_ones_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    write(folder / "b.jsonl", GOOD)
    for name in ("a.csv", "c.parquet", "d.jsonl", "e.csv.gz", "f.jsonl.gz"):
        write(folder / name, b"")
    write(folder / "g.csv", "\n\n")
    write(folder / "h.csv", "user_id,item_id,timestamp\n")
    write(folder / "i.csv.gz", gzip.compress(b""))
    prepared = run(tmp_path, folder)
    assert quarantined(prepared) == {}
    assert prepared.events.counts["rows_in"] == 1


def test_links_pipes_and_hidden_files_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    (folder / "inner.csv").mkdir(parents=True)  # a folder that is named like a file
    real = write(folder / "a.jsonl", GOOD)
    (folder / "b.jsonl").symlink_to(real)  # the same file again
    (folder / "dead.jsonl").symlink_to(folder / "nothing")
    (folder / "loop.jsonl").symlink_to(folder / "loop.jsonl")
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe.csv")
    for name in ("_SUCCESS.csv", ".hidden.jsonl"):
        write(folder / name, "not a log")
    assert list_files([str(folder)]) == [str(real)]
    assert run(tmp_path, folder).events.counts["rows_in"] == 1
    for name in ("dead.jsonl", "loop.jsonl", "pipe.csv", "inner.csv"):
        with pytest.raises(DataError, match="found nothing"):
            list_files([str(folder / name)])


ITEM_FILES = {
    "nested title": '{"item_id":"i1","title":{"en":"tea"}}\n{"item_id":"i2","title":"cup"}',
    "mixed category": '{"item_id":"i1","title":"t","category":["a","b"]}\n'
    '{"item_id":"i2","title":"t","category":"c"}',
    "mixed attribute": '{"item_id":"i1","title":"t","size":[1]}\n'
    '{"item_id":"i2","title":"t","size":1}',
    "long id": '{"item_id":"' + "x" * 300 + '","title":"t"}\n{"item_id":"i1","title":"t"}',
    "no id at all": '{"title":"t"}\n{"item_id":"i1","title":"t"}',
    "surrogate": '{"item_id":"i2","title":"\\ud800"}\n{"item_id":"i1","title":"t"}',
}


@pytest.mark.parametrize("name", ITEM_FILES)
def test_bad_items_are_counted_or_one_line(tmp_path: Path, name: str) -> None:
    items = write(tmp_path / "items.jsonl", ITEM_FILES[name])
    events = write(tmp_path / "e.jsonl", GOOD)
    prepared = prepare(
        tmp_path / "workspace",
        events=[str(events)],
        items=[str(items)],
        config=LENIENT,
        num_partitions=1,
        now_ms=NOW_MS,
    )
    counts = prepared.catalog.counts
    assert counts["rows_in"] == 2
    assert counts["kept"] + counts["duplicates"] + sum(counts["quarantined"].values()) == 2
    if name == "mixed category":
        items_read = pl.read_parquet(prepared.catalog.path / "items.parquet")
        assert items_read["category"].to_list() == [["a", "b"], ["c"]]


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("i1"),
    st.sampled_from([2**63 - 1, -(2**63), 2**63, 10**18, "1600000000", "NaN", "\ud800", "-inf"]),
)  # fmt: skip
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
NAMES = ("user_id", "item_id", "event_type", "timestamp", "value", "query", "event_id", "x")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8), max_size=12))
def test_any_json_rows_are_accounted_for(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = write(folder / "e.jsonl", "\n".join([GOOD, *map(json.dumps, rows)]))
    prepared = run(folder, path)
    quarantined(prepared)
    assert prepared.events.counts["rows_in"] == 1 + len(rows)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.binary(max_size=400))
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "csv.gz"])
def test_any_bytes_are_rows_or_one_line(
    body: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    head = b"user_id,item_id,timestamp,query\nu,i1,1600000000,\n" if suffix == "csv" else b""
    path = write(folder / f"e.{suffix}", head + body)
    try:
        prepared = run(folder, path)
    except RecError as error:
        message = str(error)
    else:
        quarantined(prepared)
        message = ""
    assert "\n" not in message


CSV_PIECES = st.sampled_from(
    [b",", b'"', b"i1", b"1600000000", b"\xff", b"\xe8\x8c\xb6", b"tea", b"\x00", b'""', b" "]
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines=st.lists(st.lists(CSV_PIECES, max_size=8).map(b"".join), max_size=8))
def test_every_line_of_a_csv_file_is_a_row(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever quotes do: a line is a row, kept or not."""
    folder = tmp_path_factory.mktemp("fuzz")
    body = [b"user_id,item_id,timestamp,query", b"u,i1,1600000000,"]
    body += [b"u," + line for line in lines]
    prepared = run(folder, write(folder / "e.csv", b"\n".join(body) + b"\n"))
    quarantined(prepared)
    assert prepared.events.counts["rows_in"] == 1 + len(lines)


def test_job_ends_above_the_limit_with_one_line(tmp_path: Path) -> None:
    """The whole way: a user's command, its exit code and what stands on stderr."""
    log = write(tmp_path / "e.jsonl", f"{GOOD}\nno json\nno json\n")
    items = write(tmp_path / "items.csv", "item_id,title\ni1,tea\n")
    code = (
        "from jobs.command import InputArguments, run_job, with_columns\n"
        "from rec.stages.preparation import prepare\n"
        "def work(a):\n"
        "    prepare(a.workspace, events=a.events, items=a.items, config=with_columns(a).cleaning,"
        " num_partitions=1)\n"
        "run_job(InputArguments, work, None, name='prepare', description='d')\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-c", code, "smoke", "--events", str(log), "--items", str(items),
            "--workspace", str(tmp_path / "workspace"), "--cleaning.max-bad-ratio", "0.6",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "2 of 3 events are bad (2 not_json)" in line
    assert "Traceback" not in done.stderr


@given(content=st.lists(st.sampled_from([b"\n", b"a", b"\xe8\x8c\xb6", b"\xff"]), max_size=40))
def test_lines_that_are_no_text_are_found_over_the_edges_of_blocks(content: list[bytes]) -> None:
    blob = b"".join(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rec.data.csv_rows._BLOCK_BYTES", 3)
        lines = TextLines(io.BytesIO(blob))
        parts = list(iter(lambda: lines.read(2), b""))
    wanted = [line + b"\n" for line in blob.split(b"\n")]
    wanted[-1] = wanted[-1].removesuffix(b"\n")
    assert b"".join(parts) == b"".join(line for line in wanted if b"\xff" not in line)
    assert lines.broken == [line for line in wanted if b"\xff" in line]
    assert max(map(len, parts), default=0) <= 2
