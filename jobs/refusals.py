"""Refusals of the command line in one line: what was expected, what came, what to do.

Tyro explains at length in a box. A job says one line, the same as for every other error; the flags
and their text stand in ``--help``.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from rec.errors import ConfigError

_WIDE_COLUMNS = "10000"
"""Wider than any message: tyro breaks no line and cuts no word."""
_OF_CONFIG = re.compile(r"Error parsing [^-]\S*: (.*)")
_OF_VALUE = re.compile(r"Error parsing (--\S+): (.*)")
_LITERAL = re.compile(r"(?:invalid literal for int.* base 10|could not convert string to float): ")
_CHOICE = re.compile(r"invalid choice (.*) for argument '(--\S+)'. Expected one of \((.*)\)\.?")
_NO_VALUE = re.compile(r"Missing value for argument '(--\S+)'\..*")
_SAMPLED = re.compile(r"(?:sampl|negativ)", re.IGNORECASE)
_WHOLE_CATALOG = (
    "metrics over sampled candidates are refused, because they put models in another order than "
    "the catalog does (Krichene and Rendle 2020): leave it out, lists are measured over all items"
)
"""Said to who asks an evaluation for it, as other libraries have it."""
_FLAG = re.compile(r"^(--[\w.-]+|\{[\w,]+\}) ?(.*)$")


@contextlib.contextmanager
def in_one_line(prog: str, argv: Sequence[str] | None) -> Iterator[None]:
    """Turn tyro's refusal of a block's command line into an error; help passes untouched.

    Raises:
        ConfigError: the command line was refused.
    """
    words = sys.argv[1:] if argv is None else argv
    if "-h" in words or "--help" in words:
        yield
        return
    shown = io.StringIO()
    try:
        with _columns(_WIDE_COLUMNS), contextlib.redirect_stderr(shown):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_sentence(shown.getvalue(), prog=prog)) from None
    sys.stderr.write(shown.getvalue())


def check_choice(what: str, word: str | None, choices: Mapping[str, object], *, prog: str) -> None:
    """Refuse a first word that is none of the choices.

    Raises:
        ConfigError: it is none of them, or missing.
    """
    if word in ("-h", "--help") or word in choices:
        return
    names = ", ".join(choices)
    came = "nothing" if word is None else repr(word)
    raise ConfigError(
        f"expected a {what} first ({names}), got {came}: try `{prog} {next(iter(choices))} --help`"
    )


@contextlib.contextmanager
def _columns(number: str) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = number
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _sentence(box: str, *, prog: str) -> str:
    """Return what a box of tyro's says, as one line; a box has no border where stdout is ASCII."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # the first one is the title
        inner = line.strip("│╰╯ ")
        if inner and not inner.strip("─-"):
            sections.append([])
        else:
            sections[-1].append(inner)
    sections = [section for section in sections if any(section)]
    text = " ".join(" ".join(sections[0]).split())
    advice = f"`{prog} --help` lists the flags"
    config = _OF_CONFIG.fullmatch(text)
    if config:
        return f"{config[1]}: {advice}"
    value = _OF_VALUE.fullmatch(text)
    if value:
        kind = next((m[2] for s in sections[1:] for m in map(_FLAG.match, s) if m), "another value")
        return f"{value[1]} expects {kind}, {_LITERAL.sub('got ', value[2])}: {advice}"
    choice = _CHOICE.fullmatch(text)
    if choice:
        names = choice[3].replace("'", "")
        if choice[2] == "--evaluation.protocol" and _SAMPLED.search(choice[1]):
            return f"{choice[2]} expects one of {names}, got {choice[1]}: {_WHOLE_CATALOG}"
        return f"{choice[2]} expects one of {names}, got {choice[1]}: {advice}"
    no_value = _NO_VALUE.fullmatch(text)
    if no_value:
        return f"{no_value[1]} expects a value, got none: {advice}"
    if text.startswith("Missing from"):
        missing = [m[1] for m in map(_FLAG.match, sections[0]) if m]
        return f"expected {' and '.join(missing)}, got none: {advice}"
    unknown = re.fullmatch(r"Unrecognized options: (.*)", text)
    if unknown:
        similar = [m[1] for section in sections[1:] for m in map(_FLAG.match, section) if m]
        meant = f" (did you mean {similar[0]}?)" if similar else ""
        came = " ".join(unknown[1].split(", "))
        is_evaluating = "--evaluation." in came or "jobs.evaluate" in prog
        if is_evaluating and _SAMPLED.search(came):
            return f"expected known flags, got {came}: {_WHOLE_CATALOG}"
        return f"expected known flags, got {came}{meant}: {advice}"
    return f"{text.rstrip('.')}: {advice}"
