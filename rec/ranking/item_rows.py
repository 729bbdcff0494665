"""One item of a caller to the row that a catalog would have of it: cleaned, rendered, checked."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from rec.data.items import clean_items
from rec.data.rows import RAW, REASON
from rec.encoders.images import IMAGE_COLUMN
from rec.encoders.prompts import render_items
from rec.errors import DataError
from rec.ranking.item_images import image_value

_ASIDE = ("item_index", "item_id")


def clean_item(
    item_id: str,
    values: Mapping[str, Any],
    *,
    schema: Mapping[str, pl.DataType],
    image_width: int | None = None,
) -> dict[str, Any]:
    """Return an item's columns as the catalog has them, JSON material.

    Args:
        item_id: whose.
        values: columns by name; lists only of text, but for the image embedding.
        schema: types of the catalog's columns; other names are new attributes.
        image_width: of the release's image embeddings; ``None`` where it takes none.

    Raises:
        DataError: nothing that an encoder could read, a value of another type than its column, or
            an image embedding that the release cannot use.
    """
    marks = {REASON: [None], RAW: [None]}
    row = {name: [value] for name, value in values.items() if value not in (None, [])}
    image = row.pop(IMAGE_COLUMN, None)
    frame = pl.DataFrame(
        {"item_id": [item_id], **row, **marks}, schema_overrides={REASON: pl.String, RAW: pl.String}
    )
    catalog = clean_items([(f"item {item_id!r}", frame)]).items
    for name in catalog.columns:
        if name in _ASIDE or name not in schema or catalog[name].dtype == schema[name]:
            continue
        found = catalog[name].cast(schema[name], strict=False)
        if found.null_count() > catalog[name].null_count():
            raise DataError(
                f"expected {schema[name]} in {name!r} as in the catalog, got {values[name]!r}"
            )
        catalog = catalog.with_columns(found)
    [cleaned] = catalog.drop(*_ASIDE).to_dicts()
    if image is not None:
        cleaned[IMAGE_COLUMN] = image_value(image[0], width=image_width, schema=schema)
    return {name: _plain(value) for name, value in cleaned.items()}


def render_item(item: Mapping[str, Any], template: str) -> str:
    """Return the text that an encoder reads of a cleaned item.

    >>> render_item({"title": "Tea", "text": "", "category": ["hot"], "tags": []},
    ...             "{title}. {category}. {text}")
    'Tea. hot.'
    """
    lists = {"category": pl.List(pl.String), "tags": pl.List(pl.String)}
    frame = pl.DataFrame([dict(item)], schema_overrides=lists, infer_schema_length=None)
    return render_items(frame, template)[0]


def _plain(value: Any) -> Any:
    return (
        value if value is None or isinstance(value, (str, int, float, bool, list)) else str(value)
    )
