"""A canary: a second release that a share of the users is answered from until it is judged.

``current`` names it beside the release that answers everybody else. Who is in is told by a keyed
hash of the user's id, as stored, so that nobody can choose. The key is drawn when the canary goes
out: the next one meets other users, and a larger share of the same one keeps those who are in.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rec.errors import ArtifactError, ConfigError

_PLACES = 1 << 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """Name a release and the share of the users that it answers."""

    release: str
    share: float
    """In (0, 1)."""
    key: str
    """Hex; of the hash."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"--canary must be between 0 and 1, got {self.share}")

    def takes(self, user_id: str) -> bool:
        """Return whether a user is answered by the canary.

        >>> canary = Canary(release="r", share=0.25, key="00ff")
        >>> sum(canary.takes(f"user-{n}") for n in range(1000))
        254
        """
        digest = hmac.new(bytes.fromhex(self.key), user_id.encode(), hashlib.sha256).digest()
        return int.from_bytes(digest[:8], "big") < self.share * _PLACES


def read_canary(pointer: Mapping[str, Any]) -> Canary | None:
    """Return the canary that the content of ``current`` names, or ``None``.

    Raises:
        ArtifactError: it names one in a form that this version does not know.
    """
    found = pointer.get("canary")
    if found is None:
        return None
    try:
        return Canary(release=found["release"], share=float(found["share"]), key=found["key"])
    except (TypeError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"`current` names a canary that cannot be read ({found}): roll back, or promote again"
        ) from error
