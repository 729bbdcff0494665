"""What an installation consists of: a software bill of materials (CycloneDX 1.5) of nextray.

Read from what is installed here, so it names what runs: nextray, and all that it needs, level by
level. What only development needs is left out.
"""

import importlib.metadata
from collections.abc import Iterable
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "nextray"


def bill_of_materials(extras: Iterable[str] = ()) -> dict[str, Any]:
    """Return the bill as CycloneDX material; the same installation gives the same bill.

    Args:
        extras: optional parts of nextray that are counted in.
    """
    needs = _closure(ROOT, frozenset(extras))
    components = [_component(name) for name in sorted(needs) if name != ROOT]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": _component(ROOT) | {"type": "application"}},
        "components": components,
        "dependencies": [
            {"ref": _reference(name), "dependsOn": sorted(map(_reference, needs[name]))}
            for name in sorted(needs)
        ],
    }


def _closure(root: str, extras: frozenset[str]) -> dict[str, set[str]]:
    """Return each installed distribution that a root needs, with those that it needs itself."""
    found: dict[str, set[str]] = {}
    asked: set[tuple[str, frozenset[str]]] = set()
    waiting = [(root, extras)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in asked:
            continue
        asked.add((name, wanted))
        lines = importlib.metadata.distribution(name).requires or ()
        needs = found.setdefault(name, set())
        for need in map(Requirement, lines):
            place = canonicalize_name(need.name)
            if _applies(need, wanted) and _is_installed(place):
                needs.add(place)
                waiting.append((place, frozenset(need.extras)))
    return found


def _applies(need: Requirement, extras: frozenset[str]) -> bool:
    marker = need.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _reference(name: str) -> str:
    version = importlib.metadata.version(name).split("+")[0]
    return f"pkg:pypi/{canonicalize_name(name)}@{version}"


def _component(name: str) -> dict[str, Any]:
    facts = importlib.metadata.metadata(name)
    names = (name for name in ("License-Expression", "License") if name in facts)
    licence = next((facts[name] for name in names), "")
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _reference(name),
        "purl": _reference(name),
        "name": canonicalize_name(name),
        "version": importlib.metadata.version(name),
    }
    # Some put the whole text there: one line is a name.
    if licence and "\n" not in licence and len(licence) < 80:
        component["licenses"] = [{"license": {"name": licence}}]
    return component
