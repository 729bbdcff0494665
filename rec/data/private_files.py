"""Files that only their owner may read: keys, and whatever else is a secret."""

import os
import stat
import uuid
from pathlib import Path

from rec.errors import ArtifactError

_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def create_private_file(path: Path, text: str) -> bool:
    """Write a file that only its owner may read (mode 0600), unless there is one already.

    Returns:
        Whether this call created it; of several callers at once exactly one gets ``True``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        # A hard link fails where the name exists, a rename would replace the winner's file.
        path.hardlink_to(aside)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def read_private_file(path: Path) -> str:
    """Return the text of a file that only its owner may read.

    Raises:
        ArtifactError: group or world may read it.
    """
    mode = path.stat().st_mode
    if mode & _OPEN_TO_OTHERS:
        raise ArtifactError(
            f"{path} is a secret but has mode {stat.S_IMODE(mode):04o}, expected 0600: "
            f"run `chmod 600 {path}`"
        )
    return path.read_text(encoding="utf-8")
