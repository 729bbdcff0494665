"""What the gateway knows of a release: ids, titles and popularity; no towers, no embeddings."""

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rec.ranking.release import POPULARITY_FILE, RELEASE_FILE
from rec.ranking.requests import RankedItem, Request


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedRelease:
    """Hold a release's name and what can be answered from it without the ranker."""

    name: str
    fingerprint: str
    is_pseudonymized: bool
    excludes_seen: bool
    item_ids: frozenset[str]
    popular: pl.DataFrame
    """``item_id, title, cold_score``, best cold start first."""

    @classmethod
    def read(cls, folder: Path) -> "ServedRelease":
        """Return what is known of a release folder."""
        settings = json.loads((folder / RELEASE_FILE).read_text(encoding="utf-8"))
        popular = pl.read_parquet(folder / POPULARITY_FILE)
        return cls(
            name=folder.name,
            fingerprint=settings["fingerprint"],
            is_pseudonymized=settings["pseudonymized"],
            excludes_seen=bool(settings["ranking"]["exclude_seen"]),
            item_ids=frozenset(popular["item_id"].to_list()),
            popular=popular.select("item_id", "title", "cold_score"),
        )

    def popular_items(self, request: Request) -> list[RankedItem]:
        """Return popular items in place of the ranker's list; filters are not known here."""
        hides_seen = self.excludes_seen if request.exclude_seen is None else request.exclude_seen
        seen = {event.item_id for event in request.history} if hides_seen else set()
        hidden = seen | request.exclude
        rows = (row for row in self.popular.iter_rows() if row[0] not in hidden)
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
