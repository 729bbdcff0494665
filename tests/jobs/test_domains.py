"""Every domain's recipe takes a log that is written in the domain's own words to lists."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from accelerate import Accelerator

from jobs.domains import DOMAINS
from jobs.recipes import Recipe
from jobs.stages import train_settings
from rec.encoders import EncoderConfig
from rec.models.sequence_model import ModelConfig
from rec.ranking.ranker import RankerConfig
from rec.stages.embedding import embed
from rec.stages.evaluating import evaluate_index
from rec.stages.indexing import index
from rec.stages.preparation import Prepared, prepare
from rec.stages.recommending import recommend
from rec.stages.releasing import promote
from rec.stages.training import train

T = 1_600_000_000
NUM_USERS, NUM_ITEMS, NUM_EVENTS = 30, 20, 300


def prepare_domain(recipe: Recipe, folder: Path) -> Prepared:
    """Prepare a few hundred rows under the names that the recipe expects."""
    cleaning = recipe.cleaning
    events, items, users = (
        dict(pair.split("=") for pair in pairs)
        for pairs in (cleaning.column, cleaning.item_column, cleaning.user_column)
    )
    random = np.random.default_rng(7)
    kinds = ["view", *recipe.training.weights]
    log = {
        "user_id": [f"u{n}" for n in random.integers(0, NUM_USERS, NUM_EVENTS)],
        "item_id": [f"i{n}" for n in random.integers(0, NUM_ITEMS, NUM_EVENTS)],
        "timestamp": [T + n for n in range(NUM_EVENTS)],
        "event_type": [kinds[n] for n in random.integers(0, len(kinds), NUM_EVENTS)],
    }
    pl.DataFrame(log).rename(events).write_csv(folder / "events.csv")
    names = [ours for ours in items if ours != "item_id"]
    texts = {ours: [f"{ours} of {n}" for n in range(NUM_ITEMS)] for ours in names}
    catalog = pl.DataFrame({"item_id": [f"i{n}" for n in range(NUM_ITEMS)], **texts})
    catalog.rename(items).write_csv(folder / "items.csv")
    ids = [f"u{n}" for n in range(NUM_USERS)]
    people = pl.DataFrame({"user_id": ids, "age": range(NUM_USERS)})
    people.rename(users).write_csv(folder / "users.csv")
    return prepare(
        folder / "workspace",
        events=[str(folder / "events.csv")],
        items=[str(folder / "items.csv")],
        users=[str(folder / "users.csv")],
        config=cleaning,
        num_partitions=2,
        now_ms=(T + 1000) * 1000,
    )


@pytest.mark.parametrize("name", DOMAINS)
def test_log_in_the_words_of_a_domain_is_prepared(name: str, tmp_path: Path) -> None:
    recipe = DOMAINS[name][1]
    prepared = prepare_domain(recipe, tmp_path)
    counts = prepared.events.counts
    assert (counts["kept"], counts["quarantined"]) == (NUM_EVENTS, {})
    # A weight of a type that no log has would be a typing error.
    assert set(recipe.training.weights) <= set(counts["event_types"])
    assert prepared.catalog.counts["users"]["kept"] == NUM_USERS
    stored = pl.read_parquet(prepared.catalog.path / "items.parquet")
    items = dict(pair.split("=") for pair in recipe.cleaning.item_column)
    assert set(items.values()).isdisjoint(stored.columns)
    for ours in items:
        assert stored[ours].list.len().min() == 1 if ours in ("category", "tags") else True
        assert stored[ours].null_count() == 0


@pytest.mark.parametrize("name", DOMAINS)
def test_log_in_the_words_of_a_domain_becomes_lists(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = replace(
        DOMAINS[name][1],
        encoder=EncoderConfig(model="hashing"),
        model=ModelConfig(width=16, max_length=20),
        training=replace(DOMAINS[name][1].training, num_epochs=1),
        ranker=RankerConfig(num_trees=5, moments_per_user=2),
    )
    prepare_domain(recipe, tmp_path)
    workspace = tmp_path / "workspace"
    embed(workspace, config=recipe.encoder)
    train(workspace, train_settings(recipe), accelerator=Accelerator(cpu=True), resume=False)
    index(workspace, ranking=recipe.ranking)
    evaluate_index(workspace, recipe.evaluation)
    promote(workspace)
    recommend(workspace, k=5, output=tmp_path / "lists.parquet")
    lists = pl.read_parquet(tmp_path / "lists.parquet")
    assert lists["user_id"].n_unique() == NUM_USERS
    assert set(lists.group_by("user_id").len()["len"]) == {5}
    assert set(lists["item_id"]) <= {f"i{n}" for n in range(NUM_ITEMS)}
    events = pl.concat(map(pl.read_parquet, (workspace / "events").glob("*/part-*.parquet")))
    seen = lists.join(events, on=["user_id", "item_id"], how="semi")
    # Where repeats are wanted they are there: a user knows ten of the twenty items.
    assert bool(seen.height) != recipe.ranking.exclude_seen
