"""Watch a training run from outside: the epochs as its worker reports them."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

_PERIOD_S = 0.002


class EpochWatch:
    """Follow the progress file of a workspace's training while a block runs.

    Attributes:
        epochs: what was reported, in order; an epoch that is done again stands here twice.
    """

    def __init__(self, workspace: Path, *, on_epoch: Callable[[int], None] | None = None) -> None:
        self.epochs: list[int] = []
        self._runs = workspace / "models" / "runs"
        self._on_epoch = on_epoch
        self._before = set(self._files())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "EpochWatch":
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

    def _files(self) -> list[Path]:
        return sorted(self._runs.glob("*/progress.jsonl"))

    def _follow(self) -> None:
        # An open file outlives its name: the run's folder goes away at the end.
        stream: TextIO | None = None
        while True:
            is_last = self._stop.is_set()
            if stream is None:
                found = [path for path in self._files() if path not in self._before]
                stream = found[0].open(encoding="utf-8") if found else None
            for line in stream or ():
                self.epochs.append(int(json.loads(line)["epoch"]))
                if self._on_epoch is not None:
                    self._on_epoch(self.epochs[-1])
            if is_last:
                break
            self._stop.wait(_PERIOD_S)
        if stream is not None:
            stream.close()
