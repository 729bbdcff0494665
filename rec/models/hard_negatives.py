"""Hard negatives: items that were seen and not taken, or that look like the target and are not it.

Exposed and not taken is the better evidence and is used where impressions exist. Elsewhere they are
mined: items near the target in the encoder's space of the moment, but not the very nearest, which
are often the same thing under another name.

Shapes: N target items, P items of a pool, D width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rec.data.events import Impression
from rec.models.pair_batches import PairTexts
from rec.models.pairs import Pair

SKIPPED_NEIGHBOURS = 5
"""Nearest items that are left alone: another size of the same milk is no negative."""
NUM_NEIGHBOURS = 50
"""Items after those from which a negative is drawn."""
_BLOCK_ROWS = 512


def exposed_not_taken(
    impressions: Iterable[Impression], texts: PairTexts, *, item_ids: Sequence[str], before_ms: int
) -> dict[int, NDArray[np.int64]]:
    """Return for users (by row) the items (by index) that they were shown and never took.

    Args:
        impressions: lists that were shown, of any user.
        texts: holds the sequences, and with them what each user took.
        item_ids: by item index, from 1.
        before_ms: lists from that moment on are not read.
    """
    row_of = {user: row for row, user in enumerate(texts.sequences.user_ids)}
    index_of = {item: number for number, item in enumerate(item_ids, start=1)}
    shown: dict[int, set[int]] = {}
    for impression in impressions:
        row = row_of.get(impression.user_id or "")
        if row is not None and impression.timestamp_ms < before_ms:
            known = {index_of[item] for item in impression.item_ids if item in index_of}
            shown.setdefault(row, set()).update(known)
    left = {row: np.setdiff1d(list(items), texts.items_of(row)) for row, items in shown.items()}
    return {row: items.astype(np.int64) for row, items in left.items() if len(items)}


def mine_neighbours(
    targets: Sequence[int],
    pool: Sequence[int],
    *,
    texts: PairTexts,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
) -> dict[int, NDArray[np.int64]]:
    """Return for each target item the pool's items that are near it, the nearest left out."""
    distinct = sorted({*targets})
    # One item a text: copies of a text are one negative, and no negatives of each other.
    by_text = {texts.text_of(item): item for item in sorted({*pool}, reverse=True)}
    wanted = sorted({*by_text, *(texts.text_of(item) for item in distinct)})
    place = {text: number for number, text in enumerate(wanted)}
    embeddings = encode(wanted)
    pool_items = np.asarray([*by_text.values()], dtype=np.int64)
    pool_places = np.asarray([place[text] for text in by_text])
    places = np.asarray([place[texts.text_of(item)] for item in distinct])
    found: dict[int, NDArray[np.int64]] = {}
    for start in range(0, len(distinct), _BLOCK_ROWS):
        rows = places[start : start + _BLOCK_ROWS]
        cosines = embeddings[rows] @ embeddings[pool_places].T  # (n, P)
        cosines[rows[:, None] == pool_places[None, :]] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")
        near = order[:, SKIPPED_NEIGHBOURS : SKIPPED_NEIGHBOURS + NUM_NEIGHBOURS]
        for number, columns in enumerate(near):
            others = columns[np.isfinite(cosines[number, columns])]
            found[distinct[start + number]] = pool_items[others]
    return found


def draw_negatives(
    pairs: Sequence[Pair],
    *,
    num_each: int,
    exposed: Mapping[int, NDArray[np.int64]],
    mined: Mapping[int, NDArray[np.int64]],
    texts: PairTexts,
    generator: np.random.Generator,
) -> list[int]:
    """Return up to ``num_each`` hard negatives a pair, none that the pair's user has taken."""
    negatives: list[int] = []
    for pair in pairs:
        own = texts.items_of(pair.user)
        candidates = exposed.get(pair.user, np.zeros(0, dtype=np.int64))
        if len(candidates) < num_each:
            candidates = np.setdiff1d(mined.get(pair.target, candidates), own)
        size = min(num_each, len(candidates))
        negatives += [int(item) for item in generator.choice(candidates, size, replace=False)]
    return negatives
