"""Items that say nearly the same: found and reported, never deleted.

Two listings of one thing split its events and fill a list twice. Texts are sets of character
4-grams (they need no word boundaries, so Chinese works alike); MinHash signatures in bands (LSH,
library ``rensa``) name candidate pairs, and each pair's true overlap (Jaccard) decides.

Source: Broder, 1997, "On the resemblance and containment of documents".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import polars as pl
from rensa import RMinHash, RMinHashLSH

SHINGLE = 4
THRESHOLD = 0.8
"""Overlap of the 4-grams from which two texts are near duplicates: one word in ten differs."""
NUM_PERMUTATIONS, NUM_BANDS = 128, 16
"""8 rows a band: a pair at 0.8 is a candidate with probability 0.95, one at 0.4 with 0.01."""
MAX_TEXTS = 500_000
"""Distinct texts above which nothing is searched: signatures would take minutes and gigabytes."""
MAX_COMPARISONS = 5_000_000
"""Pairs of texts above which the search is given up: half a minute. A catalog of titles after one
template ("thing number 17 of kind 3") has candidates everywhere, and their number is squared."""
KEPT_TEXTS = 2048
"""Texts whose 4-grams are kept; a long one has a hundred kilobytes of them."""
MAX_CHARACTERS = 2000
"""Of a text that are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDuplicates:
    """Hold the groups of items that say nearly the same."""

    groups: Sequence[Sequence[str]]
    """Ids of each group of two and more, largest first, then by id."""
    is_searched: bool = True
    """Whether the catalog was small enough, and its texts unlike enough, to search."""

    @property
    def num_items(self) -> int:
        """Return the items that stand in a group."""
        return sum(len(group) for group in self.groups)


def find_near_duplicates(items: pl.DataFrame) -> NearDuplicates:
    """Return the near duplicates of a catalog; equal input gives equal groups.

    Every member is like the first of its group. Flaw: variants of one product that differ in a
    colour or size are near duplicates too.

    Args:
        items: ``item_id, title, text``.

    >>> words = "a light summer dress of red cotton with long sleeves and two deep pockets"
    >>> texts = [words, words + "!", "a heavy black coat for cold winters, with a hood"]
    >>> frame = pl.DataFrame({"item_id": ["i1", "i2", "i3"], "title": texts, "text": [""] * 3})
    >>> find_near_duplicates(frame).groups
    [['i1', 'i2']]
    """
    text = pl.concat_str("title", "text", separator=" ").str.to_lowercase()
    text = text.str.replace_all(r"\s+", "").str.slice(0, MAX_CHARACTERS)
    by_text = (
        items.select("item_id", text.alias("content"))
        .filter(pl.col("content") != "")
        .group_by("content")
        .agg(pl.col("item_id").sort())
        .sort(pl.col("item_id").list.first())
    )
    if by_text.height > MAX_TEXTS:
        return NearDuplicates(groups=[], is_searched=False)
    ids: list[list[str]] = by_text["item_id"].to_list()
    firsts = _firsts(by_text["content"].to_list())
    if firsts is None:
        return NearDuplicates(groups=[], is_searched=False)
    groups: dict[int, list[str]] = {}
    for number, first in enumerate(firsts):
        groups.setdefault(first, []).extend(ids[number])
    found = [sorted(group) for group in groups.values() if len(group) > 1]
    return NearDuplicates(groups=sorted(found, key=lambda group: (-len(group), group[0])))


def _firsts(texts: Sequence[str]) -> list[int] | None:
    """Return for each text the number of the first text of its group; ``None`` if given up."""
    index = RMinHashLSH(THRESHOLD, NUM_PERMUTATIONS, NUM_BANDS)
    shingles_of = lru_cache(maxsize=KEPT_TEXTS)(_shingles)  # a group's first is looked at often
    firsts: list[int] = []
    num_comparisons = 0
    for number, text in enumerate(texts):
        shingles = shingles_of(text)
        signature = RMinHash(NUM_PERMUTATIONS, 0)
        signature.update(sorted(shingles))
        candidates = sorted(index.query(signature))
        num_comparisons += len(candidates)
        if num_comparisons > MAX_COMPARISONS:
            return None
        like = (
            other
            for other in candidates
            if _overlap(shingles, shingles_of(texts[other])) >= THRESHOLD
        )
        first = next(like, number)
        firsts.append(first)
        if first == number:
            # Only the first of a group is looked up, so a thousand variants cost a thousand steps.
            index.insert(number, signature)
    return firsts


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _overlap(one: set[str], other: set[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
