"""The README's curl commands, run by bash against a served release as they stand there."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.resources import LAPTOP
from cluster.runtime import free_port
from cluster.serve.app import serving
from cluster.serve.keys import ensure_admin_key
from tests.releases import make_release

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
URL = "http://127.0.0.1:8000"
"""Where the README's service listens; the test's listens on a free port."""
USER, ITEM = "7", "1029743"
"""Who and what the README names: from the demo's log."""


def curl_block() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "curl" in b)
    return str(block)


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON documents of an output, one a line."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("ray_cluster")
def test_curl_commands_show_a_list_that_feedback_changes(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    make_release(workspace, names={"user-0": USER, "item/0": ITEM})
    ensure_admin_key(workspace)
    block = curl_block()
    assert block.count(URL) == 3
    assert f'"{USER}"' in block
    assert f'"{ITEM}"' in block
    with serving(workspace, profile=LAPTOP, port=free_port()) as url:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.replace(URL, url)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    before, stored, after = documents(done.stdout)
    assert stored == {"accepted": 1, "duplicates": 0, "rejected": []}
    for answer in (before, after):
        assert answer["degraded"] == []
        assert len(answer["items"]) == 5
    assert before["items"] != after["items"]
    assert ITEM not in [item["item_id"] for item in after["items"]]
