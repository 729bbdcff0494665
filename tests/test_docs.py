"""What both READMEs promise: each command, flag and path exists, and both say the same."""

import contextlib
import importlib
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from jobs.cli import JOBS, WITHOUT_RECIPE
from jobs.domains import DOMAINS
from jobs.recipes import RECIPES

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
JOB = re.compile(r"(?<![\w./-])(?:python -m jobs\.|nextray )([a-z_]+)([^`\n|;&]*)")
MAKE = re.compile(r"(?<![\w./-])make ([a-z]+)((?: [A-Z]+=\S+)*)")


@cache
def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(name: str) -> list[str]:
    """Return the lines of the bash blocks, continuations joined, comments cut."""
    blocks = [body for language, body in FENCE.findall(read(name)) if language == "bash"]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    bare = (" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines)
    return [line for line in bare if line]


def code_of(name: str) -> str:
    """Return everything that is written as a command: bash blocks and spans in backticks."""
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", read(name)))
    return "\n".join([*commands(name), *spans])


@cache
def flags_of(job: str) -> frozenset[str]:
    """Return the flags that a job's own help lists."""
    words = ["--help"] if job in WITHOUT_RECIPE else ["laptop", "--help"]
    out = io.StringIO()
    main = importlib.import_module(f"jobs.{job}").main
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    return frozenset(re.findall(r"--[a-z][\w.-]*", out.getvalue()))


@pytest.mark.parametrize("name", READMES)
def test_named_jobs_exist(name: str) -> None:
    found = {job for job, _ in JOB.findall(code_of(name))}
    assert "pipeline" in found
    for job in sorted(found):
        assert job in JOBS
        assert (ROOT / "jobs" / f"{job}.py").is_file()


@pytest.mark.parametrize("name", READMES)
def test_named_make_targets_and_variables_exist(name: str) -> None:
    makefile = read("Makefile")
    found = MAKE.findall(code_of(name))
    assert {"demo", "test", "serve"} <= {target for target, _ in found}
    for target, settings in found:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        for setting in settings.split():
            variable = setting.split("=")[0]
            assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), setting


@pytest.mark.parametrize("name", READMES)
def test_jobs_accept_the_recipe_and_flags_of_each_command(name: str) -> None:
    checked = 0
    for line in commands(name):
        for job, rest in JOB.findall(line):
            words = shlex.split(rest)
            if job not in WITHOUT_RECIPE:
                assert words[0] in RECIPES | DOMAINS, line
            for flag in (word.split("=")[0] for word in words if word.startswith("--")):
                assert flag in flags_of(job), f"{flag} of: {line}"
                checked += 1
    assert checked > 0


@pytest.mark.parametrize("name", READMES)
def test_flags_in_prose_belong_to_some_job(name: str) -> None:
    known = flags_of("pipeline") | flags_of("recommend") | flags_of("serve")
    known |= flags_of("keys") | flags_of("demo") | flags_of("loop")
    spans = re.findall(r"`(--[a-z][\w.-]*)[^`\n]*`", FENCE.sub("", read(name)))
    assert set(spans) <= known


@pytest.mark.parametrize("name", READMES)
def test_linked_files_exist(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", read(name)):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", [*READMES, "CHANGELOG.md", "cluster/deploy/README.md"])
def test_no_page_holds_the_marks_of_an_unfinished_merge(name: str) -> None:
    assert re.findall(r"^(?:<{7} |={7}$|>{7} ).*", read(name), re.MULTILINE) == []


def test_both_readmes_have_the_same_sections_blocks_and_commands() -> None:
    english, chinese = (FENCE.sub("", read(name)) for name in READMES)
    levels = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]
    languages = [[language for language, _ in FENCE.findall(read(name))] for name in READMES]
    assert languages[0] == languages[1]
    assert commands("README.md") == commands("README.zh.md")


@pytest.mark.parametrize("block", ["demo-output", "ports", "numbers"])
def test_both_readmes_hold_the_measured_blocks(block: str) -> None:
    for name in READMES:
        assert read(name).count(f"<!-- {block} -->") == 1
        assert read(name).count(f"<!-- /{block} -->") == 1
