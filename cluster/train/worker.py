"""What one training process does: rec's stage with an Accelerator, and reports to Ray Train."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch
from accelerate import Accelerator

from rec.stages.training import TrainSettings, train

RESULT_FILE = "model.txt"


def train_worker(arguments: dict[str, Any]) -> None:
    """Train on the workspace's newest artifacts; every rank runs this.

    Args:
        arguments: ``workspace``, ``settings``, ``num_threads``, ``use_gpu``, ``resume`` and
            ``result``, the file that the main process writes the model's name to.
    """
    torch.set_num_threads(arguments["num_threads"])
    settings: TrainSettings = arguments["settings"]
    # A process that Ray Train has restarted goes on where the lost one was.
    is_restart = Path(arguments["started"]).exists()
    accelerator = Accelerator(cpu=not arguments["use_gpu"])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        Path(arguments["started"]).touch()
    model = train(
        Path(arguments["workspace"]),
        settings,
        accelerator=accelerator,
        resume=arguments["resume"] or is_restart,
        on_epoch=_write_progress(Path(arguments["progress"])),
    )
    if model is not None:
        Path(arguments["result"]).write_text(model.name, encoding="utf-8")
    ray.train.report({"finished": 1})


def _write_progress(path: Path) -> Any:
    """Return a callback that appends each epoch's metrics to a file the driver follows."""
    import json  # the closure is shipped to the worker

    def append(row: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(row)) + "\n")

    return append
