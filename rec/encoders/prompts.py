"""Prompts: what an encoder reads of an item, a query and a user's sequence.

Families were trained with words of their own around a text (e5 wants ``query: `` before it).
Items, queries and sequences share one space, so all carry the same prefix: the symmetric use that
the families' authors advise. Prompt and template are part of the fingerprint.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

DEFAULT_TEMPLATE = "{title}. {category}. {text}"
GENERATED_FIELDS = ("generated_summary", "generated_tags")
"""Fields that ``jobs.enrich`` writes; a template may name them."""
TEMPLATE_FIELDS = ("title", "category", "tags", "text", *GENERATED_FIELDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Hold the words around the texts of one encoder family."""

    prefix: str
    """Stands before every text."""
    sequence: Mapping[str, str]
    """Language to the frame of a user's rendered sequence; names ``{events}``."""
    version: int = 1
    """Counts changes of the words, here and in ``rec.encoders.sequence_text``."""


_FRAME = {"en": "The user {events}.", "zh": "用户{events}。"}
PROMPTS: Mapping[str, Prompt] = {
    "plain": Prompt(prefix="", sequence=_FRAME),
    # Source: Wang et al. 2024, Multilingual E5: "query: " for symmetric tasks.
    "e5": Prompt(prefix="query: ", sequence=_FRAME),
    # A decoder's last token guesses what follows: the frame asks for the next item.
    "causal": Prompt(
        prefix="",
        sequence={
            "en": "The user {events}. Next, the user wants:",
            "zh": "用户{events}。用户接下来想要：",
        },
    ),
}


def render_items(items: pl.DataFrame, template: str) -> list[str]:
    """Return one text per item of a catalog, in its order.

    Empty fields leave no stray punctuation; lists are joined by commas. A catalog without
    generated fields has empty ones.

    >>> frame = pl.DataFrame({"title": ["Tea"], "category": [["drinks", "hot"]],
    ...                       "tags": [[]], "text": [""]},
    ...                      schema_overrides={"tags": pl.List(pl.String)})
    >>> render_items(frame, DEFAULT_TEMPLATE)
    ['Tea. drinks, hot.']
    """
    columns = [_texts(items, name) for name in TEMPLATE_FIELDS]
    return [
        _tidy(template.format(**dict(zip(TEMPLATE_FIELDS, values, strict=True))))
        for values in zip(*columns, strict=True)
    ]


def _texts(items: pl.DataFrame, name: str) -> list[str]:
    if name not in items.columns:
        return [""] * items.height
    column = items[name]
    if isinstance(column.dtype, pl.List):
        column = column.list.join(", ")
    return column.fill_null("").to_list()


def _tidy(text: str) -> str:
    text = re.sub(r"(?:\s*\.\s*){2,}", ". ", " ".join(text.split()))
    return text.strip().removeprefix(". ").replace("..", ".").strip()
