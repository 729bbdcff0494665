"""Images beside the text: they help where the text is silent, and nothing needs them."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from accelerate import Accelerator

from rec.artifacts import Artifact, latest_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.items import load_items
from rec.data.sequences import load_sequences
from rec.data.splits import temporal_split
from rec.data.synthetic import Shop, ShopConfig, make_shop, write_shop
from rec.encoders import EncoderConfig
from rec.errors import ConfigError
from rec.models.image_fusion import ImageFusion, ItemImages
from rec.models.inference import embed_items
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.models.training_config import TrainingConfig
from rec.ranking.ranker import RankerConfig
from rec.ranking.release import RankingConfig, read_release_files
from rec.stages.embedding import embed, load_embeddings
from rec.stages.fitting import hold_out
from rec.stages.indexing import index
from rec.stages.preparation import prepare
from rec.stages.train_settings import TrainSettings
from rec.stages.training import EVALUATED, build_model, load_model, train
from tests.rec.models.logs import random_text

WITHOUT_IMAGE = 0.2
SETTINGS = TrainSettings(
    # Text and images alone tell the items apart.
    model=ModelConfig(width=32, num_layers=1, max_length=20, id_residual=False),
    training=TrainingConfig(num_epochs=6, refit_epochs=0),
    ranker=RankerConfig(enabled=False),
    test_quantile=0.9,
    exclude_seen=False,
    num_candidates=50,
)


def images_of(num_items: int = 6, *, width: int = 5, missing: int = 2) -> ItemImages:
    embeddings = random_text(num_items, width=width, seed=9)
    is_present = torch.arange(num_items + 1) > missing
    return ItemImages(embeddings=embeddings * is_present.unsqueeze(-1), is_present=is_present)


def small_towers(config: ModelConfig, images: ItemImages | None) -> SequenceModel:
    torch.manual_seed(1)
    text = torch.cat([random_text(6), random_text(1, seed=3)[1:]])  # a query behind the items
    return SequenceModel(text, num_items=6, num_event_types=1, config=config, images=images).eval()


@torch.no_grad()
def test_item_without_an_image_and_a_query_are_their_text() -> None:
    towers = small_towers(ModelConfig(width=16, id_residual=False), images_of(missing=2))
    tokens = torch.arange(8)
    e, text = towers.items(tokens), towers.items.embed_text(towers.items.text)
    torch.testing.assert_close(e[[1, 2, 7]], text[[1, 2, 7]])
    assert (e[3:7] - text[3:7]).norm(dim=-1).min() > 1e-3


@torch.no_grad()
def test_changed_text_keeps_the_image() -> None:
    towers = small_towers(ModelConfig(width=16), images_of())
    tokens = torch.tensor([5, 1])
    known = towers.items.embed_known(towers.items.text[tokens], tokens)
    torch.testing.assert_close(known, towers.items(tokens))


@torch.no_grad()
def test_training_leaves_out_one_side_or_none_and_never_both() -> None:
    torch.manual_seed(0)
    fusion = ImageFusion(images_of(missing=1), width=4, dropout=0.3)
    text = torch.ones(3000, 4)
    rows = torch.full((3000,), 3)
    fusion.eval()
    both = fusion(text[:1], rows[:1])[0]
    fusion.train()
    found = fusion(text, rows)
    shares = [
        float(torch.isclose(found, side).all(dim=1).float().mean())
        for side in (torch.ones(4), both - 1, both)
    ]
    np.testing.assert_allclose(shares, [0.3, 0.3, 0.4], atol=0.04)
    torch.testing.assert_close(fusion(text, torch.ones_like(rows)), text)  # has none to lose


def test_towers_without_images_have_no_weights_for_them() -> None:
    names = small_towers(ModelConfig(width=16), None).state_dict()
    off = small_towers(ModelConfig(width=16, images=False), images_of()).state_dict()
    assert names.keys() == off.keys()
    assert not any("fusion" in name for name in names)


@pytest.mark.parametrize("share", [-0.1, 0.5])
def test_dropout_that_could_take_both_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"--model\.image-dropout must be in"):
        ModelConfig(image_dropout=share)


@pytest.fixture(scope="module")
def shop() -> Shop:
    """Give a shop whose items look like what they are; their texts say nothing."""
    shop = make_shop(ShopConfig(num_users=200, num_items=96, events_per_user=20, seed=4))
    random = np.random.default_rng(0)
    looks = random.normal(size=(12, 16))
    rows = [
        None
        if random.random() < WITHOUT_IMAGE
        else (looks[shop.item_cluster[item]] + 0.2 * random.normal(size=16)).tolist()
        for item in shop.items["item_id"].to_list()
    ]
    items = pl.DataFrame(
        {
            "item_id": shop.items["item_id"],
            "title": [f"article {number}" for number in range(len(rows))],
            "image_embedding": pl.Series(rows, dtype=pl.List(pl.Float64)),
        }
    )
    return replace(shop, items=items, events=shop.events.filter(pl.col("item_id").is_not_null()))


@pytest.fixture(scope="module")
def workspace(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    events, items, _ = write_shop(shop, folder)
    workspace = folder / "workspace"
    prepare(
        workspace,
        events=[str(events)],
        items=[str(items)],
        config=CleaningConfig(pseudonymize_users=False),
        num_partitions=1,
    )
    embed(workspace, config=EncoderConfig(model="hashing"))
    return workspace


@cache
def trained(workspace: Path, model: ModelConfig) -> Artifact:
    settings = replace(SETTINGS, model=model)
    artifact = train(workspace, settings, accelerator=Accelerator(cpu=True), resume=False)
    assert artifact is not None
    return artifact


def test_images_tell_what_texts_do_not(workspace: Path, shop: Shop) -> None:
    blind = trained(workspace, replace(SETTINGS.model, images=False))
    seeing = trained(workspace, SETTINGS.model)
    gained = seeing.counts["validation_ndcg@10"] - blind.counts["validation_ndcg@10"]
    assert gained > 0.05, (seeing.counts, blind.counts)
    found, _ = index(workspace, ranking=RankingConfig())
    files = read_release_files(found.path)
    assert files.model.items.fusion is not None
    torch.testing.assert_close(embed_items(files.model), files.embeddings)
    # Items that nobody had touched stand among those that look like them.
    log = load_sequences(latest_artifact(workspace, "sequences", made_by="prepare").path)
    ids = load_items(latest_artifact(workspace, "catalog", made_by="prepare").path)["item_id"]
    cluster = np.array([shop.item_cluster[item] for item in ids])
    has_image = files.model.items.fusion.is_present[1:].numpy()
    assert 0.1 < 1 - has_image.mean() < 0.35
    is_cold = np.isin(ids.to_numpy(), list(shop.cold_item_ids)) & has_image
    assert is_cold.sum() > 5
    assert log.num_items == len(ids)
    is_offered = ~is_cold & has_image
    cosines = (files.embeddings @ files.embeddings.T).numpy()[is_cold][:, is_offered]
    nearest = cluster[is_offered][cosines.argmax(axis=1)]
    assert (nearest == cluster[is_cold]).mean() > 0.9


def test_towers_that_learnt_with_images_can_do_without(workspace: Path) -> None:
    blind = trained(workspace, replace(SETTINGS.model, images=False))
    seeing = trained(workspace, SETTINGS.model)
    embeddings = latest_artifact(workspace, "embeddings", made_by="embed")
    log = load_sequences(latest_artifact(workspace, "sequences", made_by="prepare").path)
    _, validate = hold_out(
        temporal_split(log, quantile=0.9).train, SETTINGS, queries=load_embeddings(embeddings)[1]
    )
    assert validate is not None
    towers = load_model(
        build_model(embeddings, log, SETTINGS.model, seed=1), seeing, weights=EVALUATED
    )
    assert towers.items.fusion is not None
    best = validate(towers)
    towers.items.fusion.is_present.zero_()
    without = validate(towers)
    assert without > 0.7 * blind.counts["validation_ndcg@10"]
    assert best > without
