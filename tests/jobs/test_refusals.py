"""A command line that is wrong: one line on stderr, exit code 2, and nothing on disk."""

import importlib
import shlex
from pathlib import Path

import pytest

from jobs.cli import JOBS, WITHOUT_RECIPE
from jobs.shell import BAD_INPUT

RECIPES = "smoke, laptop, gpu, demo, stripped, social, shop, video, news, education"


def refuse(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run ``JOB WORDS...`` and return the one line it printed."""
    job, *words = shlex.split(line)
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"jobs.{job}").main(words)
    assert stop.value.code == BAD_INPUT
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("\n")
    assert len(shown.err.splitlines()) == 1, shown.err
    return shown.err.strip()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("train smoke --training.num-epochs 0", "--training.num-epochs must be >= 1, got 0"),
        ("index smoke --ranking.penalty-weight -1", "--ranking.penalty-weight must be >= 0, got"),
        ("recommend smoke --output l.parquet --k 0", "--k must be >= 1, got 0"),
        (
            "index smoke --ranking.pinned a b --ranking.blocked c b",
            "--ranking.pinned and --ranking.blocked both name 'b': leave one out",
        ),
        ("train smoke --training.num-epochs many", "--training.num-epochs expects INT, got 'many'"),
        ("train smoke --training.learning-rate x", "expects FLOAT, got 'x'"),
        ("train smoke --profile huge", "--profile expects one of laptop, cpu, gpu, got 'huge'"),
        ("train smoke --workspace", "--workspace expects a value, got none"),
        ("train smoke --nonsense 3", "expected known flags, got --nonsense 3"),
        ("train smoke --training.num-epoch 3", "did you mean --training.num-epochs?"),
        ("prepare smoke --items i.csv", "expected --events, got none"),
        ("pipeline laptop", "expected --events and --items, got none"),
        ("train huge", f"expected a recipe first ({RECIPES}), got 'huge'"),
        ("train --resume smoke", f"expected a recipe first ({RECIPES}), got '--resume'"),
        ("train", f"expected a recipe first ({RECIPES}), got nothing"),
        ("serve smoke --port 0", "error: --port must be in 1..65535, got 0"),
        ("keys", "expected {add,list,rotate,revoke}, got none"),
        ("keys add", "expected the name of the key to add, got none"),
        ("keys add web --scope all", "--scope expects one of read, write, admin, got 'all'"),
        ("demo --weeks many", "--weeks expects INT, got 'many'"),
        ("demo --weeks 0", "error: --weeks must be in 1..53, got 0"),
        ("demo --rounds -1", "error: --rounds must be >= 0, got -1"),
        ("demo --nonsense", "expected known flags, got --nonsense"),
        ("demo --workspace s3://shop/workspace", "expects a local or shared folder"),
    ],
)
def test_refusal_is_one_line_with_what_came_and_what_to_do(
    line: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = refuse(line, capsys)
    assert shown.startswith("error: ")
    assert reason in shown
    assert "--help`" in shown
    assert "tyro" not in shown
    assert list(tmp_path.iterdir()) == []


def test_long_words_come_back_whole(capsys: pytest.CaptureFixture[str]) -> None:
    word = "a/long/path" * 10
    assert repr(word) in refuse(f"train smoke --training.num-epochs {word}", capsys)


OTHER_HELP = {
    "up": ("--folder PATH", "Where `down` and `status` find the cluster"),
    "down": ("--folder PATH", "The folder that `up` was given"),
    "status": ("--folder PATH", "The folder that `up` was given"),
    "doctor": ("--workspace PATH", "Whose disk is looked at"),
    "submit": ("--folder PATH", "The folder that `up` was given"),
    "restore": ("--workspace PATH", "New folder"),
    "sbom": ("--extra", "bill of materials"),
}
"""Commands that read no workspace, or another one's."""


@pytest.mark.parametrize(
    "line",
    [
        "evaluate smoke --num-negatives 100",
        "evaluate smoke --evaluation.num-negatives 100",
        "pipeline smoke --events e --items i --evaluation.sampled-metrics",
        "evaluate smoke --evaluation.protocol sampled",
    ],
)
def test_who_asks_for_sampled_metrics_is_told_why_there_are_none(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = refuse(line, capsys)
    assert "metrics over sampled candidates are refused" in shown
    assert "lists are measured over all items" in shown


def test_negatives_of_training_are_another_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sampled candidates" not in refuse("train smoke --training.negatives 3", capsys)


@pytest.mark.parametrize("job", JOBS)
def test_help_shows_flags_and_their_text(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--help"] if job in WITHOUT_RECIPE else ["laptop", "--help"]
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"jobs.{job.replace('-', '_')}").main(words)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    flag, text = OTHER_HELP.get(job, ("--workspace PATH", "Root of all artifacts"))
    assert flag in shown
    assert text in " ".join(shown.split())
    # It fits the terminal: the width of refusals is not that of help.
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("submit erase laptop --user-id alice", "error: erase names a user, and a cluster keeps"),
        ("submit export-user laptop --user-id alice", "error: export-user names a user"),
        ("submit serve laptop --history redis://:pass@db:6379/0", "an address holds a password"),
    ],
)
def test_no_secret_is_submitted(line: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = refuse(line, capsys)
    assert reason in shown
    assert "alice" not in shown
    assert "pass@" not in shown
