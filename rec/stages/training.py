"""Training as a stage: artifacts to a split, towers and their metrics, then weights as an artifact.

The towers learn up to the ranker's window, the ranker learns on the window, and then the towers
go over the window too. Two sets of weights come out: ``evaluated`` has seen nothing after the
temporal cut and is what the metrics speak of; ``served`` is the same model after a short pass over
the whole log, so that the newest tenth is not wasted.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
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
from rec.data.splits import hold_out_last, temporal_split
from rec.errors import ArtifactError
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.models.cold_start import forget_unseen
from rec.models.inference import embed_histories, embed_items, place_by_kin
from rec.models.metric_log import log_metrics
from rec.models.scoring import top_k_in_blocks
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.models.training import FitResult, fit
from rec.models.training_config import TrainingConfig
from rec.ranking.ranker import Ranker, RankerConfig, save_ranker
from rec.ranking.sources import SourceTables, build_tables, hide_items
from rec.stages.embedding import load_embeddings
from rec.stages.ranker import fit_ranker
from rec.stages.ranker_examples import Knowledge, Window, draw_hidden, open_window

EVALUATED = "evaluated.safetensors"
SERVED = "served.safetensors"
METRICS_FILE = "training.json"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
"""``models/logs/NAME``: metrics of the epochs by the model's name, see rec.models.metric_log."""
VALIDATION_K = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Bundle what fixes a model: its name is the hash of this."""

    model: ModelConfig
    training: TrainingConfig
    ranker: RankerConfig
    test_quantile: float
    exclude_seen: bool
    num_candidates: int


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
    split = temporal_split(sequences, quantile=settings.test_quantile)
    config = settings.training
    window = open_window(split.train, settings.ranker) if settings.ranker.enabled else None
    known = split.train if window is None else window.known
    learn, validation = hold_out_last(known, max_users=config.validation_users, seed=config.seed)
    if settings.exclude_seen:
        validation = validation.without_seen()
    model = build_model(inputs.embeddings, sequences, settings.model, seed=config.seed)
    queries = load_embeddings(inputs.embeddings)[1]

    def validate(candidate: SequenceModel) -> float:
        lists = top_k_in_blocks(
            cosine_scorer(candidate, queries=queries),
            validation.histories,
            k=VALIDATION_K,
            exclude_seen=settings.exclude_seen,
        )
        scores = ndcg_at_k(lists, validation.target_offsets, validation.targets)
        return float(scores.mean()) if len(scores) else 0.0

    result = fit(
        model,
        learn,
        config=config,
        accelerator=accelerator,
        validate=validate if validation.num_users else None,
        checkpoints=folder / "fit",
        resume=resume,
        on_epoch=log_metrics(workspace / "models" / LOGS / folder.name, then=on_epoch),
    )
    forget_unseen(model, known)
    ranker = None
    if window is not None and accelerator.is_main_process:
        ranker = _fit_ranker(workspace, inputs, settings, window, model=model, queries=queries)
    go_on = _Refit(config=config, accelerator=accelerator, resume=resume)
    if window is not None:
        go_on(model, split.train, folder=folder / "window")
        forget_unseen(model, split.train)
    evaluated = {key: value.detach().clone() for key, value in model.state_dict().items()}
    refit = go_on(model, sequences, folder=folder / "refit")
    forget_unseen(model, sequences)
    if not accelerator.is_main_process:
        return None
    with write_artifact(workspace, "models", config=settings, parents=inputs.parents) as draft:
        save_file(evaluated, draft.path / EVALUATED)
        served = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(served, draft.path / SERVED)
        if ranker is not None:
            save_ranker(ranker, draft.path)
        write_json(draft.path / METRICS_FILE, {"fit": result.metrics, "refit": refit.metrics})
        draft.counts |= {
            "epochs": len(result.metrics),
            "best_epoch": result.best_epoch,
            "validation_ndcg@10": result.metrics[result.best_epoch].get("ndcg"),
            "training_events": learn.num_events,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        draft.details |= {
            "cut_ms": split.cut_ms,
            "fingerprint": inputs.embeddings.manifest["config"]["fingerprint"],
            "ranker": {
                mode: {
                    "lead": trees.lead,
                    "has_trees": trees.booster is not None,
                    **trees.metrics,
                }
                for mode, trees in (ranker.trees if ranker else {}).items()
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
    """Return untrained towers over the text embeddings of items and queries."""
    items, queries = load_embeddings(embeddings)
    padding = np.zeros((1, items.shape[1]), dtype=np.float32)
    text = torch.from_numpy(np.concatenate([padding, items, queries]))
    torch.manual_seed(seed)
    return SequenceModel(
        text,
        num_items=sequences.num_items,
        num_event_types=len(sequences.event_type_names),
        config=config,
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


def cosine_scorer(
    model: SequenceModel,
    *,
    queries: NDArray[np.float32],
    tables: SourceTables | None = None,
) -> Callable[[Sequences], NDArray[np.float32]]:
    """Return what gives ``cos(e_u, e_i)`` of histories over the whole catalog, float32 ``(B, V)``.

    e_i is computed here, once, with the weights of the moment. With ``tables``, items
    without events stand among their kin, see :func:`place_by_kin`.
    """
    items = embed_items(model)
    if tables is not None:
        items = place_by_kin(items, tables.kin, is_cold=tables.counts == 0)

    @torch.inference_mode()
    def score(histories: Sequences) -> NDArray[np.float32]:
        users = embed_histories(model, histories, items=items, query_embeddings=queries)
        scores: NDArray[np.float32] = (users @ items.T).numpy()
        return scores

    return score


def settings_from(values: Mapping[str, Any]) -> TrainSettings:
    """Return the settings that a manifest holds."""
    training = dict(values["training"])
    training["event_weight"] = tuple(training["event_weight"])
    return TrainSettings(
        model=ModelConfig(**values["model"]),
        training=TrainingConfig(**training),
        ranker=RankerConfig(**values["ranker"]),
        test_quantile=values["test_quantile"],
        exclude_seen=values["exclude_seen"],
        num_candidates=values["num_candidates"],
    )


def _fit_ranker(
    workspace: Path,
    inputs: Inputs,
    settings: TrainSettings,
    window: Window,
    *,
    model: SequenceModel,
    queries: NDArray[np.float32],
) -> Ranker | None:
    """Return the ranker of the window, see :func:`fit_ranker`."""
    catalog = read_artifact(workspace / "catalog" / inputs.parents["catalog"])
    tables = build_tables(
        window.known,
        text=load_embeddings(inputs.embeddings)[0],
        categories=load_items(catalog.path)["category"],
    )
    is_hidden = draw_hidden(tables, settings.ranker)
    knowledge = [
        Knowledge(
            tables=tables,
            cosines=cosine_scorer(model, queries=queries, tables=tables),
            # What nobody has touched is told by the hidden items alone.
            is_offered=tables.counts > 0 if is_hidden.any() else None,
        )
    ]
    if is_hidden.any():
        hiding = hide_items(tables, is_hidden)
        knowledge.append(
            Knowledge(
                tables=hiding,
                cosines=cosine_scorer(model, queries=queries, tables=hiding),
                is_hidden=is_hidden,
                is_offered=tables.counts > 0,
            )
        )
    return fit_ranker(
        window.moments,
        knowledge=knowledge,
        config=settings.ranker,
        num_candidates=settings.num_candidates,
        num_threads=torch.get_num_threads(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refit:
    """Go on over more of the log for a few epochs at a third of the rate."""

    config: TrainingConfig
    accelerator: Accelerator
    resume: bool

    def __call__(self, model: SequenceModel, sequences: Sequences, *, folder: Path) -> FitResult:
        config = self.config
        if config.refit_epochs == 0:
            return FitResult()
        values = asdict(config) | {
            "num_epochs": config.refit_epochs,
            "learning_rate": config.learning_rate / 3,
            "seed": config.seed + 1,
        }
        return fit(
            model,
            sequences,
            config=TrainingConfig(**values),
            accelerator=self.accelerator,
            checkpoints=folder,
            resume=self.resume,
        )
