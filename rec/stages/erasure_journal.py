"""The journal of an erasure: what was counted before it was taken out, until the receipt stands."""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rec.artifacts import write_json
from rec.data.tombstones import ERASURES


class Journal:
    """Keep what was counted, so that a run that was killed loses none of it."""

    def __init__(self, workspace: Path, marks: Sequence[str]) -> None:
        self._workspace = workspace
        self._path = workspace / ERASURES / f"open-{marks[0]}.json"
        content = json.loads(self._path.read_text()) if self._path.is_file() else {}
        self.rows: dict[str, int] = content.get("rows", {})
        self.query_hashes: list[str] = content.get("query_hashes", [])

    def note(self, path: Path, rows: int) -> None:
        """Note the rows that a file is about to lose."""
        if rows:
            name = str(path.relative_to(self._workspace))
            self.rows[name] = max(rows, self.rows.get(name, 0))
            self._save()

    def note_queries(self, hashes: Sequence[str]) -> None:
        """Note the queries that only erased users have asked, by the hash of their text."""
        self.query_hashes = sorted({*self.query_hashes, *hashes})
        self._save()

    def totals(self) -> dict[str, int]:
        """Return the rows by room of the workspace."""
        found: dict[str, int] = {}
        for name, rows in self.rows.items():
            room = name.split("/", 1)[0]
            found[room] = found.get(room, 0) + rows
        return found

    def close(self) -> None:
        """Forget the journal: its receipt is written."""
        self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        write_json(self._path, {"rows": self.rows, "query_hashes": self.query_hashes})


@contextmanager
def only_erasure(workspace: Path) -> Iterator[None]:
    """Let one erasure of a workspace run at a time; the system frees the lock of a dead process."""
    path = workspace / ERASURES / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
