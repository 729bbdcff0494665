"""What holds for any log: a plain reference, idempotence, and the order of ties."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rec.data.cleaning import ORDER, CleaningConfig
from rec.data.sequences import load_sequences
from rec.stages.preparation import Prepared, prepare

T = 1_600_000_000
RAW = CleaningConfig(pseudonymize_users=False)
NAMES = ("user_id", "item_id", "event_type", "timestamp", "query")
ITEMS = ("i1", "i2", "i3")
Row = tuple[str, str | None, str, int, str | None]

USERS = st.sampled_from(["u1", "u2", "用户", "u 4"])
SECONDS = st.integers(T, T + 3)  # few, so that there are ties
VIEWS = st.tuples(
    USERS, st.sampled_from(ITEMS), st.sampled_from(["view", "cart"]), SECONDS, st.none()
)
SEARCHES = st.tuples(
    USERS, st.none(), st.just("search"), SECONDS, st.sampled_from(["tea", "茶", "red, 'cup'"])
)
FILES = st.lists(
    st.tuples(
        st.sampled_from(["csv", "jsonl", "parquet"]),
        st.lists(st.one_of(VIEWS, SEARCHES), min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)
ANY_LOG = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write_file(path: Path, rows: list[Row]) -> None:
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    elif path.suffix == ".csv":
        text = io.StringIO()
        csv.writer(text).writerows([NAMES, *rows])
        path.write_text(text.getvalue(), encoding="utf-8")
    else:
        types = [pl.String, pl.String, pl.String, pl.Int64, pl.String]
        schema = dict(zip(NAMES, types, strict=True))
        pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)


def run(workspace: Path, events: list[str], *, num_partitions: int = 2) -> Prepared:
    workspace.mkdir(exist_ok=True)
    items = workspace.parent / "items.csv"
    items.write_text("item_id,title\n" + "".join(f"{i},thing {i}\n" for i in ITEMS))
    return prepare(
        workspace,
        events=events,
        items=[str(items)],
        config=RAW,
        num_partitions=num_partitions,
        now_ms=(T + 100) * 1000,
    )


def write_files(folder: Path, files: list[tuple[str, list[Row]]]) -> list[str]:
    paths = [folder / f"{number}.{kind}" for number, (kind, _) in enumerate(files)]
    for path, (_, rows) in zip(paths, files, strict=True):
        write_file(path, rows)
    return [str(path) for path in paths]


def reference(files: list[tuple[str, list[Row]]]) -> dict[str, list[tuple[int, int, str]]]:
    """Return ``(token, time, type)`` of each user's events, the way one would write it down."""
    rows = [row for _, file_rows in files for row in file_rows]
    unique = list(dict.fromkeys(rows))
    queries = sorted({row[4] for row in unique if row[4] is not None})
    tokens: dict[str, int] = {}
    for name in [*ITEMS, *queries]:
        tokens[name] = len(tokens) + 1
    users: dict[str, list[tuple[int, int, str]]] = {}
    for user, item, kind, second, query in sorted(unique, key=lambda row: row[3]):
        users.setdefault(user, []).append((tokens[item or query or ""], second * 1000, kind))
    return users


@ANY_LOG
@given(files=FILES, num_partitions=st.integers(1, 5))
def test_sequences_equal_the_plain_reference(
    files: list[tuple[str, list[Row]]],
    num_partitions: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    prepared = run(folder / "w", write_files(folder, files), num_partitions=num_partitions)
    found = load_sequences(prepared.sequences.path)
    names = found.event_type_names
    triples = [
        (int(token), int(stamp), names[kind])
        for token, stamp, kind in zip(
            found.tokens, found.timestamps_ms, found.event_types, strict=True
        )
    ]
    by_user = {
        user: triples[found.offsets[row] : found.offsets[row + 1]]
        for row, user in enumerate(found.user_ids)
    }
    assert by_user == reference(files)


def contents(prepared: Prepared) -> dict[str, Any]:
    return {
        artifact.kind: (artifact.name, artifact.manifest["files"], dict(artifact.counts))
        for artifact in (prepared.catalog, prepared.events, prepared.sequences)
    }


@ANY_LOG
@given(files=FILES)
def test_equal_input_gives_equal_files_and_a_second_run_does_nothing(
    files: list[tuple[str, list[Row]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    paths = write_files(folder, files)
    first, again, elsewhere = (run(folder / name, paths) for name in ("w", "w", "v"))
    assert (first.is_skipped, again.is_skipped, elsewhere.is_skipped) == (False, True, False)
    assert contents(first) == contents(again) == contents(elsewhere)


@ANY_LOG
@given(files=FILES)
def test_what_is_clean_stays_as_it_is(
    files: list[tuple[str, list[Row]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    once = run(folder / "w", write_files(folder, files))
    parts = [str(part) for part in sorted(once.events.path.glob("part-*.parquet"))]
    twice = run(folder / "v", parts)
    assert (twice.events.counts["duplicates"], twice.events.counts["quarantined"]) == (0, {})
    for part in once.events.path.glob("part-*.parquet"):
        before, after = (pl.read_parquet(part), pl.read_parquet(twice.events.path / part.name))
        # The rows stand in other files now, so their numbers differ; their order does not.
        assert before.drop(ORDER).equals(after.drop(ORDER))


def test_ties_keep_the_order_of_files_and_then_of_rows(tmp_path: Path) -> None:
    files: list[tuple[str, list[Row]]] = [
        ("jsonl", [("u1", "i3", "view", T, None), ("u1", "i1", "view", T, None)]),
        ("csv", [("u1", "i2", "view", T, None), ("u1", "i3", "view", T, None)]),
        ("parquet", [("u1", "i1", "cart", T, None), ("u1", "i2", "view", T - 1, None)]),
    ]
    paths = write_files(tmp_path, files)
    forward = load_sequences(run(tmp_path / "w", paths).sequences.path)
    assert forward.tokens.tolist() == [2, 3, 1, 2, 1]
    backward = load_sequences(run(tmp_path / "v", paths[::-1]).sequences.path)
    assert backward.tokens.tolist() == [2, 1, 2, 3, 1]
