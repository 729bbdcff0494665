"""Evaluation as a stage: the newest index's model against the baselines, on what came later.

The lists are made by the code that serves, with the weights that have seen nothing after the cut.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
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
from rec.data.splits import EvaluationSet, Split, leave_one_out, temporal_split
from rec.data.text import detect_languages
from rec.encoders import EncoderSpec, load_encoder
from rec.errors import ConfigError
from rec.evaluation.calibration import Reliability, reliability
from rec.evaluation.comparing import METRICS_FILE, USERS_FILE
from rec.evaluation.evaluate import TopKModel, evaluate, order_gate
from rec.evaluation.prefixes import prefix_curve
from rec.evaluation.report import render_report
from rec.evaluation.slicing import frequency_labels
from rec.evaluation.sweeping import DEFAULT_WEIGHTS, Scoring, sweep_penalty
from rec.models.baselines import Popularity, ScoredLists, count_items
from rec.models.segments import Profile, user_profiles
from rec.models.standard_baselines import fit_baselines
from rec.models.text_tower import TextTower
from rec.ranking.recommender import Recommender
from rec.ranking.release import ReleaseFiles, ranking_from
from rec.ranking.retrieval import Found
from rec.ranking.scoring import groups_of
from rec.stages.catalog import load_attributes
from rec.stages.data_card import PAGE_FILES
from rec.stages.embedding import load_embeddings
from rec.stages.fitting import cosine_scorer
from rec.stages.indexing import release_files
from rec.stages.train_settings import settings_from
from rec.stages.training import EVALUATED

Protocol = Literal["temporal", "rolling", "leave_one_out"]
_SWEPT_USERS = 2000
"""Users that the sweep and the calibration ask: enough for 1 % of NDCG."""
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


class ServedLists:
    """Make lists with a recommender, as serving would."""

    def __init__(
        self,
        recommender: Recommender,
        *,
        query_embeddings: NDArray[np.float32],
        profiles: Mapping[str, Profile] | None = None,
        name: str = "nextray",
    ) -> None:
        self.name = name
        self.recommender = recommender
        self._queries = query_embeddings
        self._profiles = profiles or {}

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        """Return int32 ``(B, k)`` item indexes, 0 where none is left."""
        ranked = self.recommender.rank(
            histories,
            k=k,
            query_embeddings=self._queries,
            exclude_seen=exclude_seen,
            profiles=[self._profiles.get(user_id, {}) for user_id in histories.user_ids],
        )
        return ranked.items.astype(np.int32)

    def scoring(self, histories: Sequences, *, exclude_seen: bool) -> Scoring:
        """Return everyone's candidates before the penalty."""
        parts = []
        for start in range(0, histories.num_users, _SWEPT_USERS):
            rows = np.arange(start, min(start + _SWEPT_USERS, histories.num_users))
            ranked = self.recommender.rank(
                histories.select_users(rows),
                k=1,
                query_embeddings=self._queries,
                exclude_seen=exclude_seen,
                penalty_weight=0.0,
            )
            parts.append(ranked.candidates)
        found = Found.stack(parts)
        return Scoring(
            items=found.items.numpy(),
            relevance=found.relevance.numpy(),
            penalty=self.recommender.popularity_of(found.items),
        )


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
    ranking = ranking_from(index.manifest["config"])
    items = load_items(catalog.path)
    attributes = load_attributes(catalog.path)
    query_embeddings = load_embeddings(embeddings)[1]
    folds = _folds(sequences, config)
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
        towers = _towers(files, embeddings, config)
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
        sample = tested.select_users(_sample(tested.num_users, seed=config.seed))
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
        curve = _reliability(ours, tested, k=config.k, exclude_seen=ranking.exclude_seen)
    details = {
        "release": index.name,
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
    with write_artifact(workspace, "reports", config=config, parents=parents) as draft:
        metrics: dict[str, Any] = {
            **result.to_json(),
            "protocol": config.protocol,
            "folds": [dict(fold.metrics) for fold in results],
            "sweep": None if sweep is None else sweep.to_json(),
            "prefixes": None if prefixes is None else asdict(prefixes),
            "calibration": None if curve is None else asdict(curve),
            "test_set": _fingerprint(tested),
            "order_gate": gate,
            "tower_gates": gates,
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
                data_card=f"../../events/{parents['events']}/{PAGE_FILES[language]}",
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


def _folds(sequences: Sequences, config: EvaluationConfig) -> list[Split]:
    """Return what is trained on and asked, once or once per cut, the newest last."""
    first = temporal_split(sequences, quantile=config.test_quantile)
    if config.protocol == "temporal":
        return [first]
    if config.protocol == "leave_one_out":
        # Only whoever came after the cut: the weights may have seen the others' last item.
        split = leave_one_out(sequences)
        times = sequences.timestamps_ms
        newest = {
            user_id: int(times[end - 1])
            for user_id, end in zip(sequences.user_ids, sequences.offsets[1:], strict=True)
            if end
        }
        keep = [newest[user_id] >= first.cut_ms for user_id in split.test.histories.user_ids]
        test = split.test.select_users(np.flatnonzero(keep))
        return [Split(cut_ms=first.cut_ms, train=split.train, test=test)]
    share = (1 - config.test_quantile) / config.num_folds
    return [
        temporal_split(sequences, quantile=config.test_quantile + fold * share)
        for fold in range(config.num_folds)
    ]


def item_facets(items: pl.DataFrame, counts: NDArray[np.int64]) -> dict[str, list[str]]:
    """Return what target items are sliced by: warmth, frequency, language, and group if named.

    Args:
        items: the catalog, by item index.
        counts: int64 ``(V,)``, training events.
    """
    facets = {
        "warmth": ["warm" if count else "cold" for count in counts.tolist()],
        "frequency": frequency_labels(counts),
        "language": detect_languages(items["title"]).to_list(),
    }
    groups = groups_of(items)
    if groups is not None:
        facets["group"] = [own[0] if own else "" for own in groups]
    return facets


def _reliability(
    ours: ServedLists, test: EvaluationSet, *, k: int, exclude_seen: bool
) -> Reliability:
    found = ours.scoring(
        test.select_users(_sample(test.num_users, seed=0)).histories, exclude_seen=exclude_seen
    )
    order = np.argsort(-found.relevance, axis=1, kind="stable")[:, :k]
    return reliability(
        np.take_along_axis(found.items, order, axis=1).astype(np.int32),
        np.take_along_axis(found.relevance, order, axis=1),
        test.select_users(_sample(test.num_users, seed=0)),
    )


def _sample(num_users: int, *, seed: int) -> NDArray[np.int64]:
    """Return the rows of at most ``_SWEPT_USERS`` users, ascending."""
    if num_users <= _SWEPT_USERS:
        return np.arange(num_users)
    picked = np.random.default_rng(seed).choice(num_users, size=_SWEPT_USERS, replace=False)
    return np.sort(picked)


def _fingerprint(test: EvaluationSet) -> str:
    """Return a hash of whom and what was asked, so that only like is compared with like."""
    digest = hashlib.sha256()
    for values in (test.target_offsets, test.targets, test.histories.lengths):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]
