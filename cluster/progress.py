"""What the user sees while long work runs: one console, on stderr, for bars and lines."""

from functools import cache

from rich.console import Console


@cache
def console() -> Console:
    """Return the console of this process; stdout stays free for the answer."""
    return Console(stderr=True, highlight=False)
