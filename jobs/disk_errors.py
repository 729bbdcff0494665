"""A disk that is full or read-only, told in one line, whichever library met it.

Python raises an ``OSError`` with a number; Arrow, polars, SQLite, safetensors and Ray's workers
have errors of their own that hold the system's text.
"""

import errno
from collections.abc import Iterator
from pathlib import Path

from rec.errors import ArtifactError

_FULL = "the disk is full: free some space or name another --workspace"
_READ_ONLY = "it is read-only: mount it writable or name another --workspace"
_OF_NUMBER = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EROFS: _READ_ONLY}
_OF_TEXT = {
    "No space left on device": _FULL,
    "database or disk is full": _FULL,
    "Disk quota exceeded": _FULL,
    "Read-only file system": _READ_ONLY,
    "attempt to write a readonly database": _READ_ONLY,
}


def disk_error(error: BaseException, workspace: Path) -> ArtifactError | None:
    """Return what to tell the user of an error; ``None`` where it has another cause."""
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        found = _OF_NUMBER.get(number or 0) or next(
            (told for text, told in _OF_TEXT.items() if text in str(cause)), None
        )
        if found is not None:
            return ArtifactError(
                f"cannot write to {workspace}: {found}, then run this again. What was finished "
                "stays, nothing is half written"
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__context__, found.__cause__]
