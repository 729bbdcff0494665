"""The distributed answer equals the in-process answer, stage by stage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cluster.data.spread import RaySpread
from cluster.resources import TrainResources
from cluster.train.trainer import train_model
from rec.artifacts import Artifact
from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig
from rec.errors import DataError
from rec.stages.embedding import embed, load_embeddings, load_images
from rec.stages.preparation import prepare
from rec.stages.recommending import recommend
from rec.stages.train_settings import TrainSettings
from rec.stages.training import find_model, read_training_metrics
from tests.rec.encoders.test_vision import embedded, picture, write_vision

pytestmark = pytest.mark.ray

NUM_PARTITIONS = 4
KEY = "ab" * 32 + "\n"


def prepare_shop(workspace: Path, files: tuple[Path, Path, Path], spread: RaySpread | None) -> Path:
    workspace.mkdir()
    key = workspace / "pseudonym.key"
    key.write_text(KEY)
    key.chmod(0o600)
    events, items, _ = (str(path) for path in files)
    options = {} if spread is None else {"spread": spread}
    prepared = prepare(
        workspace,
        events=[events],
        items=[items],
        config=CleaningConfig(),
        num_partitions=NUM_PARTITIONS,
        **options,
    )
    return prepared.events.path


@pytest.mark.usefixtures("ray_cluster")
def test_prepare_and_embed_equal_the_in_process_answer(
    shop_files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    spread = RaySpread(num_actors=2, is_stateless=True)
    ours = prepare_shop(tmp_path / "ray", shop_files, spread)
    theirs = prepare_shop(tmp_path / "alone", shop_files, None)
    assert ours.name == theirs.name
    for part in sorted(theirs.glob("part-*.parquet")):
        assert pl.read_parquet(ours / part.name).equals(pl.read_parquet(part))
    config = EncoderConfig(model="hashing")
    spread_out, _ = embed(tmp_path / "ray", config=config, spread=RaySpread(num_actors=2))
    alone, _ = embed(tmp_path / "alone", config=config)
    assert spread_out.counts["encoded"] == alone.counts["encoded"] > 0
    for found, expected in zip(load_embeddings(spread_out), load_embeddings(alone), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.usefixtures("ray_cluster")
def test_pictures_on_actors_become_what_they_become_in_one_process(tmp_path: Path) -> None:
    """Each worker loads the vision model; one picture is none, one stands twice."""
    model = write_vision(tmp_path / "model")
    shades = [picture((10 * n, 20, 30)) for n in range(6)]
    pictures: list[object] = [*shades, b"no picture", shades[0], None]
    alone = embedded(tmp_path / "alone", pictures, model=model)
    ours = embedded(tmp_path / "ray", pictures, model=model, spread=RaySpread(num_actors=2))
    for name in ("images", "distinct_images", "encoded_images", "unreadable_images"):
        assert ours.counts[name] == alone.counts[name]
    assert ours.counts["encoded_images"] == 6
    found, expected = load_images(ours), load_images(alone)
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found.is_present, expected.is_present)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("is_stateless", [True, False])
@pytest.mark.parametrize("in_making", [True, False])
def test_error_of_a_task_reaches_the_caller_as_it_was_raised(
    is_stateless: bool, in_making: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, without Ray's traceback in it or beside it."""

    def fail(number: int) -> int:
        raise DataError(f"file {number} is bad: mend it")

    def make() -> Callable[[int], int]:
        if in_making:
            fail(0)
        return fail

    spread = RaySpread(num_actors=1, is_stateless=is_stateless)
    with pytest.raises(DataError, match=r"\Afile 0 is bad: mend it\Z"):
        list(spread(make, [0], label="failing"))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_lists_equal_the_in_process_lists(released_workspace: Path, tmp_path: Path) -> None:
    alone, spread_out = tmp_path / "alone.parquet", tmp_path / "ray.parquet"
    counts = recommend(released_workspace, k=10, output=alone)
    recommend(released_workspace, k=10, output=spread_out, spread=RaySpread(num_actors=1))
    ours, theirs = pl.read_parquet(spread_out), pl.read_parquet(alone)
    assert ours.drop("score").equals(theirs.drop("score"))
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=1e-5)
    assert theirs.height == counts["users"] * 10
    sizes = theirs.group_by("user_id").agg(pl.col("item_id").n_unique())["item_id"]
    assert set(sizes.to_list()) == {10}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_training_on_ray_equals_training_in_process(
    shop_files: tuple[Path, Path, Path],
    trained_workspace: Path,
    train_settings: TrainSettings,
    tmp_path: Path,
) -> None:
    del shop_files
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for room in ("catalog", "events", "sequences", "embeddings"):
        (workspace / room).symlink_to(trained_workspace / room)
    resources = TrainResources(num_workers=1, worker_cpus=1, worker_gpus=0)
    model, is_skipped = train_model(workspace, train_settings, resources=resources, resume=False)
    assert not is_skipped
    expected = find_model(trained_workspace, train_settings)
    assert isinstance(expected, Artifact)
    assert model.name == expected.name
    ours, theirs = (read_training_metrics(a)["fit"] for a in (model, expected))
    for found, wanted in zip(ours, theirs, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
        assert found["ndcg"] == pytest.approx(wanted["ndcg"], abs=0.01)
