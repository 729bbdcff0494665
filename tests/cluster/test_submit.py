"""``ray job submit --working-dir .`` against a head of its own, as the README has it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.ranking.current import read_current
from tests.heads import Head, local_head

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
MAX_UPLOAD_BYTES = 2_000_000
"""The code is a third of that; a workspace or a virtual environment is far more."""
SUBMIT_WITHIN_S = 600


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with local_head() as running:
        yield running


def submit(head: Head, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run ``ray job submit --working-dir . -- COMMAND`` in a folder.

    Never twice the same folder: Ray skips the upload of a package that it is just deleting.
    """
    return subprocess.run(
        ["ray", "job", "submit", "--working-dir", ".", "--", *command],
        cwd=folder,
        env=dict(head.environment),
        capture_output=True,
        text=True,
        timeout=SUBMIT_WITHIN_S,
        check=False,
    )


def jobs(head: Head) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {head.token}"}
    answer = httpx.get(f"{head.jobs_url}/api/jobs/", headers=headers, timeout=30)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()
    return found


def uploaded(head: Head) -> dict[str, int]:
    """Return the files that arrived at the head, with their sizes."""
    folder = head.folder / "session_latest" / "runtime_resources" / "working_dir_files"
    (package,) = (path for path in folder.iterdir() if path.is_dir())
    return {
        str(path.relative_to(package)): path.stat().st_size
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_pipeline_is_submitted_from_the_checkout(head: Head, tmp_path: Path) -> None:
    shop = make_shop(ShopConfig(num_users=60, num_items=60, events_per_user=15))
    events, items, _ = write_shop(shop, tmp_path / "shop")
    workspace = tmp_path / "workspace"
    done = submit(
        head,
        ROOT,
        *("python", "-m", "jobs.pipeline", "smoke", "--events", str(events)),
        *("--items", str(items), "--workspace", str(workspace)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    release = read_current(workspace)["release"]
    assert (workspace / "releases" / release / "manifest.json").is_file()
    files = uploaded(head)
    assert "jobs/pipeline.py" in files
    assert not any(name.startswith("tests/") for name in files)
    assert sum(files.values()) < MAX_UPLOAD_BYTES, files
    (job,) = jobs(head)
    assert job["status"] == "SUCCEEDED"
    # A driver that had started a Ray of its own would have no id in this cluster.
    assert job["job_id"], job


def test_workspace_in_the_checkout_is_not_uploaded(head: Head, tmp_path: Path) -> None:
    """The README's own commands write ``./shop`` beside the code."""
    shop = make_shop(ShopConfig(num_users=20, num_items=30, events_per_user=5))
    events, items, _ = write_shop(shop, tmp_path / "shop")
    checkout = tmp_path / "checkout"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    (checkout / "change").write_text("the first", encoding="utf-8")
    made = submit(
        head,
        checkout,
        *("python", "-m", "jobs.prepare", "smoke", "--events", str(events)),
        *("--items", str(items), "--workspace", str(checkout / "shop")),
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert (checkout / "shop" / "pseudonym.key").is_file()
    (checkout / "change").write_text("the second", encoding="utf-8")
    listing = tmp_path / "listing"
    listed = submit(head, checkout, "find", ".", "-type", "f", "-fprint", str(listing))
    assert listed.returncode == 0, listed.stdout + listed.stderr
    names = listing.read_text(encoding="utf-8").splitlines()
    assert "./jobs/prepare.py" in names
    assert [name for name in names if name.startswith("./shop/")] == []


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"Authorization": "Bearer nobody"}, 403)]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/",
        "/api/serve/applications/",
        "/api/v0/actors",
        "/nodes?view=summary",
        "/api/packages/x",
    ],
)
def test_no_api_of_ray_answers_without_the_token(
    head: Head, path: str, method: str, headers: dict[str, str], status: int
) -> None:
    body = {"entrypoint": "true"} if method in ("POST", "PUT") else None
    answer = httpx.request(method, f"{head.jobs_url}{path}", headers=headers, json=body)
    assert answer.status_code == status
