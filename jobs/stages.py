"""The stages as jobs run them: rec's functions, spread by the recipe's profile.

Each returns the fields of its summary. A job is one of these; the pipeline is all of them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.data.spread import RaySpread
from cluster.data.threads import ThreadSpread
from cluster.resources import Profile
from cluster.train.trainer import finetune, train_model
from cluster.tune.search import TuneConfig, search
from jobs.recipes import Recipe
from rec.artifacts import latest_artifact
from rec.stages.comparing import newest_quantile
from rec.stages.data_card import PAGE_FILES
from rec.stages.embedding import embed, warn_of_other_encoder
from rec.stages.enriching import RULES, enrich
from rec.stages.evaluating import evaluate_index
from rec.stages.finetuning import FinetuneSettings
from rec.stages.incremental import find_release
from rec.stages.indexing import index
from rec.stages.ingesting import ingest
from rec.stages.mending import mend_feedback
from rec.stages.preparation import prepare
from rec.stages.recommending import recommend
from rec.stages.releasing import promote, rollback
from rec.stages.train_settings import TrainSettings

Fields = Mapping[str, Any]


def run_prepare(
    recipe: Recipe,
    profile: Profile,
    workspace: Path,
    *,
    events: tuple[str, ...],
    items: tuple[str, ...],
    users: tuple[str, ...],
) -> Fields:
    """Clean the log and the catalog."""
    prepared = prepare(
        workspace,
        events=events,
        items=items,
        users=users,
        config=recipe.cleaning,
        num_partitions=profile.data.num_partitions,
        spread=RaySpread(num_actors=profile.data.num_encoders, is_stateless=True),
        local=ThreadSpread(num_threads=profile.data.num_encoders),
    )
    counts = prepared.events.counts
    return {
        "outputs": {
            "catalog": str(prepared.catalog.path),
            "events": str(prepared.events.path),
            "sequences": str(prepared.sequences.path),
            "data_card": str(prepared.events.path / PAGE_FILES["en"]),
        },
        "skipped": prepared.is_skipped,
        **{name: counts[name] for name in ("rows_in", "kept", "duplicates", "quarantined")},
        "duplicates_by_reason": counts["duplicates_by_reason"],
        "warnings": prepared.events.manifest["details"]["warnings"],
        "users": counts["users"],
        "items": dict(prepared.catalog.counts),
    }


def run_embed(recipe: Recipe, profile: Profile, workspace: Path) -> Fields:
    """Encode what is not in the store yet."""
    data = profile.data
    artifact, is_skipped = embed(
        workspace,
        config=recipe.encoder,
        spread=RaySpread(
            num_actors=data.num_encoders, num_cpus=data.encoder_cpus, num_gpus=data.encoder_gpus
        ),
        # Where the workers have a GPU this process may have none, and small work is large.
        local=None if data.encoder_gpus else ThreadSpread(num_threads=data.num_encoders),
        num_threads=max(1, int(data.encoder_cpus)),
    )
    counts = dict(artifact.counts)
    if is_skipped:
        counts |= {"encoded": 0, "cached": counts["distinct_texts"]}
    spec = artifact.manifest["config"]
    return {
        "outputs": {"embeddings": str(artifact.path)},
        "skipped": is_skipped,
        "counts": counts,
        "encoder": spec["encoder"]["model"],
        "backend": spec["encoder"]["backend"],
        "fingerprint": spec["fingerprint"],
        "cost": artifact.manifest["details"]["cost"],
    }


def run_enrich(recipe: Recipe, profile: Profile, workspace: Path) -> Fields:
    """Write generated fields beside the catalog."""
    data = profile.data
    # Rules take a fraction of a millisecond an item: workers would start for longer than that.
    spread = (
        ThreadSpread(num_threads=1)
        if recipe.enrichment.generator == RULES
        else RaySpread(
            num_actors=data.num_encoders, num_cpus=data.encoder_cpus, num_gpus=data.encoder_gpus
        )
    )
    artifact, is_skipped = enrich(
        workspace,
        config=recipe.enrichment,
        spread=spread,
        num_threads=max(1, int(data.encoder_cpus)),
    )
    counts = dict(artifact.counts)
    if is_skipped:
        counts |= {"generated": 0}
    return {
        "outputs": {"enrichments": str(artifact.path)},
        "skipped": is_skipped,
        "counts": counts,
        "generator": artifact.manifest["config"],
    }


def run_finetune(recipe: Recipe, profile: Profile, workspace: Path, *, resume: bool) -> Fields:
    """Tune the text encoder on the log; it is used from now on if it retrieves better."""
    artifact, is_skipped = finetune(
        workspace,
        FinetuneSettings(
            finetuning=recipe.finetuning,
            encoder=recipe.encoder,
            test_quantile=recipe.evaluation.test_quantile,
        ),
        resources=profile.train,
        resume=resume,
    )
    details = artifact.manifest["details"]
    return {
        "outputs": {"encoders": str(artifact.path)},
        "skipped": is_skipped,
        "counts": dict(artifact.counts),
        "is_better": details["is_better"],
        "fingerprint": details["fingerprint"],
        "ndcg@10": details["ndcg@10"],
    }


def run_train(
    recipe: Recipe,
    profile: Profile,
    workspace: Path,
    *,
    resume: bool,
    init_from: str | None = None,
) -> Fields:
    """Train the towers and the ranker on Ray Train, anew or from a release's name."""
    warn_of_other_encoder(latest_artifact(workspace, "embeddings", made_by="embed"), recipe.encoder)
    artifact, is_skipped = train_model(
        workspace,
        dataclasses.replace(train_settings(recipe), init_from=init_from),
        resources=profile.train,
        resume=resume,
    )
    return {
        "outputs": {"models": str(artifact.path)},
        "skipped": is_skipped,
        "counts": dict(artifact.counts),
        "ranker": artifact.manifest["details"]["ranker"],
    }


