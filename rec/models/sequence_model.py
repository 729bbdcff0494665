"""The two towers: item text to e_i, a user's sequence to e_u, in one space.

The item tower is an MLP over the frozen text embedding, plus a free ID residual that is dropped at
random in training, so that an item without events still has a place. The user tower is a causal
pre-norm Transformer with gated layers over the tokens' item-tower outputs. Position and time enter
as relative biases of the attention, so that a history's length is no special case.

Shapes: B users, L events, T tokens of the table (1 + V items + Q queries), D width, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rec.errors import ConfigError

TIME_BUCKETS = 34
"""log2 of the seconds between two events: 0 .. 33 is up to 270 years."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Fix the shape of the towers."""

    width: int = 64
    """D. Raising it costs time and memory; it may overfit small logs."""
    num_layers: int = 2
    """Transformer layers."""
    num_heads: int = 2
    """Attention heads; must divide the width."""
    max_length: int = 50
    """L: newest events read of a sequence. Time grows with it, memory with its square."""
    dropout: float = 0.2
    """Share of activations dropped in training; raise it on small logs."""
    id_dropout: float = 0.25
    """Share of items that lose their ID residual in a training step: higher helps cold items."""
    temperature: float = 0.1
    """Start of the learned divisor of the cosine."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ConfigError(
                f"--model.width {self.width} must be a multiple of "
                f"--model.num-heads {self.num_heads}"
            )
        if self.max_length < 2:
            raise ConfigError(f"--model.max-length must be >= 2, got {self.max_length}")
        for name in ("dropout", "id_dropout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(
                    f"--model.{name.replace('_', '-')} must be in [0, 1), got {value}"
                )


class ItemTower(nn.Module):
    """Map frozen text embeddings and ID residuals to e_i."""

    def __init__(self, text: Tensor, *, num_items: int, config: ModelConfig) -> None:
        super().__init__()
        self.num_items = num_items
        self.id_dropout = config.id_dropout
        self.text: Tensor = nn.Buffer(text, persistent=False)  # (T, D_text), row 0 is padding
        width_in = text.shape[1]
        self.adapter = nn.Sequential(
            nn.Linear(width_in, 2 * config.width),
            nn.GELU(),
            nn.Linear(2 * config.width, config.width),
        )
        self.residual = nn.Embedding(num_items + 1, config.width, padding_idx=0)
        nn.init.normal_(self.residual.weight, std=0.02)
        nn.init.zeros_(self.residual.weight[0])

    def forward(self, tokens: Tensor) -> Tensor:
        """Return L2-normalised e of tokens ``(...)`` as ``(..., D)``; queries have text only."""
        embedded = self.adapter(self.text[tokens])
        is_item = tokens <= self.num_items
        residual = self.residual(torch.where(is_item, tokens, 0))
        if self.training and self.id_dropout > 0:
            keep = torch.rand(tokens.shape, device=tokens.device) >= self.id_dropout
            residual = residual * keep.unsqueeze(-1)
        return F.normalize(embedded + residual, dim=-1)

    def embed_text(self, text: Tensor) -> Tensor:
        """Return e of text embeddings alone ``(N, D_text)``, as for a cold item or a query."""
        return F.normalize(self.adapter(text), dim=-1)

    def embed_known(self, text: Tensor, tokens: Tensor) -> Tensor:
        """Return e of items ``(N,)`` whose texts are now ``(N, D_text)``, in evaluation mode."""
        return F.normalize(self.adapter(text) + self.residual(tokens), dim=-1)


class GatedLayer(nn.Module):
    """Pre-norm attention with relative biases, then a gated feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.attention_norm = nn.RMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.position_bias = nn.Embedding(config.max_length, config.num_heads)
        self.time_bias = nn.Embedding(TIME_BUCKETS, config.num_heads)
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
        bias = self.position_bias(distances).unsqueeze(0) + self.time_bias(buckets)
        bias = bias.permute(0, 3, 1, 2).masked_fill(~mask, float("-inf"))  # (B, H, L, L)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        states = states + F.dropout(self.output(mixed), self.dropout, self.training)
        gate, up = self.gate_up(self.feed_norm(states)).chunk(2, dim=-1)
        fed = self.down(F.silu(gate) * up)
        return states + F.dropout(fed, self.dropout, self.training)


class SequenceModel(nn.Module):
    """Hold both towers; ``score = cos(e_u, e_i)``."""

    def __init__(
        self, text: Tensor, *, num_items: int, num_event_types: int, config: ModelConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTower(text, num_items=num_items, config=config)
        self.event_types = nn.Embedding(num_event_types + 1, config.width)
        nn.init.normal_(self.event_types.weight, std=0.02)
        self.layers = nn.ModuleList(GatedLayer(config) for _ in range(config.num_layers))
        self.output_norm = nn.RMSNorm(config.width)
        self.output = nn.Linear(config.width, config.width)
        self.log_scale = nn.Parameter(torch.tensor(1.0 / config.temperature).log())

    @property
    def scale(self) -> Tensor:
        """Return what a cosine is multiplied by: one over the learned temperature, <= 100."""
        return self.log_scale.exp().clamp(max=100.0)

    def forward(self, tokens: Tensor, timestamps_s: Tensor, event_types: Tensor) -> Tensor:
        """Return e_u after every event, L2-normalised ``(B, L, D)``.

        Args:
            tokens: int64 ``(B, L)``, left-padded with 0.
            timestamps_s: int64 ``(B, L)``, seconds.
            event_types: int64 ``(B, L)``, 0 = padding or unknown.
        """
        return self.encode(self.items(tokens), tokens > 0, timestamps_s, event_types)

    def encode(
        self, embedded: Tensor, is_event: Tensor, timestamps_s: Tensor, event_types: Tensor
    ) -> Tensor:
        """Return e_u after every event from e of the events ``(B, L, D)``; see ``forward``."""
        length = embedded.shape[1]
        scale = embedded.shape[-1] ** 0.5
        states = embedded * scale + self.event_types(event_types)
        states = F.dropout(states, self.config.dropout, self.training)
        places = torch.arange(length, device=embedded.device)
        distances = (places.unsqueeze(1) - places.unsqueeze(0)).clamp(min=0)
        gaps = (timestamps_s.unsqueeze(2) - timestamps_s.unsqueeze(1)).clamp(min=0)
        buckets = (gaps + 1).float().log2().long().clamp(max=TIME_BUCKETS - 1)
        causal = places.unsqueeze(1) >= places.unsqueeze(0)
        mask = causal & is_event.unsqueeze(1)
        # A padding query looks at itself, so that no softmax runs over nothing.
        mask = (mask | torch.eye(length, dtype=torch.bool, device=mask.device)).unsqueeze(1)
        for layer in self.layers:
            states = layer(states, distances=distances, buckets=buckets, mask=mask)
        return F.normalize(self.output(self.output_norm(states)), dim=-1)
