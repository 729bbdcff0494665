"""Submit a job to a running cluster and follow it: Ray's job API with our token and settings."""

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.runtime import prepare_environment
from rec.errors import ConfigError

EXCLUDES = (".git", ".venv", "venv", "build", "dist", "workspace", "*.egg-info", "**/__pycache__")
"""What no job needs; folders with a `.gitignore` of `*`, as every workspace has, stay out too."""
_POLL_S = 0.5
_FINAL_WITHIN_S = 30


def connect_jobs(url: str) -> Any:
    """Return a client of the job API.

    Raises:
        ConfigError: nothing answers there, or not to our token.
    """
    prepare_environment(os.environ)
    from ray.job_submission import JobSubmissionClient  # seconds that --help need not pay

    try:
        client = JobSubmissionClient(url)
        client.get_version()
    except (ConnectionError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"no job API for us at {url} ({cause}): start one with `nextray up`, look with "
            "`nextray doctor`"
        ) from error
    return client


def submit_job(client: Any, words: Sequence[str], *, working_folder: Path | None) -> str:
    """Submit ``python -m jobs.WORDS``; return the submission's id.

    Args:
        client: of the cluster.
        words: job, recipe and flags.
        working_folder: uploaded, so that the cluster runs this code; ``None`` where nextray is
            installed on every node.
    """
    command = ["python", "-m", f"jobs.{words[0].replace('-', '_')}", *words[1:]]
    runtime: dict[str, Any] = {}
    if working_folder is not None:
        runtime = {"working_dir": str(working_folder), "excludes": list(EXCLUDES)}
    submission: str = client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime)
    return submission


def follow_job(client: Any, submission: str, *, show: Callable[[str], None]) -> int:
    """Show a job's log until it ends; return its exit code (130 if it was stopped)."""

    async def follow() -> None:
        async for text in client.tail_job_logs(submission):
            show(text)

    asyncio.run(follow())
    deadline = time.monotonic() + _FINAL_WITHIN_S
    while True:
        status = str(client.get_job_status(submission).value)
        if status in ("SUCCEEDED", "FAILED", "STOPPED") or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return 130
    info = client.get_job_info(submission)
    return int(info.driver_exit_code or 1)


def list_jobs(url: str) -> list[dict[str, str]]:
    """Return the jobs of a cluster, newest last: ``submission_id, status, entrypoint``."""
    jobs = connect_jobs(url).list_jobs()
    return [
        {
            "submission_id": str(job.submission_id),
            "status": str(job.status.value),
            "entrypoint": job.entrypoint,
        }
        for job in sorted(jobs, key=lambda job: job.start_time or 0)
        if job.submission_id
    ]
