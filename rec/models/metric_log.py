"""Metrics of a training run as files: one JSON line an epoch, and TensorBoard's own format.

    tensorboard --logdir WORKSPACE/models/logs

A run that is resumed adds to the files of the one before it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

LINES_FILE = "metrics.jsonl"


def log_metrics(
    folder: Path, *, then: Callable[[Mapping[str, Any]], None] | None = None
) -> Callable[[Mapping[str, Any]], None]:
    """Return what appends an epoch's row to a folder's files and hands it on.

    Args:
        folder: made when the first row comes.
        then: called with every row after it was written.
    """

    def append(row: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LINES_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(row)) + "\n")
        # A file of its own per epoch: nothing is open, or lost, when a worker dies.
        with SummaryWriter(str(folder), filename_suffix=f".{row['epoch']}") as writer:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(row["epoch"]))
        if then is not None:
            then(row)

    return append
