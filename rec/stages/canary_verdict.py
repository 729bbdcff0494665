"""What a canary earns beside the promoted release: is the split sound, which is better, how sure.

Only lists since the canary's first one count, of users who were named. A user's value is the share
of their lists that an event has followed, so that nobody counts for more by asking more often.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rec.data.events import Event, Impression
from rec.errors import ArtifactError, ConfigError
from rec.evaluation.experiments import RatioCheck, check_sample_ratio
from rec.evaluation.logged_lists import read_places
from rec.evaluation.sequential import Look, compare_arms
from rec.ranking.canary import read_canary
from rec.ranking.current import read_current
from rec.ranking.feedback.stores import Feedback, found_feedback

MAX_LISTS = 1_000_000
"""Newest lists that are read."""
_EVENTS_AT_ONCE = 100_000
Verdict = Literal["canary", "promoted", "split_is_broken"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Hold what one release has shown.

    Attributes:
        release: its name.
        num_users: users who were shown a list.
        num_lists: lists that they were shown.
        followed: mean over users of the share of their lists that an event has followed.
    """

    release: str
    num_users: int
    num_lists: int
    followed: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryVerdict:
    """Hold both arms and what may be said of them at this look.

    Attributes:
        promoted: the release that answers everybody else.
        canary: the one on trial.
        ratio: whether the users are split as they should be; if not, nothing else holds.
        look: difference of the arms' means, the canary's less the other's, at every look sure.
        verdict: the better one, ``split_is_broken``, or ``None`` while nothing can be said.
    """

    promoted: Arm
    canary: Arm
    ratio: RatioCheck
    look: Look
    verdict: Verdict | None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON's own types; an infinite end is ``None``."""
        look = {
            name: value if np.isfinite(value) else None for name, value in asdict(self.look).items()
        }
        return {**asdict(self), "look": look}


def judge_canary(workspace: Path, *, expected_users: int = 10_000) -> CanaryVerdict:
    """Return the verdict on the canary that is out.

    Args:
        workspace: root of the artifacts.
        expected_users: of both arms, for which the interval is narrowest; chosen before the trial.

    Raises:
        ArtifactError: no canary is out, or it has shown nothing yet.
        ConfigError: nobody is expected.
    """
    if expected_users < 1:
        raise ConfigError(f"--expected-users must be >= 1, got {expected_users}")
    pointer = read_current(workspace)
    canary = read_canary(pointer)
    if canary is None:
        raise ArtifactError("expected a canary, none is out: send one by jobs.promote --canary 0.1")
    promoted = str(pointer["release"])
    with found_feedback(workspace) as feedback:
        shown = [] if feedback is None else feedback.log.read_impressions(limit=MAX_LISTS)
        events = [] if feedback is None else list(_joined(feedback))
    lists = [one for one in shown if one.user_id is not None]
    starts = [one.timestamp_ms for one in lists if one.release == canary.release]
    if not starts:
        raise ArtifactError(
            f"expected lists of the canary {canary.release}, none was shown: serve, and wait"
        )
    lists = [one for one in lists if one.timestamp_ms >= min(starts)]
    values, arms = {}, {}
    for name in (promoted, canary.release):
        mine = [one for one in lists if one.release == name]
        values[name] = _of_users(mine, events)
        arms[name] = Arm(
            release=name,
            num_users=len(values[name]),
            num_lists=len(mine),
            followed=float(values[name].mean()) if len(values[name]) else 0.0,
        )
    shares = {promoted: 1 - canary.share, canary.release: canary.share}
    ratio = check_sample_ratio({name: len(own) for name, own in values.items()}, shares=shares)
    look = compare_arms(values[promoted], values[canary.release], expected_users=expected_users)
    verdict: Verdict | None = None
    if not ratio.is_sound:
        verdict = "split_is_broken"
    elif look.is_decided:
        verdict = "canary" if look.low > 0 else "promoted"
    return CanaryVerdict(
        promoted=arms[promoted],
        canary=arms[canary.release],
        ratio=ratio,
        look=look,
        verdict=verdict,
    )


def _joined(feedback: Feedback) -> Iterator[Event]:
    """Yield the events that name an impression."""
    seq = 0
    while rows := feedback.log.read_after(seq, _EVENTS_AT_ONCE):
        yield from (event for _, event in rows if event.impression_id is not None)
        seq = rows[-1][0]


def _of_users(lists: list[Impression], events: list[Event]) -> NDArray[np.float64]:
    """Return each user's share of lists that an event has followed, float64 ``(users,)``."""
    places = read_places(lists, events)
    is_followed = np.zeros(len(lists))
    np.maximum.at(is_followed, places.lists, (places.rewards > 0).astype(np.float64))
    _, rows = np.unique([str(one.user_id) for one in lists], return_inverse=True)
    if not len(lists):
        return np.zeros(0)
    shares: NDArray[np.float64] = np.bincount(rows, weights=is_followed) / np.bincount(rows)
    return shares
