"""The peer of B13 that does the job's work in polars: a plain script, all of the log in memory.

    python -m tests.benchmarks.same_work FOLDER OUT

It does what `jobs.prepare` does to this log and leaves out what the log does not ask for: rows with
a missing user, item or time, of the future or about unknown items go to a quarantine with their
reason; user ids become HMAC pseudonyms, each once; events get an id from their content; exact
duplicates go; a bot's events go to the quarantine; half an hour without an event ends a session;
clean events, lists of numbers by user, and counts are written. It does not stream, so memory is
the log's; it finds no near duplicates in the catalog, renders no page and checks no text.
"""

import hmac
import json
import sys
import time
from pathlib import Path

import polars as pl
import xxhash

MAX_EVENTS = 500_000
GAP_S = 1800
DAY_S = 86_400
KEY = bytes(32)


def main(source: str, target: str) -> None:
    """Prepare a folder's log."""
    out = Path(target)
    out.mkdir()
    items = pl.read_parquet(f"{source}/items.parquet")["item_id"].sort()
    log = pl.read_parquet(f"{source}/events/*.parquet").with_row_index("row")
    reason = (
        pl.when(pl.col("user_id").is_null())
        .then(pl.lit("missing_user_id"))
        .when(pl.col("item_id").is_null())
        .then(pl.lit("missing_item_id"))
        .when(pl.col("timestamp").is_null())
        .then(pl.lit("missing_timestamp"))
        .when(pl.col("timestamp") > time.time() + DAY_S)
        .then(pl.lit("future_timestamp"))
        .when(~pl.col("item_id").is_in(items.implode()))
        .then(pl.lit("unknown_item"))
    )
    log = log.with_columns(reason.alias("reason"))
    bad = log.filter(pl.col("reason").is_not_null())
    log = log.filter(pl.col("reason").is_null()).drop("reason")
    num_rows = log.height + bad.height
    users = log["user_id"].unique()
    names = [hmac.digest(KEY, user.encode(), "sha256").hex()[:32] for user in users]
    log = log.with_columns(pl.col("user_id").replace_strict(users, names))
    content = pl.concat_str("user_id", "item_id", "event_type", "timestamp", separator="\x1f")
    texts = log.select(content).to_series().cast(pl.Binary).to_list()
    ids = pl.Series("event_id", list(map(xxhash.xxh3_128_hexdigest, texts)))
    del texts
    before = log.height
    log = log.with_columns(ids).unique("event_id", keep="first", maintain_order=True)
    duplicates = before - log.height
    is_bot = pl.len().over("user_id") > MAX_EVENTS
    log = log.with_columns(is_bot.alias("is_bot"))
    bots = log.filter("is_bot").with_columns(pl.lit("bot_user").alias("reason"))
    log = log.filter(~pl.col("is_bot")).sort("user_id", "timestamp", "row")
    pl.concat([bad, bots], how="diagonal").write_parquet(out / "quarantine.parquet")
    stamp, user = pl.col("timestamp"), pl.col("user_id")
    begins = (user != user.shift(1)) | (stamp - stamp.shift(1) > GAP_S)
    begin = pl.when(begins.fill_null(value=True)).then(stamp).forward_fill()
    log = log.with_columns(pl.format("{}-{}", "user_id", begin).alias("session_id"))
    log.drop("is_bot").write_parquet(
        out / "events.parquet", compression="zstd", compression_level=1
    )
    kinds = log["event_type"].unique().sort()
    tokens = pl.int_range(1, len(items) + 1, dtype=pl.Int32, eager=True)
    codes = pl.int_range(len(kinds), dtype=pl.Int16, eager=True)
    log.select(
        "user_id",
        pl.col("item_id").replace_strict(items, tokens).alias("tokens"),
        pl.col("timestamp") * 1000,
        pl.col("event_type").replace_strict(kinds, codes),
    ).group_by("user_id", maintain_order=True).all().write_parquet(out / "sequences.parquet")
    counts = {
        "rows_in": num_rows,
        "kept": log.height,
        "duplicates": duplicates,
        "quarantined": bad.height + bots.height,
        "sessions": log["session_id"].n_unique(),
        "users": log["user_id"].n_unique(),
        "types": dict(log["event_type"].value_counts().iter_rows()),
        "items": log["item_id"].value_counts().height,
    }
    (out / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
