"""The bar of a spread: done of all, how many a second, and how long it still takes."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cluster.progress import console


class SpeedColumn(ProgressColumn):
    """Show what is done a second."""

    def render(self, task: Task) -> Text:
        """Return the speed, once there is one."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


def spread_progress() -> Progress:
    """Return the bar, not yet started."""
    return Progress(
        TextColumn("[progress.description]{task.description:>18}"),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
        console=console(),
    )


def task_size(task: object) -> int:
    """Return what a task counts in the bar: the members of a list, one for anything else.

    >>> task_size(["red dress", "blue coat"]), task_size("part-00000.parquet")
    (2, 1)
    """
    return len(task) if isinstance(task, list) else 1
