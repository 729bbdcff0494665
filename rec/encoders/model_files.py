"""Files of a model folder, read within bounds: who wrote them may want the machine.

A folder is looked at before transformers sees it. Every file must be a regular one of the folder
itself (or of the hub's cache, whose folders are links), small enough for what it is, and name no
file elsewhere.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rec.errors import ConfigError

MAX_FILE_BYTES = 64 << 20
"""Of anything but weights: Gemma's tokenizer, the largest in use, has 33 MiB."""
MAX_NODES = 200_000
"""Values of a JSON file that holds no vocabulary."""
MAX_HEADER_BYTES = 16 << 20
"""Of a safetensors file: names and sizes, some hundred bytes a tensor."""
WEIGHTS_INDEX = "model.safetensors.index.json"
_WEIGHTS = (".safetensors", ".gguf")
_READ = (*_WEIGHTS, ".json", ".txt", ".model", ".jinja")
"""What transformers may open; other files of a folder are nobody's concern."""


def check_files(folder: Path, flag: str) -> None:
    """Refuse a folder with a file that leads elsewhere, is none, or is too large.

    Raises:
        ConfigError: there is one.
    """
    roots = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        roots.append(folder.resolve().parents[1] / "blobs")  # the hub's cache
    for path in sorted(folder.iterdir()):
        if path.suffix not in _READ or path.is_dir():
            continue
        real = Path(os.path.realpath(path))  # Path.resolve fails at a link to itself
        if not any(root in real.parents for root in roots):
            raise ConfigError(
                f"{flag}: {path.name} is a link to {real}, outside the folder: copy the file there"
            )
        found = real.stat() if real.exists() else None
        if found is None or not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{flag}: {path.name} is no regular file: download it again")
        if path.suffix not in _WEIGHTS and found.st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"{flag}: {path.name} has {found.st_size} bytes, expected at most {MAX_FILE_BYTES}"
            )
    _check_index(folder, flag)


def read_json(path: Path, flag: str, *, max_nodes: int | None = MAX_NODES) -> dict[str, Any] | None:
    """Return the object of a file, ``None`` where there is none.

    Raises:
        ConfigError: it is no JSON object, or one of too many values.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{flag}: {path.name} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{flag}: {path.name} is not a JSON object")
    if max_nodes is not None and sum(1 for _ in nodes(values)) > max_nodes:
        raise ConfigError(f"{flag}: {path.name} has more than {max_nodes} values")
    return values


def nodes(value: Any) -> Iterator[Any]:
    """Yield every value of a JSON value, itself included, in any order and however deep.

    >>> len(list(nodes({"a": [1, 2], "b": {}})))
    5
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def check_header(path: Path, flag: str) -> None:
    """Refuse a safetensors file whose header alone would fill the memory.

    Raises:
        ConfigError: it is too long.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise ConfigError(
            f"{flag}: {path.name} is no safetensors file (a header of {length} bytes, expected at "
            f"most {MAX_HEADER_BYTES}): download it again"
        )


def _check_index(folder: Path, flag: str) -> None:
    """Refuse a list of weights that names a file elsewhere: nothing would have looked at it."""
    index = read_json(folder / WEIGHTS_INDEX, flag)
    names = (index or {}).get("weight_map", {})
    values = names.values() if isinstance(names, dict) else [names]
    for name in values:
        if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name:
            raise ConfigError(
                f"{flag}: {WEIGHTS_INDEX} names {name!r}, expected a *.safetensors of the folder"
            )
