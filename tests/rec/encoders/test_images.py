"""Image embeddings of the catalog are stored beside the text, gaps and all."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig
from rec.encoders.images import read_image_embeddings
from rec.errors import DataError
from rec.stages.embedding import embed, load_images
from rec.stages.preparation import prepare


def frame(values: list[object], dtype: pl.DataType | None = None) -> pl.DataFrame:
    ids = [f"i{number}" for number in range(len(values))]
    return pl.DataFrame({"item_id": ids, "image_embedding": pl.Series(values, dtype=dtype)})


@pytest.mark.parametrize(
    "values",
    [
        frame([[3.0, 4.0], None, [0.0, 2.0], [0.0, 0.0]]),
        frame(["[3, 4]", "", "[0, 2]", "[0, 0]"]),
    ],
)
def test_lists_and_their_json_are_read_and_gaps_are_marked(values: pl.DataFrame) -> None:
    found = read_image_embeddings(values)
    assert found is not None
    np.testing.assert_allclose(found.embeddings, [[0.6, 0.8], [0, 0], [0, 1], [0, 0]])
    assert found.is_present.tolist() == [True, False, True, False]


def test_catalog_without_images_has_none() -> None:
    assert read_image_embeddings(pl.DataFrame({"item_id": ["a"]})) is None
    assert read_image_embeddings(frame([None, None], pl.List(pl.Float32()))) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (frame([[1.0], [1.0, 2.0]]), "one width, got 1, 2"),
        (frame(["[1, 2]", "a picture"]), "item i1: image_embedding is not a list of numbers"),
        (frame([[float("nan"), 1.0]]), "item i0: .* finite"),
        (frame(["7"]), "item i0"),
    ],
)
def test_what_is_no_embedding_is_refused(values: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image_embeddings(values)


def test_stage_stores_them_by_item_index(tmp_path: Path) -> None:
    items = {"item_id": ["b", "a"], "title": ["coat", "dress"]}
    pl.DataFrame(items | {"image_embedding": [[0.0, 2.0], None]}).write_parquet(
        tmp_path / "items.parquet"
    )
    events = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1_750_000_000] * 2}
    pl.DataFrame(events).write_parquet(tmp_path / "events.parquet")
    prepare(
        tmp_path / "workspace",
        events=[str(tmp_path / "events.parquet")],
        items=[str(tmp_path / "items.parquet")],
        config=CleaningConfig(),
        num_partitions=1,
    )
    artifact, _ = embed(tmp_path / "workspace", config=EncoderConfig(model="hashing"))
    images = load_images(artifact)
    assert images is not None
    assert artifact.counts["images"] == 1
    np.testing.assert_allclose(images.embeddings, [[0, 0], [0, 1]])
    assert images.is_present.tolist() == [False, True]
