"""Every domain's recipe reads a log that is written in the domain's own words."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from jobs.domains import DOMAINS
from rec.stages.preparation import prepare

T = 1_600_000_000


@pytest.mark.parametrize("name", DOMAINS)
def test_log_in_the_words_of_a_domain_is_prepared(name: str, tmp_path: Path) -> None:
    recipe = DOMAINS[name][1]
    events, items, users = (
        dict(pair.split("=") for pair in pairs)
        for pairs in (
            recipe.cleaning.column,
            recipe.cleaning.item_column,
            recipe.cleaning.user_column,
        )
    )
    random = np.random.default_rng(7)
    weights = recipe.training.weights
    kinds = ["view", *weights]
    log = {
        "user_id": [f"u{n}" for n in random.integers(0, 30, 300)],
        "item_id": [f"i{n}" for n in random.integers(0, 20, 300)],
        "timestamp": [T + n for n in range(300)],
        "event_type": [kinds[n] for n in random.integers(0, len(kinds), 300)],
    }
    pl.DataFrame(log).rename(events).write_csv(tmp_path / "events.csv")
    texts = {ours: [f"{ours} of {n}" for n in range(20)] for ours in items if ours != "item_id"}
    catalog = pl.DataFrame({"item_id": [f"i{n}" for n in range(20)], **texts})
    catalog.rename(items).write_csv(tmp_path / "items.csv")
    people = pl.DataFrame({"user_id": [f"u{n}" for n in range(30)], "age": range(30)})
    people.rename(users).write_csv(tmp_path / "users.csv")
    prepared = prepare(
        tmp_path / "workspace",
        events=[str(tmp_path / "events.csv")],
        items=[str(tmp_path / "items.csv")],
        users=[str(tmp_path / "users.csv")],
        config=recipe.cleaning,
        num_partitions=2,
        now_ms=(T + 1000) * 1000,
    )
    counts = prepared.events.counts
    assert (counts["kept"], counts["quarantined"]) == (300, {})
    # A weight of a type that no log has would be a typing error.
    assert set(weights) <= set(counts["event_types"])
    assert prepared.catalog.counts["users"]["kept"] == 30
    stored = pl.read_parquet(prepared.catalog.path / "items.parquet")
    assert set(items.values()).isdisjoint(stored.columns)
    for ours in texts:
        assert stored[ours].list.len().min() == 1 if ours in ("category", "tags") else True
        assert stored[ours].null_count() == 0
