"""A log's distinct queries: in a file of their own, whose order is their number."""

from dataclasses import replace
from pathlib import Path

from rec.data.cleaning import CleaningConfig
from rec.data.queries import QUERIES, QUERIES_FILE, load_queries
from rec.data.sequences import load_sequences
from rec.stages.erasing import erase
from rec.stages.preparation import Prepared, prepare

T = 1_700_000_000


def run(folder: Path) -> Prepared:
    (folder / "items.csv").write_text("item_id,title\ni,thing\n")
    lines = [f"u,search,{T},zebra", f"v,search,{T},apple", f"u,search,{T + 1},apple"]
    (folder / "log.csv").write_text(
        "user_id,event_type,timestamp,query,item_id\n" + "".join(f"{line},\n" for line in lines)
    )
    return prepare(
        folder / "workspace",
        events=[str(folder / "log.csv")],
        items=[str(folder / "items.csv")],
        config=CleaningConfig(),
        num_partitions=2,
    )


def test_manifest_does_not_grow_with_the_queries(tmp_path: Path) -> None:
    made = run(tmp_path)
    assert load_queries(made.events) == load_sequences(made.sequences.path).queries
    assert load_queries(made.events) == ("apple", "zebra")
    assert "zebra" not in (made.events.path / "manifest.json").read_text()
    assert QUERIES_FILE in made.events.manifest["files"]


def test_erased_query_keeps_its_place_empty(tmp_path: Path) -> None:
    made = run(tmp_path)
    erase(tmp_path / "workspace", ["u"])
    assert load_queries(made.events) == ("apple", "")
    assert b"zebra" not in (made.events.path / QUERIES_FILE).read_bytes()


def test_older_events_hold_them_in_the_manifest(tmp_path: Path) -> None:
    made = run(tmp_path)
    (made.events.path / QUERIES_FILE).unlink()
    details = {**made.events.manifest["details"], QUERIES: ["b", "a"]}
    older = replace(made.events, manifest={**made.events.manifest, "details": details})
    assert load_queries(older) == ("b", "a")
