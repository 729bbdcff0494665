"""A catalog in eight bits: which strips of items may hold a user's best, and which cannot.

Whoever reads eight bits moves a quarter of the bytes. A strip of neighbouring items is told by its
best rough score alone, and a rough score is off by no more than a bound that both roundings have:
what lies further below need not be looked at in float32, so the answer stays exact. The smaller a
catalog, the shorter its strips: sorting out some peaks more costs less than scoring neighbours.

Shapes: B users, V items, D width, N items a strip, S strips, P items a part of the catalog, X
pairs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import pad

STRIPS = ((40_000, 2), (100_000, 4))
"""Catalogs below a number of items, and how many of them share a peak."""
LARGEST_STRIP = 8
"""In larger ones. Half as many double what the peaks of all take, and twice as many what is scored
again."""
_PART = 1 << 14
"""Items of one product: their scores are still in the cache when the peaks are taken."""
_LEVELS = 127
"""Largest whole number that a component becomes."""
_ACCUMULATION = 1e-5
"""Bound of what float32 sums lose over some thousand terms."""
NONE = int(torch.iinfo(torch.int32).min)
"""Peak of a strip of which nothing may appear."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peaks:
    """Hold what a first pass has found.

    Attributes:
        values: int32 ``(B, S)``, the best rough score of each strip, ``NONE`` where there is none.
        unit: float64 ``(B,)``, what one step of a rough score is worth.
        slack: float64 ``(B,)``, by how much a score may lie above its rough one.
    """

    values: NDArray[np.int32]
    unit: NDArray[np.float64]
    slack: NDArray[np.float64]


class CoarseItems:
    """Hold items in eight bits, those of a strip ``P / N`` rows apart.

    So the peaks are the larger of long rows, which a processor takes many of at once.
    """

    def __init__(self, items: Tensor, *, strip: int | None = None) -> None:
        """Round ``items``, float32 ``(V, D)``; ``strip`` share a peak, by size if absent."""
        strip = strip or strip_of(items.shape[0])
        self.strip = strip
        self.num_strips = -(-items.shape[0] // strip)
        self._scale = max(float(items.abs().max()), 1e-9) / _LEVELS
        self._norm = float(items.norm(dim=1).max())
        self._error = 0.0
        self._parts: list[Tensor] = []  # int8 (D, P)
        self._num_padded = -items.shape[0] % strip
        for part in items.split(_PART):
            rough = (part / self._scale).round_()
            self._error = max(self._error, float((rough * self._scale - part).norm(dim=1).max()))
            padded = pad(rough.to(torch.int8), (0, 0, 0, -len(part) % strip))
            by_strip = padded.view(-1, strip, items.shape[1]).transpose(0, 1)
            self._parts.append(by_strip.reshape(padded.shape).T)

    def find_peaks(self, users: Tensor, *, pairs: Tensor, mask: Tensor | None) -> Peaks:
        """Return the peaks of all strips.

        Args:
            users: float32 ``(B, D)``.
            pairs: int64 ``(2, X)``, user row and 0-based item that may not appear.
            mask: bool ``(V,)`` or ``(B, V)``, items that may; all if absent.
        """
        num_users = users.shape[0]
        scale = users.abs().amax(dim=1, keepdim=True).clamp_(min=1e-9).div_(_LEVELS)  # (B, 1)
        rough = (users / scale).round_()
        read = rough * scale
        slack = vector_norm(read, dim=1).mul_(self._error)
        slack += vector_norm(read.sub_(users), dim=1).mul_(self._norm)
        rough = rough.to(torch.int8)
        if mask is not None:
            mask = pad(mask, (0, self._num_padded))
        hidden = self._by_part(pairs)
        peaks = torch.empty((num_users, self.num_strips), dtype=torch.int32)
        scores = torch.empty(num_users * self._parts[0].shape[1], dtype=torch.int32)
        first = 0
        for number, part in enumerate(self._parts):
            width = part.shape[1]
            block = scores[: num_users * width].view(num_users, width)
            torch._int_mm(rough, part, out=block)
            strips = block.view(num_users, self.strip, -1)  # (B, N, P / N)
            last = first + width // self.strip
            if mask is not None:
                shown = mask[..., first * self.strip : last * self.strip]
                strips.masked_fill_(~shown.unflatten(-1, (-1, self.strip)).transpose(-1, -2), NONE)
            if number in hidden:
                rows, items = hidden[number]
                strips[rows, items % self.strip, items // self.strip] = NONE
            if self._num_padded and number == len(self._parts) - 1:
                strips[:, -self._num_padded :, -1] = NONE
            torch.amax(strips, dim=1, out=peaks[:, first:last])
            first = last
        return Peaks(
            values=peaks.numpy(),
            unit=scale.squeeze(1).double().numpy() * self._scale,
            slack=slack.double().numpy() + _ACCUMULATION,
        )

    def _by_part(self, pairs: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Return the pairs of each part that has any, items counted from its first."""
        if not pairs.shape[1]:
            return {}
        part_of, places = pairs[1] // _PART, pairs[1] % _PART
        order = part_of.argsort()
        sizes = torch.bincount(part_of, minlength=len(self._parts)).tolist()
        split = zip(pairs[0][order].split(sizes), places[order].split(sizes), strict=True)
        return {number: pair for number, pair in enumerate(split) if sizes[number]}


def strip_of(num_items: int) -> int:
    """Return how many items of a catalog share a peak.

    >>> strip_of(10_000), strip_of(50_000), strip_of(1_000_000)
    (2, 4, 8)
    """
    return next((strip for size, strip in STRIPS if num_items < size), LARGEST_STRIP)


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
