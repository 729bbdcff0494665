"""The workspace's own encoder: a fine-tuned one that was found better, and who points to it.

``WORKSPACE/encoders/current`` names it. ``--encoder.model auto`` takes it where there is one;
naming another encoder leaves it aside.
"""

import uuid
from dataclasses import replace
from pathlib import Path

from rec.artifacts import read_artifact
from rec.encoders import EncoderConfig, EncoderSpec
from rec.encoders.encoder import make_spec
from rec.errors import ArtifactError, ConfigError

FINETUNED = "finetuned"
ROOM = "encoders"
ENCODER_FOLDER = "encoder"
_POINTER = "current"


def find_finetuned(
    workspace: Path, config: EncoderConfig, *, is_required: bool = False
) -> EncoderSpec | None:
    """Return the workspace's own encoder under a configuration, or ``None`` where there is none.

    Pooling and prompt are those it was tuned with, unless the configuration names others.

    Raises:
        ArtifactError: it is required and not there, or its folder is damaged.
    """
    pointer = workspace / ROOM / _POINTER
    if not pointer.is_file():
        if is_required:
            raise ArtifactError(
                f"expected a fine-tuned encoder in workspace {workspace}, found none: "
                f"run `python -m jobs.finetune RECIPE --workspace {workspace}` first"
            )
        return None
    artifact = read_artifact(workspace / ROOM / pointer.read_text(encoding="utf-8").strip())
    tuned = artifact.manifest["config"]["encoder"]
    folder = str((artifact.path / ENCODER_FOLDER).resolve())
    try:
        spec = make_spec(config, model=folder)
    except ConfigError as error:
        raise ArtifactError(
            f"the fine-tuned encoder {artifact.path} is damaged ({error}): delete the folder and "
            "rerun jobs.finetune"
        ) from error
    return replace(
        spec,
        pooling=tuned["pooling"] if config.pooling == "auto" else config.pooling,
        prompt=tuned["prompt"] if config.prompt == "auto" else config.prompt,
    )


def make_current(workspace: Path, name: str) -> None:
    """Make an encoder the workspace's own, atomically."""
    pointer = workspace / ROOM / _POINTER
    aside = pointer.with_name(f".{_POINTER}.{uuid.uuid4().hex}")
    aside.write_text(name + "\n", encoding="utf-8")
    aside.replace(pointer)
