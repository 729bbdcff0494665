"""Follow the promoted release: load the next one aside, switch between two answers.

``current`` is read again and again. A release that is damaged, or that another encoder made, is
refused once, with a line in the log, and the old one goes on. A list is made by one recommender
from start to end, so no list mixes two releases. Where ``current`` names a canary, that release is
held beside the promoted one; when it is promoted it is here already.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rec.artifacts import Artifact, read_artifact
from rec.errors import ArtifactError, RecError
from rec.ranking.canary import read_canary
from rec.ranking.current import read_current
from rec.ranking.feedback.stores import Changes
from rec.ranking.live_catalog import LiveRecommender
from rec.ranking.recommender import Recommender
from rec.ranking.release import RELEASE_FILE, read_release_files
from rec.ranking.retrieval.sharding import ShardedIndex

_log = logging.getLogger(__name__)


class FollowedRelease:
    """Hold the recommender of a workspace's promoted release; safe for threads."""

    def __init__(
        self,
        workspace: Path,
        *,
        fingerprint: str,
        changes: Changes,
        spread: Callable[[str, Tensor], ShardedIndex] | None = None,
    ) -> None:
        """Load the promoted release, or the newest before it that can be loaded.

        Args:
            workspace: root of the artifacts.
            fingerprint: of the encoder that runs beside; releases of another are refused.
            changes: item changes to follow on top of the release.
            spread: returns the index of a release's e_i where other replicas hold it in parts.

        Raises:
            ArtifactError: no release can be loaded.
        """
        self._workspace = workspace
        self._fingerprint = fingerprint
        self._changes = changes
        self._spread = spread
        self._refused: str | None = None
        self._aside: LiveRecommender | None = None
        self._lock = threading.Lock()
        pointer = read_current(workspace)
        self._live = self._load_first(pointer)
        self._canary: LiveRecommender | None = None
        self._refused_canary: Any = None
        self._follow_canary(pointer)

    def recommender(self, name: str | None = None) -> Recommender:
        """Return what answers now, with every item change that is durable.

        Args:
            name: the release that is wanted: the canary's while there is one, else the promoted.
        """
        canary = self._canary
        if canary is not None and canary.release == name:
            return canary.follow()
        return self._live.follow()

    def load_aside(self, name: str) -> None:
        """Load a release without switching to it: proof that it can answer.

        Raises:
            ArtifactError: it is damaged, or another encoder made it.
        """
        with self._lock:
            if name != self._live.release and (self._aside is None or self._aside.release != name):
                self._aside = self._load(name)

    def poll(self) -> bool:
        """Switch to the promoted release where it is another one; say whether it did."""
        pointer = read_current(self._workspace)
        has_switched = self._follow_promoted(pointer.get("release"))
        self._follow_canary(pointer)
        return has_switched

    def _follow_promoted(self, name: str | None) -> bool:
        if name == self._live.release:
            self._refused = None  # what is promoted again later is looked at again
        if name in (None, self._live.release, self._refused):
            return False
        with self._lock:
            try:
                fresh = self._held(str(name)) or self._load(str(name))
            except RecError as error:
                _log.error("release %s is refused, %s goes on: %s", name, self._live.release, error)
                self._refused = str(name)
                return False
            self._live, self._refused = fresh, None
        return True

    def _follow_canary(self, pointer: Mapping[str, Any]) -> None:
        """Hold the canary that the pointer names, or none; one that cannot be served is refused."""
        entry = pointer.get("canary")
        if entry is not None and entry == self._refused_canary:
            return
        try:
            canary = read_canary(pointer)
            name = None if canary is None else canary.release
            if name is None or name == self._live.release:
                self._canary = self._refused_canary = None
            elif self._canary is None or self._canary.release != name:
                with self._lock:
                    self._canary = self._held(name) or self._load(name)
        except RecError as error:
            _log.error("the canary is refused, %s goes on: %s", self._live.release, error)
            self._canary, self._refused_canary = None, entry

    def _held(self, name: str) -> LiveRecommender | None:
        """Return a release that is loaded already; what was loaded aside is looked at once."""
        aside, self._aside = self._aside, None
        held = (one for one in (aside, self._canary) if one is not None and one.release == name)
        return next(held, None)

    def _load_first(self, pointer: Mapping[str, Any]) -> LiveRecommender:
        reasons = []
        for name in _newest_first(pointer):
            try:
                return self._load(name)
            except RecError as error:
                _log.error("release %s is refused: %s", name, error)
                reasons.append(str(error))
        raise ArtifactError(
            "; ".join(reasons)
            or f"expected a promoted release in {self._workspace}, found none: run "
            f"`python -m jobs.promote RECIPE --workspace {self._workspace}` first"
        )

    def _load(self, name: str) -> LiveRecommender:
        artifact = check_release(self._workspace, name, fingerprint=self._fingerprint)
        files = read_release_files(artifact.path)
        if self._spread is not None:
            files = replace(files, shards=self._spread(artifact.name, files.embeddings))
        return LiveRecommender(
            files,
            release=artifact.name,
            changes=self._changes,
            through=changes_through(artifact),
        )


def check_release(workspace: Path, name: str, *, fingerprint: str) -> Artifact:
    """Return a release that may be served beside an encoder; its files are compared with sha256.

    Raises:
        ArtifactError: it is missing or damaged, or another encoder made it.
    """
    artifact = read_artifact(workspace / "releases" / name, verify=True)
    found = json.loads((artifact.path / RELEASE_FILE).read_text(encoding="utf-8"))["fingerprint"]
    if found != fingerprint:
        raise ArtifactError(
            f"release {name} was made with encoder {found}, {fingerprint} is running: stop the "
            "service, promote, and serve again"
        )
    return artifact


def changes_through(release: Artifact) -> int:
    """Return the newest item change that a release's catalog contains; 0 for none."""
    return int(release.manifest["details"].get("item_changes_through", 0))


def _newest_first(pointer: Mapping[str, Any]) -> Iterator[str]:
    if "release" in pointer:
        yield str(pointer["release"])
        yield from map(str, pointer.get("previous", []))
