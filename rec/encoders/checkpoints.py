"""Checkpoints: model files that may be read at all, and their part of the fingerprint.

Only safetensors are loaded, only families on the list, and never code that comes with a model:
a pickle or an ``auto_map`` runs a stranger's program. What is refused is refused before
transformers sees the folder.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rec.artifacts import file_sha256
from rec.errors import ConfigError

ENCODER_ONLY = frozenset({"bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "modernbert"})
DECODER_ONLY = frozenset({"gpt2", "llama", "qwen2", "qwen3", "mistral", "gpt_neox"})
ENCODER_DECODER = frozenset({"t5", "mt5", "umt5"})
STATIC = frozenset({"model2vec"})
ALLOWED = ENCODER_ONLY | DECODER_ONLY | ENCODER_DECODER | STATIC
_CONFIGS = ("config.json", "tokenizer_config.json")
IDENTITY_FILES = (
    *_CONFIGS,
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Name the files of a model that may be loaded."""

    folder: Path
    model_type: str
    weights: tuple[Path, ...]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return what a folder holds.

    Raises:
        ConfigError: no ``config.json``, a family that is not allowed, code of its own, no
            safetensors weights, or weights that only bear the name.
    """
    flag = f"--encoder.model {folder}"
    configs = {name: _read_json(folder / name, flag) for name in _CONFIGS}
    if configs["config.json"] is None:
        raise ConfigError(f"{flag}: expected a config.json, found none")
    for name, values in configs.items():
        if values is not None and "auto_map" in values:
            raise ConfigError(
                f"{flag}: {name} has an auto_map, it wants to run code of its own: choose a "
                "model of a family that transformers knows"
            )
    model_type = str(configs["config.json"].get("model_type"))
    if model_type not in ALLOWED:
        raise ConfigError(
            f"{flag}: model_type {model_type!r} is not allowed, "
            f"expected one of {', '.join(sorted(ALLOWED))}"
        )
    weights = tuple(sorted(folder.glob("*.safetensors")))
    if not weights:
        raise ConfigError(
            f"{flag}: no *.safetensors, other formats may run code when they are read: convert "
            "it with save_pretrained"
        )
    for path in weights:
        try:
            with safe_open(path, framework="numpy"):
                pass  # reads the header: sizes and names of the tensors
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{flag}: {path.name} is no safetensors file ({error}): download it again"
            ) from error
    return Checkpoint(folder=folder, model_type=model_type, weights=weights)


def checkpoint_fingerprint(folder: Path, identity: str) -> str:
    """Return the hash of a model's files and of what else fixes the space; loads nothing."""
    files = [
        *read_checkpoint(folder).weights,
        *(folder / name for name in IDENTITY_FILES if (folder / name).is_file()),
    ]
    digests = [file_sha256(path) for path in files]
    return hashlib.sha256(json.dumps([digests, identity]).encode()).hexdigest()[:16]


def find_checkpoint(model: str) -> Path:
    """Return the folder of ``package:NAME``, a folder, or a name on the Hugging Face hub.

    A hub name is downloaded; its formats other than safetensors stay where they are.

    Raises:
        ConfigError: it is none of them, or has no model.
    """
    if model.startswith("package:"):
        return _package_folder(model)
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # only for hub names

    try:
        return Path(
            snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"])
        )
    except Exception as error:
        detail = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"--encoder.model {model}: no such folder, and the hub did not give it ({detail}): "
            "name a local folder or package:NAME"
        ) from error


def _package_folder(model: str) -> Path:
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
    return configs[0].parent


def _read_json(path: Path, flag: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{flag}: {path.name} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{flag}: {path.name} is not a JSON object")
    return values
