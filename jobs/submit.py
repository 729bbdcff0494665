"""Run a job on a cluster: upload this checkout, follow the log, end with the job's exit code.

nextray submit pipeline laptop --events events --items items.parquet --workspace /shared/shop

nextray submit --on-interrupt stop train laptop --workspace /shared/shop

Submitting again goes on: finished stages are skipped, and training takes its newest checkpoint.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster import launcher
from cluster.progress import console
from cluster.submission import connect_jobs, follow_job, submit_job
from jobs.shell import run_command
from rec.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8265"
RESUMABLE = ("train", "pipeline", "finetune")
"""Jobs with checkpoints: they are told to go on."""
NAMES_A_USER = ("erase", "export-user")
"""A cluster keeps every command line, for all who have its token: no place for a user's id."""
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


@dataclass(frozen=True, kw_only=True)
class SubmitArguments:
    """Say where to, and how to follow. The job and its own flags come last."""

    address: str | None = None
    """URL of the job API; that of `nextray up`, else RAY_API_SERVER_ADDRESS, if absent."""
    working_dir: Path | None = None
    """Folder that is uploaded; this one where it is a checkout of nextray, if absent."""
    on_interrupt: Literal["detach", "stop"] = "detach"
    """What Ctrl-C does: leave the job running, or stop it."""
    wait: bool = True
    """Follow the log until the job ends."""
    follow: str | None = None
    """Follow a job that was submitted before, by its id, instead of submitting one."""
    folder: Path = Path("~/.nextray")
    """The folder that `up` was given."""
    json: bool = False
    """Print one JSON object on stdout when the job has ended; its log goes to stderr."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    from jobs.cli import WITH_RECIPE  # it lists this job too

    words = list(sys.argv[1:] if argv is None else argv)
    place = next((n for n, word in enumerate(words) if word in WITH_RECIPE), len(words))
    job = words[place:]
    run_command(
        SubmitArguments,
        lambda arguments: _work(arguments, job),
        words[:place],
        name="submit",
        description=str(__doc__),
    )


def _work(arguments: SubmitArguments, job: Sequence[str]) -> None:
    if not job and arguments.follow is None:
        raise ConfigError("expected a job and its recipe, got none: nextray submit train laptop")
    check_command(job)
    client = connect_jobs(_url(arguments))
    if arguments.follow is not None:
        submission = arguments.follow
    else:
        words = list(job)
        if words[0] in RESUMABLE and not {"--resume", "--no-resume"}.intersection(words):
            words.append("--resume")
        submission = submit_job(client, words, working_folder=_working_folder(arguments))
        console().print(f"submitted {submission}", soft_wrap=True)
    code = 0
    if arguments.wait:
        code = _follow(client, submission, arguments)
    if arguments.json:
        print(json.dumps({"submission_id": submission, "exit_code": code}))  # noqa: T201
    sys.exit(code)


def check_command(words: Sequence[str]) -> None:
    """Refuse a command line that would leave a user's id or a password in the list of jobs.

    Raises:
        ConfigError: it has one.
    """
    if words and words[0] in NAMES_A_USER:
        raise ConfigError(
            f"{words[0]} names a user, and a cluster keeps every command line: run `nextray "
            f"{words[0]}` where the workspace is mounted, it needs no cluster"
        )
    if any(_PASSWORD.search(word) for word in words):
        raise ConfigError(
            "an address holds a password, and a cluster keeps every command line: run that command "
            "once where the workspace is mounted, it remembers the address"
        )


def _follow(client: object, submission: str, arguments: SubmitArguments) -> int:
    try:
        return follow_job(client, submission, show=_show)
    except KeyboardInterrupt:
        if arguments.on_interrupt == "detach":
            console().print(f"left running; follow it with: nextray submit --follow {submission}")
            return 130
        console().print("stopping the job")
        client.stop_job(submission)  # type: ignore[attr-defined]
        return follow_job(client, submission, show=_show)


def _show(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _url(arguments: SubmitArguments) -> str:
    if arguments.address is not None:
        return arguments.address
    cluster = launcher.find(arguments.folder.expanduser())
    if cluster is not None and cluster.dashboard:
        return cluster.dashboard
    return os.environ.get("RAY_API_SERVER_ADDRESS", DEFAULT_URL)


def _working_folder(arguments: SubmitArguments) -> Path | None:
    if arguments.working_dir is not None:
        return arguments.working_dir
    here = Path.cwd()
    return here if (here / "jobs" / "cli.py").is_file() else None


if __name__ == "__main__":
    main()
