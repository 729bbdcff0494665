"""Ask the public feed of vulnerabilities about every pinned version: ``make audit``.

A feed that knows nothing says "no known vulnerabilities" too. So it is asked about a version with
public holes first; if it does not know that one, nothing was audited, and that is what is said.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONTROL = "jinja2", "2.4.1"
"""Sandbox escapes, known since 2014."""
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 3
_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
_WITHIN_S = 300


def main() -> int:
    """Print what is known of the pinned versions; return the exit code."""
    pins = [line for line in _CONSTRAINTS.read_text().splitlines() if "==" in line]
    pins = [line.split("#")[0].strip() for line in pins if not line.startswith("#")]
    try:
        control = ask(["==".join(CONTROL)])
        code, lines = (NOT_AUDITED, []) if not knows_control(control) else judge(ask(pins))
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        code, lines = NOT_AUDITED, [" ".join(str(error).split())[:200]]
    if code == NOT_AUDITED:
        lines = [
            f"audit: not done, the feed knows nothing of {' '.join(CONTROL)}: run it where a "
            "package index with vulnerabilities can be reached",
            *lines,
        ]
    print("\n".join(lines or [f"audit: {len(pins)} pinned versions, none with a known hole"]))  # noqa: T201
    return code


def ask(pins: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return what pip-audit knows of versions.

    Raises:
        ValueError: it answered with something else.
        subprocess.SubprocessError: it took too long.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins))
        file.flush()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"),
                *("--progress-spinner", "off", "--format", "json", "-r", file.name),
            ],
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
    if not done.stdout.strip():
        raise ValueError(done.stderr.strip().rpartition("\n")[2] or "pip-audit said nothing")
    found: list[Mapping[str, Any]] = json.loads(done.stdout)["dependencies"]
    return found


def knows_control(answer: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the feed knows the holes that everybody knows."""
    return any(one["name"] == CONTROL[0] and one.get("vulns") for one in answer)


def judge(answer: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return the exit code and a line for each version with holes, or that nobody knows."""
    lines = [
        f"{one['name']} {one['version']}: {hole['id']}, mended in "
        f"{', '.join(hole['fix_versions']) or 'no version yet'}"
        for one in answer
        for hole in one.get("vulns", ())
    ]
    unknown = [one["name"] for one in answer if "skip_reason" in one]
    if unknown:
        lines.append(f"not audited, unknown to the feed: {', '.join(unknown)}")
    return (VULNERABLE if lines else CLEAN), lines


if __name__ == "__main__":
    sys.exit(main())
