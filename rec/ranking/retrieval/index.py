"""Retrieval: the exact nearest items of a user, with masks inside the search.

Filters and exclusions are applied before the cut to k, so that k results come back whenever the
catalog has k that are allowed.

A large catalog is passed over in eight bits first (:mod:`rec.ranking.retrieval.coarse`). The k
leading strips are scored in float32, with every other strip that can still hold something better
than the k-th of those.

Shapes: B users, V items, D width, k places, S strips, C items scored.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.ranking.retrieval.coarse import NONE, CoarseItems, eight_bits_pay

_BLOCK_CELLS = 1 << 23
"""Scores or peaks held at once: 32 MB."""
_MIN_ITEMS = 8_000
"""Below, the second pass costs more than the first saves."""
SMALL_SHARE = 8
"""A mask that leaves an eighth of the catalog or less is searched as a catalog of its own."""
_MOST_STRIPS = 2
"""Where more than half of the strips must be scored in float32, the whole catalog is."""


Best = tuple[NDArray[np.int64], NDArray[np.float32]]
"""One user's best: 0-based items and their scores, best first."""
_LEAST = np.finfo(np.float32).min

_MARGIN = 1.25
"""How many slacks below the last leading peak a strip is looked at right away: peaks are rounded up
more often than down, and a second look costs more than a few strips."""


