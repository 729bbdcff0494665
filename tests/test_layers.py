"""Rules of the house that a machine can check: who imports whom, and where a thing may stand."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rec", "cluster", "jobs")
RESOURCES = frozenset({"num_cpus", "num_gpus"})


def test_import_contracts_hold() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as f; f()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def future_annotations(tree: ast.AST) -> Iterator[int]:
    """Ray Serve's typed builder receives a plain dict from a module with this import."""
    return imports(tree, module="__future__", name="annotations")


def prints(tree: ast.AST) -> Iterator[int]:
    """Stdout belongs to a job's summary; everything else logs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield node.lineno


def ray_inits(tree: ast.AST) -> Iterator[int]:
    """One place sets the token and loopback before it starts Ray: cluster/runtime.py."""
    yield from imports(tree, module="ray", name="init")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "ray.init":
            yield node.lineno


def literal_resources(tree: ast.AST) -> Iterator[int]:
    """Resource numbers, as keywords or in options dicts, live in cluster/resources.py."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in RESOURCES and is_number(node.value):
            yield node.value.lineno
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in RESOURCES and is_number(value):
                    yield value.lineno


def imports(tree: ast.AST, *, module: str, name: str) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == module:
            yield from (node.lineno for alias in node.names if alias.name == name)


def is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def found(
    finder: Callable[[ast.AST], Iterator[int]], packages: tuple[str, ...], *, allowed: str = ""
) -> list[str]:
    """Return ``path:line`` of everything the finder sees outside the allowed file."""
    places = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name == allowed:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=name)
            places += [f"{name}:{line}" for line in finder(tree)]
    return places


def test_no_future_annotations() -> None:
    assert found(future_annotations, PACKAGES) == []


def test_only_jobs_print() -> None:
    assert found(prints, ("rec", "cluster")) == []


def test_only_the_runtime_starts_ray() -> None:
    assert found(ray_inits, PACKAGES, allowed="cluster/runtime.py") == []
    assert list(ray_inits(ast.parse((ROOT / "cluster/runtime.py").read_text(encoding="utf-8"))))


def test_only_resources_say_how_many_cores() -> None:
    assert found(literal_resources, PACKAGES, allowed="cluster/resources.py") == []


@pytest.mark.parametrize(
    ("finder", "source"),
    [
        (future_annotations, "from __future__ import annotations"),
        (prints, "def f():\n    print('x')"),
        (ray_inits, "import ray\nray.init(address='auto')"),
        (ray_inits, "from ray import init"),
        (literal_resources, "f.options(num_gpus=0.5)"),
        (literal_resources, "options = {'num_cpus': 2}"),
    ],
)
def test_a_broken_rule_is_seen(finder: Callable[[ast.AST], Iterator[int]], source: str) -> None:
    assert len(list(finder(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("finder", "source"),
    [
        (future_annotations, "from __future__ import generator_stop"),
        (prints, "console.print('x')"),
        (ray_inits, "model.init()"),
        (literal_resources, "f.options(num_cpus=resources.worker_cpus)"),
    ],
)
def test_a_kept_rule_is_not_blamed(finder: Callable[[ast.AST], Iterator[int]], source: str) -> None:
    assert list(finder(ast.parse(source))) == []
