"""The user towers by name: add one here, and the shared contract test runs over it.

Shapes: B users, L events, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from rec.errors import ConfigError
from rec.models.towers.attention import AttentionTower
from rec.models.towers.pretrained import PretrainedTower
from rec.models.towers.recurrent import RecurrentTower

TowerName = Literal["attention", "gru", "pretrained"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerShape:
    """Fix the shape of a user tower; not every tower has a use for every field."""

    width: int
    num_layers: int
    num_heads: int
    max_length: int
    dropout: float
    decoder: str | None


class UserTower(Protocol):
    """Turn what stands at each place into what the user is after it."""

    def __call__(self, states: Tensor, *, is_event: Tensor, timestamps_s: Tensor) -> Tensor:
        """Return new states ``(B, L, D)``; a place depends on itself and on events before it.

        Args:
            states: ``(B, L, D)``, event embeddings, left-padded.
            is_event: bool ``(B, L)``, False for padding.
            timestamps_s: int64 ``(B, L)``, seconds.
        """
        ...


def make_tower(name: TowerName, shape: TowerShape) -> nn.Module:
    """Return an untrained tower, or one that starts from a pretrained decoder.

    Raises:
        ConfigError: the decoder cannot be used.
    """
    return _TOWERS[name](shape)


def _attention(shape: TowerShape) -> nn.Module:
    return AttentionTower(
        width=shape.width,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        max_length=shape.max_length,
        dropout=shape.dropout,
    )


def _recurrent(shape: TowerShape) -> nn.Module:
    return RecurrentTower(width=shape.width, num_layers=shape.num_layers, dropout=shape.dropout)


def _pretrained(shape: TowerShape) -> nn.Module:
    if shape.decoder is None:
        raise ConfigError(
            "--model.tower pretrained expects --model.decoder: a folder, package:NAME or hub name "
            "of a GPT-2 or Llama checkpoint"
        )
    return PretrainedTower(
        shape.decoder,
        width=shape.width,
        num_layers=shape.num_layers,
        max_length=shape.max_length,
    )


_TOWERS: Mapping[TowerName, Callable[[TowerShape], nn.Module]] = {
    "attention": _attention,
    "gru": _recurrent,
    "pretrained": _pretrained,
}
