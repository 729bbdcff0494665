"""Which releases a gateway replica answers from: the promoted one, and the canary beside it."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.serve.histories import load_histories
from cluster.serve.served_release import ServedRelease
from rec.errors import RecError
from rec.ranking.canary import Canary, read_canary
from rec.ranking.current import read_current
from rec.ranking.feedback.stores import LOG_ERRORS
from rec.ranking.following import check_release

FOLLOW_S = 0.2
"""Between looks at ``current``: one small read."""
MAX_VIEWS = 4
"""Releases known at once: the one before and the one after a switch, a canary, and room."""
_log = logging.getLogger(__name__)


class ServedReleases:
    """Follow ``current``; safe for threads."""

    def __init__(self, workspace: Path, release: Path) -> None:
        """Answer from a release until another one is followed."""
        self._workspace = workspace
        self.promoted = ServedRelease.read(release)
        self.fingerprint = self.promoted.fingerprint
        self.canary: Canary | None = None
        self.item_ids = self.promoted.item_ids
        """Ids of the promoted catalog, and of the canary's: what only it shows can be clicked."""
        self._views = {self.promoted.name: self.promoted}
        self._refused: str | None = None
        self._refused_canary: Any = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        threading.Thread(target=self._follow, name="follow current", daemon=True).start()

    def of_user(self, user_id: str | None) -> ServedRelease:
        """Return the release that answers a user, by the id as stored; ``None`` for nobody."""
        canary = self.canary
        if canary is not None and user_id is not None and canary.takes(user_id):
            return self._views.get(canary.release, self.promoted)
        return self.promoted

    def has(self, name: str) -> bool:
        """Return whether a release has been read."""
        return name in self._views

    def knows(self, name: str) -> bool:
        """Return whether a release that the ranker has named can be read; reads it if need be."""
        if self.has(name):
            return True
        try:
            self._views[name] = ServedRelease.read(self._workspace / "releases" / name)
        except (OSError, ValueError):
            return False
        while len(self._views) > MAX_VIEWS:
            del self._views[next(iter(self._views))]
        return True

    def follow(self) -> None:
        """Switch to the promoted release, and to the canary, where they are others that may serve.

        Histories are loaded first. What the rankers would refuse is refused here too.
        """
        pointer = read_current(self._workspace)
        with self._lock:
            if not self._stop.is_set():
                self._follow_promoted(pointer.get("release"))
                self._follow_canary(pointer)

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        with self._lock:
            return

    def _follow_promoted(self, name: str | None) -> None:
        if name == self.promoted.name:
            self._refused = None
        if name in (None, self.promoted.name, self._refused):
            return
        try:
            folder = check_release(self._workspace, name, fingerprint=self.fingerprint).path
            load_histories(self._workspace, folder)
            self._views[name] = self.promoted = ServedRelease.read(folder)
            self.item_ids = self.promoted.item_ids
        except LOG_ERRORS:
            raise  # not the release's fault: it is looked at again
        except RecError as error:
            _log.error("release %s is refused, %s goes on: %s", name, self.promoted.name, error)
            self._refused = name

    def _follow_canary(self, pointer: Mapping[str, Any]) -> None:
        """Send users to the canary that the pointer names; the promoted one's histories serve it.

        They hold all events: those in the sequences of either, and those that came later.
        """
        entry = pointer.get("canary")
        if entry is not None and entry == self._refused_canary:
            return
        try:
            canary = read_canary(pointer)
            if canary == self.canary and (canary is None or canary.release in self._views):
                return
            ids = self.promoted.item_ids
            if canary is not None:
                name = canary.release
                folder = check_release(self._workspace, name, fingerprint=self.fingerprint).path
                self._views[name] = view = ServedRelease.read(folder)
                ids |= view.item_ids
            self.item_ids, self.canary, self._refused_canary = ids, canary, None
        except RecError as error:
            _log.error("the canary is refused, %s goes on: %s", self.promoted.name, error)
            self.item_ids, self.canary, self._refused_canary = self.promoted.item_ids, None, entry

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_S):
            try:
                self.follow()
            except (OSError, ValueError, *LOG_ERRORS):
                if not self._stop.is_set():
                    _log.exception("cannot follow the promoted release")
