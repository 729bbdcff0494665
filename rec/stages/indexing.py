"""Indexing: a trained model and the catalog to the files that answer requests."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from rec.artifacts import (
    Artifact,
    config_hash,
    find_artifact,
    latest_artifact,
    point_latest,
    read_artifact,
    write_artifact,
)
from rec.data.items import load_items
from rec.data.sequences import Sequences, load_sequences
from rec.errors import ArtifactError
from rec.models.baselines import count_items
from rec.models.cold_start import cold_scores
from rec.models.inference import embed_histories, embed_items, place_by_kin
from rec.models.segments import build_segments
from rec.ranking.ranker import RANKER_FILE, load_ranker
from rec.ranking.release import RankingConfig, ReleaseFiles, ranking_from, write_release_files
from rec.ranking.retrieval.index_building import IndexConfig, build_index
from rec.ranking.retrieval.sources import build_tables
from rec.stages.catalog import load_attributes
from rec.stages.embedding import load_embeddings, load_images
from rec.stages.train_settings import settings_from
from rec.stages.training import SERVED, build_model, load_model

RECENT_DAYS = 7
_ASKED_USERS = 500
"""Users that recall is measured on: it is known to half a per cent."""


def index(
    workspace: Path, *, ranking: RankingConfig, config: IndexConfig | None = None
) -> tuple[Artifact, bool]:
    """Return the index of the newest model, and whether it was there.

    Raises:
        ArtifactError: nothing was trained, or the embeddings are of another fingerprint.
        ConfigError: an approximate index that is not installed or not good enough.
    """
    config = config or IndexConfig()
    settings = {"ranking": asdict(ranking), "index": asdict(config)}
    model = latest_artifact(workspace, "models", made_by="train")
    embeddings = read_artifact(workspace / "embeddings" / model.parents["embeddings"])
    check_fingerprints(workspace, model=model, embeddings=embeddings)
    parents = {**model.parents, "models": model.name}
    found = find_artifact(workspace, "indexes", config_hash("indexes", settings, parents))
    if found is not None:
        point_latest(workspace, "indexes", found.name)
        return found, True
    catalog = read_artifact(workspace / "catalog" / model.parents["catalog"])
    log = read_artifact(workspace / "events" / model.parents["events"])
    sequences = load_sequences(workspace / "sequences" / model.parents["sequences"])
    files = release_files(
        model,
        embeddings,
        sequences,
        items=load_items(catalog.path),
        weights=SERVED,
        ranking=ranking,
        is_pseudonymized=log.manifest["details"]["pseudonymized"],
        attributes=load_attributes(catalog.path),
    )
    built, found_out = build_index(
        files.embeddings,
        lambda: _some_users(files, sequences, query_embeddings=load_embeddings(embeddings)[1]),
        config,
    )
    files = replace(files, index=built)
    with write_artifact(workspace, "indexes", config=settings, parents=parents) as draft:
        write_release_files(draft.path, files)
        draft.counts |= {"items": files.items.height, "width": files.embeddings.shape[1]}
        draft.details |= {
            "index": found_out,
            "fingerprint": files.fingerprint,
            "ingested_through": log.manifest["details"]["ingested_through"],
            "item_changes_through": catalog.manifest["details"].get("item_changes_through", 0),
        }
    made = find_artifact(workspace, "indexes", config_hash("indexes", settings, parents))
    assert made is not None
    return made, False


def ranking_of(index: Artifact) -> RankingConfig:
    """Return how the lists of an index are made."""
    config = index.manifest["config"]
    return ranking_from(config.get("ranking", config))


def _some_users(
    files: ReleaseFiles, sequences: Sequences, *, query_embeddings: NDArray[np.float32]
) -> torch.Tensor:
    """Return e_u of users with events, evenly over the log: whom recall is measured on."""
    rows = np.flatnonzero(sequences.lengths > 0)
    picks = rows[np.linspace(0, len(rows) - 1, min(len(rows), _ASKED_USERS)).astype(np.int64)]
    return embed_histories(
        files.model,
        sequences.select_users(picks),
        items=files.embeddings,
        query_embeddings=query_embeddings,
    )


def release_files(
    model: Artifact,
    embeddings: Artifact,
    sequences: Sequences,
    *,
    items: pl.DataFrame,
    weights: str,
    ranking: RankingConfig,
    is_pseudonymized: bool,
    attributes: pl.DataFrame | None = None,
) -> ReleaseFiles:
    """Return what answers requests with one set of a model's weights.

    Args:
        model: artifact of kind ``models``.
        embeddings: the artifact it was trained on.
        sequences: events that popularity is counted over.
        items: the catalog.
        weights: ``EVALUATED`` or ``SERVED``.
        ranking: how lists are made.
        is_pseudonymized: whether user ids are stored as pseudonyms.
        attributes: of the users, for cold starts.
    """
    settings = settings_from(model.manifest["config"])
    towers = load_model(
        build_model(embeddings, sequences, settings.model, seed=settings.training.seed),
        model,
        weights=weights,
    )
    e_i = embed_items(towers)
    ranker = load_ranker(model.path) if (model.path / RANKER_FILE).is_file() else None
    tables = None
    if ranker is not None:
        tables = build_tables(
            sequences,
            text=towers.items.text[1 : items.height + 1].numpy(),
            categories=items["category"],
            images=load_images(embeddings) if settings.model.images else None,
        )
        e_i = place_by_kin(e_i, tables.kin, is_cold=tables.counts == 0)
    # What answers knows the items only: queries come as text and are encoded then.
    towers.items.text = towers.items.text[: items.height + 1]
    return ReleaseFiles(
        items=items,
        counts=count_table(sequences, items),
        text=torch.from_numpy(np.ascontiguousarray(towers.items.text.numpy())),
        embeddings=e_i,
        model=towers,
        ranking=ranking,
        encoder=embeddings.manifest["config"]["encoder"],
        fingerprint=embeddings.manifest["config"]["fingerprint"],
        event_type_names=sequences.event_type_names,
        is_pseudonymized=is_pseudonymized,
        ranker=ranker,
        tables=tables,
        segments=None if attributes is None else build_segments(sequences, attributes),
    )


def count_table(sequences: Sequences, items: pl.DataFrame) -> pl.DataFrame:
    """Return each item's events, all and recent, and its cold-start score, best first."""
    counts = items.select("item_index", "item_id", "title").with_columns(
        pl.Series("count", count_items(sequences), dtype=pl.Int64),
        pl.Series("recent_count", count_items(sequences, last_days=RECENT_DAYS), dtype=pl.Int64),
        pl.Series("cold_score", cold_scores(sequences), dtype=pl.Float32),
    )
    return counts.sort(["cold_score", "item_index"], descending=[True, False])


def check_fingerprints(workspace: Path, *, model: Artifact, embeddings: Artifact) -> None:
    """Refuse to mix two encoders.

    Raises:
        ArtifactError: the model was trained on embeddings of another fingerprint.
    """
    ours, theirs = model.manifest["details"]["fingerprint"], embeddings.manifest["config"]
    if ours != theirs["fingerprint"]:
        raise ArtifactError(
            f"the model was trained on encoder {ours}, the embeddings are of "
            f"{theirs['fingerprint']}: run `python -m jobs.train RECIPE --workspace {workspace}`"
        )
