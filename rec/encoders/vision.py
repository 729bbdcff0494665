"""The image encoder: a Hugging Face vision model, safetensors only, no code of its own.

Of CLIP and SigLIP the vision half is used. A picture that cannot be read is no error: its item
goes by its text, and it is counted.

Shapes: N images, D width.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel

from rec.artifacts import file_sha256
from rec.encoders.checkpoints import PROCESSOR_FILE, find_checkpoint, read_checkpoint
from rec.encoders.networks import load_network
from rec.encoders.transformer import default_device
from rec.errors import ConfigError

FIRST_TOKEN = frozenset({"vit", "dinov2"})
"""Their pooler is trained for one task, or not at all; the first token is what they see."""
POOLED = frozenset({"clip", "clip_vision_model", "siglip", "siglip_vision_model"})
ALLOWED_VISION = FIRST_TOKEN | POOLED
FLAG = "--encoder.image-model"
MAX_PIXELS = 50_000_000
"""Larger pictures are bombs: a small file that unpacks to gigabytes."""
_FORMATS = ("JPEG", "PNG", "WEBP")


class VisionEncoder:
    """Encode pictures with one checkpoint."""

    def __init__(self, model: str, *, batch_size: int = 32, device: str | None = None) -> None:
        """Load a model.

        Args:
            model: ``package:NAME``, a folder, or a name on the Hugging Face hub.
            batch_size: pictures of one forward pass.
            device: a GPU where there is one, if absent.

        Raises:
            ConfigError: it is not there, of a family that is not allowed, or no safetensors.
        """
        if find_spec("PIL") is None:
            raise ConfigError(
                f"{FLAG} {model}: Pillow is not installed: pip install nextray[images]"
            )
        folder = find_checkpoint(model, FLAG)
        self.fingerprint = vision_fingerprint(model)
        self._is_pooled = _model_type(folder) in POOLED
        self._batch_size = batch_size
        self._device = device or default_device()
        self._processor: Any = AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=False
        )
        whole = load_network(folder, AutoModel, allowed=ALLOWED_VISION, option=FLAG)
        vision: nn.Module = getattr(whole, "vision_model", whole)
        self._model = vision.eval().to(self._device)

    def encode(self, images: Sequence[bytes]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return L2-normalised float32 ``(N, D)`` and which images could be read.

        Rows of the others are zeros; ``D`` is 0 where none could be read.
        """
        found = [_pixels(self._processor, image) for image in images]
        is_read = np.array([pixels is not None for pixels in found], dtype=np.bool_)
        read = [pixels for pixels in found if pixels is not None]
        rows = [
            self._forward(torch.stack(read[start : start + self._batch_size]))
            for start in range(0, len(read), self._batch_size)
        ]
        width = rows[0].shape[1] if rows else 0
        out = np.zeros((len(images), width), dtype=np.float32)
        if rows:
            out[is_read] = torch.cat(rows).numpy()
        return out, is_read

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> Tensor:
        seen: Any = self._model(pixel_values=pixels.to(self._device))
        state = seen.pooler_output if self._is_pooled else seen.last_hidden_state[:, 0]
        return nn.functional.normalize(state.float(), dim=-1).cpu()


def vision_fingerprint(model: str) -> str:
    """Return the hash of a vision model's files; loads nothing.

    Raises:
        ConfigError: as :class:`VisionEncoder`.
    """
    folder = find_checkpoint(model, FLAG)
    _model_type(folder)
    files = [*sorted(folder.glob("*.safetensors")), folder / "config.json", folder / PROCESSOR_FILE]
    digests = [file_sha256(path) for path in files]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]


def _model_type(folder: Path) -> str:
    found = read_checkpoint(folder, allowed=ALLOWED_VISION, option=FLAG)
    if not (folder / PROCESSOR_FILE).is_file():
        raise ConfigError(f"{FLAG} {folder}: expected a {PROCESSOR_FILE}, found none")
    return found.model_type


def _pixels(processor: Any, image: bytes) -> Tensor | None:
    """Return float32 ``(3, H, W)`` of a picture, ``None`` where it is none."""
    from PIL import Image, UnidentifiedImageError  # extra `images`

    try:
        with Image.open(io.BytesIO(image), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            plain = picture.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # Pillow's own errors for files that are cut or made up
    pixels: Tensor = processor(images=[plain], return_tensors="pt")["pixel_values"][0]
    return pixels
