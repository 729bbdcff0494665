"""Prompts: what an encoder reads of an item. The template is part of the fingerprint."""

import re
from collections.abc import Sequence

import polars as pl

DEFAULT_TEMPLATE = "{title}. {category}. {text}"
_FIELDS = ("title", "category", "tags", "text")
_CHINESE = r"[\u4e00-\u9fff]"


def render_items(items: pl.DataFrame, template: str) -> list[str]:
    """Return one text per item of a catalog, in its order.

    Empty fields leave no stray punctuation; lists are joined by commas.

    >>> frame = pl.DataFrame({"title": ["Tea"], "category": [["drinks", "hot"]],
    ...                       "tags": [[]], "text": [""]},
    ...                      schema_overrides={"tags": pl.List(pl.String)})
    >>> render_items(frame, DEFAULT_TEMPLATE)
    ['Tea. drinks, hot.']
    """
    columns = [
        frame_column.list.join(", ").to_list()
        if name in ("category", "tags")
        else frame_column.to_list()
        for name, frame_column in ((name, items[name]) for name in _FIELDS)
    ]
    return [
        _tidy(template.format(**dict(zip(_FIELDS, values, strict=True))))
        for values in zip(*columns, strict=True)
    ]


def share_chinese(texts: Sequence[str]) -> float:
    """Return the share of texts with at least one Chinese character.

    >>> share_chinese(["red dress", "红色 连衣裙"])
    0.5
    """
    if not texts:
        return 0.0
    matches = pl.Series(texts, dtype=pl.String).str.contains(_CHINESE)
    return float(matches.sum()) / len(texts)


def _tidy(text: str) -> str:
    text = re.sub(r"(?:\s*\.\s*){2,}", ". ", " ".join(text.split()))
    return text.strip().removeprefix(". ").replace("..", ".").strip()