def tested_since(recipe: Recipe, workspace: Path, release: str, *, hours: float) -> Recipe:
    """Return the recipe with its test part after a release's log, half of what is new left before.

    Raises:
        ArtifactError: there is no such release.
        DataError: too little has happened since.
    """
    quantile = newest_quantile(
        workspace, release=find_release(workspace, release), hours=hours, learn_share=0.5
    )
    return tested_from(recipe, quantile)


def tested_from(recipe: Recipe, quantile: float) -> Recipe:
    """Return the recipe with its test part beginning at a quantile of time."""
    evaluation = dataclasses.replace(recipe.evaluation, test_quantile=quantile)
    return dataclasses.replace(recipe, evaluation=evaluation)


def run_tune(recipe: Recipe, profile: Profile, workspace: Path, *, config: TuneConfig) -> Fields:
    """Search configurations of the sequence model on Ray Tune."""
    path, found, is_skipped = search(
        workspace, train_settings(recipe), config, resources=profile.train
    )
    return {
        "outputs": {"tuning": str(path)},
        "skipped": is_skipped,
        "best": found["best"],
        "flags": found["flags"],
        "validation_ndcg@10": found["ndcg"],
        "trials": found["trials"],
    }


def run_index(recipe: Recipe, workspace: Path) -> Fields:
    """Make the files that answer."""
    artifact, is_skipped = index(workspace, ranking=recipe.ranking, config=recipe.index)
    return {"outputs": {"indexes": str(artifact.path)}, "skipped": is_skipped}


def run_evaluate(
    recipe: Recipe, workspace: Path, *, on_progress: Callable[[str, int], None] | None = None
) -> Fields:
    """Measure the newest index against the baselines."""
    artifact, is_skipped = evaluate_index(workspace, recipe.evaluation, on_progress=on_progress)
    return {
        "outputs": {"reports": str(artifact.path)},
        "skipped": is_skipped,
        "metrics": artifact.manifest["details"]["metrics"],
        "order_gate": artifact.manifest["details"]["order_gate"],
    }


def run_promote(workspace: Path, *, canary: float | None = None) -> Fields:
    """Make the newest evaluated index current, or the canary of a share of the users."""
    release, is_skipped = promote(workspace, canary=canary)
    return {"outputs": {"releases": str(release.path)}, "skipped": is_skipped}


def run_rollback(workspace: Path) -> Fields:
    """End the canary, or make the release before the current one current."""
    release = rollback(workspace)
    return {"outputs": {"releases": str(release.path)}, "skipped": False}


def run_ingest(workspace: Path) -> Fields:
    """Drain the event log into batches that the next preparation reads."""
    mended = mend_feedback(workspace)
    counts = ingest(workspace)
    folder = str(workspace / "feedback" / "batches")
    return {
        "outputs": {"feedback": folder},
        "skipped": counts["events"] + counts["items"] == 0,
        "counts": counts,
        **({} if mended is None else {"mended": dataclasses.asdict(mended)}),
    }


def run_recommend(
    profile: Profile,
    workspace: Path,
    *,
    users: str | None,
    k: int,
    output: Path,
    exclude_seen: bool | None,
) -> Fields:
    """Write the lists of many users."""
    counts = recommend(
        workspace,
        k=k,
        output=output,
        users=users,
        exclude_seen=exclude_seen,
        spread=RaySpread(num_actors=profile.data.num_recommenders),
        num_threads=1,
    )
    return {"outputs": {"lists": str(output)}, "skipped": False, "counts": counts}


def train_settings(recipe: Recipe) -> TrainSettings:
    """Return what a recipe says of training."""
    return TrainSettings(
        model=recipe.model,
        training=recipe.training,
        ranker=recipe.ranker,
        test_quantile=recipe.evaluation.test_quantile,
        exclude_seen=recipe.ranking.exclude_seen,
        num_candidates=recipe.ranking.num_candidates,
    )
