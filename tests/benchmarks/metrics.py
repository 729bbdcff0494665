"""How far our metrics are from independent libraries, and how often off-policy intervals hold.

    python -m tests.benchmarks.metrics --lists 10000 --runs 200

The lists are random, of 0 to 7 of 40 items; the libraries are scikit-learn and SciPy. A run of the
simulator logs 500 lists of one policy, estimates another, and knows what the other truly earns.
"""

import argparse
import json

from tests.rec.evaluation.test_metrics_against_libraries import differences
from tests.rec.evaluation.test_off_policy import coverage


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    covered, _ = coverage(arguments.runs)
    figures = {
        "lists": arguments.lists,
        "largest_differences": differences(arguments.lists, arguments.seed),
        "runs": arguments.runs,
        "intervals_that_cover_the_truth": covered,
    }
    print(json.dumps(figures, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
