"""GPUs are asked for as the profile says, a fraction of one shared: on a GPU that Ray makes up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.resources import PROFILES

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from cluster.runtime import prepare_environment
prepare_environment(os.environ)
import ray
from cluster.data.spread import RaySpread
# A cluster of its own, even where another one runs on the machine.
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False,
         _node_ip_address="127.0.0.1")
def maker(seen, expected):
    def make():
        def work(number):
            (seen / str(os.getpid())).touch()
            # However slowly the others start, an actor does not take their share of the work.
            for _ in range(1200):
                if len(os.listdir(seen)) >= expected:
                    break
                time.sleep(0.05)
            time.sleep(0.2)  # one too many would be seen, too
            return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return work
    return make
out = {}
for share, expected in ((0.5, 2), (1, 1)):
    seen = Path(sys.argv[1]) / str(share)
    seen.mkdir()
    spread = RaySpread(num_actors=4, num_cpus=0.5, num_gpus=share)
    out[share] = list(spread(maker(seen, expected), list(range(12)), label="gpu"))
print(json.dumps(out))
"""


def test_actors_share_a_gpu_as_the_fraction_allows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert {gpu for rows in found.values() for _, gpu in rows} == {"0"}
    assert len({process for process, _ in found["0.5"]}) == 2
    assert len({process for process, _ in found["1"]}) == 1


def test_gpu_profile_gives_each_encoder_a_gpu_and_the_laptop_none() -> None:
    assert PROFILES["gpu"].data.encoder_gpus == 1
    assert PROFILES["laptop"].data.encoder_gpus == 0
