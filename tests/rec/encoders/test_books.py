"""The books of an embedding: what was encoded, what was known, what was cut, what it cost."""

from pathlib import Path

import polars as pl
import pytest

from rec.artifacts import Artifact
from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig
from rec.stages.embedding import embed, load_embeddings
from rec.stages.preparation import prepare

LONG = "red dress " * 6
TITLES = ["red dress", "red dress", "blue coat", LONG]
"""Two of one text, and one of twelve words."""


def embedded(folder: Path, titles: list[str]) -> Artifact:
    ids = [f"i{number}" for number in range(len(titles))]
    pl.DataFrame({"item_id": ids, "title": titles}).write_csv(folder / "items.csv")
    events = "user_id,item_id,event_type,timestamp,query\n"
    events += "u,i0,view,1600000000,\nu,,search,1600000001,blue coat.\n"
    (folder / "events.csv").write_text(events, encoding="utf-8")
    prepare(
        folder / "workspace",
        events=[str(folder / "events.csv")],
        items=[str(folder / "items.csv")],
        config=CleaningConfig(),
        num_partitions=1,
        now_ms=1_700_000_000_000,
    )
    config = EncoderConfig(model="hashing", template="{title}.", max_tokens=8)
    return embed(folder / "workspace", config=config)[0]


def test_a_text_is_encoded_once_however_often_it_stands_there(tmp_path: Path) -> None:
    made = embedded(tmp_path, TITLES)
    # The query is the text of an item, too.
    names = ("items", "queries", "distinct_texts", "encoded", "cached", "tokens")
    assert [made.counts[name] for name in names] == [4, 1, 3, 3, 0, 2 + 2 + 8]
    items, queries = load_embeddings(made)
    assert (items[0] == items[1]).all()
    assert (items[2] == queries[0]).all()
    assert made.manifest["details"]["cost"].keys() >= {"wall_s", "cpu_s", "gpu_s", "texts_per_s"}


def test_one_new_title_costs_one_text(tmp_path: Path) -> None:
    embedded(tmp_path, TITLES)
    again = embedded(tmp_path, [*TITLES, "green lamp"])
    assert [again.counts[name] for name in ("encoded", "cached", "tokens")] == [1, 3, 2]


def test_texts_that_were_cut_are_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert embedded(tmp_path, TITLES).counts["truncated"] == 1
    assert "1 of 3 texts are longer than 8 tokens and were cut" in caplog.text
    caplog.clear()
    short = tmp_path / "short"
    short.mkdir()
    assert embedded(short, TITLES[:3]).counts["truncated"] == 0
    assert "were cut" not in caplog.text
