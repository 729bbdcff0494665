import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from cluster.sbom import bill_of_materials

ROOT = Path(__file__).parents[3]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_bill_names_what_runs_with_its_version() -> None:
    bill = bill_of_materials()
    found = {part["name"]: part for part in bill["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {Requirement(line).name for line in project["dependencies"]} <= found.keys()
    # Not only what we name: what those need, too.
    assert {"numpy", "starlette", "protobuf"} <= found.keys()
    for name, part in found.items():
        assert part["version"] == importlib.metadata.version(name)
        assert part["purl"] == f"pkg:pypi/{name}@{part['version'].split('+')[0]}"
        assert part["version"].split("+")[0] == pins()[name].strip(), name
    assert found["accelerate"]["licenses"] == [{"license": {"name": "Apache"}}]


def test_bill_leaves_out_what_only_development_needs() -> None:
    names = {part["name"] for part in bill_of_materials()["components"]}
    assert not {"pytest", "mypy", "ruff", "moto", "selenium"} & names
    assert "peft" not in names
    assert "peft" in {part["name"] for part in bill_of_materials(["finetune"])["components"]}


def test_every_dependency_is_in_the_bill() -> None:
    bill = bill_of_materials()
    known = {part["bom-ref"] for part in [*bill["components"], bill["metadata"]["component"]]}
    assert {entry["ref"] for entry in bill["dependencies"]} == known
    for entry in bill["dependencies"]:
        assert set(entry["dependsOn"]) <= known
