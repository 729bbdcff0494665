"""constraints.txt pins every dependency of pyproject.toml, and never below what we ask for."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def read_project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        project: dict[str, object] = tomllib.load(stream)
    return project


def read_requirements() -> list[Requirement]:
    document = read_project()
    project, build = document["project"], document["build-system"]
    assert isinstance(project, dict)
    assert isinstance(build, dict)
    lines = [*project["dependencies"], *build["requires"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    return [Requirement(line) for line in lines]


def read_pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


PINS = read_pins()
VERSIONS: dict[str, str] = {
    canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS
}


@pytest.mark.parametrize("requirement", read_requirements(), ids=lambda needed: needed.name)
def test_dependency_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    version = VERSIONS.get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in constraints.txt: regenerate it"
    assert requirement.specifier.contains(version, prereleases=False), (
        f"constraints.txt pins {requirement.name} {version}, "
        f"pyproject.toml wants {requirement.specifier}"
    )


def test_every_line_is_one_exact_version() -> None:
    for pin in PINS:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version
        # A local label (+cpu, +cu130) would tie the file to one build of torch.
        assert "+" not in specifier.version
        assert pin.url is None
        assert not pin.extras


def test_no_package_has_two_pins() -> None:
    assert len(VERSIONS) == len(PINS)


def test_pins_are_known_good() -> None:
    assert VERSIONS["ray"] == "2.60.0"
    assert VERSIONS["torch"] == "2.13.0"


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "Makefile", ".ci/run"])
def test_no_registry_is_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for word in ("index-url", "find-links", "file://", "http://", "https://"):
        assert word not in text
