"""Spreading tasks over threads of this process: for work that ends before workers have started.

A worker process imports torch and loads its model before its first task. Threads share both the
import and the machine, and torch computes outside of Python's lock.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock, local
from typing import TypeVar

from cluster.data.bars import spread_progress, task_size

Item = TypeVar("Item")
Result = TypeVar("Result")


class ThreadSpread:
    """Apply a worker to tasks on a few threads; a :class:`rec.spread.Spread`."""

    def __init__(self, *, num_threads: int) -> None:
        self._num_threads = num_threads

    def __call__(
        self,
        make_worker: Callable[[], Callable[[Item], Result]],
        tasks: Sequence[Item],
        *,
        label: str,
    ) -> Iterator[Result]:
        """Yield one result a task, in order; each thread makes a worker of its own."""
        if not tasks:
            return
        own = local()
        making = Lock()  # loading and converting a model changes state that torch's threads share

        def work(task: Item) -> Result:
            if not hasattr(own, "worker"):
                with making:
                    own.worker = make_worker()
            result: Result = own.worker(task)
            return result

        num_threads = min(self._num_threads, len(tasks))
        with spread_progress() as progress, ThreadPoolExecutor(num_threads) as threads:
            bar = progress.add_task(label, total=sum(task_size(task) for task in tasks))
            futures = {threads.submit(work, task): task for task in tasks}
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.advance(bar, task_size(futures[future]))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        for future in futures:
            yield future.result()
