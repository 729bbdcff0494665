"""The passes of a training: over what is known, the ranker's window, and the whole log.

Anew, the towers learn up to the ranker's window, the ranker learns on the window, and then the
towers go over the window too. From a release, they read what its users have done since. Either way
two sets of weights come out: ``evaluated`` has seen nothing after the temporal cut and is what the
metrics speak of; ``served`` is the same model after a short pass over what came later, so that the
newest events are not wasted.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from rec.data.sequences import Sequences
from rec.data.splits import Split, hold_out_last
from rec.encoders.images import ImageEmbeddings
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.models.cold_start import forget_unseen
from rec.models.inference import embed_histories, embed_items, place_by_kin
from rec.models.scoring import top_k_in_blocks
from rec.models.sequence_model import SequenceModel
from rec.models.training import FitResult, fit
from rec.models.training_config import TrainingConfig
from rec.ranking.ranker import Ranker, RankerConfig
from rec.ranking.retrieval.sources import SourceTables, build_tables, hide_items
from rec.stages.incremental import Start
from rec.stages.ranker import fit_ranker
from rec.stages.ranker_examples import Knowledge, Window, draw_hidden, open_window
from rec.stages.train_settings import TrainSettings

VALIDATION_K = 10
_GENTLY = 3
"""Passes over a model that has learnt already are made at a third of the rate."""

Validate = Callable[[SequenceModel], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Hold what is learnt from.

    Attributes:
        sequences: the whole log.
        split: its two parts.
        items: the catalog.
        text: float32 ``(V, D_text)``, the items' text embeddings.
        queries: float32 ``(Q, D_text)``.
        images: of the items, where they are used.
    """

    sequences: Sequences
    split: Split
    items: pl.DataFrame
    text: NDArray[np.float32]
    queries: NDArray[np.float32]
    images: ImageEmbeddings | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Learnt:
    """Hold what came out; ``ranker`` is there on the main process only."""

    evaluated: Mapping[str, Tensor]
    served: Mapping[str, Tensor]
    ranker: Ranker | None
    first: FitResult
    last: FitResult
    num_events: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """Say where the passes run and where each keeps its checkpoints."""

    settings: TrainSettings
    accelerator: Accelerator
    folder: Path
    resume: bool
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None

    def first(
        self,
        model: SequenceModel,
        learn: Sequences,
        *,
        validate: Validate | None,
        config: TrainingConfig,
    ) -> FitResult:
        """Learn until the validation NDCG no longer rises."""
        return fit(
            model,
            learn,
            config=config,
            accelerator=self.accelerator,
            validate=validate,
            checkpoints=self.folder / "fit",
            resume=self.resume,
            on_epoch=self.on_epoch,
        )

    def again(self, model: SequenceModel, sequences: Sequences, *, name: str) -> FitResult:
        """Go on over more of the log for a few epochs, gently."""
        config = self.settings.training
        if config.refit_epochs == 0:
            return FitResult()
        return fit(
            model,
            sequences,
            config=_gentle(config, num_epochs=config.refit_epochs),
            accelerator=self.accelerator,
            checkpoints=self.folder / name,
            resume=self.resume,
        )


def learn_anew(model: SequenceModel, material: Material, passes: Passes) -> Learnt:
    """Return what untrained towers and a ranker learn; ``model`` changes in place."""
    settings, train = passes.settings, material.split.train
    window = open_window(train, settings.ranker) if settings.ranker.enabled else None
    known = train if window is None else window.known
    learn, validate = hold_out(known, settings, queries=material.queries)
    first = passes.first(model, learn, validate=validate, config=settings.training)
    forget_unseen(model, known)
    ranker = None
    if window is not None:
        if passes.accelerator.is_main_process:
            ranker = _fit_ranker(model, material, window, settings)
        passes.again(model, train, name="window")
        forget_unseen(model, train)
    evaluated = _weights(model)
    last = passes.again(model, material.sequences, name="refit")
    forget_unseen(model, material.sequences)
    return Learnt(
        evaluated=evaluated,
        served=_weights(model),
        ranker=ranker,
        first=first,
        last=last,
        num_events=learn.num_events,
    )


def learn_since(model: SequenceModel, start: Start, material: Material, passes: Passes) -> Learnt:
    """Return what a release's towers learn of the events since; ``model`` changes in place.

    Raises:
        ConfigError: the model is not of the release's shape, or the release has learnt from the
            test part.
        DataError: nothing has happened since.
    """
    settings, train = passes.settings, material.split.train
    start.check_unseen(material.split.cut_ms)
    start.move_into(
        model,
        item_ids=material.items["item_id"].to_list(),
        event_type_names=material.sequences.event_type_names,
    )
    reach = settings.model.max_length
    learn, validate = hold_out(
        start.events_since(train, max_length=reach), settings, queries=material.queries
    )
    config = settings.training
    first = passes.first(
        model, learn, validate=validate, config=_gentle(config, num_epochs=config.num_epochs)
    )
    forget_unseen(model, train)
    evaluated = _weights(model)
    last = passes.again(
        model, start.events_since(material.sequences, max_length=reach), name="refit"
    )
    forget_unseen(model, material.sequences)
    return Learnt(
        evaluated=evaluated,
        served=_weights(model),
        ranker=start.files.ranker if settings.ranker.enabled else None,
        first=first,
        last=last,
        num_events=learn.num_events,
    )


def hold_out(
    known: Sequences, settings: TrainSettings, *, queries: NDArray[np.float32]
) -> tuple[Sequences, Validate | None]:
    """Return what to learn from, and what gives a model's validation NDCG@10.

    The latter is ``None`` where nobody has two moments of which the last could be held out.
    """
    config = settings.training
    learn, validation = hold_out_last(known, max_users=config.validation_users, seed=config.seed)
    if settings.exclude_seen:
        validation = validation.without_seen()
    if not validation.num_users:
        return learn, None

    def validate(candidate: SequenceModel) -> float:
        lists = top_k_in_blocks(
            cosine_scorer(candidate, queries=queries),
            validation.histories,
            k=VALIDATION_K,
            exclude_seen=settings.exclude_seen,
        )
        return float(ndcg_at_k(lists, validation.target_offsets, validation.targets).mean())

    return learn, validate


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


def known_before(
    model: SequenceModel, material: Material, window: Window, *, config: RankerConfig
) -> list[Knowledge]:
    """Return what is known before the window, and what is where some items are hidden.

    The latter is absent where every item of the catalog has events.
    """
    tables = build_tables(
        window.known,
        text=material.text,
        categories=material.items["category"],
        images=material.images,
    )
    is_hidden = draw_hidden(tables, config)
    queries = material.queries
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
    return knowledge


def _fit_ranker(
    model: SequenceModel, material: Material, window: Window, settings: TrainSettings
) -> Ranker | None:
    """Return the ranker of the window, see :func:`fit_ranker`."""
    return fit_ranker(
        window.moments,
        knowledge=known_before(model, material, window, config=settings.ranker),
        config=settings.ranker,
        num_candidates=settings.num_candidates,
        num_threads=torch.get_num_threads(),
    )


def _gentle(config: TrainingConfig, *, num_epochs: int) -> TrainingConfig:
    values = asdict(config) | {
        "num_epochs": num_epochs,
        "learning_rate": config.learning_rate / _GENTLY,
        "seed": config.seed + 1,
    }
    return TrainingConfig(**values)


def _weights(model: SequenceModel) -> Mapping[str, Tensor]:
    return {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
