"""The two towers: item text to e_i, a user's sequence to e_u, in one space.

The item tower is an MLP over the frozen text embedding, plus a free ID residual that is dropped at
random in training, so that an item without events still has a place; where the catalog has images,
they are fused with the text (:mod:`rec.models.image_fusion`). The user tower reads the tokens'
item-tower outputs; which one it is stands in :mod:`rec.models.towers.registry`.

Shapes: B users, L events, T tokens of the table (1 + V items + Q queries), D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rec.errors import ConfigError
from rec.models.image_fusion import ImageFusion, ItemImages
from rec.models.towers.registry import TowerName, TowerShape, make_tower
from rec.models.whitening import fit_whitening, whiten


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Fix the shape of the towers."""

    tower: TowerName = "attention"
    """What reads a sequence: ``attention`` (a Transformer), ``gru`` (recurrent units) or
    ``pretrained`` (the first layers of a language model, see ``decoder``). NDCG@10 by cosine of
    attention / gru: .195 / .196 on the synthetic shop, .035 / .033 on MovieLens (last event)."""
    decoder: str | None = None
    """A GPT-2 or Llama checkpoint for ``pretrained``: a folder, ``package:NAME`` or a name on the
    Hugging Face hub. Its layers are trained further and stand in the release; its folder must be
    readable where the release is."""
    width: int = 64
    """D. Raising it costs time and memory; it may overfit small logs."""
    num_layers: int = 2
    """Layers of the user tower."""
    num_heads: int = 2
    """Heads of the attention tower; must divide the width."""
    max_length: int = 50
    """L: newest events read of a sequence. Time grows with it, memory with its square."""
    dropout: float = 0.2
    """Share of activations dropped in training; raise it on small logs."""
    whitening: float = 0.0
    """Power 0..1 by which the spectrum of the text embeddings is flattened before the adapter; 0
    leaves them as they are. NDCG@10 on the synthetic shop with 0 / 0.5 / 1: .195 / .187 / .197; on
    MovieLens with 0 / 0.5: .035 / .028."""
    id_residual: bool = True
    """Give every item a free embedding beside its text. Without it, items are told apart by their
    text alone: NDCG@10 .211 instead of .195 on the synthetic shop, .022 instead of .035 on
    MovieLens."""
    id_dropout: float = 0.25
    """Share of items that lose their ID residual in a training step: higher helps cold items.
    NDCG@10 on the synthetic shop with 0 / 0.25: .189 / .195."""
    images: bool = True
    """Fuse the items' images with their text, where the embeddings hold any."""
    image_dropout: float = 0.2
    """Share of items with an image that lose it in a training step, and as many their text: higher
    helps items without an image. Below 0.5, because no item loses both."""
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
        for name in ("num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"--model.{name.replace('_', '-')} must be >= 1, got {getattr(self, name)}"
                )
        if not 0 <= self.whitening <= 1:
            raise ConfigError(f"--model.whitening must be in [0, 1], got {self.whitening}")
        if not 0 <= self.image_dropout < 0.5:
            raise ConfigError(
                f"--model.image-dropout must be in [0, 0.5), got {self.image_dropout}"
            )
        for name in ("dropout", "id_dropout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(
                    f"--model.{name.replace('_', '-')} must be in [0, 1), got {value}"
                )


class ItemTower(nn.Module):
    """Map frozen text embeddings, images and ID residuals to e_i."""

    def __init__(
        self, text: Tensor, *, num_items: int, config: ModelConfig, images: ItemImages | None
    ) -> None:
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
        self.fusion: ImageFusion | None = None
        if config.images and images is not None:
            self.fusion = ImageFusion(images, width=config.width, dropout=config.image_dropout)
        self.residual: nn.Embedding | None = None
        if config.id_residual:
            self.residual = nn.Embedding(num_items + 1, config.width, padding_idx=0)
            nn.init.normal_(self.residual.weight, std=0.02)
            nn.init.zeros_(self.residual.weight[0])
        self.whitening: nn.Module | None = None
        if config.whitening > 0:
            self.whitening = _Whitening(text[1 : num_items + 1], power=config.whitening)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return L2-normalised e of tokens ``(...)`` as ``(..., D)``; queries have text only."""
        embedded = self._adapt(self.text[tokens])
        items = torch.where(tokens <= self.num_items, tokens, 0)
        if self.fusion is not None:
            embedded = self.fusion(embedded, items)
        if self.residual is None:
            return F.normalize(embedded, dim=-1)
        residual = self.residual(items)
        if self.training and self.id_dropout > 0:
            keep = torch.rand(tokens.shape, device=tokens.device) >= self.id_dropout
            residual = residual * keep.unsqueeze(-1)
        return F.normalize(embedded + residual, dim=-1)

    def embed_text(self, text: Tensor, images: ItemImages | None = None) -> Tensor:
        """Return e of text embeddings ``(N, D_text)``, as for a cold item or a query.

        Args:
            text: what was read.
            images: of the same items, where the tower sees images; without, the text is alone.
        """
        embedded = self._adapt(text)
        if self.fusion is not None and images is not None:
            embedded = self.fusion.add(embedded, images)
        return F.normalize(embedded, dim=-1)

    def embed_known(self, text: Tensor, tokens: Tensor, images: ItemImages | None = None) -> Tensor:
        """Return e of items ``(N,)`` whose texts are now ``(N, D_text)``, in evaluation mode.

        Their images are what they were, unless others are given.
        """
        embedded = self._adapt(text)
        if self.fusion is not None:
            embedded = (
                self.fusion(embedded, tokens)
                if images is None
                else self.fusion.add(embedded, images)
            )
        residual = 0.0 if self.residual is None else self.residual(tokens)
        return F.normalize(embedded + residual, dim=-1)

    def _adapt(self, text: Tensor) -> Tensor:
        adapted: Tensor = self.adapter(text if self.whitening is None else self.whitening(text))
        return adapted


class _Whitening(nn.Module):
    """Hold a whitening as weights that are saved and not trained."""

    def __init__(self, text: Tensor, *, power: float) -> None:
        super().__init__()
        mean, matrix = fit_whitening(text, power=power)
        self.mean: Tensor = nn.Buffer(mean)
        self.matrix: Tensor = nn.Buffer(matrix)

    def forward(self, text: Tensor) -> Tensor:
        return whiten(text, mean=self.mean, matrix=self.matrix)


class SequenceModel(nn.Module):
    """Hold both towers; ``score = cos(e_u, e_i)``."""

    def __init__(
        self,
        text: Tensor,
        *,
        num_items: int,
        num_event_types: int,
        config: ModelConfig,
        images: ItemImages | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTower(text, num_items=num_items, config=config, images=images)
        self.event_types = nn.Embedding(num_event_types + 1, config.width)
        nn.init.normal_(self.event_types.weight, std=0.02)
        self.user = make_tower(
            config.tower,
            TowerShape(
                width=config.width,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                max_length=config.max_length,
                dropout=config.dropout,
                decoder=config.decoder,
            ),
        )
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
        scale = embedded.shape[-1] ** 0.5
        states = embedded * scale + self.event_types(event_types)
        states = F.dropout(states, self.config.dropout, self.training)
        states = self.user(states, is_event=is_event, timestamps_s=timestamps_s)
        return F.normalize(self.output(self.output_norm(states)), dim=-1)
