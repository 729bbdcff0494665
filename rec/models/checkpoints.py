"""Checkpoints: resumable training state as safetensors and JSON, never pickle.

A checkpoint is a folder ``step-NNNNNNNN`` written aside and renamed. Its ``state.json`` names the
sha256 of every file, so a damaged one is noticed and the one before it is used.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rec.artifacts import file_sha256, write_json

KEEP = 2
"""Checkpoints kept: the newest, and one to fall back on."""
_STATE_FILE = "state.json"
_NUMBERS = ("epoch", "batch", "step", "loss_sum", "weight_sum")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Hold everything that training needs to go on, and the best weights so far.

    Attributes:
        epoch: the epoch under way, 0-based.
        batch: its batches that are done.
        step: the batches of all epochs that are done.
        loss_sum: weighted losses of the epoch's batches so far.
        weight_sum: weights of their targets.
        model: weights of the moment.
        optimizer: its state, see :func:`optimizer_tensors`.
        best: weights of the best epoch so far; empty within the first.
        metrics: one row per finished epoch.
    """

    epoch: int
    batch: int
    step: int
    loss_sum: float
    weight_sum: float
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    metrics: tuple[Mapping[str, Any], ...]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and drop all but the newest ones; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{checkpoint.step:08d}"
    aside = folder / f".{final.name}.{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    try:
        for name in ("model", "optimizer", "best"):
            tensors = {key: value.contiguous() for key, value in getattr(checkpoint, name).items()}
            save_file(tensors, aside / f"{name}.safetensors")
        state = {
            **{name: getattr(checkpoint, name) for name in _NUMBERS},
            "metrics": list(checkpoint.metrics),
            "files": {path.name: file_sha256(path) for path in sorted(aside.iterdir())},
        }
        write_json(aside / _STATE_FILE, state)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in _folders(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def load_newest(folder: Path) -> Checkpoint | None:
    """Return the newest undamaged checkpoint, or ``None``; damaged ones are logged."""
    for path in reversed(_folders(folder)):
        try:
            return _load(path)
        except (OSError, ValueError, KeyError) as error:
            _log.warning("checkpoint %s is damaged (%s): using the one before it", path, error)
    return None


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors, ``STATE.PARAMETER``."""
    return {
        f"{key}.{names[parameter]}": value.detach().clone()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put named tensors back as the optimizer's state."""
    by_name = {name: parameter for parameter, name in names.items()}
    for full_name, value in tensors.items():
        key, name = full_name.split(".", 1)
        parameter = by_name[name]
        place = value if key == "step" else value.to(parameter.device)
        optimizer.state[parameter][key] = place.clone()


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _load(path: Path) -> Checkpoint:
    state = json.loads((path / _STATE_FILE).read_text(encoding="utf-8"))
    for name, digest in state["files"].items():
        if file_sha256(path / name) != digest:
            raise ValueError(f"sha256 of {name} differs")
    return Checkpoint(
        **{name: state[name] for name in _NUMBERS},
        metrics=tuple(state["metrics"]),
        model=load_file(path / "model.safetensors"),
        optimizer=load_file(path / "optimizer.safetensors"),
        best=load_file(path / "best.safetensors"),
    )
