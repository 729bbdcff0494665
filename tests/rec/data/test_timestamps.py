"""One moment in every form that a log may have it in."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec.data.files import read_chunks
from rec.data.timestamps import to_timestamp_ms

S = 1_600_000_000
MOMENT = dt.datetime(2020, 9, 13, 12, 26, 40)
FORMS = {
    "seconds": pa.array([S]),
    "milliseconds": pa.array([S * 10**3]),
    "microseconds": pa.array([S * 10**6]),
    "nanoseconds": pa.array([S * 10**9]),
    "unsigned": pa.array([S], pa.uint64()),
    "floats": pa.array([float(S)]),
    "decimals": pa.array([Decimal(S)]),
    "text": pa.array([f" {S} "]),
    "text of a float": pa.array([f"{S}.0"]),
    "ISO-8601": pa.array(["2020-09-13T12:26:40Z"]),
    "ISO-8601 with an offset": pa.array(["2020-09-13T20:26:40+08:00"]),
    "ISO-8601 without a zone": pa.array(["2020-09-13 12:26:40"]),
    "ISO-8601 basic": pa.array(["20200913T122640Z"]),
    "dictionary": pa.array(["2020-09-13T12:26:40.000Z"]).dictionary_encode(),
    **{f"Arrow {unit}": pa.array([MOMENT], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")},
    "Arrow with a zone": pa.array([MOMENT], pa.timestamp("us", tz="Asia/Shanghai")),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_moment_is_that_moment(tmp_path: Path, form: str) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"timestamp": FORMS[form]}), path)
    [chunk] = read_chunks(str(path))
    assert to_timestamp_ms(chunk["timestamp"]).to_list() == [S * 1000]


def test_fractions_and_days_are_kept() -> None:
    assert to_timestamp_ms(pl.Series([S + 0.25])).to_list() == [S * 1000 + 250]
    assert to_timestamp_ms(pl.Series(["2020-09-13T12:26:40.25Z"])).to_list() == [S * 1000 + 250]
    day = to_timestamp_ms(pl.Series([dt.date(2020, 9, 13)])).to_list()
    assert day == to_timestamp_ms(pl.Series(["2020-09-13"])).to_list() == [1_599_955_200_000]


@pytest.mark.parametrize(
    "value", ["soon", "", "13/09/2020", "2020-13-01", "1e400", "NaN", "-", "∞"]
)
def test_what_is_no_time_is_null(value: str) -> None:
    assert to_timestamp_ms(pl.Series([value])).to_list() == [None]


def test_rows_of_one_column_may_have_different_units() -> None:
    mixed = pl.Series([S, S * 10**3, S * 10**6, None, -S])
    assert to_timestamp_ms(mixed).to_list() == [S * 1000] * 3 + [None, -S * 1000]
