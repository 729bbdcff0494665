"""Precomputed image embeddings: the catalog's ``image_embedding`` column, beside the text.

They are kept as they come, in their own space and of their own width; an item without one has a
zero row and says so, so that the item tower can fuse what is there and drop what is not.

Shapes: V items, D width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rec.errors import DataError

IMAGE_COLUMN = "image_embedding"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEmbeddings:
    """Hold the image embeddings of a catalog, by item index."""

    embeddings: NDArray[np.float32]
    """L2-normalised ``(V, D)``; zeros where there is none."""
    is_present: NDArray[np.bool_]
    """``(V,)``."""


def read_image_embeddings(items: pl.DataFrame) -> ImageEmbeddings | None:
    """Return a catalog's image embeddings, or ``None`` where no item has one.

    A list of numbers (Parquet, JSONL) or its JSON text (CSV) is read; an embedding of zeros says
    nothing and counts as missing.

    Raises:
        DataError: not numbers, not finite, or of differing widths.
    """
    if IMAGE_COLUMN not in items.columns:
        return None
    ids = items["item_id"].to_list()
    rows = {
        place: _read(value, ids[place])
        for place, value in enumerate(items[IMAGE_COLUMN].to_list())
        if value is not None and value not in ("", [])
    }
    widths = {len(row) for row in rows.values()}
    if not rows:
        return None
    if len(widths) > 1:
        raise DataError(
            f"expected every {IMAGE_COLUMN} to be of one width, got "
            f"{', '.join(map(str, sorted(widths)))}: encode all images with one model"
        )
    embeddings = np.zeros((items.height, widths.pop()), dtype=np.float32)
    embeddings[list(rows)] = np.stack(list(rows.values()))
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.divide(embeddings, norms, out=embeddings, where=norms > 0)
    return ImageEmbeddings(embeddings=embeddings, is_present=norms[:, 0] > 0)


def _read(value: str | Sequence[float], item_id: str) -> NDArray[np.float32]:
    try:
        row = np.asarray(json.loads(value) if isinstance(value, str) else value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"item {item_id}: {IMAGE_COLUMN} is not a list of numbers") from error
    if row.ndim != 1 or not np.isfinite(row).all():
        raise DataError(f"item {item_id}: {IMAGE_COLUMN} is not a list of finite numbers")
    return row
