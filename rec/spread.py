"""Spreading: one way to say "do this to each of these", in one process or on a cluster.

A stage hands a *worker factory* and its tasks to a :class:`Spread`. :func:`in_process` is the
reference; ``cluster.data.spread`` gives the same answers from Ray Data's actors. Tasks and results
are small values (paths, counts): the data itself goes from file to file.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Spread(Protocol):
    """Apply a worker to every task; results come in the order of the tasks."""

    def __call__(
        self,
        make_worker: Callable[[], Callable[[Task], Result]],
        tasks: Sequence[Task],
        *,
        label: str,
    ) -> Iterator[Result]:
        """Yield one result a task; ``make_worker`` runs once in each worker process."""
        ...


def in_process(
    make_worker: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], *, label: str
) -> Iterator[Result]:
    """Yield the results, one after the other, from this process.

    >>> list(in_process(lambda: lambda number: number + 1, [1, 2], label="adding"))
    [2, 3]
    """
    del label
    worker = make_worker()
    for task in tasks:
        yield worker(task)


def ready_worker(
    worker: Callable[[Task], Result],
) -> Callable[[], Callable[[Task], Result]]:
    """Return a factory of a worker that needs no set-up of its own.

    >>> list(in_process(ready_worker(len), ["ab", "c"], label="measuring"))
    [2, 1]
    """
    return lambda: worker
