"""The image embedding of an item that is put: checked when it comes, read again from its change.

It belongs to the model that made those of the catalog. Of that only the width can be checked; a
release whose images a vision model has read from pictures takes none, because its own are of files
that did not come along.

Shapes: N changes, D width.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from rec.encoders.images import IMAGE_COLUMN
from rec.errors import DataError
from rec.models.image_fusion import ImageFusion, ItemImages
from rec.ranking.feedback.item_changes import ItemChange

_log = logging.getLogger(__name__)


def image_value(
    value: Sequence[float], *, width: int | None, schema: Mapping[str, pl.DataType]
) -> list[float] | str:
    """Return an image embedding as the catalog's column holds it.

    Args:
        value: what a caller has sent.
        width: of the release's images; ``None`` where its towers see none of a catalog.
        schema: types of the catalog's columns.

    Raises:
        DataError: the release takes none, or it is of another width or not finite.
    """
    if width is None:
        raise DataError(
            f"expected no {IMAGE_COLUMN}: the release that serves was trained without a column of "
            "them; leave it out, or add the column to the items' files and run the pipeline"
        )
    if len(value) != width or not np.isfinite(value).all():
        raise DataError(
            f"expected {IMAGE_COLUMN} to be {width} finite numbers, as the catalog's, "
            f"got {len(value)}: use the model that made those"
        )
    numbers = [float(number) for number in value]
    return json.dumps(numbers) if schema.get(IMAGE_COLUMN) == pl.String else numbers


def images_of(changes: Sequence[ItemChange], fusion: ImageFusion) -> ItemImages:
    """Return the images of items that were put; one of another width counts as missing."""
    width = fusion.embeddings.shape[1]
    embeddings = np.zeros((len(changes), width), dtype=np.float32)
    for row, change in enumerate(changes):
        value: Any = (change.item or {}).get(IMAGE_COLUMN)
        found = json.loads(value) if isinstance(value, str) else value
        if found and len(found) != width:
            _log.warning(
                "item %s was put with an image embedding of %d numbers, the release has %d: it "
                "goes by its text",
                change.item_id,
                len(found),
                width,
            )
        elif found:
            embeddings[row] = found
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.divide(embeddings, norms, out=embeddings, where=norms > 0)
    return ItemImages(
        embeddings=torch.from_numpy(embeddings), is_present=torch.from_numpy(norms[:, 0] > 0)
    )
