"""A flag of several values may be repeated: ``--column a=b --column c=d`` is ``--column a=b c=d``.

Tyro keeps the last of several, as for a flag of one value; that would drop the others in silence.
"""

import dataclasses
import typing
from collections.abc import Sequence


def gather_repeated(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the words with the values of a repeated flag beside its first occurrence.

    >>> gather_repeated(["smoke", "--on", "a", "--n", "1", "--on=b", "c"], ["--on"])
    ['smoke', '--on', 'a', 'b', 'c', '--n', '1']
    """
    gathered: dict[str, list[str]] = {}
    result: list[str | list[str]] = []
    into = result
    for word in words:
        name, _, value = word.partition("=")
        name = name.replace("_", "-")
        if name in flags:
            if name not in gathered:
                gathered[name] = []
                result.extend([name, gathered[name]])
            into = typing.cast("list[str | list[str]]", gathered[name])
            if "=" in word:
                into.append(value)
            continue
        if word.startswith("--"):
            into = result
        into.append(word)
    return [w for entry in result for w in ([entry] if isinstance(entry, str) else entry)]


def list_flags(arguments_type: type, *, flat: Sequence[str] = (), prefix: str = "--") -> list[str]:
    """Return the flags of several values of a dataclass and of those within it.

    Args:
        arguments_type: the dataclass.
        flat: fields whose own name is no part of their flags.
        prefix: what the flags start with.
    """
    hints = typing.get_type_hints(arguments_type)
    flags = []
    for field in dataclasses.fields(arguments_type):
        hint = hints[field.name]
        flag = prefix + field.name.replace("_", "-")
        if typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is Ellipsis:
            flags.append(flag)
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner = prefix if field.name in flat else f"{flag}."
            flags.extend(list_flags(hint, flat=flat, prefix=inner))
    return flags
