"""Losses of next-item prediction over cosine logits.

Shapes: N targets, V items, S sampled negatives, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def full_softmax(users: Tensor, items: Tensor, targets: Tensor, *, scale: Tensor) -> Tensor:
    """Return the cross-entropy of each target over the whole catalog, float32 ``(N,)``.

    Args:
        users: ``(N, D)`` normalised.
        items: ``(V, D)`` normalised; row ``i`` is item index ``i + 1``.
        targets: int64 ``(N,)`` item indexes, 1..V.
        scale: one over the temperature.
    """
    logits = scale * users @ items.T  # (N, V)
    return F.cross_entropy(logits, targets - 1, reduction="none")


def sampled_softmax(
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    targets: Tensor,
    negative_items: Tensor,
    *,
    scale: Tensor,
) -> Tensor:
    """Return the cross-entropy of each target against shared uniform negatives, ``(N,)``.

    A negative that is the target itself is masked (a false negative). Uniform sampling has equal
    logQ for all items, so the correction is a constant and cancels.

    Args:
        users: ``(N, D)`` normalised.
        positives: ``(N, D)``, e of the targets.
        negatives: ``(S, D)``, e of the sampled items, shared by all targets.
        targets: int64 ``(N,)``.
        negative_items: int64 ``(S,)``.
        scale: one over the temperature.

    Source: Klenitskiy and Vasilev 2023, Turning Dross Into Gold Loss.
    """
    positive = scale * (users * positives).sum(dim=-1, keepdim=True)  # (N, 1)
    negative = scale * users @ negatives.T  # (N, S)
    # Masked after scaling: the scale's gradient would be 0 * inf otherwise.
    is_false = targets.unsqueeze(1) == negative_items.unsqueeze(0)
    logits = torch.cat([positive, negative.masked_fill(is_false, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets), reduction="none")
