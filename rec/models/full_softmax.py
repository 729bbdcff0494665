"""The exact softmax over a whole catalog, a block at a time: logits are computed, never kept.

A table of logits ``(N, V)`` is what makes the exact loss expensive: torch keeps three of them. Here
a block of users meets a block of items, and the backward pass computes the block again. What is
held is a block, one number per target and the gradients themselves.

Shapes: N targets, V items, D width.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_BLOCK_USERS = 4096
_BLOCK_CELLS = 1 << 20
"""Logits of one block: 4 MB, which a processor's cache still holds between two passes."""


def full_softmax(users: Tensor, items: Tensor, targets: Tensor, *, scale: Tensor) -> Tensor:
    """Return the cross-entropy of each target over the whole catalog, float32 ``(N,)``.

    Args:
        users: ``(N, D)`` normalised.
        items: ``(V, D)`` normalised; row ``i`` is item index ``i + 1``.
        targets: int64 ``(N,)`` item indexes, 1..V.
        scale: one over the temperature.

    >>> users, items = torch.eye(2), torch.eye(2)
    >>> losses = full_softmax(users, items, torch.tensor([1, 1]), scale=torch.tensor(1.0))
    >>> [round(loss, 4) for loss in losses.tolist()]
    [0.3133, 1.3133]
    """
    apply: Callable[..., Tensor] = _FullSoftmax.apply
    return apply(users.float(), items.float(), targets - 1, scale.float())


class _FullSoftmax(torch.autograd.Function):
    """Two passes: normalisers, then gradients from logits that are computed again."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, places: Tensor, scale: Tensor) -> Tensor:
        scaled = users * scale
        normalisers = torch.empty(len(users), device=users.device)
        for rows in _blocks(len(users), _BLOCK_USERS):
            own = scaled[rows]
            largest = torch.full((len(own), 1), float("-inf"), device=users.device)
            total = torch.zeros_like(largest)
            for columns in _columns(len(own), len(items)):
                logits = own @ items[columns].T
                before, largest = largest, torch.maximum(largest, logits.amax(1, keepdim=True))
                total *= (before - largest).exp()
                total += logits.sub_(largest).exp_().sum(1, keepdim=True)
            normalisers[rows] = (largest + total.log()).squeeze(1)
        ctx.save_for_backward(users, items, places, scale, normalisers)
        return normalisers - (scaled * items[places]).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
        users, items, places, scale, normalisers = ctx.saved_tensors
        (weights,) = gradients
        scaled = users * scale
        by_user = -weights.unsqueeze(1) * items[places]  # (N, D)
        by_item = torch.zeros_like(items).index_add_(0, places, -weights.unsqueeze(1) * scaled)
        for rows in _blocks(len(users), _BLOCK_USERS):
            own, offset, weight = scaled[rows], normalisers[rows, None], weights[rows, None]
            for columns in _columns(len(own), len(items)):
                block = items[columns]
                shares = (own @ block.T).sub_(offset).exp_().mul_(weight)
                by_user[rows].addmm_(shares, block)
                by_item[columns].addmm_(shares.T, own)
        return by_user * scale, by_item, None, (by_user * users).sum()


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def _columns(num_users: int, num_items: int) -> Iterator[slice]:
    return _blocks(num_items, max(1, _BLOCK_CELLS // max(1, num_users)))
