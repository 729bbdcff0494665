"""What tests share: a small bilingual shop, a workspace released from it, and one Ray cluster."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A deadline would make a busy machine a failing test.
hypothesis.settings.register_profile("nextray", deadline=None)
hypothesis.settings.load_profile("nextray")

# Before anything imports Ray: it reads its authentication settings at import. The token is the
# tests' own, so that a user's is left alone.
TOKEN_FOLDER = Path(tempfile.mkdtemp(prefix="nextray-token-"))
os.environ["RAY_AUTH_TOKEN_PATH"] = str(TOKEN_FOLDER / "token")
from cluster.runtime import prepare_environment

prepare_environment(os.environ)

import torch
from accelerate import Accelerator

from cluster.resources import LAPTOP
from cluster.runtime import connect
from rec.data.cleaning import CleaningConfig
from rec.data.synthetic import Shop, ShopConfig, make_shop, write_shop
from rec.encoders import EncoderConfig
from rec.models.sequence_model import ModelConfig
from rec.models.training_config import TrainingConfig
from rec.ranking.ranker import RankerConfig
from rec.ranking.release import RankingConfig
from rec.stages.embedding import embed
from rec.stages.evaluating import EvaluationConfig, evaluate_index
from rec.stages.indexing import index
from rec.stages.preparation import prepare
from rec.stages.releasing import promote
from rec.stages.train_settings import TrainSettings
from rec.stages.training import train

NUM_PARTITIONS = 4


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    shutil.rmtree(TOKEN_FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def shop() -> Shop:
    return make_shop(ShopConfig(num_users=300, num_items=240, events_per_user=25))


@pytest.fixture(scope="session")
def shop_files(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return write_shop(shop, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def train_settings() -> TrainSettings:
    return TrainSettings(
        model=ModelConfig(width=32, max_length=20, dropout=0.1),
        training=TrainingConfig(num_epochs=8, batch_size=32, validation_users=100, patience=8),
        ranker=RankerConfig(num_trees=40, moments_per_user=5),
        test_quantile=0.9,
        exclude_seen=True,
        num_candidates=50,
    )


@pytest.fixture(scope="session")
def trained_workspace(
    shop_files: tuple[Path, Path, Path],
    train_settings: TrainSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Give a workspace that was prepared, embedded and trained in this process."""
    torch.set_num_threads(1)
    workspace = tmp_path_factory.mktemp("released")
    events, items, users = (str(path) for path in shop_files)
    prepare(
        workspace,
        events=[events],
        items=[items],
        users=[users],
        config=CleaningConfig(),
        num_partitions=NUM_PARTITIONS,
    )
    embed(workspace, config=EncoderConfig(model="hashing"))
    train(workspace, train_settings, accelerator=Accelerator(cpu=True), resume=False)
    return workspace


@pytest.fixture(scope="session")
def released_workspace(trained_workspace: Path) -> Path:
    """Give the same workspace, indexed, evaluated and promoted."""
    index(trained_workspace, ranking=RankingConfig())
    evaluate_index(trained_workspace, EvaluationConfig())
    promote(trained_workspace)
    return trained_workspace


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Hold one local Ray cluster for all tests that need one."""
    with connect(LAPTOP):
        yield
