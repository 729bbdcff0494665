"""Left-padded sequences moved to the left edge and back, for towers that read from place 0.

What stands behind the last event cannot reach it in a causal tower, so padding needs no mask there.

Shapes: B users, L events, D width.
"""

import torch
from torch import Tensor


def to_front(states: Tensor, is_event: Tensor) -> Tensor:
    """Return left-padded states ``(B, L, D)`` with each user's first event at place 0.

    Places behind the last event repeat it.

    >>> states = torch.tensor([[[0.0], [5.0], [6.0]]])
    >>> to_front(states, torch.tensor([[False, True, True]])).flatten().tolist()
    [5.0, 6.0, 6.0]
    """
    return _shifted(states, _num_padding(is_event))


def to_back(states: Tensor, is_event: Tensor) -> Tensor:
    """Undo :func:`to_front` for the events; padding repeats the first event's state.

    >>> states = torch.tensor([[[5.0], [6.0], [6.0]]])
    >>> to_back(states, torch.tensor([[False, True, True]])).flatten().tolist()
    [5.0, 5.0, 6.0]
    """
    return _shifted(states, -_num_padding(is_event))


def _num_padding(is_event: Tensor) -> Tensor:
    return (~is_event).sum(1, keepdim=True)  # (B, 1)


def _shifted(states: Tensor, by: Tensor) -> Tensor:
    length = states.shape[1]
    places = (torch.arange(length, device=states.device) + by).clamp(0, length - 1)  # (B, L)
    return states.gather(1, places.unsqueeze(-1).expand_as(states))
