"""The planted signal is found, order matters, cold items are reached, and the loop closes."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from accelerate import Accelerator

from rec.data.cleaning import CleaningConfig
from rec.data.events import Event
from rec.data.sequences import load_sequences
from rec.data.synthetic import Shop
from rec.encoders import EncoderConfig
from rec.errors import ArtifactError
from rec.ranking.current import current_release, read_current
from rec.ranking.feedback.event_log import LOG_FILE, EventLog
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from rec.stages.embedding import embed
from rec.stages.ingesting import ingest
from rec.stages.preparation import prepare
from rec.stages.releasing import promote, rollback
from rec.stages.train_settings import TrainSettings
from rec.stages.training import train


def metrics(workspace: Path) -> dict[str, dict[str, float]]:
    text = (current_release(workspace) / "metrics.json").read_text()
    found: dict[str, dict[str, float]] = json.loads(text)["metrics"]
    return found


def test_model_finds_the_planted_signal(released_workspace: Path) -> None:
    table = metrics(released_workspace)
    ours = table["nextray"]["ndcg@10"]
    assert ours > 3 * table["popularity"]["ndcg@10"]
    assert ours > 3 * table["item_knn"]["ndcg@10"]


def test_shuffled_and_reversed_histories_destroy_it(released_workspace: Path) -> None:
    text = (current_release(released_workspace) / "metrics.json").read_text()
    gate = json.loads(text)["order_gate"]
    assert gate["shuffled"] < 0.5 * gate["ordered"]
    assert gate["reversed"] < 0.5 * gate["ordered"]


def test_cold_item_is_reached_by_its_text(released_workspace: Path, shop: Shop) -> None:
    """An item without events stands nearer to its own cluster than to others."""
    files = Recommender.load(current_release(released_workspace)).files
    item_ids = files.items["item_id"].to_list()
    cluster = np.asarray([shop.item_cluster[item_id] for item_id in item_ids])
    cold = np.asarray([item_id in shop.cold_item_ids for item_id in item_ids])
    cosines = (files.embeddings @ files.embeddings.T).numpy()
    same = cluster[:, None] == cluster[None, :]
    np.fill_diagonal(same, False)
    warm_pairs = cold[:, None] & ~cold[None, :]
    inside = cosines[same & warm_pairs].mean()
    outside = cosines[~same & warm_pairs].mean()
    assert inside > outside + 0.1


def test_list_changes_after_one_event(released_workspace: Path) -> None:
    recommender = Recommender.load(current_release(released_workspace))
    first = recommender.item_ids[0]
    event = Event(user_id="u", event_type="view", timestamp_ms=1_740_000_000_000, item_id=first)
    before, after = recommender.recommend([Request(k=10), Request(history=(event,), k=10)])
    assert [i.item_id for i in before.items] != [i.item_id for i in after.items]
    assert first not in {item.item_id for item in after.items}
    assert len(after.items) == 10


def test_filters_and_exclusions_still_fill_the_list(released_workspace: Path) -> None:
    recommender = Recommender.load(current_release(released_workspace))
    category = recommender.files.items["category"][0][0]
    [answer] = recommender.recommend([Request(k=5, filters={"category": (category,)})])
    categories = dict(recommender.files.items.select("item_id", "category").iter_rows())
    assert len(answer.items) == 5
    assert all(category in categories[item.item_id] for item in answer.items)


def test_penalty_lowers_popular_items(released_workspace: Path) -> None:
    recommender = Recommender.load(current_release(released_workspace))
    sequences = load_sequences(
        released_workspace
        / "sequences"
        / (released_workspace / "sequences" / "latest").read_text().strip()
    )
    histories = sequences.select_events(sequences.is_item)
    plain = recommender.rank(histories, k=10, penalty_weight=0.0)
    pushed = recommender.rank(histories, k=10, penalty_weight=0.5)
    assert pushed.penalty.mean() < plain.penalty.mean()
    np.testing.assert_allclose(
        pushed.scores, pushed.relevance - np.float32(0.5) * pushed.penalty, atol=1e-6
    )


def test_feedback_becomes_part_of_the_next_log(
    shop_files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    events, items, _ = (str(path) for path in shop_files)
    arguments = {
        "events": [events],
        "items": [items],
        "config": CleaningConfig(pseudonymize_users=False),
        "num_partitions": 2,
    }
    first = prepare(tmp_path, **arguments)
    item_id = pl.read_parquet(items)["item_id"][0]
    log = EventLog(tmp_path / LOG_FILE)
    sent = [
        Event(
            user_id="new", event_type="view", timestamp_ms=1_740_000_000_000 + n, item_id=item_id,
            event_id=f"e{n}",
        )
        for n in range(3)
    ]  # fmt: skip
    log.append(sent)
    assert ingest(tmp_path)["events"] == 3
    assert ingest(tmp_path)["events"] == 0
    second = prepare(tmp_path, **arguments)
    assert second.events.counts["kept"] == first.events.counts["kept"] + 3
    assert second.events.manifest["details"]["ingested_through"] == log.last_seq()
    log.close()


def test_changed_titles_are_all_that_is_encoded_again(
    shop_files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    events, items, _ = (str(path) for path in shop_files)
    changed = tmp_path / "items.parquet"
    frame = pl.read_parquet(items)
    is_first = pl.int_range(pl.len()) < 3
    frame.with_columns(
        pl.when(is_first).then(pl.col("title") + " new").otherwise(pl.col("title")).alias("title")
    ).write_parquet(changed)
    counts = []
    for path in (items, str(changed)):
        prepare(
            tmp_path / "workspace",
            events=[events],
            items=[path],
            config=CleaningConfig(),
            num_partitions=2,
        )
        artifact, is_skipped = embed(tmp_path / "workspace", config=EncoderConfig(model="hashing"))
        assert not is_skipped
        counts.append(artifact.counts["encoded"])
    assert counts[0] > 100
    assert counts[1] == 3


def test_resumed_training_ends_as_if_it_had_never_stopped(
    trained_workspace: Path, train_settings: TrainSettings, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for room in ("catalog", "events", "sequences", "embeddings"):
        (workspace / room).symlink_to(trained_workspace / room)

    def die_after_two(row: object) -> None:
        assert isinstance(row, dict)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            workspace,
            train_settings,
            accelerator=Accelerator(cpu=True),
            resume=False,
            on_epoch=die_after_two,
        )
    resumed: list[int] = []
    model = train(
        workspace,
        train_settings,
        accelerator=Accelerator(cpu=True),
        resume=True,
        on_epoch=lambda row: resumed.append(int(row["epoch"])),
    )
    assert resumed[0] == 3
    assert model is not None
    room = trained_workspace / "models"
    expected = room / (room / "latest").read_text().strip()
    for name in ("evaluated.safetensors", "served.safetensors"):
        assert (model.path / name).read_bytes() == (expected / name).read_bytes()


def test_changed_byte_in_a_release_is_refused(released_workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "release"
    shutil.copytree(current_release(released_workspace), copy)
    damaged = bytearray((copy / "embeddings.safetensors").read_bytes())
    damaged[-1] ^= 1
    (copy / "embeddings.safetensors").write_bytes(damaged)
    with pytest.raises(ArtifactError, match="has changed"):
        Recommender.load(copy)


def test_rollback_without_an_older_release_says_so(released_workspace: Path) -> None:
    assert promote(released_workspace)[1]
    assert read_current(released_workspace)["previous"] == []
    with pytest.raises(ArtifactError, match="expected a release before"):
        rollback(released_workspace)
