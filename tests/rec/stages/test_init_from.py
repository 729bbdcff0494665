"""Training goes on from a release: what is kept, what is learnt, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from accelerate import Accelerator

from rec.artifacts import latest_artifact, read_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.sequences import load_sequences
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.encoders import EncoderConfig
from rec.errors import ArtifactError, ConfigError, DataError
from rec.models.sequence_model import SequenceModel
from rec.ranking.current import current_release
from rec.ranking.ranker import RANKER_FILE
from rec.ranking.release import RankingConfig, read_release_files
from rec.stages.comparing import compare, newest_quantile
from rec.stages.embedding import embed
from rec.stages.incremental import Start, find_release, open_start
from rec.stages.indexing import index
from rec.stages.preparation import prepare
from rec.stages.train_settings import TrainSettings
from rec.stages.training import read_training_metrics, train
from tests.conftest import NUM_PARTITIONS

LATER_MS = 1_736_121_600_000 + 60 * 24 * 3_600_000
"""The day after the shop's last."""


@pytest.fixture(scope="module")
def grown_workspace(
    released_workspace: Path,
    shop_files: tuple[Path, Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Give the released workspace, copied, with more events of the same users prepared in it."""
    room = tmp_path_factory.mktemp("grown")
    workspace = room / "workspace"
    shutil.copytree(released_workspace, workspace)
    later = make_shop(
        ShopConfig(num_users=300, num_items=240, events_per_user=10, start_ms=LATER_MS, days=20)
    )
    events, _, _ = write_shop(later, room / "later")
    prepare(
        workspace,
        events=[str(shop_files[0]), str(events)],
        items=[str(shop_files[1])],
        users=[str(shop_files[2])],
        config=CleaningConfig(),
        num_partitions=NUM_PARTITIONS,
    )
    embed(workspace, config=EncoderConfig(model="hashing"))
    return workspace


def start_of(workspace: Path) -> Start:
    release = read_artifact(current_release(workspace))
    fingerprint = release.manifest["details"]["fingerprint"]
    return open_start(workspace, release.name, fingerprint=fingerprint)


def test_release_goes_on_learning_and_is_not_worse(
    grown_workspace: Path, train_settings: TrainSettings
) -> None:
    release = read_artifact(current_release(grown_workspace))
    quantile = newest_quantile(grown_workspace, release=release, hours=24.0 * 5, learn_share=0.5)
    training = replace(train_settings.training, num_epochs=2)
    settings = replace(
        train_settings, training=training, test_quantile=quantile, init_from=release.name
    )
    model = train(grown_workspace, settings, accelerator=Accelerator(cpu=True), resume=False)
    assert model is not None
    first = read_training_metrics(model)["fit"][0]
    parents = read_artifact(grown_workspace / "models" / release.parents["models"])
    anew = read_training_metrics(parents)["fit"][0]
    assert first["ndcg"] > 2 * anew["ndcg"]  # it did not begin at nothing
    assert (model.path / RANKER_FILE).read_bytes() == (release.path / RANKER_FILE).read_bytes()
    candidate, _ = index(grown_workspace, ranking=RankingConfig())
    found = compare(
        grown_workspace, index=candidate, model=model, release=release, quantile=quantile
    )
    assert not found.is_worse
    assert found.candidate["ndcg@10"] > 0.9 * found.release["ndcg@10"]


def test_only_users_with_something_new_are_read(grown_workspace: Path) -> None:
    start = start_of(grown_workspace)
    log = load_sequences(latest_artifact(grown_workspace, "sequences", made_by="prepare").path)
    is_new = log.timestamps_ms > start.end_ms
    one_user = np.unique(log.rows()[is_new])[0]
    quiet = log.select_events(~is_new | (log.rows() == one_user))
    learn = start.events_since(quiet, max_length=7)
    assert learn.user_ids == [log.user_ids[int(one_user)]]
    num_new = int((learn.timestamps_ms > start.end_ms).sum())
    assert num_new == int(is_new[log.rows() == one_user].sum())
    assert learn.num_events == num_new + 7


def test_items_and_event_types_are_found_by_name(grown_workspace: Path) -> None:
    start = start_of(grown_workspace)
    theirs = start.files.model
    item_ids = ["new item", *reversed(start.files.items["item_id"].to_list())]
    names = ["gift", *start.files.event_type_names]
    text = torch.zeros(len(item_ids) + 1, start.files.text.shape[1])
    model = SequenceModel(
        text, num_items=len(item_ids), num_event_types=len(names), config=theirs.config
    )
    start.move_into(model, item_ids=item_ids, event_type_names=names)
    assert model.items.residual is not None
    assert theirs.items.residual is not None
    ours, old = model.items.residual.weight, theirs.items.residual.weight
    assert not ours[:2].any()  # padding, and what the release does not know
    torch.testing.assert_close(ours[2:], old[1:].flip(0))
    torch.testing.assert_close(model.event_types.weight[2:], theirs.event_types.weight[1:])
    torch.testing.assert_close(model.output.weight, theirs.output.weight)


def test_test_part_that_the_release_has_seen_is_refused(
    grown_workspace: Path, train_settings: TrainSettings
) -> None:
    settings = replace(train_settings, init_from=current_release(grown_workspace).name)
    settings = replace(settings, test_quantile=0.5)
    with pytest.raises(ConfigError, match="has learnt from events up to"):
        train(grown_workspace, settings, accelerator=Accelerator(cpu=True), resume=False)


def test_another_shape_names_what_differs(
    grown_workspace: Path, train_settings: TrainSettings
) -> None:
    start = start_of(grown_workspace)
    config = replace(train_settings.model, width=16)
    items = start.files.items["item_id"].to_list()
    model = SequenceModel(start.files.text, num_items=len(items), num_event_types=9, config=config)
    with pytest.raises(ConfigError, match=r"--model\.width 32 and not 16"):
        start.move_into(model, item_ids=items, event_type_names=start.files.event_type_names)


def test_what_cannot_be_gone_on_from_is_refused(grown_workspace: Path, tmp_path: Path) -> None:
    name = current_release(grown_workspace).name
    for wrong in ("nothing", "../models", ""):
        with pytest.raises(ArtifactError, match="expected a release"):
            find_release(grown_workspace, wrong)
    with pytest.raises(ArtifactError, match="made with encoder"):
        open_start(grown_workspace, name, fingerprint="another")
    copy = tmp_path / "workspace"
    shutil.copytree(grown_workspace / "releases", copy / "releases")
    fingerprint = read_release_files(copy / "releases" / name).fingerprint
    with pytest.raises(ArtifactError, match="expected the sequences of release"):
        open_start(copy, name, fingerprint=fingerprint)


def test_nothing_new_says_so(released_workspace: Path) -> None:
    start = start_of(released_workspace)
    log = load_sequences(latest_artifact(released_workspace, "sequences", made_by="prepare").path)
    with pytest.raises(DataError, match="nothing to learn since release"):
        start.events_since(log, max_length=20)


@pytest.mark.parametrize("hours", [1.0, 24.0, 1e6])
def test_half_of_what_is_new_is_left_to_learn_from(grown_workspace: Path, hours: float) -> None:
    release = read_artifact(current_release(grown_workspace))
    log = load_sequences(latest_artifact(grown_workspace, "sequences", made_by="prepare").path)
    times = pl.Series(np.sort(log.timestamps_ms[log.is_item]))
    quantile = newest_quantile(grown_workspace, release=release, hours=hours, learn_share=0.5)
    cut_ms = times[int(quantile * len(times))]
    new = times.filter(times > start_of(grown_workspace).end_ms)
    assert 0.45 * len(new) <= (new < cut_ms).sum() < len(new)
