"""Spreading tasks over Ray Data's actors: the cluster's counterpart of ``rec.spread.in_process``.

Ray Data streams the tasks through an actor pool; each actor makes its worker once. Results come
back in the order of the tasks, so a stage cannot tell who did the work. Where an actor is lost, the
tasks without a result are spread again over new ones. Ray would restart the actor itself, but from
constructor arguments in the object store: if those are lost too, the restart fails.

A ``RecError`` of a worker is an answer, not a failure: it travels as a result and is raised here,
as the one line it is. Ray would log its own traceback twice and put it into the message.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import cloudpickle
import numpy as np

from cluster.data.bars import spread_progress, task_size
from cluster.runtime import step_back
from rec.errors import RecError

Task = TypeVar("Task")
Result = TypeVar("Result")


MAX_LOSSES = 5
"""Times that lost actors are replaced; what kills more of them is no accident."""
_log = logging.getLogger(__name__)


class TaskActor:
    """Make a worker once and apply it to the tasks of every batch."""

    def __init__(self, make_worker: bytes, num_threads: int = 1) -> None:
        # Workers of a laptop share few cores: threads beyond the actor's own only fight. Polars
        # reads its number once, when unpickling the worker imports it.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("POLARS_MAX_THREADS", str(num_threads))
        import ray  # see RaySpread.__call__

        # A task's process goes on to other work, maybe a replica's, and cannot step forward again.
        if ray.get_runtime_context().get_actor_id() is not None:
            step_back()
        self._refusal: RecError | None = None
        try:
            self._worker = cloudpickle.loads(make_worker)()
        except RecError as error:
            self._refusal = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the pickled result of each task, or the ``RecError`` that it ended with."""
        results = [cloudpickle.dumps(self._result(cloudpickle.loads(t))) for t in batch["task"]]
        return {"id": batch["id"], "result": np.array(results, dtype=object)}

    def _result(self, task: Any) -> Any:
        if self._refusal is not None:
            return self._refusal
        try:
            return self._worker(task)
        except RecError as error:
            return error


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
            num_gpus: GPUs of one; a fraction shares a GPU.
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
        import ray.exceptions

        _quieten(ray.data.DataContext.get_current())
        pickled = cloudpickle.dumps(make_worker)
        done: dict[int, Any] = {}
        num_losses = 0
        with spread_progress() as progress:
            bar = progress.add_task(label, total=sum(task_size(task) for task in tasks))
            while len(done) < len(tasks):
                left = [number for number in range(len(tasks)) if number not in done]
                try:
                    for row in self._stream(pickled, {n: tasks[n] for n in left}):
                        number = int(row["id"])
                        result = cloudpickle.loads(row["result"])
                        if isinstance(result, RecError):
                            raise result
                        done[number] = result
                        progress.advance(bar, task_size(tasks[number]))
                except ray.exceptions.ActorDiedError:
                    num_losses += 1
                    if num_losses > MAX_LOSSES:
                        raise
                    _log.warning(
                        "%s: a worker was lost, going on with %d of %d tasks",
                        label,
                        len(tasks) - len(done),
                        len(tasks),
                    )
        for number in range(len(tasks)):
            yield done[number]

    def _stream(self, make_worker: bytes, tasks: Mapping[int, Any]) -> Iterator[dict[str, Any]]:
        """Yield ``id`` and pickled ``result`` of each task, in any order."""
        import ray.data  # see __call__
        from ray.util.annotations import RayDeprecationWarning

        rows = [{"id": n, "task": cloudpickle.dumps(task)} for n, task in tasks.items()]
        data = ray.data.from_items(rows, override_num_blocks=len(rows))
        num_threads = max(1, int(self._options["num_cpus"]))
        if self._is_stateless:
            results = data.map_batches(
                lambda batch: TaskActor(make_worker, num_threads)(batch),
                batch_size=1,
                **self._options,
            )
        else:
            size = min(self._num_actors, len(tasks))
            with warnings.catch_warnings():
                # Ray 2.60 has no other way to say max_restarts and wants one from 2.64 on.
                warnings.simplefilter("ignore", RayDeprecationWarning)
                results = data.map_batches(
                    TaskActor,
                    fn_constructor_args=(make_worker, num_threads),
                    batch_size=1,
                    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size),
                    max_restarts=0,
                    **self._options,
                )
        yield from results.iter_rows()


def _quieten(context: Any) -> None:
    """Turn Ray Data's own bars and logs off: ours are shown."""
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # An error of a task is the user's error: it must come back as it was raised.
    context.raise_original_map_exception = True
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
