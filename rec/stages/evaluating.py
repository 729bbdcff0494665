"""Evaluation as a stage: the newest index's model against the baselines, on what came later.

The lists are made by the code that serves, with the weights that have seen nothing after the cut.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from rec.encoders import EncoderSpec, load_encoder
from rec.errors import ConfigError
from rec.evaluation.evaluate import TopKModel, evaluate, order_gate
from rec.evaluation.report import render_report
from rec.models.baselines import ScoredLists, fit_baselines
from rec.models.text_tower import TextTower
from rec.ranking.recommender import Recommender
from rec.ranking.release import ReleaseFiles, ranking_from
from rec.stages.embedding import load_embeddings
from rec.stages.indexing import release_files
from rec.stages.training import EVALUATED, cosine_scorer, settings_from

METRICS_FILE = "metrics.json"
REPORT_FILES = {"en": "report.html", "zh": "report.zh.html"}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Say what is held out and what is measured."""

    test_quantile: float = 0.9
    """Quantile of time at which the test begins; raising it trains on more and tests on less."""
    k: int = 10
    """Places of the lists that are measured."""
    order_gate: bool = True
    """Measure histories shuffled, reversed and cut to the last event: does order matter?"""
    text_tower: bool = False
    """Measure ``e_u = LLM(sequence as text)`` beside the others: nothing is trained, but every
    asked user's history is encoded, and again for each part of the order gate."""
    seed: int = 7
    """Seed of the shuffles and the bootstrap."""

    def __post_init__(self) -> None:
        if not 0 < self.test_quantile < 1:
            raise ConfigError(
                f"--evaluation.test-quantile must be in (0, 1), got {self.test_quantile}"
            )
        if self.k < 1:
            raise ConfigError(f"--evaluation.k must be >= 1, got {self.k}")


class ServedLists:
    """Make lists with a recommender, as serving would."""

    name = "nextray"

    def __init__(self, recommender: Recommender, *, query_embeddings: NDArray[np.float32]) -> None:
        self._recommender = recommender
        self._queries = query_embeddings

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        """Return int32 ``(B, k)`` item indexes, 0 where none is left."""
        ranked = self._recommender.rank(
            histories, k=k, query_embeddings=self._queries, exclude_seen=exclude_seen
        )
        return ranked.items.astype(np.int32)


def evaluate_index(
    workspace: Path,
    config: EvaluationConfig,
    *,
    on_progress: Callable[[str, int], None] | None = None,
) -> tuple[Artifact, bool]:
    """Return the report of the newest index, and whether it was there.

    Raises:
        ArtifactError: nothing was indexed.
        DataError: nobody has an event after the cut.
    """
    index = latest_artifact(workspace, "indexes", made_by="index")
    parents = {**index.parents, "indexes": index.name}
    found = find_artifact(workspace, "reports", config_hash("reports", config, parents))
    if found is not None:
        point_latest(workspace, "reports", found.name)
        return found, True
    model = read_artifact(workspace / "models" / index.parents["models"])
    embeddings = read_artifact(workspace / "embeddings" / index.parents["embeddings"])
    catalog = read_artifact(workspace / "catalog" / index.parents["catalog"])
    sequences = load_sequences(workspace / "sequences" / index.parents["sequences"])
    quantile = settings_from(model.manifest["config"]).test_quantile
    if config.test_quantile < quantile:
        raise ConfigError(
            f"--evaluation.test-quantile {config.test_quantile} would test on what the model was "
            f"trained on (up to {quantile}): retrain, or test from {quantile} on"
        )
    split = temporal_split(sequences, quantile=config.test_quantile)
    ranking = ranking_from(index.manifest["config"])
    files = release_files(
        model,
        embeddings,
        split.train,
        items=load_items(catalog.path),
        weights=EVALUATED,
        ranking=ranking,
        is_pseudonymized=False,
    )
    ours = ServedLists(
        Recommender(files, release=index.name), query_embeddings=load_embeddings(embeddings)[1]
    )
    towers = _towers(files, embeddings, config)
    result = evaluate(
        [ours, *fit_baselines(split.train), *(t for t in towers if t.name == TextTower.name)],
        split.test,
        train=split.train,
        k=config.k,
        exclude_seen=ranking.exclude_seen,
        seed=config.seed,
        on_progress=on_progress,
    )
    gate: Mapping[str, float] | None = None
    gates: dict[str, Mapping[str, float]] = {}
    if config.order_gate:
        asked: list[TopKModel] = [ours, *towers]
        gate, *others = (
            order_gate(
                lists, split.test, k=config.k, exclude_seen=ranking.exclude_seen, seed=config.seed
            )
            for lists in asked
        )
        gates = {tower.name: one for tower, one in zip(towers, others, strict=True)}
    details = {
        "release": index.name,
        "cut": datetime.fromtimestamp(split.cut_ms / 1000, tz=UTC).isoformat(),
        "test users": result.num_users,
        "training events": split.train.num_events,
        "items": sequences.num_items,
        "encoder": files.encoder["model"],
        "encoder fingerprint": files.fingerprint,
        "seen items excluded": ranking.exclude_seen,
        "penalty weight": ranking.penalty_weight,
        **{f"order gate, {name} alone": _shares(one) for name, one in gates.items() if one},
    }
    with write_artifact(workspace, "reports", config=config, parents=parents) as draft:
        metrics: dict[str, Any] = {
            **result.to_json(),
            "order_gate": gate,
            "tower_gates": gates,
            "details": details,
            "ranking": asdict(ranking),
        }
        write_json(draft.path / METRICS_FILE, metrics)
        pages: Mapping[Any, str] = REPORT_FILES
        for language, name in pages.items():
            page = render_report(
                result,
                title=f"nextray {index.name}",
                details=details,
                order_gate=gate,
                language=language,
            )
            (draft.path / name).write_text(page, encoding="utf-8")
        draft.counts |= {"users": result.num_users, "models": len(result.metrics)}
        draft.details |= {"metrics": metrics["metrics"], "order_gate": gate}
    made = find_artifact(workspace, "reports", config_hash("reports", config, parents))
    assert made is not None
    return made, False


def _towers(
    files: ReleaseFiles, embeddings: Artifact, config: EvaluationConfig
) -> list[ScoredLists]:
    """Return the user towers alone, by cosine: the trained one, and the text tower if asked."""
    items, queries = load_embeddings(embeddings)
    towers = [
        ScoredLists(
            Cosines(
                name=files.model.config.tower, score=cosine_scorer(files.model, queries=queries)
            )
        )
    ]
    if config.text_tower:
        spec = EncoderSpec(**files.encoder)
        titles = files.items["title"].to_list()
        text = TextTower(load_encoder(spec), spec, titles=titles, items=items)
        towers.append(ScoredLists(text))
    return towers


@dataclass(kw_only=True, slots=True)
class Cosines:
    """Give the trained towers' ``cos(e_u, e_i)`` a name."""

    name: str
    score: Callable[[Sequences], NDArray[np.float32]]


def _shares(gate: Mapping[str, float]) -> str:
    """Return a gate in words: what is left of NDCG when the order goes."""
    whole = max(gate["ordered"], 1e-9)
    parts = (f"{name} {value / whole:.0%}" for name, value in gate.items() if name != "ordered")
    return f"{gate['ordered']:.4f}, left of it: {', '.join(parts)}"
