"""What the gateway knows of a release: ids, titles and popularity; no towers, no embeddings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rec.artifacts import read_artifact
from rec.encoders.images import IMAGE_COLUMN
from rec.ranking.lists.popular import PopularItems
from rec.ranking.release import (
    ENCODER_FILE,
    ITEMS_FILE,
    POPULARITY_FILE,
    RELEASE_FILE,
    SEGMENTS_FILE,
    RankingConfig,
    ranking_from,
    read_image_width,
)
from rec.stages.catalog import USERS_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedRelease:
    """Hold a release's name and what can be answered from it without the ranker."""

    name: str
    fingerprint: str
    is_pseudonymized: bool
    counts_shown: bool
    """Whether what was shown in vain lowers a score, so that it is worth a read."""
    item_ids: frozenset[str]
    popular: pl.DataFrame
    """``item_id, title, cold_score``, best cold start first."""
    popular_items: PopularItems
    """Lists where the ranker is away."""
    schema: Mapping[str, pl.DataType]
    """Types of the catalog's columns, which a new item must keep."""
    image_width: int | None
    """Numbers of an image embedding that a new item may have; ``None`` where it may have none."""
    attributes: Path | None
    """The catalog's table of users, where their attributes say what new users like."""
    encoder_model: str
    template: str
    """What the encoder reads of an item."""

    @classmethod
    def read(cls, folder: Path) -> "ServedRelease":
        """Return what is known of a release folder.

        Raises:
            OSError, ValueError: a file is missing or is not what it should be.
        """
        encoder = json.loads((folder / ENCODER_FILE).read_text(encoding="utf-8"))
        settings = json.loads((folder / RELEASE_FILE).read_text(encoding="utf-8"))
        counts = pl.read_parquet(folder / POPULARITY_FILE)
        popular = counts.select("item_id", "title", "cold_score")
        ranking = ranking_from(settings["ranking"])
        schema = pl.read_parquet_schema(folder / ITEMS_FILE)
        return cls(
            name=folder.name,
            fingerprint=settings["fingerprint"],
            is_pseudonymized=settings["pseudonymized"],
            counts_shown=ranking.repetition_weight > 0,
            item_ids=frozenset(popular["item_id"].to_list()),
            popular=popular,
            popular_items=PopularItems(
                popular, ranking=ranking, categories=_categories(folder, ranking)
            ),
            schema=schema,
            image_width=read_image_width(folder) if IMAGE_COLUMN in schema else None,
            attributes=_attributes(folder),
            encoder_model=encoder["model"],
            template=encoder["template"],
        )


def _categories(folder: Path, ranking: RankingConfig) -> dict[str, list[str]]:
    """Return each item's categories; none where no cap asks for them."""
    if ranking.category_cap is None:
        return {}
    columns = pl.read_parquet(folder / ITEMS_FILE, columns=["item_id", "category"])
    return dict(columns.with_columns(pl.col("category").fill_null([])).iter_rows())


def _attributes(folder: Path) -> Path | None:
    catalog = read_artifact(folder).parents.get("catalog")
    if catalog is None or not (folder / SEGMENTS_FILE).is_file():
        return None
    path = folder.parent.parent / "catalog" / catalog / USERS_FILE
    return path if path.is_file() else None
