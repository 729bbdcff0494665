"""Retrieval: the exact nearest items of a user, with masks inside the search.

Filters and exclusions are applied before the cut to k, so that k results come back whenever the
catalog has k that are allowed.

A large catalog is passed over in eight bits first, which moves a quarter of the bytes, and the best
are computed again in float32. The answer is exact all the same: the rounding of both sides has a
bound, and a user whose k-th item lies within it of anything left out is searched in float32 alone.

Shapes: B users, V items, D width, k places, S items a strip, P items a part of the catalog.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

_BLOCK_CELLS = 1 << 24
"""Scores held at once: 64 MB of float32 or int32."""
_STRIP = 64
"""Items whose best score stands for all of them: the k best items lie in the k best strips."""
_MIN_ITEMS = 20_000
"""Below, the second pass costs more than the first saves."""
_PART = 1 << 16
"""Items of one product: their scores are still in the cache when the best of a strip is taken."""
_SPARE = 4
"""Candidates of the second pass per place: in 128 dimensions nearly nobody needs more."""
_LEVELS = 127
"""Largest whole number that a component becomes."""
SMALL_SHARE = 8
"""A mask that leaves an eighth of the catalog or less is searched as a catalog of its own."""
_ACCUMULATION = 1e-5
"""Bound of what float32 sums lose over some thousand terms."""
_NONE = torch.iinfo(torch.int32).min
"""First-pass score of what may not appear."""


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
        if two_passes is None:
            two_passes = len(items) >= _MIN_ITEMS and eight_bits_pay()
        self._coarse: Tensor | None = None  # int8 (V padded, D)
        if two_passes:
            self._scale = max(float(self.items.abs().max()), 1e-9) / _LEVELS
            rough = (self.items / self._scale).round_().to(torch.int8)
            self._error = max(
                float((part * self._scale - exact).norm(dim=1).max())
                for part, exact in zip(rough.split(_PART), self.items.split(_PART), strict=True)
            )
            self._norm = float(self.items.norm(dim=1).max())
            self._coarse = torch.nn.functional.pad(rough, (0, 0, 0, -len(items) % _STRIP))

    def search(
        self, users: Tensor, *, k: int, excluded: Tensor, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the best items and their scores, int64 and float32 ``(B, min(k, V))``.

        Places that cannot be filled hold item 0 and ``-inf``.

        Args:
            users: float32 ``(B, D)`` normalised, so that scores are cosines.
            k: places.
            excluded: int64 ``(2, X)``, pairs of user row and item index that must not appear.
            allowed: bool ``(V,)`` or ``(B, V)``, items that may appear; all if absent.
        """
        num_items = len(self.items)
        width = min(k, num_items)
        if allowed is not None and allowed.dim() == 1:
            few = allowed.nonzero().squeeze(1)
            if len(few) * SMALL_SHARE <= num_items:
                return self.search_few(users, few, width=width, excluded=excluded)
        size = max(1, _BLOCK_CELLS // max(1, num_items))
        found, scores = [], []
        for start in range(0, len(users), size):
            block = users[start : start + size]
            mask = allowed
            if allowed is not None and allowed.dim() == 2:
                mask = allowed[start : start + size]
            mine = (excluded[0] >= start) & (excluded[0] < start + size)
            pairs = torch.stack([excluded[0][mine] - start, excluded[1][mine] - 1])
            best, picks = self._search_block(block, width=width, pairs=pairs, mask=mask)
            found.append(torch.where(best.isfinite(), picks + 1, 0))
            scores.append(best)
        empty = torch.zeros((0, width))
        return torch.cat([empty.long(), *found]), torch.cat([empty, *scores])

    def _search_block(
        self, users: Tensor, *, width: int, pairs: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return scores and 0-based items of users that fit into memory."""
        num_wanted = int(width * _SPARE) + 1
        num_strips = 0 if self._coarse is None else len(self._coarse) // _STRIP
        if self._coarse is None or num_wanted * 2 > num_strips or not width:
            return _best(users @ self.items.T, width=width, pairs=pairs, mask=mask)
        best, picks, is_exact = self._two_passes(
            users, self._coarse, width=width, num_wanted=num_wanted, pairs=pairs, mask=mask
        )
        unsure = (~is_exact).nonzero().squeeze(1)
        if len(unsure):
            place = torch.full((len(users),), -1)
            place[unsure] = torch.arange(len(unsure))
            kept = place[pairs[0]] >= 0
            again = torch.stack([place[pairs[0][kept]], pairs[1][kept]])
            own = mask[unsure] if mask is not None and mask.dim() == 2 else mask
            best[unsure], picks[unsure] = _best(
                users[unsure] @ self.items.T, width=width, pairs=again, mask=own
            )
        return best, picks

    def _two_passes(
        self,
        users: Tensor,
        coarse: Tensor,
        *,
        width: int,
        num_wanted: int,
        pairs: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, 0-based items, and for whom no item left out can be better."""
        num_items, num_users = len(self.items), len(users)
        scale = users.abs().amax(dim=1, keepdim=True).clamp(min=1e-9) / _LEVELS  # (B, 1)
        rough = (users / scale).round().to(torch.int8)
        scores, peaks = self._first_pass(rough, coarse, pairs=pairs, mask=mask)
        heights, leading = peaks.topk(num_wanted, dim=1)
        part, strip = leading // (_PART // _STRIP), leading % (_PART // _STRIP)
        rows = torch.arange(num_users).unsqueeze(1)
        pool = scores.view(len(scores), num_users, -1, _STRIP)[part, rows, strip].flatten(1)
        heads, places = pool.topk(num_wanted, dim=1)
        picks = leading.gather(1, places // _STRIP) * _STRIP + places % _STRIP
        # The last of the pool is the bound of everything that is not looked at again.
        last = torch.maximum(heights[:, -1], heads[:, -1])
        bound = last.float() * scale.squeeze(1) * self._scale
        picks, heads = picks[:, :-1], heads[:, :-1]
        near = self.items[picks.clamp(max=num_items - 1)]  # (B, C, D)
        exact = (near @ users.unsqueeze(2)).squeeze(2)
        exact = exact.masked_fill(heads == _NONE, float("-inf"))
        best, order = exact.topk(width, dim=1)
        read = rough * scale
        slack = (
            read.norm(dim=1) * self._error + (read - users).norm(dim=1) * self._norm + _ACCUMULATION
        )
        return best, picks.gather(1, order), (bound + slack <= best[:, -1]) | (last == _NONE)

    def _first_pass(
        self, rough: Tensor, coarse: Tensor, *, pairs: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return all scores, int32 ``(parts, B, P)``, and each strip's best ``(B, strips)``.

        What may not appear scores ``_NONE``.
        """
        num_items, num_parts = len(self.items), -(-len(coarse) // _PART)
        width = min(_PART, len(coarse))
        scores = torch.empty((num_parts, len(rough), width), dtype=torch.int32)
        peaks = []
        for number, part in enumerate(coarse.split(_PART)):
            start, block = number * _PART, scores[number]
            if len(part) == width:
                torch._int_mm(rough, part.T, out=block)
            else:
                block[:, : len(part)] = torch._int_mm(rough, part.T)
            if mask is not None:
                block[:, : num_items - start].masked_fill_(~mask[..., start : start + _PART], _NONE)
            block[:, max(0, num_items - start) :] = _NONE
            mine = (pairs[1] >= start) & (pairs[1] < start + _PART)
            block[pairs[0][mine], pairs[1][mine] - start] = _NONE
            peaks.append(block.view(len(rough), -1, _STRIP).amax(dim=2))
        return scores, torch.cat(peaks, dim=1)

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


@lru_cache(maxsize=1)
def eight_bits_pay() -> bool:
    """Return whether this processor multiplies int8 faster than float32; measured once."""
    items = torch.ones((1 << 14, 128))
    user = torch.ones((1, 128))
    rough = items.to(torch.int8)

    def fastest(work: Callable[[], Tensor]) -> float:
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return fastest(lambda: torch._int_mm(rough[:1], rough.T)) < fastest(lambda: user @ items.T)


def _best(
    scores: Tensor, *, width: int, pairs: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the largest scores ``(B, width)`` and their columns, masks and pairs left out."""
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    scores[pairs[0], pairs[1]] = float("-inf")
    best, picks = scores.topk(width, dim=1)
    return best, picks
