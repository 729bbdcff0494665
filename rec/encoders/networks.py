"""The network of a checkpoint, loaded only if it is as large as its weights.

A configuration of a few lines can ask for more memory than there is: what it describes is built
without memory first, and counted.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from rec.encoders.checkpoints import ALLOWED, read_checkpoint
from rec.errors import ConfigError

_MAX_RATIO = 1.5
"""Of described to stored numbers: heads that nobody reads may be missing from the weights."""


def load_network(
    folder: Path,
    auto: Any,
    *,
    allowed: frozenset[str] = ALLOWED,
    option: str = "--encoder.model",
) -> nn.Module:
    """Return a checkpoint's network in float32.

    Args:
        folder: as ``save_pretrained`` writes it.
        auto: the class of transformers that chooses the network (``AutoModel`` and its kin).
        allowed: families that may be loaded; those that read text if absent.
        option: flag that named the folder.

    Raises:
        ConfigError: as :func:`rec.encoders.checkpoints.read_checkpoint`; configuration and weights
            are not of one model.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    checkpoint = read_checkpoint(folder, allowed=allowed, option=option)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            described = auto.from_config(config, trust_remote_code=False)
        number = sum(parameter.numel() for parameter in described.parameters())
        if number > _MAX_RATIO * checkpoint.num_weights:
            raise ConfigError(
                f"{option} {folder}: config.json describes {number} numbers, the weights "
                f"hold {checkpoint.num_weights}: download it again"
            )
        network: nn.Module = auto.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except ConfigError:
        raise
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{option} {folder}: transformers cannot load it ({cause}): download it again, "
            "or choose another model"
        ) from error
    return network
