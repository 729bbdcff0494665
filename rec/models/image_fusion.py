"""Images in the item tower: a gated sum with the text, for items that have one.

``e_i = text + gate * image``, the gate read from both, one number a dimension. An item without an
image is its text, exactly as in a tower without images. In training either side is left out at
random (never both), so that neither is leant on where the other is missing.

Shapes: V items, D width.

Source: Arevalo et al., 2017, "Gated multimodal units for information fusion"; the dropout after
Neverova et al., 2016, "ModDrop".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemImages:
    """Hold what is known of the images of a catalog, row 0 = padding, or of some items."""

    embeddings: Tensor
    """float32 ``(1 + V, D_image)``; zeros where there is none."""
    is_present: Tensor
    """bool ``(1 + V,)``."""


class ImageFusion(nn.Module):
    """Add an item's image to its adapted text."""

    def __init__(self, images: ItemImages, *, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.embeddings: Tensor = nn.Buffer(images.embeddings, persistent=False)
        self.is_present: Tensor = nn.Buffer(images.is_present, persistent=False)
        self.adapter = nn.Sequential(
            nn.Linear(images.embeddings.shape[1], 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )
        self.gate = nn.Linear(2 * width, width)

    @property
    def images(self) -> ItemImages:
        """Return what is fused."""
        return ItemImages(embeddings=self.embeddings, is_present=self.is_present)

    def forward(self, text: Tensor, rows: Tensor) -> Tensor:
        """Return texts ``(..., D)`` of items ``(...)`` with their images, ``(..., D)``.

        Row 0 has no image.
        """
        is_present = self.is_present[rows]
        has_text = torch.ones_like(is_present)
        if self.training and self.dropout > 0:
            draw = torch.rand(rows.shape, device=rows.device)
            has_text = ~is_present | (draw >= self.dropout)
            is_present = is_present & (draw < 1 - self.dropout)
        images = ItemImages(embeddings=self.embeddings[rows], is_present=is_present)
        return self._fuse(text, images, has_text)

    def add(self, text: Tensor, images: ItemImages) -> Tensor:
        """Return texts ``(N, D)`` with given images ``(N, D_image)``, in evaluation mode."""
        return self._fuse(text, images, torch.ones_like(images.is_present))

    def _fuse(self, text: Tensor, images: ItemImages, has_text: Tensor) -> Tensor:
        image = self.adapter(images.embeddings)
        gate = torch.sigmoid(self.gate(torch.cat([text, image], dim=-1)))
        fused: Tensor = text * has_text.unsqueeze(-1) + (
            gate * image * images.is_present.unsqueeze(-1)
        )
        return fused
