"""Spreading tasks over Ray Data's actors: the cluster's counterpart of ``rec.spread.in_process``.

Ray Data streams the numbers of the tasks through an actor pool; each actor makes its worker once.
Results come back in the order of the tasks, so a stage cannot tell who did the work.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import cloudpickle
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.progress import console

Task = TypeVar("Task")
Result = TypeVar("Result")


class TaskActor:
    """Make a worker once and apply it to the tasks of every batch of numbers."""

    def __init__(self, make_worker: bytes, tasks: Any) -> None:
        # Workers of a laptop share few cores: threads beyond the actor's own only fight.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import ray  # see RaySpread

        self._worker = cloudpickle.loads(make_worker)()
        self._tasks = ray.get(tasks)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the pickled result of each task number."""
        results = [cloudpickle.dumps(self._worker(self._tasks[int(n)])) for n in batch["id"]]
        return {"id": batch["id"], "result": np.array(results, dtype=object)}


class RaySpread:
    """Apply a worker to tasks on an actor pool; a :class:`rec.spread.Spread`."""

    def __init__(
        self,
        *,
        num_actors: int,
        num_cpus: float = 1,
        num_gpus: float = 0,
        is_stateless: bool = False,
    ) -> None:
        """Set the pool.

        Args:
            num_actors: actors at most.
            num_cpus: cores of one.
            num_gpus: GPUs of one.
            is_stateless: making a worker costs nothing, so Ray's own task workers do; they stay
                between calls, where an actor's start costs seconds.
        """
        self._num_actors = num_actors
        self._is_stateless = is_stateless
        self._options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus}

    def __call__(
        self,
        make_worker: Callable[[], Callable[[Task], Result]],
        tasks: Sequence[Task],
        *,
        label: str,
    ) -> Iterator[Result]:
        """Yield one result a task, in order; a failing task's error reaches the caller."""
        if not tasks:
            return
        # Ray reads its authentication settings when it is imported, so ``connect`` comes first.
        import ray.data

        _quieten(ray.data.DataContext.get_current())
        pickled, shared = cloudpickle.dumps(make_worker), ray.put(list(tasks))
        numbers = ray.data.range(len(tasks), override_num_blocks=len(tasks))
        if self._is_stateless:
            results = numbers.map_batches(
                lambda batch: TaskActor(pickled, shared)(batch), batch_size=1, **self._options
            )
        else:
            size = min(self._num_actors, len(tasks))
            results = numbers.map_batches(
                TaskActor,
                fn_constructor_args=(pickled, shared),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size),
                **self._options,
            )
        done: dict[int, Any] = {}
        columns = (
            TextColumn("[progress.description]{task.description:>18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console()) as progress:
            bar = progress.add_task(label, total=len(tasks))
            for row in results.iter_rows():
                done[int(row["id"])] = cloudpickle.loads(row["result"])
                progress.advance(bar)
        for number in range(len(tasks)):
            yield done[number]


def _quieten(context: Any) -> None:
    """Turn Ray Data's own bars and logs off: ours are shown."""
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # An error of a task is the user's error: it must come back as it was raised.
    context.raise_original_map_exception = True
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
