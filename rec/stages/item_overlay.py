"""Item changes between serving and preparation: what was put and deleted over HTTP.

``ingest`` writes the newest state of every changed item to one file; ``prepare`` lays it over the
items' files, so a change stays in force until the file is deleted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rec.artifacts import write_json
from rec.data.items import Catalog
from rec.data.rows import RAW, REASON
from rec.errors import DataError
from rec.ranking.feedback.item_changes import newest_changes
from rec.ranking.feedback.stores import Changes

OVERLAY_FILE = Path("feedback") / "items.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemOverlay:
    """Hold the newest state of the items that were changed while serving.

    Attributes:
        through: newest ``seq`` of the changes that it contains.
        items: item id -> columns of the catalog; ``None`` = deleted.
    """

    through: int = 0
    items: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)

    @property
    def deleted(self) -> list[str]:
        """Return the ids that were deleted."""
        return sorted(item_id for item_id, item in self.items.items() if item is None)

    def chunks(self) -> list[tuple[str, pl.DataFrame]]:
        """Return the items that were put as rows for ``clean_items``, after those of the files."""
        rows = [{"item_id": name, **item} for name, item in self.items.items() if item is not None]
        if not rows:
            return []
        lists = {"category": pl.List(pl.String), "tags": pl.List(pl.String)}
        frame = pl.DataFrame(
            rows,
            schema_overrides={"item_id": pl.String, **lists},
            infer_schema_length=None,
            strict=False,
        )
        marks = (pl.lit(None, pl.String).alias(name) for name in (REASON, RAW))
        return [(str(OVERLAY_FILE), frame.with_columns(*marks))]


def write_overlay(workspace: Path, changes: Changes) -> int:
    """Write the newest state of all changed items, if there are any new; return their number."""
    before = read_overlay(workspace)
    found = changes.after(before.through)
    if not found:
        return 0
    newest = newest_changes(found)
    items = {**before.items, **{name: change.item for name, change in newest.items()}}
    write_json(workspace / OVERLAY_FILE, {"through": found[-1].seq, "items": items})
    return len(newest)


def read_overlay(workspace: Path) -> ItemOverlay:
    """Return what the last ``ingest`` has written; empty before the first change."""
    path = workspace / OVERLAY_FILE
    if not path.is_file():
        return ItemOverlay()
    values = json.loads(path.read_text(encoding="utf-8"))
    return ItemOverlay(through=values["through"], items=values["items"])


def withdraw(catalog: Catalog, deleted: Sequence[str]) -> pl.DataFrame:
    """Return a catalog's items without the deleted ones, numbered anew.

    Raises:
        DataError: none is left.
    """
    if not deleted:
        return catalog.items
    kept = catalog.items.filter(~pl.col("item_id").is_in(deleted))
    if not kept.height:
        raise DataError(f"every item was deleted while serving: put some, or remove {OVERLAY_FILE}")
    return kept.with_columns(pl.int_range(1, kept.height + 1, dtype=pl.Int32).alias("item_index"))
