"""Candidate sources: what a log says of an item besides the sequence model, fixed at release time.

Every source scores the whole catalog for a history, and each proposes its best items: what follows
and accompanies the newest items, what the same users had, what the user comes back to, what is
near in text, and what is popular now. The newest part of a log is told by its share of the
events, never in days, so that a log of any pace, or one that knows only an order, is read alike.

Shapes: V items, B users, G categories, W popularity windows, T text width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy import sparse

from rec.data.sequences import Sequences
from rec.encoders.images import ImageEmbeddings
from rec.models.baselines import ItemKNN
from rec.models.transitions import follow_counts, neighbor_table, recency_weights

WINDOW_SHARES = (1.0, 0.25, 0.05, 0.01)
"""Newest share of all item events that each popularity window counts."""
NUM_NEIGHBORS = 200
"""Entries of an item in each table: more add rows to rank, hardly any hit."""
_NEIGHBOR_EVENTS = 200
"""Newest events of a user that make neighbours: the work grows with their square."""
TEXT_WIDTH = 64
"""Directions kept of the item texts: enough to find neighbours, a sixth of the work."""
NUM_KIN = 20
"""Items nearest in text that speak for an item without events."""
MAX_KIN_ITEMS = 100_000
"""Largest catalog whose kin are looked for: the work grows with its square."""
_KIN_BLOCK = 1 << 23
"""Cosines of texts held at once: 32 MB."""
_GAP_PRIOR = 5.0
"""Repeats at the log's mean gap that each item starts with, so that one repeat says little."""


@dataclass(frozen=True, kw_only=True)
class SourceTables:
    """Hold what the sources know.

    Attributes:
        follows: sparse ``(V, V)``, probability to come within the next three events.
        accompanies: the same within twenty.
        lifts: the same, popular followers held down.
        neighbors: sparse ``(V, V)``, cosine over users (item-kNN).
        categories: sparse ``(V, G)``, rows summing to 1.
        kin: sparse ``(V, V)``, which items with events (rows) are nearest in text to an item
            (column), columns summing to 1 or 0.
        text: float32 ``(V, T)``, item texts, centred, reduced, normalised.
        log_shares: float32 ``(V, W)``, log of each item's share of each popularity window.
        counts: int64 ``(V,)``, item events.
        num_users: int64 ``(V,)``, distinct users.
        first_ms: int64 ``(V,)``, first event; ``end_ms`` for an item without any.
        last_ms: int64 ``(V,)``, newest event; -1 for an item without any.
        repeat_gap: float32 ``(V,)``, mean log seconds between one user's events on the item.
        end_ms: newest item event of the log.
    """

    follows: sparse.csr_array
    accompanies: sparse.csr_array
    lifts: sparse.csr_array
    neighbors: sparse.csr_array
    categories: sparse.csr_array
    kin: sparse.csr_array
    text: NDArray[np.float32]
    log_shares: NDArray[np.float32]
    counts: NDArray[np.int64]
    num_users: NDArray[np.int64]
    first_ms: NDArray[np.int64]
    last_ms: NDArray[np.int64]
    repeat_gap: NDArray[np.float32]
    end_ms: int

    @property
    def num_items(self) -> int:
        """Return V."""
        return len(self.counts)

    @cached_property
    def by_popularity(self) -> Mapping[str, NDArray[np.int64]]:
        """Return all 0-based items, the most popular first, by each source of popularity.

        A short window ties most items: the longer ones decide between them.
        """
        shares = self.log_shares
        fine = 1e-3 * shares[:, 0]
        values = {
            "popularity": shares[:, 0],
            "recent_popularity": shares[:, 1] + fine,
            "newest_popularity": shares[:, 3] + 1e-2 * shares[:, 2] + fine,
        }
        return {name: np.argsort(-value, kind="stable") for name, value in values.items()}

    @cached_property
    def kin_popularity(self) -> NDArray[np.float32]:
        """Return what the items nearest in text have of all events, in logs, ``(V,)``."""
        values: NDArray[np.float32] = np.log(np.exp(self.log_shares[:, 0]) @ self.kin + 1e-9)
        return values

    @cached_property
    def items_of_category(self) -> sparse.csr_array:
        """Return ``categories`` by category, sparse ``(G, V)``."""
        return sparse.csr_array(self.categories.T)

    @property
    def mean_gap(self) -> float:
        """Return the log's mean repeat gap: what an item without repeats has."""
        never = self.counts < 2
        return float(self.repeat_gap[never].mean() if never.any() else self.repeat_gap.mean())


