"""Encoders behind one protocol, chosen by a specification that a manifest can hold."""

import json
from dataclasses import asdict, dataclass
from string import Formatter
from typing import Any, Literal

from rec.encoders.backends import BackendName, dtype_of
from rec.encoders.checkpoints import (
    DECODER_ONLY,
    STATIC,
    checkpoint_fingerprint,
    find_checkpoint,
    read_checkpoint,
)
from rec.encoders.content_words import ContentWordsEncoder
from rec.encoders.hashing import HashingEncoder
from rec.encoders.prompts import DEFAULT_TEMPLATE, PROMPTS, TEMPLATE_FIELDS
from rec.encoders.protocol import Encoder
from rec.encoders.static import StaticEncoder
from rec.encoders.transformer import TransformerEncoder
from rec.encoders.universal import UniversalEncoder, universal_fingerprint
from rec.errors import ConfigError

HASHING = "hashing"
UNIVERSAL = "universal"

PromptName = Literal["plain", "e5", "causal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Say which encoder reads the items, and how."""

    model: str = "auto"
    """``auto`` (the workspace's fine-tuned one, else by the catalog's languages), ``finetuned``,
    ``hashing``, ``universal``, ``package:NAME``, a folder, or a name on the Hugging Face hub."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """How token states become one embedding; ``auto`` follows the model family."""
    prompt: Literal["auto", "plain", "e5", "causal"] = "auto"
    """Words around every text; ``auto`` follows the model family. Part of the fingerprint."""
    template: str = DEFAULT_TEMPLATE
    """Item to text; names title, text, category and tags, or what ``jobs.enrich`` has written:
    generated_summary, generated_tags. Part of the fingerprint."""
    words: Literal["all", "content"] = "all"
    """What is read of a text. ``content`` leaves out stop words and punctuation, as the article
    does: an ablation, for a pretrained model knows whole sentences. Part of the fingerprint."""
    max_tokens: int = 64
    """Tokens read of one text; longer ones are cut and counted. Raising it costs time."""
    batch_size: int = 32
    """Texts of one forward pass; raising it costs memory, a GPU wants hundreds."""
    backend: Literal["auto", "torch", "torch-bf16", "onnx", "openvino"] = "auto"
    """What computes a transformer; ``auto`` measures those installed and takes the fastest that
    stays within a cosine of 0.995 of torch. Its number format is part of the fingerprint; in
    bfloat16 an embedding may differ in the fourth digit of a cosine with the batch it came in."""
    storage: Literal["float32", "float16"] = "float32"
    """Format of the stored embeddings; float16 halves the space at a cosine of 0.999999."""
    image_model: str | None = None
    """A vision model (ViT, DINOv2, CLIP, SigLIP) that encodes the catalog's ``image`` column: a
    folder, ``package:NAME`` or a name on the Hugging Face hub; needs the extra ``images``. Without
    it the column ``image_embedding`` is read, if there is one."""
    image_folder: str | None = None
    """Folder below which the paths of ``image`` lie; not needed where the column holds bytes."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"--encoder.{name.replace('_', '-')} must be >= 1, got {getattr(self, name)}"
                )
        try:
            fields = {field for _, field, _, _ in Formatter().parse(self.template) if field}
        except ValueError as error:
            raise ConfigError(f"--encoder.template {self.template!r}: {error}") from error
        if not fields or fields - set(TEMPLATE_FIELDS):
            raise ConfigError(
                "--encoder.template must name some of "
                f"{', '.join(f'{{{field}}}' for field in TEMPLATE_FIELDS)} and nothing else, "
                f"got {self.template!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """Name one encoder exactly: ``auto`` is resolved, nothing is left to chance."""

    kind: Literal["hashing", "universal", "static", "transformer"]
    model: str
    pooling: Literal["mean", "cls", "last"]
    max_tokens: int
    batch_size: int
    template: str
    prompt: PromptName = "plain"
    backend: BackendName = "torch"
    storage: Literal["float32", "float16"] = "float32"
    words: Literal["all", "content"] = "all"


def make_spec(config: EncoderConfig, *, model: str | None = None) -> EncoderSpec:
    """Return the specification of a configuration, for ``model`` where it says ``auto``.

    ``auto`` as a backend stays torch in float32, the reference: only a probe may leave it.

    Raises:
        ConfigError: the model is not there or may not be loaded.
    """
    name = model or config.model
    kind: Literal["hashing", "universal", "static", "transformer"] = "transformer"
    pooling: Literal["mean", "cls", "last"] = "mean"
    prompt: PromptName = "plain"
    if name == HASHING:
        kind = "hashing"
    elif name == UNIVERSAL:
        kind = "universal"
    else:
        model_type = read_checkpoint(find_checkpoint(name)).model_type
        kind = "static" if model_type in STATIC else "transformer"
        if model_type in DECODER_ONLY:
            pooling, prompt = "last", "causal"
        elif "e5" in name.lower().replace("_", "-").replace("/", "-").split("-"):
            prompt = "e5"
    return EncoderSpec(
        kind=kind,
        model=name,
        pooling=pooling if config.pooling == "auto" else config.pooling,
        max_tokens=config.max_tokens,
        batch_size=config.batch_size,
        template=config.template,
        prompt=prompt if config.prompt == "auto" else config.prompt,
        backend="torch" if config.backend == "auto" or kind != "transformer" else config.backend,
        storage=config.storage,
        words=config.words,
    )


def load_encoder(spec: EncoderSpec | dict[str, Any]) -> Encoder:
    """Return the encoder of a specification (or of its JSON form), ready to encode.

    Raises:
        ConfigError: the model is not there, is of a kind that is not allowed, or has no
            safetensors weights; its backend is not installed.
    """
    spec = EncoderSpec(**spec) if isinstance(spec, dict) else spec
    encoder = _load(spec, identity=_identity(spec))
    return ContentWordsEncoder(encoder) if spec.words == "content" else encoder


def fingerprint_of(spec: EncoderSpec) -> str:
    """Return the fingerprint of an encoder from its files, without loading it.

    Raises:
        ConfigError: as :func:`load_encoder`.
    """
    if spec.kind == "hashing":
        return HashingEncoder(identity=_identity(spec), max_tokens=spec.max_tokens).fingerprint
    if spec.kind == "universal":
        return universal_fingerprint(_identity(spec))
    return checkpoint_fingerprint(find_checkpoint(spec.model), _identity(spec))


def _load(spec: EncoderSpec, *, identity: str) -> Encoder:
    if spec.kind == "hashing":
        return HashingEncoder(identity=identity, max_tokens=spec.max_tokens)
    if spec.kind == "universal":
        return UniversalEncoder(identity=identity, max_tokens=spec.max_tokens)
    folder = find_checkpoint(spec.model)
    if spec.kind == "static":
        return StaticEncoder(folder, identity=identity, max_tokens=spec.max_tokens)
    return TransformerEncoder(
        folder,
        identity=identity,
        pooling=spec.pooling,
        prefix=PROMPTS[spec.prompt].prefix,
        max_tokens=spec.max_tokens,
        batch_size=spec.batch_size,
        backend=spec.backend,
    )


def _identity(spec: EncoderSpec) -> str:
    """Return what fixes the space beside the model's files.

    Of the backend only the number format counts: two that compute in one format differ by less
    than that format's own rounding.
    """
    return json.dumps(
        {
            "pooling": spec.pooling,
            "prompt": asdict(PROMPTS[spec.prompt]),
            "template": spec.template,
            "max_tokens": spec.max_tokens,
            "normalised": True,
            "dtype": dtype_of(spec.backend),
            # Named only where it is not what every encoder did before there was a choice.
            **({"words": spec.words} if spec.words != "all" else {}),
        },
        sort_keys=True,
        ensure_ascii=False,
    )
