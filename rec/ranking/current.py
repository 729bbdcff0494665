"""Which release is promoted: the pointer ``current`` of a workspace."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rec.errors import ArtifactError

CURRENT = "current"
"""Name of the pointer in a workspace: the promoted release and those before it."""


def read_current(workspace: Path) -> Mapping[str, Any]:
    """Return the pointer: ``release`` and ``previous``; empty before the first promotion."""
    path = workspace / CURRENT
    if not path.is_file():
        return {}
    pointer: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return pointer


def current_release(workspace: Path) -> Path:
    """Return the folder of the promoted release.

    Raises:
        ArtifactError: nothing has been promoted.
    """
    name = read_current(workspace).get("release")
    if name is None:
        raise ArtifactError(
            f"expected a promoted release in {workspace}, found none: "
            f"run `python -m jobs.promote RECIPE --workspace {workspace}` first"
        )
    return workspace / "releases" / str(name)