_SPARSE = ("follows", "accompanies", "lifts", "neighbors", "categories", "kin")
_DENSE = ("text", "log_shares", "counts", "num_users", "first_ms", "last_ms", "repeat_gap")


def build_tables(
    train: Sequences,
    *,
    text: NDArray[np.float32],
    categories: pl.Series,
    images: ImageEmbeddings | None = None,
) -> SourceTables:
    """Return the tables of a log.

    Args:
        train: what may be known; at least one item event.
        text: float32 ``(V, D_text)``, the encoder's item embeddings.
        categories: a list of names for each item, by item index.
        images: of the items; with them, items are kin that look alike and read alike.
    """
    items = train.select_events(train.is_item)
    wide = follow_counts(train, window=20)
    num_items = train.num_items
    by_time = np.argsort(items.timestamps_ms, kind="stable")
    tokens = items.tokens[by_time] - 1
    times = items.timestamps_ms[by_time]
    end_ms = int(times[-1])
    first_ms = np.full(num_items, end_ms, dtype=np.int64)
    last_ms = np.full(num_items, -1, dtype=np.int64)
    first_ms[tokens[::-1]] = times[::-1]  # the last assignment wins: the oldest
    last_ms[tokens] = times
    pairs = np.unique(items.rows() * num_items + items.tokens - 1)
    reduced, counts = _reduce(text), np.bincount(tokens, minlength=num_items)
    return SourceTables(
        follows=neighbor_table(follow_counts(train, window=3), num_neighbors=NUM_NEIGHBORS),
        accompanies=neighbor_table(wide, num_neighbors=NUM_NEIGHBORS),
        lifts=neighbor_table(wide, num_neighbors=NUM_NEIGHBORS, popularity_power=0.5),
        neighbors=ItemKNN(
            train, num_neighbors=NUM_NEIGHBORS, max_events=_NEIGHBOR_EVENTS
        ).neighbors,
        categories=category_table(categories),
        kin=find_kin(_with_images(reduced, images), counts > 0, columns=np.arange(num_items)),
        text=reduced,
        log_shares=_log_shares(tokens, num_items),
        counts=counts,
        num_users=np.bincount(pairs % num_items, minlength=num_items),
        first_ms=first_ms,
        last_ms=last_ms,
        repeat_gap=_repeat_gaps(items),
        end_ms=end_ms,
    )


def hide_items(tables: SourceTables, is_hidden: NDArray[np.bool_]) -> SourceTables:
    """Return the tables as if some items had never had an event: only their texts are left.

    What others' rows have lost is not shared out anew, as a rebuilt table would.

    Args:
        tables: changed nowhere.
        is_hidden: bool ``(V,)``.
    """
    shown = sparse.diags_array((~is_hidden).astype(np.float32))
    total = int(tables.counts.sum())
    never = np.log([0.5 / (_window_size(share, total) + 1) for share in WINDOW_SHARES])
    kin = sparse.csr_array(shown @ tables.kin)
    sums = np.maximum(np.asarray(kin.sum(axis=0)).ravel(), 1e-9)
    between = {
        name: sparse.csr_array(shown @ getattr(tables, name) @ shown)
        for name in ("follows", "accompanies", "lifts", "neighbors")
    }
    return replace(
        tables,
        **between,
        kin=sparse.csr_array(kin @ sparse.diags_array((1 / sums).astype(np.float32))),
        log_shares=np.where(is_hidden[:, None], never, tables.log_shares).astype(np.float32),
        counts=np.where(is_hidden, 0, tables.counts),
        num_users=np.where(is_hidden, 0, tables.num_users),
        first_ms=np.where(is_hidden, tables.end_ms, tables.first_ms),
        last_ms=np.where(is_hidden, -1, tables.last_ms),
        repeat_gap=np.where(is_hidden, tables.mean_gap, tables.repeat_gap).astype(np.float32),
    )


