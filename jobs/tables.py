"""Tables and bars that jobs show a reader, on stderr."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.progress import console

_SHOWN = ("ndcg", "recall", "mrr", "coverage", "novelty")


def print_metrics(metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Show the models and their metrics, best NDCG first."""
    table = Table(title="temporal split, full catalog", title_justify="left")
    columns = [name for name in next(iter(metrics.values())) if name.split("@")[0] in _SHOWN]
    table.add_column("model")
    for name in columns:
        table.add_column(name, justify="right")
    for model, values in sorted(metrics.items(), key=_ndcg, reverse=True):
        table.add_row(model, *(f"{values[name]:.4f}" for name in columns))
    console().print(table)


@contextmanager
def evaluation_progress() -> Iterator[Callable[[str, int], None]]:
    """Give a callback that shows which model is measured and on how many users."""
    columns = (
        TextColumn("[progress.description]{task.description:>18}"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console()) as progress:
        bar = progress.add_task("evaluating", total=None, note="")
        yield lambda model, users: progress.update(bar, note=f"{model}: {users} users")


def _ndcg(row: tuple[str, Mapping[str, float]]) -> float:
    return next(value for name, value in row[1].items() if name.startswith("ndcg"))
