"""What a user waits for: commands that compute nothing import nothing heavy."""

import subprocess
import sys

import pytest

from jobs.cli import WITHOUT_RECIPE

HEAVY = ("ray", "torch", "transformers", "polars", "fastapi")
ASK = """
import contextlib, sys
from jobs.cli import main
with contextlib.suppress(SystemExit):
    main([sys.argv[1], "--help"])
print([name for name in sys.argv[2:] if name in sys.modules])
"""


@pytest.mark.parametrize("command", [name for name in WITHOUT_RECIPE if name != "demo"])
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", ASK, command, *HEAVY], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[-1] == "[]"
