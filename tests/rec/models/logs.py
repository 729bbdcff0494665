"""A small log whose order says everything: each user walks round a ring of items."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rec.data.sequences import Sequences
from rec.models.sequence_model import ModelConfig, SequenceModel


def sequences_of(
    tokens: Sequence[Sequence[int]], *, num_items: int, step_ms: int = 60_000
) -> Sequences:
    """Return sequences of one event type, a minute between two events."""
    lengths = [len(row) for row in tokens]
    flat = [token for row in tokens for token in row]
    times = [step_ms * place for row in tokens for place in range(1, len(row) + 1)]
    return Sequences(
        user_ids=[f"user-{row}" for row in range(len(tokens))],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=np.asarray(flat, dtype=np.int32),
        timestamps_ms=np.asarray(times, dtype=np.int64),
        event_types=np.zeros(len(flat), dtype=np.int16),
        event_type_names=("view",),
        num_items=num_items,
    )


def ring_log(*, num_users: int = 48, num_items: int = 30, length: int = 12) -> Sequences:
    """Return walks that go one item further each time, from a random start."""
    starts = np.random.default_rng(3).integers(num_items, size=num_users)
    walks = (starts[:, None] + np.arange(length)) % num_items + 1
    return sequences_of(walks.tolist(), num_items=num_items)


def random_text(num_items: int, *, width: int = 24, seed: int = 0) -> Tensor:
    """Return text embeddings of items, row 0 = padding, ``(1 + V, D_text)``."""
    text = torch.randn(num_items + 1, width, generator=torch.Generator().manual_seed(seed))
    text[0] = 0
    return torch.nn.functional.normalize(text, dim=-1)


def small_model(config: ModelConfig, *, num_items: int = 30, seed: int = 1) -> SequenceModel:
    torch.manual_seed(seed)
    return SequenceModel(
        random_text(num_items), num_items=num_items, num_event_types=1, config=config
    )
