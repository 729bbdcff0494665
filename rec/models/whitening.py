"""Whitening: text embeddings stretched so that no direction drowns the others.

A language model's embeddings crowd into a cone: a few directions carry most of the variance and
say little about what is bought together. Each principal direction is divided by its spread to a
power: 0 leaves the embeddings as they are, 1 makes all directions equal, between them the spectrum
shrinks.

Shapes: V items, D width of the text embeddings, N texts.

Source: Zhang et al. 2024, Are ID embeddings necessary? Whitening pre-trained text embeddings for
effective sequential recommendation (WhitenRec).
"""

import torch
from torch import Tensor

_SMALLEST = 1e-3
"""Share of the largest variance below which a direction is taken for noise and not blown up."""


def fit_whitening(text: Tensor, *, power: float) -> tuple[Tensor, Tensor]:
    """Return the mean ``(D,)`` and the map ``(D, D)``: ``(text - mean) @ map`` is whitened.

    Args:
        text: float32 ``(V, D)``, of the catalog. Without items the map is the identity.
        power: 0..1.
    """
    if len(text) == 0:
        return torch.zeros(text.shape[1]), torch.eye(text.shape[1])
    mean = text.double().mean(0)
    centred = text.double() - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(text))
    floor = float(variances.max().clamp(min=1e-12)) * _SMALLEST
    stretched = directions * variances.clamp(min=floor).pow(-power / 2)
    return mean.float(), (stretched @ directions.T).float()


def whiten(text: Tensor, *, mean: Tensor, matrix: Tensor) -> Tensor:
    """Return whitened embeddings ``(N, D)``, L2-normalised.

    >>> text = torch.tensor([[10.0, 1.0], [10.0, -1.0], [14.0, 1.0], [14.0, -1.0]])
    >>> mean, matrix = fit_whitening(text, power=1.0)
    >>> [round(x, 3) for x in whiten(text, mean=mean, matrix=matrix)[3].tolist()]
    [0.707, -0.707]
    """
    return torch.nn.functional.normalize((text - mean) @ matrix, dim=-1)
