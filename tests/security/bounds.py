"""A block that may take little time and memory, whatever a stranger's file asks for."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WITHIN_S = 10.0
"""Generous: the machine may be busy. What is refused in time takes milliseconds."""
MORE_BYTES = 1 << 30


@contextmanager
def bounded(*, within_s: float = WITHIN_S, more_bytes: int = MORE_BYTES) -> Iterator[None]:
    """Run a block in which the process may not grow by more; fail if it takes longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))
    began = time.monotonic()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.monotonic() - began < within_s
