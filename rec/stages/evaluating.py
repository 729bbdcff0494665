"""Evaluation as a stage: the newest index's model against the baselines, on what came later.

The lists are made by the code that serves, with the weights that have seen nothing after the cut.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

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
from rec.data.sequences import load_sequences
from rec.errors import ConfigError
from rec.evaluation.comparing import METRICS_FILE, USERS_FILE
from rec.evaluation.evaluate import TopKModel, evaluate
from rec.evaluation.order_gate import OrderGate, order_gate
from rec.evaluation.prefixes import prefix_curve
from rec.evaluation.report import render_report
from rec.evaluation.report_costs import Cost
from rec.evaluation.sweeping import DEFAULT_WEIGHTS, sweep_penalty
from rec.models.baselines import Popularity, ScoredLists, count_items
from rec.models.segments import user_profiles
from rec.models.standard_baselines import fit_baselines
from rec.models.text_tower import TextTower
from rec.ranking.lists.scoring import groups_of
from rec.ranking.recommender import Recommender
from rec.stages.catalog import load_attributes
from rec.stages.costs import stage_costs
from rec.stages.data_card import PAGE_FILES
from rec.stages.embedding import load_embeddings
from rec.stages.folds import Protocol, fingerprint_of_test, make_folds
from rec.stages.indexing import ranking_of, release_files
from rec.stages.served_lists import (
    ServedLists,
    item_facets,
    reliability_of,
    sample_users,
    towers_alone,
)
from rec.stages.train_settings import settings_from
from rec.stages.training import EVALUATED

REPORT_FILES = {"en": "report.html", "zh": "report.zh.html"}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Say what is held out and what is measured."""

    protocol: Protocol = "temporal"
    """``temporal``: one cut for all. ``rolling``: ``num_folds`` cuts in the tested part, each with
    its own histories (cross-validation in time). ``leave_one_out``: each user's last item, for
    comparison with papers; it leaks to the baselines. The weights are those of before the cut."""
    num_folds: int = 3
    """Cuts of the protocol ``rolling``."""
    sweep: tuple[float, ...] = DEFAULT_WEIGHTS
    """Lambdas of popularity that are tried; an empty list leaves the sweep out."""
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
        if self.num_folds < 2:
            raise ConfigError(f"--evaluation.num-folds must be >= 2, got {self.num_folds}")
        if any(not weight >= 0 for weight in self.sweep):
            raise ConfigError(f"--evaluation.sweep must be >= 0, got {list(self.sweep)}")


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
    clock, cpu = time.perf_counter(), time.process_time()
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
    ranking = ranking_of(index)
    items = load_items(catalog.path)
    attributes = load_attributes(catalog.path)
    query_embeddings = load_embeddings(embeddings)[1]
    folds = make_folds(
        sequences,
        protocol=config.protocol,
        quantile=config.test_quantile,
        num_folds=config.num_folds,
    )
    results, ours, files, towers = [], None, None, []
    for split in folds:
        files = release_files(
            model,
            embeddings,
            split.train,
            items=items,
            weights=EVALUATED,
            ranking=ranking,
            is_pseudonymized=False,
            attributes=attributes,
        )
        ours = ServedLists(
            Recommender(files, release=index.name),
            query_embeddings=query_embeddings,
            profiles=user_profiles(attributes),
        )
        towers = towers_alone(files, embeddings, with_text=config.text_tower)
        texts = [tower for tower in towers if tower.name == TextTower.name]
        text = files.text[1:].numpy()
        results.append(
            evaluate(
                [ours, *fit_baselines(split.train, text=text), *texts],
                split.test,
                train=split.train,
                k=config.k,
                exclude_seen=ranking.exclude_seen,
                seed=config.seed,
                embeddings=text / np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-9),
                facets=item_facets(items, count_items(split.train)),
                on_progress=on_progress,
            )
        )
    assert ours is not None
    assert files is not None
    # The newest fold is the one that is shown: its training part is the longest.
    split, result = folds[-1], results[-1]
    gate: OrderGate | None = None
    gates: dict[str, OrderGate | None] = {}
    if config.order_gate:
        asked: list[TopKModel] = [ours, *towers]
        gate, *others = (
            order_gate(
                lists, split.test, k=config.k, exclude_seen=ranking.exclude_seen, seed=config.seed
            )
            for lists in asked
        )
        gates = {tower.name: one for tower, one in zip(towers, others, strict=True)}
    told: list[TopKModel] = [ours, ScoredLists(Popularity(split.train))]
    if attributes is not None:
        told.append(
            ServedLists(
                ours.recommender,
                query_embeddings=query_embeddings,
                name="nextray without attributes",
            )
        )
    prefixes = prefix_curve(told, split.test, k=config.k, exclude_seen=ranking.exclude_seen)
    tested = split.test.without_seen() if ranking.exclude_seen else split.test
    sweep = None
    if config.sweep:
        sample = tested.select_users(sample_users(tested.num_users, seed=config.seed))
        sweep = sweep_penalty(
            ours.scoring(sample.histories, exclude_seen=ranking.exclude_seen),
            sample,
            weights=config.sweep,
            k=config.k,
            counts=count_items(split.train),
            embeddings=text / np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-9),
            groups=groups_of(items),
            seed=config.seed,
        )
    curve = None
    if files.ranker is not None:
        curve = reliability_of(ours, tested, k=config.k, exclude_seen=ranking.exclude_seen)
    details = {
        "index": index.name,
        "protocol": config.protocol,
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
    if len(results) > 1:
        details["NDCG of the folds"] = [
            {name: round(float(v.mean()), 4) for name, v in fold.user_ndcg.items()}
            for fold in results
        ]
    costs = [
        *stage_costs(workspace, embeddings=embeddings, model=model),
        Cost(
            stage="evaluating",
            num_units=result.num_users * len(result.metrics) * len(results),
            unit="lists",
            wall_s=time.perf_counter() - clock,
            cpu_s=time.process_time() - cpu,
        ),
    ]
    with write_artifact(workspace, "reports", config=config, parents=parents) as draft:
        metrics: dict[str, Any] = {
            **result.to_json(),
            "protocol": config.protocol,
            "folds": [dict(fold.metrics) for fold in results],
            "sweep": None if sweep is None else sweep.to_json(),
            "prefixes": None if prefixes is None else asdict(prefixes),
            "calibration": None if curve is None else asdict(curve),
            "test_set": fingerprint_of_test(tested),
            "order_gate": None if gate is None else gate.to_json(),
            "tower_gates": {name: one and one.to_json() for name, one in gates.items()},
            "details": details,
            "ranking": asdict(ranking),
        }
        write_json(draft.path / METRICS_FILE, metrics)
        pl.DataFrame(dict(result.user_ndcg)).write_parquet(draft.path / USERS_FILE)
        pages: Mapping[Any, str] = REPORT_FILES
        for language, name in pages.items():
            page = render_report(
                result,
                title=f"nextray {index.name}",
                details=details,
                order_gate=gate,
                sweep=sweep,
                calibration=curve,
                prefixes=prefixes,
                costs=costs,
                data_card=f"../../events/{parents['events']}/{PAGE_FILES[language]}",
                language=language,
            )
            (draft.path / name).write_text(page, encoding="utf-8")
        draft.counts |= {"users": result.num_users, "models": len(result.metrics)}
        draft.details |= {
            "metrics": metrics["metrics"],
            "order_gate": metrics["order_gate"],
        }
    made = find_artifact(workspace, "reports", config_hash("reports", config, parents))
    assert made is not None
    return made, False


def _shares(gate: OrderGate) -> str:
    """Return a gate in words: what is left of NDCG when the order goes."""
    whole = gate.ndcg["ordered"]
    if whole <= 0:
        return f"{whole:.4f}: nothing to lose"
    parts = (f"{name} {value / whole:.0%}" for name, value in gate.ndcg.items())
    return f"{whole:.4f}, left of it: {', '.join([*parts][1:])}"
