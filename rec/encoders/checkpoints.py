"""Checkpoints: model files that may be read at all, and their part of the fingerprint.

Only safetensors are loaded, only families on the list, and never code that comes with a model:
a pickle or an ``auto_map`` runs a stranger's program, and so may the attention that a config names
on the hub. What is refused is refused before transformers sees the folder.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rec.artifacts import file_sha256
from rec.encoders.model_files import check_files, check_header, read_json
from rec.encoders.tokenizer_files import check_tokenizer
from rec.errors import ConfigError

ENCODER_ONLY = frozenset({"bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "modernbert"})
DECODER_ONLY = frozenset({"gpt2", "llama", "qwen2", "qwen3", "mistral", "gpt_neox"})
ENCODER_DECODER = frozenset({"t5", "mt5", "umt5"})
STATIC = frozenset({"model2vec"})
ALLOWED = ENCODER_ONLY | DECODER_ONLY | ENCODER_DECODER | STATIC
_CONFIGS = ("config.json", "tokenizer_config.json")
PROCESSOR_FILE = "preprocessor_config.json"
"""How pictures are made ready; only vision models have one."""
_FOREIGN = {
    "auto_map": "it wants to run code of its own",
    "custom_pipelines": "it wants to run code of its own",
    "attn_implementation": "its attention may be code of the hub",
    "_attn_implementation": "its attention may be code of the hub",
    "quantization_config": "its weights need a library of their own",
}
"""Fields of a configuration that bring in what is not in the folder."""
_PLAIN_ATTENTION = ("eager", "sdpa", None)
_LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers")
_MIN_TENSORS_A_LAYER = 4
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
    num_weights: int
    """Numbers in all of them."""


def read_checkpoint(
    folder: Path, *, allowed: frozenset[str] = ALLOWED, option: str = "--encoder.model"
) -> Checkpoint:
    """Return what a folder holds.

    Args:
        folder: of the model.
        allowed: families that may be loaded; those that read text if absent.
        option: flag that named the folder.

    Raises:
        ConfigError: no ``config.json``, a family that is not allowed, code of its own, no
            safetensors weights, or weights that only bear the name.
    """
    flag = f"{option} {folder}"
    config = check_folder(folder, flag)
    if config is None:
        raise ConfigError(f"{flag}: expected a config.json, found none")
    model_type = str(config.get("model_type"))
    if model_type not in allowed:
        raise ConfigError(
            f"{flag}: model_type {model_type!r} is not allowed, "
            f"expected one of {', '.join(sorted(allowed))}"
        )
    weights = tuple(sorted(folder.glob("*.safetensors")))
    if not weights:
        raise ConfigError(
            f"{flag}: no *.safetensors, other formats may run code when they are read: convert "
            "it with save_pretrained"
        )
    shapes = [shape for path in weights for shape in _read_shapes(path, flag)]
    for name in _LAYERS:
        layers = config.get(name, 0)
        if not isinstance(layers, int) or layers * _MIN_TENSORS_A_LAYER > len(shapes):
            raise ConfigError(
                f"{flag}: config.json asks for {name} {layers!r}, the weights hold {len(shapes)} "
                "tensors: download it again"
            )
    return Checkpoint(
        folder=folder, model_type=model_type, weights=weights, num_weights=sum(map(prod, shapes))
    )


def check_folder(folder: Path, flag: str) -> dict[str, Any] | None:
    """Refuse what may bring code or run away in any model's folder; return its ``config.json``.

    Raises:
        ConfigError: there is something of the kind.
    """
    check_files(folder, flag)
    configs = {name: read_json(folder / name, flag) for name in (*_CONFIGS, PROCESSOR_FILE)}
    for name, values in configs.items():
        _check_foreign(values or {}, f"{flag}: {name}")
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{flag}: adapter_config.json names a base model elsewhere: merge the adapter into it "
            "and save the result"
        )
    check_tokenizer(folder, flag)
    return configs["config.json"]


def checkpoint_fingerprint(folder: Path, identity: str) -> str:
    """Return the hash of a model's files and of what else fixes the space; loads nothing."""
    files = [
        *read_checkpoint(folder).weights,
        *(folder / name for name in IDENTITY_FILES if (folder / name).is_file()),
    ]
    digests = [file_sha256(path) for path in files]
    return hashlib.sha256(json.dumps([digests, identity]).encode()).hexdigest()[:16]


def find_checkpoint(model: str, flag: str = "--encoder.model") -> Path:
    """Return the folder of ``package:NAME``, a folder, or a name on the Hugging Face hub.

    A hub name is downloaded; its formats other than safetensors stay where they are.

    Args:
        model: which.
        flag: what an error names.

    Raises:
        ConfigError: it is none of them, or has no model.
    """
    if model.startswith("package:"):
        return _package_folder(model, flag)
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
            f"{flag} {model}: no such folder, and the hub did not give it ({detail}): "
            "name a local folder or package:NAME"
        ) from error


def _package_folder(model: str, flag: str) -> Path:
    name = model.removeprefix("package:")
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"{flag} {model}: package {name} is not installed: pip install it, "
            "or choose another model"
        )
    folder = Path(found.submodule_search_locations[0])
    configs = sorted(folder.rglob("config.json"), key=lambda path: len(path.parts))
    if not configs:
        raise ConfigError(f"{flag} {model}: no config.json below {folder}")
    return configs[0].parent


def _check_foreign(values: dict[str, Any], where: str) -> None:
    for name, reason in _FOREIGN.items():
        if name not in values or ("attn" in name and values[name] in _PLAIN_ATTENTION):
            continue
        raise ConfigError(
            f"{where} has {name}, {reason}: choose a model of a family that transformers knows, "
            "saved without it"
        )


def _read_shapes(path: Path, flag: str) -> list[list[int]]:
    """Return the shapes of a file's tensors; its header is checked by safetensors itself."""
    check_header(path, flag)
    try:
        with safe_open(path, framework="numpy") as tensors:
            return [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{flag}: {path.name} is no safetensors file ({error}): download it again"
        ) from error