def score_sources(tables: SourceTables, histories: Sequences) -> dict[str, NDArray[np.float32]]:
    """Return each source's scores of the whole catalog, float32 ``(B, V)``; 0 = no proposal.

    ``personal`` is how often and how lately the user had the item, ``category`` the share of the
    user's newest events in the item's categories, ``text`` the cosine to the newest items' texts,
    ``kin`` what ``accompanies`` says of the items nearest in text.
    """
    near = recency_weights(histories, decay=0.3, max_events=50)
    recent = recency_weights(histories, decay=0.9, max_events=50)
    own = recency_weights(histories, decay=0.95)
    newest = recency_weights(histories, decay=0.8, max_events=10)
    taste = recency_weights(histories, decay=0.98, max_events=100) @ tables.categories
    total = np.maximum(np.asarray(taste.sum(axis=1)), 1e-9)
    read = newest @ tables.text  # (B, T)
    read /= np.maximum(np.linalg.norm(read, axis=1, keepdims=True), 1e-9)
    scores = {
        "follows": (near @ tables.follows).toarray(),
        "accompanies": (recent @ tables.accompanies).toarray(),
        "lifts": (recent @ tables.lifts).toarray(),
        "neighbors": (recent @ tables.neighbors).toarray(),
        "personal": own.toarray(),
        "category": (sparse.diags_array(1 / total) @ taste @ tables.items_of_category).toarray(),
        "text": read @ tables.text.T,
        "kin": (newest @ tables.accompanies @ tables.kin).toarray(),
    }
    return {name: value.astype(np.float32, copy=False) for name, value in scores.items()}


def save_tables(tables: SourceTables, path: Path) -> None:
    """Write the tables as one safetensors file."""
    tensors: dict[str, NDArray[np.generic]] = {
        name: np.ascontiguousarray(getattr(tables, name)) for name in _DENSE
    }
    for name in _SPARSE:
        table = getattr(tables, name)
        tensors[f"{name}.data"] = table.data.astype(np.float32)
        tensors[f"{name}.indices"] = table.indices.astype(np.int32)
        tensors[f"{name}.indptr"] = table.indptr.astype(np.int64)
        tensors[f"{name}.shape"] = np.asarray(table.shape, dtype=np.int64)
    save_file(tensors, path)


def load_tables(path: Path) -> SourceTables:
    """Return the tables of a file."""
    tensors = load_file(path)
    tables = {
        name: sparse.csr_array(
            (tensors[f"{name}.data"], tensors[f"{name}.indices"], tensors[f"{name}.indptr"]),
            shape=tuple(tensors[f"{name}.shape"].tolist()),
        )
        for name in _SPARSE
    }
    end_ms = int(tensors["last_ms"].max())
    return SourceTables(**tables, **{name: tensors[name] for name in _DENSE}, end_ms=end_ms)


def _log_shares(tokens: NDArray[np.int32], num_items: int) -> NDArray[np.float32]:
    """Return log shares of each window from tokens (0-based) in time order, ``(V, W)``."""
    columns = []
    for share in WINDOW_SHARES:
        size = _window_size(share, len(tokens))
        counts = np.bincount(tokens[-size:], minlength=num_items)
        columns.append(np.log((counts + 0.5) / (size + 1)))
    return np.stack(columns, axis=1).astype(np.float32)


def _window_size(share: float, num_events: int) -> int:
    return max(1, round(share * num_events))


def _repeat_gaps(items: Sequences) -> NDArray[np.float32]:
    """Return the mean log seconds between one user's events on an item, ``(V,)``."""
    rows = items.rows()
    order = np.lexsort((items.timestamps_ms, items.tokens, rows))
    tokens, times = items.tokens[order], items.timestamps_ms[order]
    passed = np.diff(times)
    is_repeat = (np.diff(tokens) == 0) & (np.diff(rows[order]) == 0) & (passed > 0)
    gaps = np.log1p(passed[is_repeat] / 1000)
    mean = float(gaps.mean()) if len(gaps) else 0.0
    repeated = tokens[1:][is_repeat] - 1
    sums = np.bincount(repeated, weights=gaps, minlength=items.num_items)
    counts = np.bincount(repeated, minlength=items.num_items)
    result: NDArray[np.float32] = ((sums + _GAP_PRIOR * mean) / (counts + _GAP_PRIOR)).astype(
        np.float32
    )
    return result


