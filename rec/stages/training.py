"""Training as a stage: artifacts to a split, towers and their metrics, then weights as an artifact.

What is learnt from what stands in :mod:`rec.stages.fitting`; here it is read, named and written.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from rec.artifacts import (
    Artifact,
    config_hash,
    find_artifact,
    latest_artifact,
    point_latest,
    read_artifact,
    write_artifact,
    write_json,
)
from rec.data.items import load_items
from rec.data.sequences import Sequences, load_sequences
from rec.data.splits import temporal_split
from rec.encoders.images import ImageEmbeddings
from rec.errors import ArtifactError
from rec.models.image_fusion import ItemImages
from rec.models.metric_log import log_metrics
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.ranking.ranker import save_ranker
from rec.stages.embedding import load_embeddings, load_images
from rec.stages.fitting import Material, Passes, learn_anew, learn_since
from rec.stages.incremental import open_start
from rec.stages.train_settings import TrainSettings

EVALUATED = "evaluated.safetensors"
SERVED = "served.safetensors"
METRICS_FILE = "training.json"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
"""``models/logs/NAME``: metrics of the epochs by the model's name, see rec.models.metric_log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Hold the artifacts that training reads."""

    embeddings: Artifact
    sequences: Artifact

    @property
    def parents(self) -> dict[str, str]:
        """Return the names, as a manifest holds them."""
        return {
            "embeddings": self.embeddings.name,
            "sequences": self.sequences.name,
            "catalog": self.sequences.parents["catalog"],
            "events": self.sequences.parents["events"],
        }


def find_inputs(workspace: Path) -> Inputs:
    """Return the newest embeddings and sequences.

    Raises:
        ArtifactError: one is missing, or they were not made from each other.
    """
    sequences = latest_artifact(workspace, "sequences", made_by="prepare")
    embeddings = latest_artifact(workspace, "embeddings", made_by="embed")
    if embeddings.parents["sequences"] != sequences.name:
        raise ArtifactError(
            f"the newest embeddings belong to sequences {embeddings.parents['sequences']}, the "
            f"newest sequences are {sequences.name}: run `python -m jobs.embed RECIPE "
            f"--workspace {workspace}` first"
        )
    return Inputs(embeddings=embeddings, sequences=sequences)


def find_model(workspace: Path, settings: TrainSettings) -> Artifact | None:
    """Return the model that these settings make of the newest inputs, if it is there."""
    inputs = find_inputs(workspace)
    found = find_artifact(workspace, "models", config_hash("models", settings, inputs.parents))
    if found is not None:
        point_latest(workspace, "models", found.name)
    return found


def checkpoint_folder(workspace: Path, settings: TrainSettings) -> Path:
    """Return where the checkpoints of these settings and the newest inputs lie."""
    name = config_hash("models", settings, find_inputs(workspace).parents)
    return workspace / "models" / CHECKPOINTS / name


