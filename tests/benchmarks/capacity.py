"""Print the capacity page from the unit costs in :mod:`cluster.capacity`.

python -m tests.benchmarks.capacity > cluster/deploy/CAPACITY.md
"""

from cluster.capacity import page

if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
