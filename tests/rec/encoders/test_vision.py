"""A vision model reads the catalog's pictures; what is no picture leaves its item to its text."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, ViTConfig, ViTModel

from rec.artifacts import Artifact
from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig
from rec.encoders.checkpoints import PROCESSOR_FILE
from rec.encoders.vision import VisionEncoder, vision_fingerprint
from rec.errors import ConfigError
from rec.spread import Spread, in_process
from rec.stages.embedding import embed, load_images
from rec.stages.image_embedding import embed_images
from rec.stages.preparation import prepare

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def write_vision(folder: Path, *, family: str = "vit", seed: int = 0) -> str:
    torch.manual_seed(seed)
    model = (
        ViTModel(ViTConfig(**SIZES), add_pooling_layer=False)
        if family == "vit"
        else CLIPVisionModel(CLIPVisionConfig(**SIZES))
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    kind = {"vit": "ViTImageProcessor", "clip": "CLIPImageProcessor"}[family]
    values = {"image_processor_type": kind, "size": {"height": 16, "width": 16}}
    if family == "clip":
        values |= {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    (folder / PROCESSOR_FILE).write_text(json.dumps(values))
    return str(folder)


def picture(colour: tuple[int, int, int], *, size: tuple[int, int] = (20, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format="PNG")
    return stream.getvalue()


RED, BLUE = picture((250, 10, 10)), picture((10, 10, 250))


@pytest.fixture(scope="module", params=["vit", "clip"])
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> VisionEncoder:
    folder = tmp_path_factory.mktemp(request.param)
    return VisionEncoder(write_vision(folder, family=request.param), batch_size=2)


def test_embedding_does_not_depend_on_its_batch(encoder: VisionEncoder) -> None:
    together, is_read = encoder.encode([RED, BLUE, RED])
    alone, _ = encoder.encode([RED])
    assert is_read.all()
    np.testing.assert_allclose(together[[0, 2]], np.repeat(alone, 2, axis=0), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert together[0] @ together[1] < 0.999


@pytest.mark.parametrize(
    "bad",
    [b"", b"no picture", RED[:40], b"GIF89a" + bytes(20)],
    ids=["empty", "text", "cut", "gif"],
)
def test_what_is_no_picture_is_said_to_be_none(encoder: VisionEncoder, bad: bytes) -> None:
    found, is_read = encoder.encode([bad, RED])
    assert is_read.tolist() == [False, True]
    assert not found[0].any()
    assert encoder.encode([bad])[0].shape == (1, 0)


def test_bomb_is_not_unpacked(encoder: VisionEncoder) -> None:
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, format="PNG")
    assert len(stream.getvalue()) < 100_000
    assert encoder.encode([stream.getvalue()])[1].tolist() == [False]


def test_fingerprint_follows_weights_and_preprocessing(tmp_path: Path) -> None:
    one, same, other = (
        write_vision(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert vision_fingerprint(one) == vision_fingerprint(same) != vision_fingerprint(other)
    processor = tmp_path / "b" / PROCESSOR_FILE
    processor.write_text(processor.read_text().replace("ViT", "CLIP"))
    assert vision_fingerprint(one) != vision_fingerprint(same)


def test_models_that_may_not_be_loaded_are_refused(tmp_path: Path) -> None:
    folder = Path(write_vision(tmp_path / "vit"))
    (folder / PROCESSOR_FILE).write_text('{"auto_map": {"AutoImageProcessor": "evil.Processor"}}')
    with pytest.raises(ConfigError, match="auto_map"):
        VisionEncoder(str(folder))
    (folder / PROCESSOR_FILE).unlink()
    with pytest.raises(ConfigError, match=f"expected a {PROCESSOR_FILE}"):
        VisionEncoder(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ConfigError, match=r"--encoder\.image-model .* 'bert' is not allowed"):
        VisionEncoder(str(folder))


def embedded(
    folder: Path, images: list[object], *, model: str, spread: Spread = in_process, **options: str
) -> Artifact:
    """Return the embeddings of a catalog with these pictures."""
    folder.mkdir(exist_ok=True)
    ids = [f"i{number}" for number in range(len(images))]
    items = pl.DataFrame({"item_id": ids, "title": ids, "image": pl.Series(images)})
    items.write_parquet(folder / "items.parquet")
    events = {"user_id": ["u", "u"], "item_id": ids[:2], "timestamp": [1_750_000_000] * 2}
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    prepare(
        folder / "workspace",
        events=[str(folder / "events.parquet")],
        items=[str(folder / "items.parquet")],
        config=CleaningConfig(),
        num_partitions=1,
    )
    config = EncoderConfig(model="hashing", image_model=model, **options)
    return embed(folder / "workspace", config=config, spread=spread)[0]


def test_stage_encodes_each_picture_once(tmp_path: Path) -> None:
    model = write_vision(tmp_path / "vit")
    artifact = embedded(tmp_path, [RED, None, b"no picture", RED, BLUE], model=model)
    counts = {name: artifact.counts[name] for name in ("images", "encoded_images")}
    assert counts == {"images": 3, "encoded_images": 2}
    assert artifact.counts["unreadable_images"] == 1
    assert artifact.manifest["config"]["images"] == vision_fingerprint(model)
    images = load_images(artifact)
    assert images is not None
    assert images.is_present.tolist() == [True, False, False, True, True]
    np.testing.assert_array_equal(images.embeddings[0], images.embeddings[3])
    again = embedded(tmp_path, [BLUE, RED], model=model)
    assert again.counts["encoded_images"] == 0
    other = embedded(tmp_path, [BLUE, RED], model=write_vision(tmp_path / "other", seed=1))
    assert other.counts["encoded_images"] == 2
    assert other.name != again.name


def test_paths_stay_below_their_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "red.png").write_bytes(RED)
    (tmp_path / "secret.png").write_bytes(BLUE)
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    paths: list[object] = [
        "red.png",
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "x",
    ]
    model = write_vision(tmp_path / "vit")
    artifact = embedded(tmp_path, paths, model=model, image_folder=str(tmp_path / "pictures"))
    images = load_images(artifact)
    assert images is not None
    assert images.is_present.tolist() == [True, False, False, False, False]
    assert artifact.counts["unreadable_images"] == 4
    with pytest.raises(ConfigError, match=r"--encoder\.image-folder"):
        embedded(tmp_path / "more", paths, model=model)


def test_catalog_without_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a column 'image'"):
        embed_images(
            pl.DataFrame({"item_id": ["a"]}), model="m", fingerprint="f", folder=None,
            room=tmp_path, spread=in_process,
        )  # fmt: skip