def category_table(categories: pl.Series) -> sparse.csr_array:
    """Return which categories an item has, each row summing to 1, sparse ``(V, G)``."""
    pairs = pl.DataFrame({"category": categories}).with_row_index("row").explode("category")
    pairs = pairs.drop_nulls("category").unique(maintain_order=True)
    names = pairs["category"].unique(maintain_order=True)
    codes = dict(zip(names.to_list(), range(len(names)), strict=True))
    columns = np.asarray([codes[name] for name in pairs["category"].to_list()], dtype=np.int64)
    table = sparse.csr_array(
        (np.ones(len(columns), np.float32), (pairs["row"].to_numpy().astype(np.int64), columns)),
        shape=(len(categories), max(1, len(names))),
    )
    sums = np.maximum(np.asarray(table.sum(axis=1)).ravel(), 1)
    return sparse.csr_array(sparse.diags_array((1 / sums).astype(np.float32)) @ table)


def find_kin(
    text: NDArray[np.float32], has_events: NDArray[np.bool_], *, columns: NDArray[np.int64]
) -> sparse.csr_array:
    """Return the items with events (rows) nearest in text to some items, ``(V, len(columns))``.

    Args:
        text: float32 ``(V, T)``, normalised.
        has_events: bool ``(V,)``. None are found where nobody has any, or V is too large.
        columns: 0-based items that are asked for; each one's weights sum to 1.
    """
    num_items = len(text)
    known = np.flatnonzero(has_events)
    width = min(NUM_KIN, len(known) - 1)
    if width < 1 or num_items > MAX_KIN_ITEMS or not len(columns):
        return sparse.csr_array((num_items, len(columns)), dtype=np.float32)
    size = max(1, _KIN_BLOCK // len(known))
    place = np.full(num_items, -1)
    place[known] = np.arange(len(known))
    found, values = [], []
    pool = torch.from_numpy(text[known])
    for start in range(0, len(columns), size):
        asked = columns[start : start + size]
        cosines = torch.from_numpy(text[asked]) @ pool.T
        mine = np.flatnonzero(place[asked] >= 0)
        cosines[mine, place[asked[mine]]] = -1.0  # nobody is kin to oneself
        best, picks = cosines.topk(width, dim=1)
        found.append(known[picks.numpy()])
        values.append(best.clamp(min=1e-6).numpy() ** 2)
    weights = np.concatenate(values)
    weights /= weights.sum(axis=1, keepdims=True)
    indptr = np.arange(0, len(columns) * width + 1, width)
    table = sparse.csr_array(
        (weights.ravel(), np.concatenate(found).ravel(), indptr), shape=(len(columns), num_items)
    )
    return sparse.csr_array(table.T.tocsr())


def text_directions(
    text: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the mean ``(D,)`` and the main directions ``(D, T)`` of texts ``(V, D)``."""
    mean = text.mean(axis=0)
    centred = text - mean
    covariance = centred.T @ centred / max(1, len(text))
    _, directions = np.linalg.eigh(covariance.astype(np.float64))
    return mean, directions[:, ::-1][:, :TEXT_WIDTH]


def _with_images(text: NDArray[np.float32], images: ImageEmbeddings | None) -> NDArray[np.float32]:
    """Return texts ``(V, T)`` with the images beside them, normalised; half of a cosine is each.

    Images of one model share a direction that tells nothing: their mean is taken away.
    """
    if images is None or not images.is_present.any():
        return text
    pictures = images.embeddings - images.embeddings[images.is_present].mean(axis=0)
    pictures /= np.maximum(np.linalg.norm(pictures, axis=1, keepdims=True), 1e-9)
    both = np.concatenate([text, pictures * images.is_present[:, None]], axis=1)
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-9)
    return both.astype(np.float32, copy=False)


def _reduce(text: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the texts along their main directions, normalised, float32 ``(V, T)``."""
    mean, directions = text_directions(text)
    reduced = (text - mean) @ directions
    norms = np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-9)
    result: NDArray[np.float32] = np.ascontiguousarray(reduced / norms, dtype=np.float32)
    return result