def train(
    workspace: Path,
    settings: TrainSettings,
    *,
    accelerator: Accelerator,
    resume: bool,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> Artifact | None:
    """Train on the newest artifacts; the main process returns the model, the others ``None``.

    Args:
        workspace: root of the artifacts.
        settings: what to train.
        accelerator: where, and beside whom.
        resume: go on from the newest checkpoint instead of starting anew.
        on_epoch: called on the main process after each epoch.
    """
    inputs = find_inputs(workspace)
    _check_unmixed(workspace, inputs.embeddings)
    folder = checkpoint_folder(workspace, settings)
    if not resume and accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    accelerator.wait_for_everyone()
    sequences = load_sequences(inputs.sequences.path)
    text, queries = load_embeddings(inputs.embeddings)
    catalog = read_artifact(workspace / "catalog" / inputs.parents["catalog"])
    material = Material(
        sequences=sequences,
        split=temporal_split(sequences, quantile=settings.test_quantile),
        items=load_items(catalog.path),
        text=text,
        queries=queries,
        images=load_images(inputs.embeddings) if settings.model.images else None,
    )
    passes = Passes(
        settings=settings,
        accelerator=accelerator,
        folder=folder,
        resume=resume,
        on_epoch=log_metrics(workspace / "models" / LOGS / folder.name, then=on_epoch),
    )
    fingerprint = inputs.embeddings.manifest["config"]["fingerprint"]
    model = build_model(inputs.embeddings, sequences, settings.model, seed=settings.training.seed)
    if settings.init_from is None:
        learnt = learn_anew(model, material, passes)
    else:
        start = open_start(workspace, settings.init_from, fingerprint=fingerprint)
        learnt = learn_since(model, start, material, passes)
    if not accelerator.is_main_process:
        return None
    with write_artifact(workspace, "models", config=settings, parents=inputs.parents) as draft:
        save_file(dict(learnt.evaluated), draft.path / EVALUATED)
        save_file(dict(learnt.served), draft.path / SERVED)
        if learnt.ranker is not None:
            save_ranker(learnt.ranker, draft.path)
        first = learnt.first
        write_json(draft.path / METRICS_FILE, {"fit": first.metrics, "refit": learnt.last.metrics})
        draft.counts |= {
            "epochs": len(first.metrics),
            "best_epoch": first.best_epoch,
            "validation_ndcg@10": first.metrics[first.best_epoch].get("ndcg"),
            "training_events": learnt.num_events,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        draft.details |= {
            "cut_ms": material.split.cut_ms,
            "fingerprint": fingerprint,
            "ranker": {
                mode: {
                    "lead": trees.lead,
                    "has_trees": trees.booster is not None,
                    **trees.metrics,
                }
                for mode, trees in (learnt.ranker.trees if learnt.ranker else {}).items()
            },
        }
    shutil.rmtree(folder, ignore_errors=True)
    return find_model(workspace, settings)


def _check_unmixed(workspace: Path, embeddings: Artifact) -> None:
    """Refuse embeddings that are not those of the fingerprint in their manifest."""
    try:
        read_artifact(embeddings.path, verify=True)
    except ArtifactError as error:
        fingerprint = embeddings.manifest["config"]["fingerprint"]
        raise ArtifactError(
            f"expected the embeddings of encoder {fingerprint}, got others ({error}): delete "
            f"{embeddings.path} and run `python -m jobs.embed RECIPE --workspace {workspace}`"
        ) from error


def build_model(
    embeddings: Artifact, sequences: Sequences, config: ModelConfig, *, seed: int
) -> SequenceModel:
    """Return untrained towers over the embeddings of items and queries, images among them."""
    items, queries = load_embeddings(embeddings)
    padding = np.zeros((1, items.shape[1]), dtype=np.float32)
    text = torch.from_numpy(np.concatenate([padding, items, queries]))
    images = load_images(embeddings)
    torch.manual_seed(seed)
    return SequenceModel(
        text,
        num_items=sequences.num_items,
        num_event_types=len(sequences.event_type_names),
        config=config,
        images=None if images is None else _with_padding(images),
    )


def _with_padding(images: ImageEmbeddings) -> ItemImages:
    return ItemImages(
        embeddings=torch.from_numpy(np.pad(images.embeddings, ((1, 0), (0, 0)))),
        is_present=torch.from_numpy(np.pad(images.is_present, (1, 0))),
    )


def load_model(model: SequenceModel, artifact: Artifact, *, weights: str) -> SequenceModel:
    """Return the model with one of the artifact's two sets of weights."""
    model.load_state_dict(load_file(artifact.path / weights))
    return model.eval()


def read_training_metrics(artifact: Artifact) -> Mapping[str, Any]:
    """Return the metrics of every epoch."""
    text = (artifact.path / METRICS_FILE).read_text(encoding="utf-8")
    metrics: Mapping[str, Any] = json.loads(text)
    return metrics
