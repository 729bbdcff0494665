"""The catalog: items that keep the contract, in a fixed order.

``item_index`` is 1-based over the sorted item ids; 0 is padding. Every column that the contract
does not name is kept as an attribute usable in filters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rec.data.columns import concat_rows, missing_column, read_column, text_column
from rec.data.rows import MARKS, RAW, REASON
from rec.data.storage import shown
from rec.data.text import normalise_texts
from rec.errors import ArtifactError, DataError

CATALOG_FILE = "items.parquet"
MAX_ID_CHARACTERS = 256
_LIST_COLUMNS = ("category", "tags")


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """Hold the items and what became of the rows they came from."""

    items: pl.DataFrame
    """``item_index, item_id, title, text, category, tags`` and attributes, by item index."""
    num_rows_in: int
    num_duplicates: int
    quarantined: pl.DataFrame


def clean_items(chunks: Sequence[tuple[str, pl.DataFrame]]) -> Catalog:
    """Return the catalog of ``(file name, rows)`` chunks.

    Of rows with one ``item_id`` the last stays: a later file updates an earlier one. An item with
    neither title, text nor category says nothing an encoder could read and is quarantined.

    Raises:
        DataError: no chunk, a missing ``item_id`` column, or no item left.
    """
    frames = [_normalise(frame, file_name) for file_name, frame in chunks]
    rows = concat_rows(frames, "items") if frames else pl.DataFrame()
    if rows.height == 0:
        raise DataError("expected at least one item, the catalog is empty: check --items")
    reason = (
        pl.when(pl.col(REASON).is_not_null())
        .then(pl.col(REASON))
        .when(pl.col("item_id").is_null())
        .then(pl.lit("missing_item_id"))
        .when(pl.col("item_id").str.len_chars() > MAX_ID_CHARACTERS)
        .then(pl.lit("id_too_long"))
        .when(
            (pl.col("title") == "") & (pl.col("text") == "") & (pl.col("category").list.len() == 0)
        )
        .then(pl.lit("item_without_text"))
    )
    rows = rows.with_columns(reason.alias(REASON))
    good = rows.filter(pl.col(REASON).is_null()).drop(*MARKS, strict=False)
    items = good.unique("item_id", keep="last", maintain_order=True).sort("item_id")
    if items.height == 0:
        raise DataError(f"no item of {rows.height} has an item_id and a text: mend the catalog")
    index = pl.int_range(1, items.height + 1, dtype=pl.Int32).alias("item_index")
    first = ["item_index", "item_id", "title", "text", "category", "tags"]
    items = items.with_columns(index)
    return Catalog(
        items=items.select(*first, *sorted(set(items.columns) - set(first))),
        num_rows_in=rows.height,
        num_duplicates=good.height - items.height,
        quarantined=rows.filter(pl.col(REASON).is_not_null()).select(
            REASON, pl.col("item_id").alias(RAW)
        ),
    )


def load_items(folder: Path) -> pl.DataFrame:
    """Return the items of a catalog folder, by item index.

    Raises:
        ArtifactError: the folder holds no catalog.
    """
    path = folder / CATALOG_FILE
    if not path.is_file():
        raise ArtifactError(f"expected {CATALOG_FILE} in {folder}, found none: rerun jobs.prepare")
    return pl.read_parquet(path)


def _normalise(frame: pl.DataFrame, file_name: str) -> pl.DataFrame:
    if "item_id" not in frame.columns:
        if frame.height and frame[REASON].null_count() == 0:
            frame = frame.with_columns(pl.lit(None, pl.String).alias("item_id"))
        else:
            raise missing_column("item_id", frame, file_name, flag="--item-column")
    for name in ("title", "text"):
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit("").alias(name))
    for name in _LIST_COLUMNS:
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit([], dtype=pl.List(pl.String)).alias(name))
        elif not isinstance(frame[name].dtype, pl.List):
            frame = frame.with_columns(text_column(frame, name, file_name))
            text = pl.col(name)
            frame = frame.with_columns(
                pl.when(text.is_null())
                .then(pl.lit([]))
                .otherwise(pl.concat_list(text))
                .cast(pl.List(pl.String))
                .alias(name)
            )
        elif frame[name].dtype != pl.List(pl.String):
            raise DataError(
                f"{shown(file_name)}: expected text or lists of text in column {name!r}, "
                f"got {frame[name].dtype}"
            )
    return frame.with_columns(
        text_column(frame, "item_id", file_name),
        *(
            normalise_texts(read_column(frame, n, file_name).cast(pl.String).fill_null(""))
            for n in ("title", "text")
        ),
        *(
            pl.col(n).cast(pl.List(pl.String)).fill_null([]).list.drop_nulls()
            for n in _LIST_COLUMNS
        ),
    )
