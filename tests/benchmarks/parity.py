"""Three ways to one list: one process, jobs.recommend on Ray, and the endpoint, for 1,000 users.

    python -m tests.benchmarks.parity --users 1000
    python -m tests.benchmarks.parity --workspace DIR --events DIR/input/events.parquet

Without a workspace a release is made of a synthetic shop first, with searches, a ranker and users'
attributes. Each user is asked for alone in this process, in blocks of actors, and over HTTP by 16
callers at once. The lists must hold the same items, and scores within 1e-5.

The endpoint knows what users did since the release, and ``jobs.recommend`` reads the release's
sequences: users with events in the log that the release has not read are compared apart, and their
lists may differ at the endpoint. Items that were put or deleted since change everybody's: such a
workspace is refused.
"""

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import torch
from accelerate import Accelerator

from cluster.resources import LAPTOP
from cluster.runtime import connect, free_port, prepare_environment
from cluster.serve.keys import ensure_admin_key
from rec.artifacts import Artifact, read_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.privacy import load_or_create_key, pseudonyms
from rec.data.sequences import load_sequences
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.encoders import EncoderConfig
from rec.errors import ArtifactError
from rec.models.sequence_model import ModelConfig
from rec.models.training_config import TrainingConfig
from rec.ranking.current import current_release
from rec.ranking.feedback.stores import found_feedback
from rec.ranking.following import changes_through
from rec.ranking.ranker import RankerConfig
from rec.ranking.recommender import Recommender
from rec.ranking.release import RankingConfig
from rec.stages.embedding import embed, load_embeddings
from rec.stages.evaluating import EvaluationConfig, evaluate_index
from rec.stages.indexing import index
from rec.stages.preparation import KEY_FILE, prepare
from rec.stages.releasing import promote
from rec.stages.train_settings import TrainSettings
from rec.stages.training import train

K, TOLERANCE, CALLERS = 10, 1e-5, 16
NOT_LOGGED = "impression_not_logged"
"""A busy disk costs the impression, and changes no list."""
READ_AT_ONCE = 100_000
Lists = dict[str, list[tuple[str, float]]]


def make_workspace(folder: Path, *, num_users: int) -> tuple[Path, Path]:
    """Return a workspace with a promoted release, and the events that it was made of."""
    workspace = folder / "workspace"
    shop = make_shop(ShopConfig(num_users=num_users, num_items=240, events_per_user=25))
    events, items, users = write_shop(shop, folder)
    prepare(
        workspace, events=[str(events)], items=[str(items)], users=[str(users)],
        config=CleaningConfig(), num_partitions=2,
    )  # fmt: skip
    embed(workspace, config=EncoderConfig(model="hashing"))
    settings = TrainSettings(
        model=ModelConfig(width=32, max_length=20),
        training=TrainingConfig(num_epochs=2, batch_size=32, validation_users=100),
        ranker=RankerConfig(num_trees=20, moments_per_user=2),
        test_quantile=0.9,
        exclude_seen=True,
        num_candidates=50,
    )
    train(workspace, settings, accelerator=Accelerator(cpu=True), resume=False)
    index(workspace, ranking=RankingConfig())
    evaluate_index(workspace, EvaluationConfig())
    promote(workspace)
    return workspace, events


def stored_ids(workspace: Path, release: Artifact, users: list[str]) -> list[str]:
    """Return the ids under which users are stored."""
    log = read_artifact(workspace / "events" / release.parents["events"])
    if log.manifest["details"]["pseudonymized"]:
        return list(pseudonyms(users, load_or_create_key(workspace / KEY_FILE)))
    return users


def with_feedback(workspace: Path, release: Artifact) -> frozenset[str]:
    """Return the stored ids of users with events that the release has not read.

    Raises:
        ArtifactError: items were put or deleted since the release.
    """
    found: set[str] = set()
    with found_feedback(workspace) as feedback:
        if feedback is None:
            return frozenset()
        changed = feedback.changes.names_after(changes_through(release))
        if changed:
            raise ArtifactError(
                f"expected the release's own items, {len(changed)} were put or deleted since: "
                "build a release that has them, then compare"
            )
        seq = int(release.manifest["details"]["ingested_through"])
        while rows := feedback.log.read_after(seq, READ_AT_ONCE):
            found.update(event.user_id for _, event in rows)
            seq = rows[-1][0]
    return frozenset(found)


def known_users(workspace: Path, users: list[str]) -> list[str]:
    """Return the users who are in the release's sequences: cleaning leaves some out."""
    release = read_artifact(current_release(workspace))
    known = set(load_sequences(workspace / "sequences" / release.parents["sequences"]).user_ids)
    stored = stored_ids(workspace, release, users)
    return [user for user, key in zip(users, stored, strict=True) if key in known]


