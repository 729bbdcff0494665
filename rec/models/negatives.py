"""Negatives: the items that a batch's targets are held against, shared by the whole batch.

They are drawn once per global batch, from all of its targets: any number of processes that share
the batch hold the same ones.

Shapes: B windows, L places, S negatives, V items, N targets.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.data.sequences import Sequences
from rec.models.batches import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Negatives:
    """Hold draws: item indexes int64 ``(S,)``, and the log of how often each was to be expected.

    ``log_expected`` is float32 ``(S,)``, see :func:`rec.models.losses.sampled_softmax`.
    """

    items: NDArray[np.int64]
    log_expected: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class NegativeSampler:
    """Draw ``num_uniform`` items from the catalog and ``num_in_batch`` from the batch's targets."""

    catalog: NDArray[np.int64]
    """Items that may be drawn uniformly, ``(V',)``."""
    frequencies: NDArray[np.float64]
    """Share of each item among the log's targets, ``(V,)``: what a batch's targets are like."""
    num_uniform: int
    num_in_batch: int

    def draw(self, batch: Batch, generator: np.random.Generator) -> Negatives:
        """Return the negatives of a batch; it has at least one target."""
        uniform = self.catalog[generator.integers(len(self.catalog), size=self.num_uniform)]
        targets = batch.targets[batch.targets > 0]
        popular = generator.choice(targets, size=self.num_in_batch)
        items = np.concatenate([uniform, popular])
        expected = (
            self.num_uniform / len(self.catalog) + self.num_in_batch * self.frequencies[items - 1]
        )
        return Negatives(items=items, log_expected=np.log(expected).astype(np.float32))


def negative_catalog(sequences: Sequences, *, with_cold: bool) -> NDArray[np.int64]:
    """Return the items that a target is held against, int64 ``(V',)``, in their order.

    Args:
        sequences: what is learned from; at least one item has an event.
        with_cold: whether items without any event are among them.

    >>> log = Sequences(
    ...     user_ids=["ann"], offsets=np.array([0, 2]), tokens=np.array([3, 1], dtype=np.int32),
    ...     timestamps_ms=np.array([1, 2]), event_types=np.zeros(2, dtype=np.int16),
    ...     event_type_names=("view",), num_items=4,
    ... )
    >>> negative_catalog(log, with_cold=False).tolist()
    [1, 3]
    """
    if with_cold:
        return np.arange(1, sequences.num_items + 1)
    return np.unique(sequences.tokens[sequences.is_item]).astype(np.int64)


def target_frequencies(sequences: Sequences) -> NDArray[np.float64]:
    """Return the share of each item among all targets, float64 ``(V,)``.

    Every item gets a hundredth of an event, so that none is impossible.
    """
    is_target = sequences.is_item.copy()
    is_target[sequences.offsets[:-1][sequences.lengths > 0]] = False  # a first event is no target
    counts = np.bincount(sequences.tokens[is_target] - 1, minlength=sequences.num_items) + 0.01
    frequencies: NDArray[np.float64] = counts / counts.sum()
    return frequencies


def own_items(tokens: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Return which negatives each window holds itself, as input or target, bool ``(B, S)``.

    Args:
        tokens: int64 ``(B, L)``.
        targets: int64 ``(B, L)``.
        negatives: int64 ``(S,)``.

    >>> own_items(torch.tensor([[1, 2]]), torch.tensor([[2, 5]]), torch.tensor([5, 3, 5])).tolist()
    [[True, False, True]]
    """
    distinct, where = negatives.unique(return_inverse=True)
    held = torch.cat([tokens, targets], dim=1)  # (B, 2L)
    places = torch.searchsorted(distinct, held).clamp(max=len(distinct) - 1)
    is_drawn = distinct[places] == held
    # One column more than there are items takes what was not drawn.
    found = torch.zeros((len(held), len(distinct) + 1), dtype=torch.bool, device=held.device)
    found.scatter_(1, torch.where(is_drawn, places, len(distinct)), value=True)
    return found[:, where]
