"""What the user sees while long work runs: one console, on stderr, for bars and lines."""

import sys
from functools import cache

from rich.console import Console


@cache
def console() -> Console:
    """Return the console of this process; stdout stays free for the answer."""
    return Console(file=sys.stderr, highlight=False)
