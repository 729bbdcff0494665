"""Losses of next-item prediction against sampled negatives, over cosine logits.

The exact one, over the whole catalog, is :func:`rec.models.full_softmax.full_softmax`.

Shapes: N targets, S sampled negatives, D width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def sampled_softmax(
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    is_false: Tensor,
    scale: Tensor,
    log_expected: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of each target against negatives that all share, ``(N,)``.

    With ``log_expected`` a negative drawn ``n`` times in expectation counts ``1 / n``: the sum over
    the draws then estimates the sum over the catalog whatever they were drawn from (logQ
    correction). The target is always there and is not corrected.

    Args:
        users: ``(N, D)`` normalised.
        positives: ``(N, D)``, e of the targets.
        negatives: ``(S, D)``, e of the sampled items.
        is_false: bool ``(N, S)``, negatives that are no such thing, the target itself among them.
        scale: one over the temperature.
        log_expected: float32 ``(S,)``, log of how often each is among the draws in expectation;
            uniform draws can do without.

    Source: Klenitskiy and Vasilev 2023, Turning Dross Into Gold Loss; Khrylchenko et al. 2025,
    Correcting the LogQ Correction.
    """
    positive, negative = _logits(users, positives, negatives, scale=scale)
    if log_expected is not None:
        negative = negative - log_expected
    # Masked after scaling: the scale's gradient would be 0 * inf otherwise.
    logits = torch.cat([positive, negative.masked_fill(is_false, float("-inf"))], dim=1)
    first = torch.zeros(len(users), dtype=torch.int64, device=users.device)
    return F.cross_entropy(logits, first, reduction="none")


def generalised_bce(
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    is_false: Tensor,
    scale: Tensor,
    num_items: int,
    calibration: float,
) -> Tensor:
    """Return the generalised binary cross-entropy of each target, ``(N,)``; also called gBCE.

    A positive's probability is raised to a power below 1, which takes back the overconfidence that
    comes from seeing few negatives. ``calibration`` 0 is plain BCE, 1 is calibrated completely.

    A cosine of 0 would make any item as likely as not, and training would collapse onto pushing the
    negatives away: logits are lowered by ``log S``, at which all negatives together weigh one
    positive. The paper's logits are unbounded and need no such thing; its mean over the 1 + S terms
    is a sum here, so that the gradient is as large as that of the other losses.

    Args:
        users: ``(N, D)`` normalised.
        positives: ``(N, D)``.
        negatives: ``(S, D)``.
        is_false: bool ``(N, S)``.
        scale: one over the temperature.
        num_items: V.
        calibration: the paper's t, 0..1.

    Source: Petrov and Macdonald 2023, gSASRec, section 5.
    """
    positive, negative = _logits(users, positives, negatives, scale=scale)
    prior = math.log(max(1, len(negatives)))
    positive, negative = positive - prior, negative - prior
    sampling_rate = min(1.0, len(negatives) / max(1, num_items - 1))
    power = sampling_rate * (calibration * (1 - 1 / sampling_rate) + 1 / sampling_rate)
    wrong = F.softplus(negative).masked_fill(is_false, 0.0).sum(1)
    return power * F.softplus(-positive).squeeze(1) + wrong


def _logits(
    users: Tensor, positives: Tensor, negatives: Tensor, *, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits of the targets ``(N, 1)`` and of the negatives ``(N, S)``, in float32."""
    users, positives, negatives = users.float(), positives.float(), negatives.float()
    return scale * (users * positives).sum(-1, keepdim=True), scale * users @ negatives.T
