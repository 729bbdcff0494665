"""The default user tower: a causal pre-norm Transformer with gated layers.

Position and time enter as relative biases of the attention, so that a history's length is no
special case.

Shapes: B users, L events, D width, H heads.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TIME_BUCKETS = 34
"""log2 of the seconds between two events: 0 .. 33 is up to 270 years."""


def time_buckets(gaps_s: Tensor) -> Tensor:
    """Return the bucket of each gap in seconds, int64 of the same shape; below 0 counts as 0."""
    return (gaps_s.clamp(min=0) + 1).float().log2().long().clamp(max=TIME_BUCKETS - 1)


def lookup(table: Tensor, buckets: Tensor) -> Tensor:
    """Return a small table's row at every bucket, heads first: ``(B, H, L, L)``.

    Args:
        table: ``(K, H)``.
        buckets: int64 ``(B, L, L)``, rows of the table.

    >>> lookup(torch.tensor([[1.0], [2.0]]), torch.tensor([[[0, 1], [1, 1]]])).tolist()
    [[[[1.0, 2.0], [2.0, 2.0]]]]
    """
    apply: Callable[..., Tensor] = _Lookup.apply
    return apply(table, buckets)


class _Lookup(torch.autograd.Function):
    """An embedding whose gradient is a count: millions of places share a few dozen rows.

    torch's own takes them one after the other, ten times as long, and was a quarter of training at
    200 events.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, buckets: Tensor) -> Tensor:
        ctx.save_for_backward(buckets)
        ctx.num_rows = len(table)
        return table.T[:, buckets].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (buckets,) = ctx.saved_tensors
        places = buckets.flatten()
        columns = [
            torch.bincount(places, weights=head.flatten(), minlength=ctx.num_rows)
            for head in gradients[0].float().unbind(1)
        ]
        return torch.stack(columns, dim=1), None


class AttentionTower(nn.Module):
    """Let every event look at itself and at those before it."""

    def __init__(
        self, *, width: int, num_layers: int, num_heads: int, max_length: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GatedLayer(width=width, num_heads=num_heads, max_length=max_length, dropout=dropout)
            for _ in range(num_layers)
        )

    def forward(self, states: Tensor, *, is_event: Tensor, timestamps_s: Tensor) -> Tensor:
        """Return new states ``(B, L, D)``; see :class:`rec.models.towers.registry.UserTower`."""
        length = states.shape[1]
        places = torch.arange(length, device=states.device)
        distances = (places.unsqueeze(1) - places.unsqueeze(0)).clamp(min=0)
        buckets = time_buckets(timestamps_s.unsqueeze(2) - timestamps_s.unsqueeze(1))
        causal = places.unsqueeze(1) >= places.unsqueeze(0)
        mask = causal & is_event.unsqueeze(1)
        # A padding query looks at itself, so that no softmax runs over nothing.
        mask = (mask | torch.eye(length, dtype=torch.bool, device=mask.device)).unsqueeze(1)
        for layer in self.layers:
            states = layer(states, distances=distances, buckets=buckets, mask=mask)
        return states


class GatedLayer(nn.Module):
    """Pre-norm attention with relative biases, then a gated feed-forward network."""

    def __init__(self, *, width: int, num_heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_norm = nn.RMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.position_bias = nn.Embedding(max_length, num_heads)
        self.time_bias = nn.Embedding(TIME_BUCKETS, num_heads)
        self.feed_norm = nn.RMSNorm(width)
        self.gate_up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(2 * width, width)
        nn.init.zeros_(self.position_bias.weight)
        nn.init.zeros_(self.time_bias.weight)

    def forward(
        self, states: Tensor, *, distances: Tensor, buckets: Tensor, mask: Tensor
    ) -> Tensor:
        """Return new states ``(B, L, D)``.

        Args:
            states: ``(B, L, D)``.
            distances: int64 ``(L, L)``, how many places a key lies before a query.
            buckets: int64 ``(B, L, L)``, log2 of the seconds between them.
            mask: bool ``(B, 1, L, L)``, True where a query may look.
        """
        batch, length, width = states.shape
        split = self.query_key_value(self.attention_norm(states)).view(
            batch, length, 3, self.num_heads, width // self.num_heads
        )
        query, key, value = split.permute(2, 0, 3, 1, 4)  # 3 x (B, H, L, D/H)
        by_place = self.position_bias(distances).permute(2, 0, 1)  # (H, L, L)
        bias = lookup(self.time_bias.weight, buckets) + by_place  # (B, H, L, L)
        bias = bias.masked_fill(~mask, float("-inf"))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout
        )
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        states = states + F.dropout(self.output(mixed), self.dropout, self.training)
        gate, up = self.gate_up(self.feed_norm(states)).chunk(2, dim=-1)
        fed = self.down(F.silu(gate) * up)
        return states + F.dropout(fed, self.dropout, self.training)
