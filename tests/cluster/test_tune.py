"""A search over Ray Tune: the recipe is its first attempt, training can use what it finds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from cluster.resources import TrainResources
from cluster.tune.search import TuneConfig, search
from rec.errors import ConfigError
from rec.stages.train_settings import TrainSettings
from rec.stages.tuning import try_settings, with_choice

RESOURCES = TrainResources(num_workers=1, worker_cpus=1, worker_gpus=0)


@pytest.fixture
def short(train_settings: TrainSettings) -> TrainSettings:
    return replace(train_settings, training=replace(train_settings.training, num_epochs=2))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_search_tries_the_recipe_and_keeps_the_best(
    trained_workspace: Path, short: TrainSettings
) -> None:
    config = TuneConfig(num_trials=2)
    path, found, is_known = search(trained_workspace, short, config, resources=RESOURCES)
    assert not is_known
    assert json.loads(path.read_text()) == found
    scores = [trial["ndcg"] for trial in found["trials"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    assert found["best"] == found["trials"][0]["flags"]
    own = [t for t in found["trials"] if t["flags"]["training.learning-rate"] == 2e-3]
    assert [t["flags"]["model.width"] for t in own] == [short.model.width]
    alone = try_settings(trained_workspace, short, accelerator=Accelerator(cpu=True))
    assert own[0]["ndcg"] == pytest.approx(alone, abs=1e-6)
    chosen = with_choice(short, found["best"])
    again = try_settings(trained_workspace, chosen, accelerator=Accelerator(cpu=True))
    assert again == pytest.approx(scores[0], abs=1e-6)
    assert search(trained_workspace, short, config, resources=RESOURCES) == (path, found, True)


def test_a_choice_changes_the_fields_that_it_names(short: TrainSettings) -> None:
    chosen = with_choice(short, {"model.num-layers": 3, "training.weight-decay": 0.5})
    assert chosen.model == replace(short.model, num_layers=3)
    assert chosen.training == replace(short.training, weight_decay=0.5)
    assert with_choice(short, {}) == short


def test_no_trials_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--tune\.num-trials must be >= 1, got 0"):
        TuneConfig(num_trials=0)
