"""Run each drill until it has been tried often enough; the tries so far are kept in one JSON.

python -m tests.chaos.reliability --tries 5                     all drills, what is missing
python -m tests.chaos.reliability --tries 5 serve_head train    these only

It may be ended at any time: what was tried is kept, and the next call goes on. A try that gives no
figure counts as failed; after it, and after a loss that is not repaired, comes a new rig.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from tests.chaos import launched, nodes, service
from tests.chaos.book import Figure, keep, read_figures
from tests.chaos.hosts import why_not

Drills = Mapping[str, Callable[[Any], Figure]]
PLACES: tuple[tuple[Callable[[], AbstractContextManager[Any]], Drills], ...] = (
    (service.site, service.DRILLS),
    (nodes.site, nodes.DRILLS),
    (launched.site, launched.DRILLS),
)
"""Each rig with what is drilled on it."""


def try_once(drill: Callable[[Any], Figure], where: Any) -> Figure:
    """Return a try's figure; what the rig or the system did not do in time is a failure too."""
    try:
        where.ready()
        return drill(where)
    except AssertionError as error:
        problem = " ".join(str(error).split())[-300:] or "no figure"
        return Figure(
            work=0,
            failures=1,
            recovery_s=None,
            duplicates=0,
            lost=0,
            redone_share=0.0,
            problem=problem,
        )


def missing(drills: Drills, *, wanted: set[str], tries: int) -> list[str]:
    """Return the drills that have not been tried often enough, the least tried first."""
    done = {name: len(read_figures().get(name, [])) for name in drills if name in wanted}
    return sorted((name for name in done if done[name] < tries), key=lambda name: done[name])


def run(site: Callable[[], AbstractContextManager[Any]], drills: Drills, **what: Any) -> None:
    """Run the drills of one kind of rig."""
    while missing(drills, **what):
        with site() as where:
            while left := missing(drills, **what):
                figure = try_once(drills[left[0]], where)
                keep(left[0], figure)
                print(left[0], figure, flush=True)  # noqa: T201
                if figure.problem or where.is_spent:
                    break


def main() -> None:
    """Run what is missing."""
    names = [name for _, drills in PLACES for name in drills]
    parser = argparse.ArgumentParser(
        description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("drills", nargs="*", metavar="DRILL", help=", ".join(names))
    parser.add_argument("--tries", type=int, default=5)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.drills) - set(names)):
        parser.error(f"expected drills out of {', '.join(names)}, got {', '.join(unknown)}")
    if reason := why_not() or launched.why_not():
        parser.error(reason)
    # Whoever ends it, nothing of the rig stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for site, drills in PLACES:
        run(site, drills, wanted=set(arguments.drills or names), tries=arguments.tries)


if __name__ == "__main__":
    main()
