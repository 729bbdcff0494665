"""Read what :mod:`tests.chaos.counted` has noted, and keep the drills' figures in one file."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

RELIABILITY = Path(__file__).with_name("reliability.json")
"""Every try of every drill that the published table counts."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Say what one try of a drill showed."""

    work: int
    """Texts, epochs, lists or requests that there were to do."""
    failures: int
    """Jobs, or requests of our client, that failed."""
    recovery_s: float | None
    """From the loss, or from the repair where there is one, until all goes on as before."""
    duplicates: int
    lost: int
    redone_share: float
    """Of the work, what was begun more than once."""
    slowest_s: float | None = None
    """Longest that one request of our client took, its repetitions included."""
    problem: str = ""
    """Why a try has no other figures: it is counted as failed."""

    def is_good(self) -> bool:
        """Return whether nothing failed, was lost, or is there twice."""
        return not (self.failures or self.duplicates or self.lost or self.problem)


@dataclass(frozen=True, kw_only=True)
class Line:
    """Be one line of the book."""

    host: str
    what: str
    key: str
    size: int


def read_book(path: Path) -> list[Line]:
    """Return the whole lines that are there now."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    fields = [line.split() for line in lines if line.endswith("\n")]
    return [Line(host=h, what=w, key=k, size=int(s)) for h, w, k, s in fields]


def redone(lines: list[Line]) -> int:
    """Return the size of what was begun after it had been begun before.

    >>> a, b = (Line(host="x", what="begin", key=key, size=3) for key in "ab")
    >>> redone([a, b, a])
    3
    """
    seen: set[str] = set()
    total = 0
    for line in lines:
        if line.what == "begin":
            total += line.size if line.key in seen else 0
            seen.add(line.key)
    return total


def running(lines: list[Line]) -> set[str]:
    """Return the hosts that are in the middle of a task.

    >>> running([Line(host="x", what="begin", key="a", size=1)])
    {'x'}
    """
    last = {line.host: line.what for line in lines}
    return {host for host, what in last.items() if what == "begin"}


def keep(drill: str, figure: Figure) -> None:
    """Add a try to the file."""
    content = read_figures()
    content.setdefault(drill, []).append(figure)
    plain = {name: [dataclasses.asdict(one) for one in tries] for name, tries in content.items()}
    text = json.dumps(plain, indent=1, sort_keys=True) + "\n"
    aside = RELIABILITY.with_suffix(".aside")
    aside.write_text(text, encoding="utf-8")
    aside.replace(RELIABILITY)


def read_figures() -> dict[str, list[Figure]]:
    """Return the tries of every drill."""
    if not RELIABILITY.is_file():
        return {}
    content = json.loads(RELIABILITY.read_text(encoding="utf-8"))
    return {name: [Figure(**one) for one in tries] for name, tries in content.items()}
