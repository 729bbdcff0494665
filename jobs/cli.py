"""The console script: ``nextray JOB RECIPE ...`` is ``python -m jobs.JOB RECIPE ...``."""

import importlib
import sys
from collections.abc import Sequence

WITH_RECIPE = (
    "pipeline",
    "prepare",
    "enrich",
    "finetune",
    "embed",
    "tune",
    "train",
    "index",
    "evaluate",
    "compare",
    "promote",
    "canary",
    "rollback",
    "ingest",
    "loop",
    "recommend",
    "serve",
    "erase",
    "export-user",
)
"""Jobs: they read a recipe, and a cluster runs them for `nextray submit`."""
WITHOUT_RECIPE = (
    "keys",
    "demo",
    "up",
    "down",
    "status",
    "doctor",
    "submit",
    "backup",
    "restore",
    "publish",
    "fetch",
    "sbom",
)
"""Commands that read no recipe."""
JOBS = (*WITH_RECIPE, *WITHOUT_RECIPE)
_USAGE = f"""usage: nextray JOB RECIPE [options]
       nextray keys ACTION [options]
       nextray demo [options]
       nextray up | down | status | doctor [options]
       nextray backup | restore | publish | fetch | sbom [options]
       nextray submit [options] JOB RECIPE [options of the job]

jobs: {", ".join(JOBS)}
recipes: smoke, laptop, gpu, demo, stripped, social, shop, video, news, education
help of one: nextray JOB --help"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job that the first argument names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in JOBS:
        importlib.import_module(f"jobs.{words[0].replace('-', '_')}").main(words[1:])
        return
    is_help = bool(words) and words[0] in ("-h", "--help")
    if not is_help and words:
        print(f"error: expected one of {', '.join(JOBS)}, got {words[0]!r}", file=sys.stderr)  # noqa: T201
    print(_USAGE, file=sys.stdout if is_help else sys.stderr)
    sys.exit(0 if is_help else 2)


if __name__ == "__main__":
    main()
