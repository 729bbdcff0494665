"""The command line that all jobs share: recipe, flags, one summary, one line on an error."""

import dataclasses
import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from cluster.memory import MemoryMeter
from cluster.progress import console
from cluster.resources import PROFILES, Profile
from jobs.disk_errors import disk_error
from jobs.domains import DOMAINS
from jobs.recipes import RECIPES, Recipe
from jobs.refusals import check_choice, in_one_line
from jobs.repeated_flags import gather_repeated, list_flags
from jobs.shell import check_workspace, stop
from rec.errors import RecError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Hold what every job takes."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    workspace: Path = Path("workspace")
    """Root of all artifacts."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""
    verbose: bool = False
    """Show logs and tracebacks."""
    recipe_name: tyro.conf.Suppress[str] = ""

    @property
    def profile(self) -> Profile:
        """Return the resources that the recipe names."""
        return PROFILES[self.recipe.profile]


@dataclass(frozen=True, kw_only=True)
class InputArguments(Arguments):
    """Add the files of a log."""

    events: tuple[str, ...]
    """Files, globs or folders with events, local or URIs: Parquet, CSV(.gz), JSONL(.gz)."""
    items: tuple[str, ...]
    """The same for the catalog."""
    users: tuple[str, ...] = ()
    """The same for user attributes."""
    column: tuple[str, ...] = ()
    """Foreign column names of events, OURS=THEIRS (user_id=customer)."""
    item_column: tuple[str, ...] = ()
    """The same for items (title=name)."""
    user_column: tuple[str, ...] = ()
    """The same for users (user_id=customer)."""


A = TypeVar("A", bound=Arguments)


def run_job(
    arguments_type: type[A],
    work: Callable[[A], Mapping[str, Any]],
    argv: Sequence[str] | None,
    *,
    name: str,
    description: str,
) -> None:
    """Parse, work, print the summary; exit with 2 and one line on a ``RecError``.

    ``work`` returns ``outputs``, ``skipped`` and the fields of its own job.
    """
    try:
        arguments = parse(arguments_type, argv, name=name, description=description)
        check_workspace(arguments.workspace)
    except RecError as error:
        stop(error)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        with MemoryMeter() as meter:
            summary = work(arguments)
        result = {**head(arguments), **summary, **meter.read()}
        print_summary({"job": name, **result}, as_json=arguments.json)
    except RecError as error:
        if arguments.verbose:
            traceback.print_exc()
        stop(error)
    except KeyboardInterrupt:
        console().print("stopped")
        sys.exit(130)
    except Exception as error:
        told = disk_error(error, arguments.workspace)
        if told is None:
            raise
        if arguments.verbose:
            traceback.print_exc()
        stop(told)


def parse(arguments_type: type[A], argv: Sequence[str] | None, *, name: str, description: str) -> A:
    """Return the arguments: ``RECIPE`` first, then flags that override it.

    Raises:
        ConfigError: the command line is no such thing.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    prog = f"python -m jobs.{name}"
    recipes = RECIPES | DOMAINS
    check_choice("recipe", words[0] if words else None, recipes, prog=prog)
    words = gather_repeated(words, list_flags(arguments_type, flat=["recipe"]))
    configs = {
        recipe: (text, _defaults(arguments_type, value, recipe))
        for recipe, (text, value) in recipes.items()
    }
    with in_one_line(f"{prog} {words[0]}", words):
        return tyro.extras.overridable_config_cli(
            configs, prog=prog, description=description, args=words
        )


def head(arguments: Arguments) -> dict[str, Any]:
    """Return the fields that open every summary."""
    return {"recipe": arguments.recipe_name, "workspace": str(arguments.workspace)}


def print_summary(summary: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the summary: JSON on stdout, or lines for a reader on stderr."""
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))  # noqa: T201
        return
    for stage in summary.get("stages", [summary]):
        state = "skipped, nothing changed" if stage.get("skipped") else "done"
        memory = stage["peak_memory_bytes"] / 2**30
        console().print(
            f"[bold]{stage['job']:>10}[/bold]  {state:<24} {stage['wall_s']:7.1f} s wall "
            f"{stage['cpu_s']:7.1f} s CPU {memory:5.2f} GiB peak"
        )
        for kind, path in stage.get("outputs", {}).items():
            console().print(f"{'':>12}{kind}: {path}", soft_wrap=True)


def _defaults(arguments_type: type[A], recipe: Recipe, name: str) -> A:
    """Return the arguments with a recipe's values; what has no default stays missing."""
    values: dict[str, Any] = {"recipe": recipe, "recipe_name": name}
    for spec in dataclasses.fields(arguments_type):
        has_default = (
            spec.default is not dataclasses.MISSING
            or spec.default_factory is not dataclasses.MISSING
        )
        if not has_default:
            values[spec.name] = tyro.MISSING
    return arguments_type(**values)


def with_columns(arguments: InputArguments) -> Recipe:
    """Return the recipe with the mappings of ``--column`` and its kin added."""
    cleaning = arguments.recipe.cleaning
    mapped = dataclasses.replace(
        cleaning,
        column=(*cleaning.column, *arguments.column),
        item_column=(*cleaning.item_column, *arguments.item_column),
        user_column=(*cleaning.user_column, *arguments.user_column),
    )
    return dataclasses.replace(arguments.recipe, cleaning=mapped)
