"""A promoted release in a second: random towers over hashed text, real files and manifests."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import torch

from rec.artifacts import file_sha256, latest_artifact, write_artifact, write_json
from rec.data.items import CATALOG_FILE
from rec.data.sequences import build_sequences, save_part, save_vocabulary
from rec.encoders import EncoderConfig, choose_encoder, load_encoder
from rec.encoders.images import IMAGE_COLUMN
from rec.models.image_fusion import ItemImages
from rec.models.inference import embed_items
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.ranking.current import read_current
from rec.ranking.release import RELEASE_FILE, RankingConfig, ReleaseFiles, write_release_files
from rec.stages.indexing import count_table

NUM_ITEMS = 60
IMAGELESS = 10
"""Items without an image in a release that has images."""
NUM_USERS = 8
START_MS = 1_700_000_000_000
COLOURS = ("red", "blue", "green", "black", "红色", "蓝色")
KINDS = ("dress", "coat", "lamp", "sofa", "kettle", "连衣裙", "大衣", "台灯", "boots", "watch")


def make_release(
    workspace: Path,
    *,
    is_pseudonymized: bool = False,
    names: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
    num_items: int = NUM_ITEMS,
    ranking: RankingConfig | None = None,
    image_width: int | None = None,
) -> Path:
    """Return the folder of a release of 60 items, made current; users ``user-0`` .. ``user-7``.

    Args:
        workspace: where to.
        is_pseudonymized: whether the service hashes the ids it is given.
        names: other names for some users or items.
        num_items: how many; above 60 their titles get a number.
        titles: other titles for some, by the title that they have else.
        ranking: how lists are made.
        image_width: of the image embeddings of all items but the first ten; no images if absent.
    """
    names = names or {}
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    items = _items(num_items).with_columns(
        pl.col("item_id").replace(names), pl.col("title").replace(titles or {})
    )
    item_ids = items["item_id"].to_list()
    types = ["purchase", "search", "view"]
    rows = [
        {
            "user_id": names.get(f"user-{user}", f"user-{user}"),
            "item_id": None if place == 3 else item_ids[int(random.integers(num_items))],
            "event_type": "search" if place == 3 else "view",
            "timestamp_ms": START_MS + 60_000 * place,
            "query": "red dress" if place == 3 else None,
        }
        for user in range(NUM_USERS)
        for place in range(6)
    ]
    sequences = build_sequences(
        pl.DataFrame(rows, schema_overrides={"item_id": pl.String, "query": pl.String}),
        item_ids=item_ids,
        queries=["red dress"],
        event_type_names=types,
    )
    with write_artifact(workspace, "sequences", config={"seed": 0}, parents={}) as draft:
        save_part(sequences, draft.path / "part-00000.parquet")
        save_vocabulary(
            draft.path, num_items=num_items, queries=["red dress"], event_type_names=types
        )
    parents = {"sequences": latest_artifact(workspace, "sequences", made_by="prepare").name}
    spec = choose_encoder(EncoderConfig(model="hashing"), texts=[]).spec
    encoder = load_encoder(spec)
    titles = items["title"].to_list()
    text = np.concatenate([np.zeros((1, encoder.width), np.float32), encoder.encode(titles)])
    config = ModelConfig(width=16, num_layers=1, max_length=12)
    images = None
    if image_width is not None:
        pictures = random.normal(size=(num_items, image_width)).astype(np.float32)
        pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
        pictures[:IMAGELESS] = 0
        column = [row.tolist() if row.any() else None for row in pictures]
        items = items.with_columns(pl.Series(IMAGE_COLUMN, column, dtype=pl.List(pl.Float32)))
        padded = torch.from_numpy(
            np.concatenate([np.zeros((1, image_width), np.float32), pictures])
        )
        images = ItemImages(embeddings=padded, is_present=padded.any(dim=1))
    model = SequenceModel(
        torch.from_numpy(text),
        num_items=num_items,
        num_event_types=len(types),
        config=config,
        images=images,
    ).eval()
    files = ReleaseFiles(
        items=items,
        counts=count_table(sequences, items),
        text=torch.from_numpy(text),
        embeddings=embed_items(model),
        model=model,
        ranking=ranking or RankingConfig(),
        encoder=asdict(spec),
        fingerprint=encoder.fingerprint,
        event_type_names=types,
        is_pseudonymized=is_pseudonymized,
    )
    with write_artifact(workspace, "releases", config={}, parents=parents) as draft:
        write_release_files(draft.path, files)
        draft.details |= {"ingested_through": 0, "fingerprint": encoder.fingerprint}
    release = latest_artifact(workspace, "releases", made_by="promote")
    write_json(workspace / "current", {"release": release.name, "previous": []})
    assert (release.path / CATALOG_FILE).is_file()
    return release.path


def copy_release(
    workspace: Path, name: str, *, penalty_weight: float, fingerprint: str | None = None
) -> Path:
    """Return a second release: the same towers and another penalty, so other lists."""
    folder = workspace / "releases" / name
    shutil.copytree(workspace / "releases" / read_current(workspace)["release"], folder)
    settings = json.loads((folder / RELEASE_FILE).read_text())
    settings["ranking"]["penalty_weight"] = penalty_weight
    settings["fingerprint"] = fingerprint or settings["fingerprint"]
    write_json(folder / RELEASE_FILE, settings)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"name": name}
    manifest["files"][RELEASE_FILE]["sha256"] = file_sha256(folder / RELEASE_FILE)
    write_json(folder / "manifest.json", manifest)
    return folder


def _items(num_items: int) -> pl.DataFrame:
    plain = [f"{colour} {kind}" for colour in COLOURS for kind in KINDS]
    assert num_items >= NUM_ITEMS == len(plain)
    names = plain + [f"{plain[n % NUM_ITEMS]} {n}" for n in range(NUM_ITEMS, num_items)]
    return pl.DataFrame(
        {
            "item_index": pl.Series(range(1, num_items + 1), dtype=pl.Int32),
            "item_id": [f"item/{number}" for number in range(num_items)],
            "title": names,
            "text": names,
            "category": [[name.split(" ")[1]] for name in names],
            "tags": pl.Series([[]] * num_items, dtype=pl.List(pl.String)),
            "colour": [name.split(" ")[0] for name in names],
        }
    )
