"""An erasure is killed with SIGKILL at every kind of step, and goes on where it was."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from rec.artifacts import MANIFEST, read_artifact
from rec.stages.erasing import erase
from tests.rec.stages.test_erasing import ERIN, contents, fill

_ERASE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from rec.stages import erasing
from rec import artifacts
steps = int(sys.argv[2])
def dying(function):
    def step(*arguments, **named):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return step
artifacts._exchange = dying(artifacts._exchange)
erasing.replace_file = dying(erasing.replace_file)
erasing.write_json = dying(erasing.write_json)
os.unlink = dying(os.unlink)
erasing.erase(Path(sys.argv[1]), [sys.argv[3]])
"""


def test_killed_erasure_goes_on_where_it_was(tmp_path: Path) -> None:
    workspace, files = tmp_path / "workspace", tmp_path / "files"
    fill(workspace, files, is_pseudonymized=True)
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    _, whole = erase(copy, [ERIN])
    num_kills = 0
    for steps in (0, 1, 3, 5, 8, 12):
        command = [sys.executable, "-c", _ERASE_AND_DIE, str(workspace), str(steps), ERIN]
        code = subprocess.run(command, check=False).returncode
        num_kills += code == -signal.SIGKILL
    assert num_kills >= 2
    _, receipt = erase(workspace, [ERIN])
    last = [json.loads(p.read_text()) for p in (workspace / "erasures").glob("receipt-*.json")]
    assert whole["files"] in [entry["files"] for entry in last]
    assert receipt["left"] == []
    assert not list(workspace.rglob(".*rewrite"))
    for manifest in workspace.glob(f"*/*/{MANIFEST}"):
        read_artifact(manifest.parent, verify=True)
    assert contents(workspace).keys() == contents(copy).keys()
