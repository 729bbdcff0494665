"""Item and user files: foreign column names, and rows of users that say of nobody."""

from pathlib import Path

import polars as pl
import pytest

from rec.artifacts import Artifact
from rec.data.cleaning import CleaningConfig
from rec.data.columns import map_columns, text_column
from rec.data.rows import REASON
from rec.errors import ConfigError, DataError
from rec.stages.preparation import Prepared, prepare


def run(
    folder: Path, users: str, *, items: str = "item_id,title\ni1,tea\n", **settings: object
) -> Artifact:
    for name, text in {
        "events.csv": "user_id,item_id,timestamp\nu1,i1,1600000000\n",
        "items.csv": items,
        "users.csv": users,
    }.items():
        (folder / name).write_text(text)
    made: Prepared = prepare(
        folder / "workspace",
        events=[str(folder / "events.csv")],
        items=[str(folder / "items.csv")],
        users=[str(folder / "users.csv")],
        config=CleaningConfig(**{"pseudonymize_users": False, **settings}),  # type: ignore[arg-type]
        num_partitions=1,
        now_ms=1_700_000_000_000,
    )
    return made.catalog


def test_every_row_of_a_user_file_is_counted(tmp_path: Path) -> None:
    text = "user_id,city\nu1,Bonn\n,Anna Smith's\nu2,Köln\nu1,Berlin\nu3\n"
    catalog = run(tmp_path, text)
    assert catalog.counts["users"] == {
        "rows_in": 5,
        "kept": 2,
        "duplicates": 1,
        "quarantined": {"missing_user_id": 1, "wrong_field_count": 1},
    }
    users = pl.read_parquet(catalog.path / "users.parquet")
    assert users.rows() == [("u1", "Berlin"), ("u2", "Köln")]
    bad = pl.read_parquet(catalog.path / "users_quarantine.parquet")
    assert bad.rows() == [
        ("missing_user_id", str(tmp_path / "users.csv"), 1),
        ("wrong_field_count", str(tmp_path / "users.csv"), 4),
    ]


def test_items_and_users_are_read_under_their_own_names(tmp_path: Path) -> None:
    catalog = run(
        tmp_path,
        "customer,city\nu1,Bonn\n",
        items="sku,name,title\ni1,green tea,ignored\n",
        item_column=("item_id=sku", "title=name"),
        user_column=("user_id=customer",),
    )
    items = pl.read_parquet(catalog.path / "items.parquet")
    assert items.select("item_id", "title").rows() == [("i1", "green tea")]
    assert set(items.columns).isdisjoint({"sku", "name"})
    assert pl.read_parquet(catalog.path / "users.parquet").columns == ["user_id", "city"]


def test_message_names_the_flag_that_maps_a_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--user-column user_id=THEIR_NAME"):
        run(tmp_path, "customer\nu1\n")
    with pytest.raises(DataError, match="--item-column item_id=THEIR_NAME"):
        run(tmp_path, "user_id\nu1\n", items="sku,title\ni1,tea\n")
    with pytest.raises(ConfigError, match=r"--cleaning\.item-column expects OURS=THEIRS"):
        CleaningConfig(item_column=("title",))


def test_file_with_other_separators_says_so(tmp_path: Path) -> None:
    """No mapping helps where a whole line is the name of one column."""
    for items, users in (
        ("item_id;title\ni1;tea\n", "user_id\nu1\n"),
        (None, "user_id\tcity\n1\t2"),
    ):
        with pytest.raises(DataError, match="expected commas between columns, found") as caught:
            run(tmp_path, users, **({} if items is None else {"items": items}))
        assert "THEIR_NAME" not in str(caught.value)


@pytest.mark.parametrize("column", ["user", "user_id"])
def test_message_holds_no_signature_of_a_link(column: str) -> None:
    link = "https://shop.example/log.csv?sign=secret"
    cells = {column: [[1]], "item_id": ["i1"], "timestamp": [1], REASON: [None]}
    chunk = pl.DataFrame(cells)
    with pytest.raises(DataError, match=r"https://shop\.example/log\.csv: expected") as caught:
        text_column(map_columns(chunk, mapping={}, file_name=link), "user_id", link)
    assert "secret" not in str(caught.value)
