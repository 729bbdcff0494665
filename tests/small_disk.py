"""A small disk of a test's own: a tmpfs that can be filled, emptied and made read-only."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_FILLER = "filler"


class SmallDisk:
    """Hold a mounted file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.path / _FILLER).open("ab", buffering=0) as stream:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        stream.write(bytes(size))

    def free(self) -> None:
        """Give back what was filled."""
        (self.path / _FILLER).unlink()

    def make_read_only(self) -> None:
        """Let nobody write; nothing may be open for writing."""
        _run("mount", "-o", "remount,ro", str(self.path))


@contextlib.contextmanager
def small_disk(path: Path, *, size: str) -> Iterator[SmallDisk]:
    """Mount a disk while a block runs; skip the test where that is not allowed."""
    path.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    try:
        yield SmallDisk(path)
    finally:
        _run("umount", "--lazy", str(path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
