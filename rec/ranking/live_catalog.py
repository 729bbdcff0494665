"""The live catalog: a release with the item changes that came after it.

A new item gets its place from its text (text embedding -> item tower -> e_i), and from its image
embedding where the catalog has a column of them, so retrieval, search, similar items and filters
know it; the sources' tables have no counts for it. A changed item keeps its counts and its ID
residual; it is replaced whole, its image embedding too. A deleted one stays in the arrays, so that
histories with it mean what they meant, and is withdrawn from every answer.

Applying changes copies the index and encodes nothing: 0.01, 0.2 and 2.6 CPU-seconds for 10,000,
100,000 and a million items without a ranker. Beyond that the copy, not the idea, is the limit.

Shapes: V items of the release, N new items, T text width, D width.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from rec.encoders.images import IMAGE_COLUMN
from rec.models.image_fusion import ItemImages
from rec.ranking.feedback.item_changes import ItemChange, newest_changes
from rec.ranking.feedback.stores import LOG_ERRORS, Changes
from rec.ranking.item_images import images_of
from rec.ranking.recommender import Recommender
from rec.ranking.release import ReleaseFiles
from rec.ranking.retrieval.sources import (
    WINDOW_SHARES,
    SourceTables,
    category_table,
    find_kin,
    text_directions,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextProjection:
    """Hold how a release's item texts were reduced.

    Attributes:
        mean: float32 ``(D_text,)``.
        directions: float64 ``(D_text, T)``.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float64]

    @classmethod
    def of(cls, files: ReleaseFiles) -> "TextProjection | None":
        """Return a release's projection; ``None`` where no source reads texts."""
        if files.tables is None:
            return None
        text, reduced = files.text[1:].numpy(), files.tables.text
        mean, directions = text_directions(text)
        # The release keeps the reduced rows alone; another machine may turn a direction round.
        signs = np.sign(np.sum(((text - mean) @ directions) * reduced, axis=0))
        return cls(mean=mean, directions=directions * np.where(signs == 0, 1, signs))

    def reduce(self, text: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return texts ``(N, D_text)`` along the directions, normalised, float32 ``(N, T)``."""
        reduced = (text - self.mean) @ self.directions
        norms = np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-9)
        result: NDArray[np.float32] = (reduced / norms).astype(np.float32)
        return result


class LiveRecommender:
    """Keep a release's recommender up with the item changes; safe for threads."""

    def __init__(
        self, files: ReleaseFiles, *, release: str, changes: Changes, through: int
    ) -> None:
        """Hold a release and apply what has changed since.

        Args:
            files: the release.
            release: its name.
            changes: what to follow.
            through: newest ``seq`` that the release's catalog contains.
        """
        self._files = files
        self.release = release
        self._changes = changes
        self._seq = through
        self._newest: dict[str, ItemChange] = {}
        self._lock = threading.Lock()
        self._projection: TextProjection | None = None
        self._recommender = Recommender(files, release=release)
        self._apply(changes.after(through))

    def follow(self) -> Recommender:
        """Return the recommender as it is after every change that is durable now.

        While the log cannot be read the changes known so far hold.
        """
        try:
            found = self._changes.after(self._seq)
        except LOG_ERRORS as error:
            _log.warning("the item changes cannot be read, the ones known so far hold: %s", error)
            return self._recommender
        return self._apply(found)

    def _apply(self, found: Sequence[ItemChange]) -> Recommender:
        if not found:
            return self._recommender
        with self._lock:
            fresh = [change for change in found if change.seq > self._seq]
            if fresh:
                self._newest |= newest_changes(fresh)
                self._projection = self._projection or TextProjection.of(self._files)
                files = extend_files(
                    self._files, list(self._newest.values()), projection=self._projection
                )
                self._recommender = Recommender(
                    files, release=self.release, times_shown=self._recommender.times_shown
                )
                self._seq = fresh[-1].seq
        return self._recommender


@torch.inference_mode()
def extend_files(
    files: ReleaseFiles, changes: Sequence[ItemChange], *, projection: TextProjection | None
) -> ReleaseFiles:
    """Return the release with changes applied; items keep their index, new ones come after.

    A put whose embedding is of another encoder is left out with a warning.

    Args:
        files: the release as it was promoted.
        changes: the newest change of each item.
        projection: ``TextProjection.of(files)``.
    """
    index_of = dict(zip(files.items["item_id"], files.items["item_index"], strict=True))
    usable = [c for c in changes if c.item is None or c.fingerprint == files.fingerprint]
    if len(usable) < len(changes):
        _log.warning(
            "%d item changes are of another encoder and wait for the next serve",
            len(changes) - len(usable),
        )
    gone = [index_of[c.item_id] for c in usable if c.item is None and c.item_id in index_of]
    puts = [change for change in usable if change.item is not None]
    known = [change for change in puts if change.item_id in index_of]
    new = [change for change in puts if change.item_id not in index_of]
    num_items = files.items.height
    withdrawn = np.zeros(num_items + len(new), dtype=np.bool_)
    withdrawn[np.asarray(gone, dtype=np.int64) - 1] = True
    places = torch.tensor([index_of[change.item_id] for change in known], dtype=torch.int64)
    text = torch.cat([files.text, _embeddings(new, files)])
    text[places] = _embeddings(known, files)
    tower = files.model.items
    added, changed = _images(new, files), _images(known, files)
    e_i = torch.cat([files.embeddings, tower.embed_text(_embeddings(new, files), added)])
    e_i[places - 1] = tower.embed_known(_embeddings(known, files), places, changed)
    items = _items(files.items, known, new, index_of)
    return replace(
        files,
        items=items,
        counts=_counts(files.counts, items),
        text=text,
        embeddings=e_i,
        tables=None
        if files.tables is None or projection is None
        else _tables(files.tables, projection, text=text, places=places, items=items),
        index=None if files.index is None else files.index.with_items(e_i, moved=places - 1),
        shards=None if files.shards is None else files.shards.with_items(e_i, moved=places - 1),
        withdrawn=withdrawn if withdrawn.any() else None,
    )


def _embeddings(changes: Sequence[ItemChange], files: ReleaseFiles) -> Tensor:
    rows = [change.embedding for change in changes if change.embedding is not None]
    if not rows:
        return torch.zeros((0, files.text.shape[1]))
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def _images(changes: Sequence[ItemChange], files: ReleaseFiles) -> ItemImages | None:
    """Return the changes' images; ``None`` where they are not the catalog's to change.

    Those that a vision model has read from pictures stay: no picture came with a change.
    """
    fusion = files.model.items.fusion
    if fusion is None or IMAGE_COLUMN not in files.items.columns:
        return None
    return images_of(changes, fusion)


def _items(
    items: pl.DataFrame,
    known: Sequence[ItemChange],
    new: Sequence[ItemChange],
    index_of: dict[str, int],
) -> pl.DataFrame:
    """Return the catalog with changed rows in their places and new ones at the end."""
    changed = [*known, *new]
    if not changed:
        return items
    places = [index_of[change.item_id] for change in known]
    places += range(items.height + 1, items.height + len(new) + 1)
    rows = [
        {**(change.item or {}), "item_id": change.item_id, "item_index": place}
        for change, place in zip(changed, places, strict=True)
    ]
    names = {name: None for row in rows for name in row}
    frame = pl.DataFrame(
        {name: pl.Series(name, [row.get(name) for row in rows], strict=False) for name in names}
    )
    # What a change does not name it does not know: a put replaces the whole item.
    frame = frame.with_columns(
        pl.col(name).cast(items.schema[name], strict=False)
        for name in frame.columns
        if name in items.schema
    )
    kept = items.filter(~pl.col("item_index").is_in(places))
    return pl.concat([kept, frame], how="diagonal_relaxed").sort("item_index")


def _counts(counts: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return the popularity table over the new catalog: titles as they are now, new items 0."""
    order = counts.columns
    return (
        items.select("item_index", "item_id", "title")
        .join(counts.drop("item_id", "title"), on="item_index", how="left")
        .with_columns(
            pl.col(name).fill_null(0) for name in order if counts[name].dtype.is_numeric()
        )
        .select(order)
        .sort(["cold_score", "item_index"], descending=[True, False])
    )


def _tables(
    tables: SourceTables,
    projection: TextProjection,
    *,
    text: Tensor,
    places: Tensor,
    items: pl.DataFrame,
) -> SourceTables:
    """Return what the sources know of the new catalog: texts and categories, no counts."""
    num_items, added = tables.num_items, items.height - tables.num_items
    rows = np.concatenate([places.numpy() - 1, np.arange(num_items, items.height)])
    reduced = np.concatenate([tables.text, np.zeros((added, tables.text.shape[1]), np.float32)])
    reduced[rows] = projection.reduce(text[1:].numpy()[rows])
    total = int(tables.counts.sum())
    unseen = [np.log(0.5 / (max(1, round(share * total)) + 1)) for share in WINDOW_SHARES]
    never = tables.repeat_gap[tables.counts <= 1]
    gap = float(never[0]) if len(never) else float(np.median(tables.repeat_gap))
    counts = _fill(tables.counts, 0, added)
    new = np.arange(num_items, items.height)
    kin = _widen(tables.kin, added)[:, :num_items]
    kin = sparse.hstack([kin, find_kin(reduced, counts > 0, columns=new)], format="csr")
    return replace(
        tables,
        **{
            name: _widen(getattr(tables, name), added)
            for name in ("follows", "accompanies", "lifts", "neighbors")
        },
        categories=category_table(items["category"]),
        kin=sparse.csr_array(kin),
        text=reduced,
        log_shares=np.concatenate(
            [tables.log_shares, np.tile(np.asarray(unseen, np.float32), (added, 1))]
        ),
        counts=counts,
        num_users=_fill(tables.num_users, 0, added),
        first_ms=_fill(tables.first_ms, tables.end_ms, added),
        last_ms=_fill(tables.last_ms, -1, added),
        repeat_gap=_fill(tables.repeat_gap, gap, added),
    )


def _widen(table: sparse.csr_array, added: int) -> sparse.csr_array:
    """Return a square table with empty rows and columns at its end."""
    size = table.shape[0] + added
    ends = np.full(added, table.indptr[-1], dtype=table.indptr.dtype)
    return sparse.csr_array(
        (table.data, table.indices, np.concatenate([table.indptr, ends])), shape=(size, size)
    )


def _fill(values: NDArray[Any], value: float, added: int) -> NDArray[Any]:
    return np.concatenate([values, np.full(added, value, dtype=values.dtype)])
