"""User attributes: rows with an id, under the ids that are stored; the others with their reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from rec.data.columns import concat_rows, missing_column, text_column
from rec.data.privacy import pseudonyms
from rec.data.rows import MARKS, REASON, ROW
from rec.data.storage import shown
from rec.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Users:
    """Hold the users and what became of the rows they came from."""

    attributes: pl.DataFrame
    """``user_id`` and the file's other columns, by stored id."""
    num_rows_in: int
    num_duplicates: int
    quarantined: pl.DataFrame
    """``reason, file, row``: of whom a row speaks is not known, so it is not copied."""


def clean_users(
    chunks: Sequence[tuple[str, pl.DataFrame]],
    *,
    key: bytes | None,
    leave_out: Callable[[pl.DataFrame], pl.DataFrame],
) -> Users:
    """Return the users of ``(file name, rows)`` chunks; of rows with one id the last stays.

    Args:
        chunks: rows under our column names, with the marks of :mod:`rec.data.rows`.
        key: hashes user ids; ``None`` keeps them.
        leave_out: takes away rows that count as if the files did not have them.

    Raises:
        DataError: no row at all, or no column with ids.
    """
    if not chunks:
        raise DataError("expected at least one user, the files are empty: check --users")
    frames = [_with_reasons(frame, file_name) for file_name, frame in chunks]
    rows = concat_rows(frames, "users")
    bad = rows.filter(pl.col(REASON).is_not_null())
    good = rows.filter(pl.col(REASON).is_null()).drop("file", *MARKS, strict=False)
    if key is not None:
        names = pseudonyms(good["user_id"].to_list(), key)
        good = good.with_columns(pl.Series("user_id", names, dtype=pl.String))
    good = leave_out(good)
    attributes = good.unique("user_id", keep="last", maintain_order=True).sort("user_id")
    return Users(
        attributes=attributes,
        num_rows_in=good.height + bad.height,
        num_duplicates=good.height - attributes.height,
        quarantined=bad.select(pl.col(REASON).alias("reason"), "file", pl.col(ROW).alias("row")),
    )


def _with_reasons(frame: pl.DataFrame, file_name: str) -> pl.DataFrame:
    if "user_id" not in frame.columns:
        if not frame.height or frame[REASON].null_count():
            raise missing_column("user_id", frame, file_name, flag="--user-column")
        frame = frame.with_columns(pl.lit(None, pl.String).alias("user_id"))
    named = frame.with_columns(
        text_column(frame, "user_id", file_name), pl.lit(shown(file_name)).alias("file")
    )
    missing = pl.when(pl.col("user_id").is_null()).then(pl.lit("missing_user_id"))
    return named.with_columns(pl.coalesce(REASON, missing).alias(REASON))
