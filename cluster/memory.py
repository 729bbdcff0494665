"""What a job costs: peak memory and CPU time of this process and of every one it started.

Ray's workers are not children that ``getrusage`` could see, so ``/proc`` is read a few times a
second. Where there is no ``/proc`` the figures are of this process alone.
"""

import os
import resource
import threading
import time
from pathlib import Path
from types import TracebackType

_PERIOD_S = 0.25
_PROC = Path("/proc")


class MemoryMeter:
    """Sample the process tree while a block runs.

    Attributes:
        peak_bytes: largest sum of proportional (else resident) memory of the tree.
        cpu_s: CPU seconds of the tree.
        wall_s: seconds that passed.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self._start = time.perf_counter()
        self._seen: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MemoryMeter":
        self._before = {pid: _cpu_s(pid) for pid in _tree(os.getpid())}
        self._start = time.perf_counter()
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def read(self) -> dict[str, float]:
        """Return ``wall_s, cpu_s, peak_memory_bytes``, as a summary holds them."""
        return {
            "wall_s": round(self.wall_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            "peak_memory_bytes": self.peak_bytes,
        }

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            self._sample()

    def _sample(self) -> None:
        self.wall_s = time.perf_counter() - self._start
        pids = _tree(os.getpid())
        total = sum(_resident_bytes(pid) for pid in pids)
        if total == 0:
            total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak_bytes = max(self.peak_bytes, total)
        for pid in pids:
            # One that ends between two looks has no figure, and keeps the one from before.
            least = self._seen.get(pid, self._before.get(pid, 0.0))
            self._seen[pid] = max(least, _cpu_s(pid))
        # A process that has ended keeps what it was last seen with.
        self.cpu_s = sum(
            seconds - self._before.get(pid, 0.0) for pid, seconds in self._seen.items()
        )


def _tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        try:
            parent = int(_stat(folder)[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, open_pids = [], [root]
    while open_pids:
        pid = open_pids.pop()
        found.append(pid)
        open_pids += children.get(pid, [])
    return found


def _stat(folder: Path) -> list[str]:
    """Return the fields of ``stat`` behind the process's name: state, parent, ..."""
    text = (folder / "stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def _cpu_s(pid: int) -> float:
    try:
        fields = _stat(_PROC / str(pid))
    except (OSError, ValueError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int) -> int:
    """Return anonymous memory: what a process shares (the object store, libraries) is not its."""
    try:
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return 0
    return 0
