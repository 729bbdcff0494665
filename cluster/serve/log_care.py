"""Mend the event log while the service runs: whoever meets the damage starts it, once at a time.

Lists go on from what can be read; events wait for the file that takes its place, or are refused
and never lost. What cannot be mended in use is mended when the service starts anew.
"""

import logging
import threading
import time
from collections.abc import Callable

from rec.errors import RecError
from rec.ranking.feedback.log_mending import Mended, is_damage
from rec.ranking.feedback.stores import LOG_ERRORS

AGAIN_AFTER_S = 30.0
"""Between tries: each one reads the whole file."""
_log = logging.getLogger(__name__)


class LogCare:
    """Be told what the event log complains of, and have it mended where its file is damaged."""

    def __init__(self, mend: Callable[[], Mended | None], *, count: Callable[[str], None]) -> None:
        """Hold who mends.

        Args:
            mend: mends the log; ``None`` where there was nothing to do any more.
            count: is told of ``found``, ``mended`` and ``failed``.
        """
        self._mend = mend
        self._count = count
        self._lock = threading.Lock()
        self._is_at_work = False
        self._not_before = 0.0
        self.is_damaged = False

    def notice(self, error: BaseException) -> None:
        """Take note of one of ``LOG_ERRORS``; returns at once."""
        if not is_damage(error):
            return
        with self._lock:
            if self._is_at_work or time.monotonic() < self._not_before:
                return
            if not self.is_damaged:
                self._count("found")
            self._is_at_work = self.is_damaged = True
        _log.error("the event log is damaged (%s): it is being mended, lists go on", error)
        threading.Thread(target=self._work, name="mend the event log", daemon=True).start()

    def _work(self) -> None:
        is_sound = False
        try:
            mended = self._mend()
            if mended is not None:
                _log.warning("%s", mended)
                self._count("mended")
            is_sound = True
        except (RecError, OSError, *LOG_ERRORS):
            _log.exception("the event log cannot be mended in use: events are refused, lists go on")
            self._count("failed")
        finally:
            with self._lock:
                self._is_at_work, self.is_damaged = False, not is_sound
                self._not_before = time.monotonic() + AGAIN_AFTER_S
