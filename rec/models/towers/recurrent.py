"""A recurrent user tower: gated recurrent units over the events and the time between them.

Cheap at long lengths, and a step at a time when serving; it forgets what attention could look up.

Shapes: B users, L events, D width.

Source: Hidasi et al. 2016, Session-based recommendations with recurrent neural networks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rec.models.towers.alignment import to_back, to_front
from rec.models.towers.attention import TIME_BUCKETS, time_buckets


class RecurrentTower(nn.Module):
    """Read the events one after the other."""

    def __init__(self, *, width: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if num_layers > 1 else 0.0  # torch drops between layers only
        self.units = nn.GRU(width, width, num_layers, batch_first=True, dropout=between)
        self.gap = nn.Embedding(TIME_BUCKETS, width)
        nn.init.zeros_(self.gap.weight)

    def forward(self, states: Tensor, *, is_event: Tensor, timestamps_s: Tensor) -> Tensor:
        """Return new states ``(B, L, D)``; see :class:`rec.models.towers.registry.UserTower`."""
        gaps = F.pad(timestamps_s.diff(dim=1), (1, 0))
        is_second = F.pad(is_event[:, 1:] & is_event[:, :-1], (1, 0))  # a first event has no gap
        states = states + self.gap(torch.where(is_second, time_buckets(gaps), 0))
        read, _ = self.units(to_front(states, is_event))
        return to_back(read, is_event)
