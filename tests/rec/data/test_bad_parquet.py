"""Parquet that is broken or hostile: types, text and endings that are none, code in a footer."""

import pickle
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec.data.cleaning import CleaningConfig
from rec.errors import DataError
from tests.rec.data.test_bad_files import GOOD, quarantined, run, write


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_of_wrong_types(tmp_path: Path) -> None:
    stamps = pa.array([1_600_000_000, None, -5])
    numbers = parquet(
        tmp_path / "a.parquet",
        user_id=pa.array([1.0, float("nan"), 3.0]),
        item_id=pa.array(["i1", "i1", "i1"]).dictionary_encode(),
        timestamp=stamps,
        value=pa.array([True, False, None]),
    )
    prepared = run(tmp_path, numbers)
    assert quarantined(prepared) == {"missing_user_id": 1, "negative_timestamp": 1}
    assert pl.read_parquet(prepared.events.path / "part-*.parquet")["user_id"].to_list() == ["1"]


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp", "value", "query"])
@pytest.mark.parametrize(
    "values",
    [pa.array([{"a": 1}]), pa.array([["a"]]), pa.array([b"a"]), pa.array([[{"a": [1]}]])],
    ids=["struct", "list", "bytes", "nested"],
)
def test_parquet_column_of_a_kind_that_cannot_be_read(
    tmp_path: Path, column: str, values: pa.Array
) -> None:
    columns = {"user_id": ["u"], "item_id": ["i1"], "timestamp": [1_600_000_000], column: values}
    with pytest.raises(DataError, match=rf"expected text or numbers in column '{column}'"):
        run(tmp_path, parquet(tmp_path / "e.parquet", **columns))


def broken_text(blobs: list[bytes]) -> pa.Array:
    """Return a text column of any bytes, as a writer that does not check leaves it."""
    return pa.array(blobs, type=pa.binary()).view(pa.string())


def test_parquet_with_text_that_is_no_text(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "e.parquet",
        user_id=broken_text([b"u", b"\xff", b"v"]),
        item_id=pa.array(["i1", "i1", "i2"]),
        timestamp=pa.array([1_600_000_000] * 3),
        tags=pa.ListArray.from_arrays([0, 1, 1, 2], broken_text([b"ok", b"\xfe"])),
    )
    prepared = run(tmp_path, path)
    assert quarantined(prepared) == {"broken_utf8": 2}
    assert prepared.events.counts["kept"] == 1


@pytest.mark.parametrize("size", [0, 1, 4, 12, 100, -1, -8, -40])
def test_truncated_parquet_is_one_line(tmp_path: Path, size: int) -> None:
    whole = parquet(
        tmp_path / "whole.parquet", user_id=["u"], item_id=["i1"], timestamp=[1_600_000_000]
    )
    cut = write(tmp_path / "cut.parquet", whole.read_bytes()[:size])
    with pytest.raises(DataError) as caught:
        run(tmp_path, cut)
    assert "\n" not in str(caught.value)


class Bomb:
    """Make a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


class Loaded(pa.ExtensionType):  # type: ignore[misc]
    """An extension type of the kind that has run code from files: its reader unpickles."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "tests.loaded")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "Loaded":
        del storage
        if serialized:
            pickle.loads(serialized)
        return cls()


@pytest.mark.parametrize(
    "name", ["tests.loaded", "arrow.py_extension_type", "ray.data.arrow_tensor", "polars.unknown"]
)
def test_no_code_in_a_parquet_file_ever_runs(tmp_path: Path, name: str) -> None:
    target = tmp_path / "it-ran"
    marks = {
        b"ARROW:extension:name": name.encode(),
        b"ARROW:extension:metadata": pickle.dumps(Bomb(target)),
    }
    columns = {"user_id": ["u"], "item_id": ["i1"], "timestamp": [1_600_000_000]}
    table = pa.table(columns)
    schema = table.schema
    for place in (0, 1):
        schema = schema.set(place, schema.field(place).with_metadata(marks))
    path = tmp_path / "e.parquet"
    pq.write_table(table.cast(schema), path)
    pa.register_extension_type(Loaded())
    try:
        assert quarantined(run(tmp_path, path)) == {}
        assert not target.exists()
        if name == "tests.loaded":
            # The same file does run code in a reader that trusts it.
            pq.read_table(path)
            assert target.exists()
    finally:
        pa.unregister_extension_type("tests.loaded")


def test_truncated_parquet_among_good_files_is_quarantined(tmp_path: Path) -> None:
    rows = 3000
    whole = parquet(
        tmp_path / "a.parquet", user_id=["u"] * rows, item_id=["i1"] * rows,
        timestamp=range(1_600_000_000, 1_600_000_000 + rows),
    )  # fmt: skip
    cut = write(tmp_path / "b.parquet", whole.read_bytes()[:-50])
    good = write(tmp_path / "c.jsonl", GOOD.replace("i1", "i2"))
    prepared = run(tmp_path, whole, cut, good)
    assert quarantined(prepared) == {"unreadable_file": 1}
    assert prepared.events.counts["kept"] == rows + 1
    [raw] = pl.read_parquet(prepared.events.path / "quarantine/*.parquet")["raw"]
    assert "b.parquet: it does not end as a Parquet file does" in raw


def test_page_that_was_overwritten_costs_the_rest_of_its_file(tmp_path: Path) -> None:
    """The footer is whole, so only reading shows it."""
    path = tmp_path / "a.parquet"
    rows = 40_000
    table = pa.table(
        {
            "user_id": [f"user-{n}" for n in range(rows)],
            "item_id": ["i1"] * rows,
            "timestamp": range(1_600_000_000, 1_600_000_000 + rows),
        }
    )
    pq.write_table(table, path, row_group_size=10_000)
    blob = bytearray(path.read_bytes())
    middle = len(blob) // 2
    blob[middle : middle + 4000] = bytes(4000)
    prepared = run(tmp_path, write(path, bytes(blob)), write(tmp_path / "b.jsonl", GOOD))
    counts = prepared.events.counts
    assert quarantined(prepared) == {"unreadable_file": 1}
    assert 1 <= counts["kept"] < rows


def test_too_many_unreadable_files_are_one_line(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", GOOD)
    cut = [write(tmp_path / f"{name}.parquet", b"PAR1") for name in "bc"]
    config = CleaningConfig(max_bad_ratio=0.6, pseudonymize_users=False)
    with pytest.raises(
        DataError, match=r"cannot read .*b\.parquet.* \(2 of 3 files, more than"
    ) as e:
        run(tmp_path, good, *cut, config=config)
    assert "\n" not in str(e.value)


def test_mended_file_is_read_again(tmp_path: Path) -> None:
    whole = parquet(
        tmp_path / "whole", user_id=["u"], item_id=["i1"], timestamp=[1_600_000_009]
    ).read_bytes()
    good = write(tmp_path / "a.jsonl", GOOD)
    path = write(tmp_path / "b.parquet", whole[:-9])
    assert quarantined(run(tmp_path, good, path)) == {"unreadable_file": 1}
    assert quarantined(run(tmp_path, good, write(path, whole))) == {}
