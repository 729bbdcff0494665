"""What the gateway knows of a release: ids, titles and popularity; no towers, no embeddings."""

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rec.artifacts import read_artifact
from rec.encoders.images import IMAGE_COLUMN
from rec.ranking.release import (
    ENCODER_FILE,
    ITEMS_FILE,
    POPULARITY_FILE,
    RELEASE_FILE,
    SEGMENTS_FILE,
    read_image_width,
)
from rec.ranking.requests import RankedItem, Request
from rec.stages.catalog import USERS_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedRelease:
    """Hold a release's name and what can be answered from it without the ranker."""

    name: str
    fingerprint: str
    is_pseudonymized: bool
    excludes_seen: bool
    counts_shown: bool
    """Whether what was shown in vain lowers a score, so that it is worth a read."""
    item_ids: frozenset[str]
    popular: pl.DataFrame
    """``item_id, title, cold_score``, best cold start first."""
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
        popular = pl.read_parquet(folder / POPULARITY_FILE)
        schema = pl.read_parquet_schema(folder / ITEMS_FILE)
        return cls(
            name=folder.name,
            fingerprint=settings["fingerprint"],
            is_pseudonymized=settings["pseudonymized"],
            excludes_seen=bool(settings["ranking"]["exclude_seen"]),
            counts_shown=settings["ranking"]["repetition_weight"] > 0,
            item_ids=frozenset(popular["item_id"].to_list()),
            popular=popular.select("item_id", "title", "cold_score"),
            schema=schema,
            image_width=read_image_width(folder) if IMAGE_COLUMN in schema else None,
            attributes=_attributes(folder),
            encoder_model=encoder["model"],
            template=encoder["template"],
        )

    def popular_items(self, request: Request, *, known: Container[str]) -> list[RankedItem]:
        """Return popular items in place of the ranker's list; filters are not known here.

        Args:
            request: what was asked.
            known: ids that may be shown; a deleted item is not among them.
        """
        hides_seen = self.excludes_seen if request.exclude_seen is None else request.exclude_seen
        seen = {event.item_id for event in request.history} if hides_seen else set()
        hidden = seen | request.exclude
        rows = (row for row in self.popular.iter_rows() if row[0] not in hidden and row[0] in known)
        return [
            RankedItem(
                item_id=item_id,
                title=title,
                position=position,
                score=float(relevance),
                source="popularity",
                propensity=1.0,
                terms={"relevance": float(relevance)},
            )
            for position, (item_id, title, relevance) in zip(
                range(1, request.k + 1), rows, strict=False
            )
        ]


def _attributes(folder: Path) -> Path | None:
    catalog = read_artifact(folder).parents.get("catalog")
    if catalog is None or not (folder / SEGMENTS_FILE).is_file():
        return None
    path = folder.parent.parent / "catalog" / catalog / USERS_FILE
    return path if path.is_file() else None