def in_process(workspace: Path, users: list[str]) -> Lists:
    """Return each user's list, made alone."""
    release = read_artifact(current_release(workspace))
    recommender = Recommender.load(release.path)
    sequences = load_sequences(workspace / "sequences" / release.parents["sequences"])
    embeddings = read_artifact(workspace / "embeddings" / release.parents["embeddings"])
    _, queries = load_embeddings(embeddings)
    stored = stored_ids(workspace, release, users)
    row_of = {user_id: row for row, user_id in enumerate(sequences.user_ids)}
    found: Lists = {}
    for user, key in zip(users, stored, strict=True):
        history = sequences.select_users(np.asarray([row_of[key]]))
        ranked = recommender.rank(history, k=K, query_embeddings=queries)
        names = [recommender.item_ids[item - 1] for item in ranked.items[0].tolist() if item > 0]
        found[user] = list(zip(names, ranked.scores[0].tolist(), strict=False))
    return found


def by_job(workspace: Path, users: list[str], folder: Path) -> Lists:
    """Return the lists that jobs.recommend writes."""
    from jobs.stages import run_recommend  # loads Ray

    asked, output = folder / "users.csv", folder / "lists.parquet"
    pl.DataFrame({"user_id": users}).write_csv(asked)
    ranking = Recommender.load(current_release(workspace)).ranking
    run_recommend(
        LAPTOP, workspace, users=str(asked), k=K, output=output, exclude_seen=ranking.exclude_seen
    )
    table = pl.read_parquet(output).sort("user_id", "position")
    found: Lists = {user: [] for user in users}
    for user, item, score in table.select("user_id", "item_id", "score").iter_rows():
        found[user].append((item, score))
    return found


async def over_http(url: str, key: str, users: list[str]) -> Lists:
    """Return the endpoint's answers, ``CALLERS`` of them on their way at once."""
    turns = asyncio.Semaphore(CALLERS)

    async def ask(client: httpx.AsyncClient, user: str) -> dict[str, Any]:
        async with turns:
            answer = await client.post("/v1/recommend", json={"user_id": user, "k": K})
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        assert set(found["degraded"]) <= {NOT_LOGGED}, found["degraded"]
        return found

    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as client:
        answers = await asyncio.gather(*(ask(client, user) for user in users))
    return {
        user: [(item["item_id"], item["score"]) for item in answer["items"]]
        for user, answer in zip(users, answers, strict=True)
    }


def compare(ours: Lists, theirs: Lists, users: list[str]) -> dict[str, float]:
    """Return how many users have the same items in the same order, and how far scores are apart."""
    same = sum([i for i, _ in ours[user]] == [i for i, _ in theirs[user]] for user in users)
    pairs = [
        (own, other)
        for user in users
        for (_, own), (_, other) in zip(ours[user], theirs[user], strict=False)
    ]
    return {
        "users": len(users),
        "same_lists": same,
        "places": len(pairs),
        "largest_difference": max((abs(own - other) for own, other in pairs), default=0.0),
    }


def main() -> None:
    """Print the figures as one JSON object; end with 1 where two ways differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, help="with a promoted release")
    parser.add_argument("--events", type=Path, help="Parquet file that it was made of")
    parser.add_argument("--users", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prepare_environment(os.environ)  # Ray reads its settings when the import brings it
    with tempfile.TemporaryDirectory() as name:
        folder, workspace, events = Path(name), arguments.workspace, arguments.events
        if workspace is None:
            workspace, events = make_workspace(folder, num_users=arguments.users)
        names = pl.read_parquet(events, columns=["user_id"])["user_id"].cast(pl.String)
        users = known_users(workspace, names.unique().sort().to_list())[: arguments.users]
        release = read_artifact(current_release(workspace))
        newer = with_feedback(workspace, release)
        old, changed = [], []
        for user, stored in zip(users, stored_ids(workspace, release, users), strict=True):
            (changed if stored in newer else old).append(user)
        alone = in_process(workspace, users)
        key, _ = ensure_admin_key(workspace)
        with connect(LAPTOP):
            from cluster.serve.app import serving

            batch = by_job(workspace, users, folder)
            with serving(workspace, profile=LAPTOP, port=free_port()) as url:
                served = asyncio.run(over_http(url, key, users))
    must_agree = {
        "jobs.recommend": compare(alone, batch, users),
        "endpoint": compare(alone, served, old),
    }
    figures = {
        "users": len(users),
        **must_agree,
        "endpoint, users with feedback since the release": compare(alone, served, changed),
    }
    print(json.dumps(figures, indent=1))  # noqa: T201
    assert old, "everybody has given feedback since the release: nothing to compare"
    for found in must_agree.values():
        assert found["same_lists"] == found["users"]
        assert found["largest_difference"] <= TOLERANCE


if __name__ == "__main__":
    main()
