"""``serve deploy`` of the generated file on a cluster that runs already: lists over HTTP.

Run by ``make drills``; prints how long it took until the first list.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.resources import LAPTOP
from cluster.runtime import free_port
from cluster.serve import config
from cluster.serve.keys import ADMIN_KEY_FILE
from tests.chaos.figures import show
from tests.chaos.test_launcher import ROOT, WITHIN_S, up
from tests.processes import wait_until
from tests.releases import make_release

__all__ = ["up"]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give a home of its own, and this checkout to whatever runs on the cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    home = tmp_path_factory.mktemp("home")
    own = {"RAY_AUTH_TOKEN_PATH": str(home / "token"), "HOME": str(home)}
    return kept | own | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("index_shards", [1, 2])
def test_generated_file_is_deployed_and_answers(
    up: dict[str, Any], environment: dict[str, str], tmp_path: Path, index_shards: int
) -> None:
    make_release(tmp_path)
    port = free_port()
    content = yaml.safe_load(config.to_yaml(LAPTOP, index_shards=index_shards))
    content["http_options"]["port"] = port
    content["applications"][0]["args"]["workspace"] = str(tmp_path)
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")

    def serve(*words: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("serve")), *words, "--address", up["dashboard"]],
            cwd=ROOT,
            env=environment | {"RAY_AUTH_MODE": "token"},
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    start = time.monotonic()
    serve("deploy", str(file))
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_ready(url), within_s=WITHIN_S, what=serve("status"))
        key = (tmp_path / ADMIN_KEY_FILE).read_text().strip()
        answer = httpx.post(
            f"{url}/v1/recommend",
            json={"user_id": "user-1", "k": 5},
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["items"]) == 5
        status = yaml.safe_load(serve("status"))["applications"]["nextray"]
        assert status["status"] == "RUNNING"
        assert len(status["deployments"]) == 3 + (index_shards if index_shards > 1 else 0)
        show(
            "serve deploy",
            index_shards=index_shards,
            seconds_to_first_list=round(time.monotonic() - start, 1),
        )
    finally:
        serve("shutdown", "--yes")


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=35).is_success
    except httpx.HTTPError:
        return False