class ItemIndex(Protocol):
    """Find the nearest items of users, exactly or nearly."""

    def search(
        self, users: Tensor, *, k: int, excluded: Tensor, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return items and scores as :meth:`ExactIndex.search` does."""
        ...


class ExactIndex:
    """Search all items by inner product; right for up to about a million items."""

    def __init__(self, items: Tensor, *, two_passes: bool | None = None) -> None:
        """Index ``items``, float32 ``(V, D)`` normalised; row ``i`` is item index ``i + 1``.

        Args:
            items: e_i.
            two_passes: pass over in eight bits first; by size and by what this processor is quick
                at if absent.
        """
        self.items = items.contiguous()
        self._table: NDArray[np.float32] = self.items.numpy()
        if two_passes is None:
            two_passes = len(items) >= _MIN_ITEMS and eight_bits_pay()
        self._coarse = CoarseItems(self.items) if two_passes else None

    def search(
        self, users: Tensor, *, k: int, excluded: Tensor, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the best items and their scores, int64 and float32 ``(B, min(k, V))``.

        Equal scores come in the catalog's order. Places that cannot be filled hold item 0 and
        ``-inf``.

        Args:
            users: float32 ``(B, D)`` normalised, so that scores are cosines.
            k: places.
            excluded: int64 ``(2, X)``, pairs of user row and item index that must not appear.
            allowed: bool ``(V,)`` or ``(B, V)``, items that may appear; all if absent.
        """
        (num_items, _), (num_users, _) = self.items.shape, users.shape
        width = min(k, num_items)
        if allowed is not None and allowed.dim() == 1:
            few = allowed.nonzero().squeeze(1)
            if few.shape[0] * SMALL_SHARE <= num_items:
                return self.search_few(users, few, width=width, excluded=excluded)
        found = np.zeros((num_users, width), dtype=np.int64)
        scores = np.full((num_users, width), -np.inf, dtype=np.float32)
        coarse = self._coarse
        if coarse is not None and width * _MOST_STRIPS > coarse.num_strips:
            coarse = None  # nearly every strip would lead
        size = max(1, _BLOCK_CELLS // max(1, num_items if coarse is None else coarse.num_strips))
        for start in range(0, num_users if width else 0, size):
            block = users[start : start + size]
            mask = allowed
            if allowed is not None and allowed.dim() == 2:
                mask = allowed[start : start + size]
            pairs = torch.stack([excluded[0] - start, excluded[1] - 1])
            if size < num_users:
                pairs = pairs[:, (pairs[0] >= 0) & (pairs[0] < size)]
            if coarse is None:
                best = _all_best(self.items, block, width=width, pairs=pairs, mask=mask)
            else:
                best = _coarse_best(self._table, block, coarse, width=width, pairs=pairs, mask=mask)
            for row, (items, values) in enumerate(best, start=start):
                found[row, : len(items)] = items + 1
                scores[row, : len(items)] = values
        return torch.from_numpy(found), torch.from_numpy(scores)

    def search_few(
        self, users: Tensor, few: Tensor, *, width: int, excluded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Search 0-based places ``few`` alone, as a catalog of their own; masks do not count."""
        column = torch.full((len(self.items),), -1)
        column[few] = torch.arange(len(few))
        places = column[excluded[1] - 1]
        own = torch.stack([excluded[0][places >= 0], places[places >= 0] + 1])
        items, scores = ExactIndex(self.items[few], two_passes=False).search(
            users, k=width, excluded=own
        )
        missing = width - items.shape[1]
        named = torch.cat([torch.zeros(1, dtype=torch.int64), few + 1])[items]
        pad = torch.nn.functional.pad
        return pad(named, (0, missing)), pad(scores, (0, missing), value=float("-inf"))


def _all_best(
    table: Tensor, users: Tensor, *, width: int, pairs: Tensor, mask: Tensor | None
) -> list[Best]:
    """Return each user's best of the items ``(V, D)``, all scored in float32.

    By torch: of numpy's products a row's last bits depend on the rows beside it.
    """
    scores = (users @ table.T).numpy()  # (B, V)
    if mask is not None:
        scores[~mask.expand(scores.shape).numpy()] = -np.inf
    rows, hidden = pairs.numpy()
    scores[rows, hidden] = -np.inf
    items = np.arange(len(table))
    return [_best(items, row, width=width) for row in scores]


def _coarse_best(
    table: NDArray[np.float32],
    users: Tensor,
    coarse: CoarseItems,
    *,
    width: int,
    pairs: Tensor,
    mask: Tensor | None,
) -> list[Best]:
    """Return each user's best of the items ``(V, D)``, after a first pass in eight bits."""
    peaks = coarse.find_peaks(users, pairs=pairs, mask=mask)
    num_users = users.shape[0]
    masks = None if mask is None else mask.expand(num_users, -1).numpy()
    hidden = _by_row(pairs, num_users)
    return [
        _second_pass(
            _User(
                embedding=user,
                table=table,
                strip=coarse.strip,
                hidden=hidden[row],
                mask=None if masks is None else masks[row],
            ),
            peaks.values[row],
            unit=unit,
            slack=slack,
            width=width,
        )
        for row, (user, unit, slack) in enumerate(
            zip(users.numpy(), peaks.unit.tolist(), peaks.slack.tolist(), strict=True)
        )
    ]


def _by_row(pairs: Tensor, num_users: int) -> list[NDArray[np.int64]]:
    """Return the items of each user's pairs."""
    if not pairs.shape[1]:
        return [np.zeros(0, dtype=np.int64)] * num_users
    rows, items = pairs.numpy()
    ends = np.cumsum(np.bincount(rows, minlength=num_users))
    return np.split(items[np.argsort(rows, kind="stable")], ends[:-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class _User:
    """Score items for one user: ``hidden`` 0-based ones and those outside ``mask`` are ``-inf``."""

    embedding: NDArray[np.float32]
    table: NDArray[np.float32]
    strip: int
    hidden: NDArray[np.int64]
    mask: NDArray[np.bool_] | None

    def score_strips(self, strips: NDArray[np.int64]) -> Best:
        """Return the items of ascending strips and their scores."""
        items = (strips[:, None] * self.strip + np.arange(self.strip)).ravel()
        if items[-1] >= len(self.table):
            items = items[items < len(self.table)]
        return items, self._masked(items, self.table.take(items, axis=0))

    def score_all(self) -> Best:
        """Return all items and their scores."""
        items = np.arange(len(self.table))
        return items, self._masked(items, self.table)

    def _masked(
        self, items: NDArray[np.int64], embeddings: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = embeddings @ self.embedding
        if self.mask is not None:
            scores[~self.mask[items]] = -np.inf
        if len(self.hidden):
            places = np.minimum(np.searchsorted(items, self.hidden), len(items) - 1)
            scores[places[items[places] == self.hidden]] = -np.inf
        return scores


def _second_pass(
    user: _User, peaks: NDArray[np.int32], *, unit: float, slack: float, width: int
) -> Best:
    """Return a user's best by the peaks of all strips, int32 ``(S,)``.

    The ``width`` leading strips have an item each that may appear, so that the k-th best score is
    about the last of their peaks or more, and a strip whose peak lies more than the slack below it
    has nothing for the list. Where it is less, the strips between are looked at, too.
    """
    place = len(peaks) - width
    kth = float(np.partition(peaks, place)[place])
    least = max(math.floor(kth - _MARGIN * slack / unit), NONE + 1)
    strips = np.flatnonzero(peaks >= least)
    if len(strips) * _MOST_STRIPS > len(peaks):
        return _best(*user.score_all(), width=width)
    if not len(strips):
        return strips, np.zeros(0, dtype=np.float32)
    items, scores = user.score_strips(strips)
    best, values = _best(items, scores, width=width)
    lowest = math.floor((float(values[-1]) - slack) / unit) if len(best) == width else least
    if max(lowest, NONE + 1) < least:
        strips = np.flatnonzero(peaks >= max(lowest, NONE + 1))
        best, values = _best(*user.score_strips(strips), width=width)
    return best, values


def _best(items: NDArray[np.int64], scores: NDArray[np.float32], *, width: int) -> Best:
    """Return the best of ascending items that may appear, equals in the catalog's order."""
    least = _LEAST
    if len(scores) > width:
        place = len(scores) - width
        least = max(least, np.partition(scores, place)[place])
    picks = np.flatnonzero(scores >= least)
    found = scores[picks]
    order = np.argsort(-found, kind="stable")[:width]
    return items[picks[order]], found[order]
