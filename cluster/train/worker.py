"""What one training process does: a stage of rec with an Accelerator, reporting to Ray Train."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch
from accelerate import Accelerator

from cluster.runtime import step_back
from rec.stages.finetuning import finetune_encoder
from rec.stages.training import train


def train_worker(arguments: dict[str, Any]) -> None:
    """Train on the workspace's newest artifacts; every rank runs this.

    Args:
        arguments: ``workspace``, ``settings``, ``resume``, and what every worker is given.
    """
    accelerator, is_restart = _start(arguments)
    train(
        Path(arguments["workspace"]),
        arguments["settings"],
        accelerator=accelerator,
        resume=arguments["resume"] or is_restart,
        on_epoch=_write_progress(Path(arguments["progress"])),
    )
    ray.train.report({"finished": 1})


def finetune_worker(arguments: dict[str, Any]) -> None:
    """Fine-tune the text encoder on the workspace's newest log; every rank runs this.

    Args:
        arguments: as of :func:`train_worker`.
    """
    accelerator, is_restart = _start(arguments)
    finetune_encoder(
        Path(arguments["workspace"]),
        arguments["settings"],
        accelerator=accelerator,
        resume=arguments["resume"] or is_restart,
        on_round=_write_progress(Path(arguments["progress"])),
    )
    ray.train.report({"finished": 1})


def _start(arguments: Mapping[str, Any]) -> tuple[Accelerator, bool]:
    """Return the accelerator of this process, and whether it takes the place of a lost one.

    Every worker is given ``num_threads``, ``use_gpu``, ``started`` (a file that says that workers
    have been here before) and ``progress``, the file that the driver's bar follows.
    """
    step_back()
    torch.set_num_threads(arguments["num_threads"])
    # A process that Ray Train has restarted goes on where the lost one was.
    is_restart = Path(arguments["started"]).exists()
    accelerator = Accelerator(cpu=not arguments["use_gpu"])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        Path(arguments["started"]).touch()
    return accelerator, is_restart


def _write_progress(path: Path) -> Any:
    """Return a callback that appends each row of metrics to a file the driver follows."""
    import json  # the closure is shipped to the worker

    def append(row: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(row)) + "\n")

    return append
