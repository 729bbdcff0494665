"""What every command shares, whether it reads a recipe or not; importing it costs next to nothing.

Commands that no one should wait for (``up``, ``status``, ``keys``) need this file alone, and so
neither Ray nor torch.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from cluster.progress import console
from jobs.refusals import in_one_line
from rec.errors import ConfigError, RecError

BAD_INPUT = 2
"""Exit code of an error that is the user's to mend."""
MAX_PORT = 65_535
C = TypeVar("C")


def run_command(
    arguments_type: type[C],
    work: Callable[[C], None],
    argv: Sequence[str] | None,
    *,
    name: str,
    description: str,
) -> None:
    """Run a command that reads no recipe: parse, work, one line and exit code 2 on a mistake."""
    prog = f"nextray {name}"
    try:
        with in_one_line(prog, argv):
            arguments = tyro.cli(arguments_type, args=argv, prog=prog, description=description)
        work(arguments)
    except RecError as error:
        stop(error)
    except KeyboardInterrupt:
        console().print("stopped")
        sys.exit(130)


def check_workspace(workspace: Path) -> None:
    """Refuse a URI, which would become a local folder of that name.

    Raises:
        ConfigError: the workspace is not a path.
    """
    if re.match(r"[a-z0-9]+:/", str(workspace)):
        raise ConfigError(
            f"--workspace expects a local or shared folder, got {workspace}: mount it, or carry a "
            "release with `nextray publish` and `nextray fetch`"
        )


def check_port(port: int) -> None:
    """Refuse what no service can listen on.

    Raises:
        ConfigError: it is not a TCP port.
    """
    if not 1 <= port <= MAX_PORT:
        raise ConfigError(f"--port must be in 1..{MAX_PORT}, got {port}")


def stop(error: RecError) -> NoReturn:
    """Print one line and end with the exit code of bad input."""
    console().print(f"error: {error}", style="bold red", soft_wrap=True, markup=False)
    sys.exit(BAD_INPUT)
