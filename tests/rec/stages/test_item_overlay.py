"""What was put and deleted while serving is in the next catalog, and is not applied twice."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rec.artifacts import read_artifact
from rec.data.cleaning import CleaningConfig
from rec.encoders.images import read_image_embeddings
from rec.errors import DataError
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.feedback.item_changes import ItemChange, ItemChanges
from rec.ranking.item_rows import clean_item
from rec.stages.ingesting import ingest
from rec.stages.item_overlay import read_overlay
from rec.stages.preparation import Prepared, prepare

VECTOR = np.ones(4, dtype=np.float32)


class Shop:
    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "workspace"
        self.events, self.items = folder / "events.csv", folder / "items.parquet"
        rows = {"item_id": [*"abc"], "title": ["Tea", "Lamp", "Sofa"], "price": [2.5, 30.0, 400.0]}
        pl.DataFrame(rows).write_parquet(self.items)
        self.events.write_text(
            "user_id,item_id,timestamp\n"
            + "".join(f"u,{i},{1_700_000_000 + n}\n" for n, i in enumerate("abcab"))
        )
        self.changes = ItemChanges(EventLog(self.workspace / LOG_FILE))

    def change(self, item_id: str, item: dict[str, object] | None) -> int:
        vector = None if item is None else VECTOR
        return self.changes.append(
            [ItemChange(item_id=item_id, timestamp_ms=1, item=item, embedding=vector)]
        )

    def prepare(self) -> Prepared:
        return prepare(
            self.workspace,
            events=[str(self.events)],
            items=[str(self.items)],
            config=CleaningConfig(pseudonymize_users=False),
            num_partitions=1,
        )


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def item(title: str, **values: object) -> dict[str, object]:
    return {"title": title, "text": "", "category": [], "tags": [], **values}


def test_changes_are_taken_over_once_ingested(shop: Shop) -> None:
    before = shop.prepare()
    shop.change("d", item("Umbrella", price=9, shade="uv"))
    shop.change("b", item("Floor lamp", price=31.5))
    last = shop.change("c", None)
    assert shop.prepare().catalog.name == before.catalog.name
    counts = ingest(shop.workspace)
    assert counts["items"] == 3
    assert ingest(shop.workspace)["items"] == 0
    prepared = shop.prepare()
    rows = pl.read_parquet(prepared.catalog.path / "items.parquet")
    assert rows["item_id"].to_list() == ["a", "b", "d"]
    assert rows["item_index"].to_list() == [1, 2, 3]
    assert rows["title"].to_list() == ["Tea", "Floor lamp", "Umbrella"]
    assert rows["price"].to_list() == [2.5, 31.5, 9.0]
    assert rows["shade"].to_list() == [None, None, "uv"]
    details = read_artifact(prepared.catalog.path).manifest["details"]
    assert details["item_changes_through"] == last
    found = prepared.catalog.counts
    assert found["rows_in"] == found["kept"] + found["duplicates"] + found["withdrawn"]
    # Events on an item that is gone are quarantined with their reason, like any unknown item's.
    assert prepared.events.counts["kept"] == 4
    assert shop.prepare().is_skipped


@pytest.mark.parametrize("as_text", [False, True])
def test_image_embedding_that_was_put_is_in_the_next_catalog(
    tmp_path: Path, *, as_text: bool
) -> None:
    """Beside those of the files, whether they are lists or, from CSV, JSON text."""
    shop = Shop(tmp_path)
    images: list[object] = [[0.0, 2.0], None, None]
    rows = pl.read_parquet(shop.items)
    if as_text:
        images = [None if image is None else json.dumps(image) for image in images]
    column = pl.Series(
        "image_embedding", images, dtype=pl.String if as_text else pl.List(pl.Float32)
    )
    rows.with_columns(column).write_parquet(shop.items)
    schema = pl.read_parquet_schema(shop.items)
    values = {"title": "Umbrella", "image_embedding": [3.0, 4.0]}
    shop.change("d", clean_item("d", values, schema=schema, image_width=2))
    ingest(shop.workspace)
    images_found = read_image_embeddings(
        pl.read_parquet(shop.prepare().catalog.path / "items.parquet")
    )
    assert images_found is not None
    np.testing.assert_allclose(images_found.embeddings, [[0, 1], [0, 0], [0, 0], [0.6, 0.8]])


def test_later_change_wins_and_a_deleted_item_can_come_back(shop: Shop) -> None:
    shop.change("d", item("Umbrella"))
    ingest(shop.workspace)
    shop.change("d", None)
    shop.change("b", None)
    ingest(shop.workspace)
    assert read_overlay(shop.workspace).deleted == ["b", "d"]
    shop.change("b", item("Lamp again"))
    ingest(shop.workspace)
    rows = pl.read_parquet(shop.prepare().catalog.path / "items.parquet")
    assert rows["title"].to_list() == ["Tea", "Lamp again", "Sofa"]


def test_catalog_of_which_nothing_is_left_is_refused(shop: Shop) -> None:
    for item_id in "abc":
        shop.change(item_id, None)
    ingest(shop.workspace)
    with pytest.raises(DataError, match=r"items\.json"):
        shop.prepare()
