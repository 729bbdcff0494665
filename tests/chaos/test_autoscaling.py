"""Replicas come with the load and go with it. Run by ``make drills``; prints them over time."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from cluster.resources import LAPTOP
from cluster.runtime import free_port
from cluster.serve.keys import ensure_admin_key
from tests.benchmarks.load import Load
from tests.chaos.test_serving import replicas, service
from tests.processes import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SCALED = {"Gateway": LAPTOP.serve.gateway, "Ranker": LAPTOP.serve.ranker}
NUM_CLIENTS = 60
"""As many as a gateway takes at once: twice what it, and four times what a ranker, wants."""
LOAD_S = 60
GONE_WITHIN_S = 180
"""Half a minute without need, as the profile says, a drain, and a busy machine."""


def test_replicas_come_with_the_load_and_go_with_it(
    released_workspace: Path, tmp_path: Path
) -> None:
    workspace, port = tmp_path / "workspace", free_port()
    shutil.copytree(released_workspace, workspace)
    key, _ = ensure_admin_key(workspace)
    line: list[tuple[float, dict[str, int]]] = []
    done = threading.Event()
    with service(workspace, port) as process:
        start = time.monotonic()

        def now() -> dict[str, int]:
            return {name: len(replicas(process.pid, name)) for name in SCALED}

        def watch() -> None:
            while not done.wait(0.25):
                counts = now()
                if not line or line[-1][1] != counts:
                    line.append((time.monotonic() - start, counts))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        fewest = {name: one["autoscaling_config"]["min_replicas"] for name, one in SCALED.items()}
        most = {name: one["autoscaling_config"]["max_replicas"] for name, one in SCALED.items()}
        assert now() == fewest
        found = Load(port, key, process.pid).measure(NUM_CLIENTS, LOAD_S)
        ended = time.monotonic() - start
        try:
            wait_until(lambda: now() == fewest, within_s=GONE_WITHIN_S, what="few replicas again")
        finally:
            done.set()
            watcher.join()
            print(  # noqa: T201
                f"{len(found['times'])} lists, {found['refused']} refused, "
                f"{found['closed']} connections closed, load until {ended:.0f} s"
            )
            for seconds, counts in line:
                print(f"{seconds:6.1f} s  {counts}")  # noqa: T201
    reached = {name: max(counts[name] for _, counts in line) for name in SCALED}
    assert reached["Ranker"] == most["Ranker"]
    assert found["times"]
    assert all(seconds > ended for seconds, counts in line[-1:] if counts == fewest)
