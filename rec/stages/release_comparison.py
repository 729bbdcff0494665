"""Compare two releases of a workspace by what their reports have measured."""

from pathlib import Path

from rec.errors import ArtifactError
from rec.evaluation.comparing import Comparison, compare_reports

_ROOMS = ("releases", "reports")


def compare_releases(workspace: Path, first: str, second: str) -> Comparison:
    """Return which of two releases (or reports) is better.

    Raises:
        ArtifactError: the workspace has no such release, or it was evaluated by an older version.
        DataError: the two were measured on different users.
    """
    return compare_reports(_folder(workspace, first), _folder(workspace, second))


def _folder(workspace: Path, name: str) -> Path:
    for room in _ROOMS:
        folder = workspace / room / name
        if name and Path(name).name == name and folder.is_dir():
            return folder
    known = sorted(path.name for path in (workspace / "releases").glob("*") if path.is_dir())
    raise ArtifactError(
        f"expected a release or report of {workspace}, got {name!r}; releases: "
        f"{', '.join(known) or 'none'}"
    )
