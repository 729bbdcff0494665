"""Releasing: an evaluated index becomes a release folder, and ``current`` names it.

``WORKSPACE/current`` is a small JSON file: the promoted release and those before it. It is replaced
by one rename, so serving sees the old release or the new one. Rollback renames it back.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rec.artifacts import (
    MANIFEST,
    Artifact,
    config_hash,
    find_artifact,
    latest_artifact,
    link_or_copy,
    read_artifact,
    write_artifact,
    write_json,
)
from rec.errors import ArtifactError
from rec.evaluation.comparing import METRICS_FILE, USERS_FILE
from rec.ranking.canary import Canary, read_canary
from rec.ranking.current import CURRENT, read_current
from rec.stages.evaluating import REPORT_FILES
from rec.stages.model_card import model_card

CARD_FILE = "model_card.md"
MAX_PREVIOUS = 20
"""Releases that rollback can reach."""


def promote(workspace: Path, *, canary: float | None = None) -> tuple[Artifact, bool]:
    """Make the newest index with its report the current release; say whether it already was.

    Args:
        workspace: root of the artifacts.
        canary: make it answer this share of the users instead, beside the current one.

    Raises:
        ArtifactError: nothing was evaluated, or the newest index was not; a canary of what is
            current.
        ConfigError: the share is none.
    """
    release = make_release(workspace)
    if canary is not None:
        return release, not start_canary(workspace, release.name, share=canary)
    return release, not point_current(workspace, release.name)


def make_release(workspace: Path) -> Artifact:
    """Return the newest index with its report as a release folder; ``current`` stays as it is.

    Raises:
        ArtifactError: nothing was evaluated, or the newest index was not.
    """
    report = latest_artifact(workspace, "reports", made_by="evaluate")
    index = latest_artifact(workspace, "indexes", made_by="index")
    if report.parents["indexes"] != index.name:
        raise ArtifactError(
            f"the newest index {index.name} has no report: run `python -m jobs.evaluate RECIPE "
            f"--workspace {workspace}` first"
        )
    parents = {**index.parents, "indexes": index.name, "reports": report.name}
    release = find_artifact(workspace, "releases", config_hash("releases", {}, parents))
    if release is not None:
        return release
    with write_artifact(workspace, "releases", config={}, parents=parents) as draft:
        for source in sorted(index.path.iterdir()):
            if source.name != MANIFEST:
                link_or_copy(source, draft.path / source.name)
        for name in (METRICS_FILE, USERS_FILE, *REPORT_FILES.values()):
            link_or_copy(report.path / name, draft.path / name)
        card = model_card(
            index,
            report,
            log=read_artifact(workspace / "events" / index.parents["events"]),
            model=read_artifact(workspace / "models" / index.parents["models"]),
        )
        (draft.path / CARD_FILE).write_text(card, encoding="utf-8")
        draft.counts |= index.counts
        draft.details |= index.manifest["details"]
    made = find_artifact(workspace, "releases", config_hash("releases", {}, parents))
    assert made is not None
    return made


def point_current(workspace: Path, name: str) -> bool:
    """Make a release the current one, those before it reachable by ``rollback``; say if it moved.

    A canary ends with it. The file is replaced by one rename; a lock keeps two of these from losing
    a name.
    """
    with _changing(workspace):
        pointer = read_current(workspace)
        if pointer.get("release") == name:
            return False
        before = [one for one in [pointer.get("release"), *pointer.get("previous", [])] if one]
        write_json(workspace / CURRENT, {"release": name, "previous": before[:MAX_PREVIOUS]})
    return True


def start_canary(workspace: Path, name: str, *, share: float) -> bool:
    """Let a release answer a share of the users; say whether that changed anything.

    Another share of the same canary keeps the users that are in and takes more, or lets some go.

    Raises:
        ArtifactError: nothing is current, or this release is.
        ConfigError: the share is none.
    """
    with _changing(workspace):
        pointer = read_current(workspace)
        if pointer.get("release") in (None, name):
            raise ArtifactError(
                f"expected a canary beside another current release, got {name} beside "
                f"{pointer.get('release')}: promote without --canary"
            )
        before = read_canary(pointer)
        same = before is not None and before.release == name
        key = before.key if before is not None and same else secrets.token_hex(16)
        canary = Canary(release=name, share=share, key=key)
        write_json(workspace / CURRENT, {**pointer, "canary": asdict(canary)})
    return canary != before


def rollback(workspace: Path) -> Artifact:
    """End the canary where one is out, else make the release before the current one current again.

    Returns:
        The release that answers everybody now.

    Raises:
        ArtifactError: there is none before it, or its files have changed.
    """
    with _changing(workspace):
        pointer = read_current(workspace)
        previous = pointer.get("previous", [])
        if "canary" in pointer:
            kept = {name: value for name, value in pointer.items() if name != "canary"}
            write_json(workspace / CURRENT, kept)
            return read_artifact(workspace / "releases" / pointer["release"])
        if not previous:
            raise ArtifactError(
                f"expected a release before the current one in {workspace}, found none"
            )
        release = read_artifact(workspace / "releases" / previous[0], verify=True)
        write_json(workspace / CURRENT, {"release": previous[0], "previous": previous[1:]})
    return release


@contextmanager
def _changing(workspace: Path) -> Iterator[None]:
    """Hold the pointer's lock: who changes it has read it first."""
    descriptor = os.open(workspace / ".current.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
