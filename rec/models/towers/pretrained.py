"""A hierarchical user tower: a pretrained decoder's layers read item embeddings instead of words.

The encoder reads each item's text, and a language model's first layers read the items: what they
know about order and attention is where training starts. Two linear maps lead from the towers' width
into the decoder's and back, and what was read is added to the item itself: without that path,
layers of random weights had forgotten their users in 3 of 8 seeds (a rate of 5e-3, the tests'
shop). Every layer is trained; a decoder is much larger than the other towers.

Shapes: B users, L events, D width, H the decoder's width.

Source: Chen et al. 2024, HLLM: enhancing sequential recommendations via hierarchical large
language models, whose two models are trained together; here the item side stays frozen.
"""

from typing import Any

from torch import Tensor, nn

from rec.encoders.checkpoints import find_checkpoint, read_checkpoint
from rec.errors import ConfigError
from rec.models.towers.alignment import to_back, to_front

_PARTS = {"gpt2": ("h", "wte"), "llama": ("layers", "embed_tokens")}
"""Where a family keeps its layers and its words."""


class PretrainedTower(nn.Module):
    """Run a decoder's first layers over the events."""

    def __init__(self, decoder: str, *, width: int, num_layers: int, max_length: int) -> None:
        super().__init__()
        self.decoder, spread = _read_layers(decoder, num_layers=num_layers, max_length=max_length)
        width_in = int(self.decoder.config.hidden_size)
        self.enter, self.leave = nn.Linear(width, width_in), nn.Linear(width_in, width)
        # Items arrive as large as the words that the layers have learned to read.
        nn.init.normal_(self.enter.weight, std=spread / width**0.5)
        nn.init.zeros_(self.enter.bias)

    def forward(self, states: Tensor, *, is_event: Tensor, timestamps_s: Tensor) -> Tensor:  # noqa: ARG002 - the layers know places, not times
        """Return new states ``(B, L, D)``; see :class:`rec.models.towers.registry.UserTower`."""
        embedded = self.enter(to_front(states, is_event))
        read = self.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return states + to_back(self.leave(read), is_event)


def _read_layers(model: str, *, num_layers: int, max_length: int) -> tuple[Any, float]:
    """Return the first layers of a checkpoint, and the spread of its word embeddings.

    Raises:
        ConfigError: it is not there, may not be loaded, is of another family or too small.
    """
    # 2 s that the other towers need not pay
    from transformers import AutoModel

    from rec.encoders.networks import load_network

    flag = f"--model.decoder {model}"
    try:
        folder = find_checkpoint(model, "--model.decoder")
        family = read_checkpoint(folder).model_type
    except ConfigError as error:
        raise ConfigError(str(error).replace("--encoder.model", "--model.decoder")) from error
    if family not in _PARTS:
        raise ConfigError(f"{flag}: expected one of {', '.join(_PARTS)}, it is {family}")
    network: Any = load_network(folder, AutoModel)
    layers, words = _PARTS[family]
    found, places = len(getattr(network, layers)), network.config.max_position_embeddings
    if found < num_layers or places < max_length:
        raise ConfigError(
            f"{flag}: has {found} layers and {places} places, --model.num-layers asks for "
            f"{num_layers} and --model.max-length for {max_length}"
        )
    setattr(network, layers, getattr(network, layers)[:num_layers])
    network.config.num_hidden_layers = num_layers
    spread = float(getattr(network, words).weight.detach().std())
    setattr(network, words, None)  # no words are read
    return network, spread
