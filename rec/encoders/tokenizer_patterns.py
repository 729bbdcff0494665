r"""What a tokenizer's pattern may cost: no more than the square of a text's length.

Tokenizers look for patterns by trying. ``e*e*!`` tries every way to cut a run of ``e`` in two
before it gives up, at every place of the run: a text of thirty thousand letters takes minutes or
hours, and nothing stops it. What makes it slow is a repeat without an end that something follows
which may fail; published patterns have one such at most (``\s*[\r\n]+``), and few other choices.
"""

import re
from dataclasses import dataclass

from rec.errors import ConfigError

MAX_PATTERN_LENGTH = 2_000
MAX_OPEN_REPEATS = 1
"""In a row, with something that may fail behind them: each is another power of the length."""
MAX_WAYS = 256
"""Of all bounded choices in a row to be taken, with something that may fail behind them."""
_MANY = 16
"""A repeat that may go so far is as good as one without an end."""
_GROUP = re.compile(r"\((\?(<?[=!]|>|[a-zA-Z-]*:|P?<\w+>))?")
_QUANTIFIER = re.compile(r"(?:([*+?])|\{(\d*)(,?)(\d*)\})[?+]?")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Sum up a part of a pattern."""

    varies: bool = False
    """Whether it can match one text in several ways."""
    must: bool = False
    """Whether something in it has to match."""
    pending: int = 0
    """Repeats without an end at its end: nothing that may fail has followed yet."""
    costly: int = 0
    """Repeats without an end that something may fail behind."""
    pending_ways: int = 1
    ways: int = 1
    """The same of bounded choices: how many ways they make together."""

    def then(self, other: "_Part") -> "_Part":
        """Return this part with another behind it."""
        return _Part(
            varies=self.varies or other.varies,
            must=self.must or other.must,
            pending=other.pending + (0 if other.must else self.pending),
            costly=self.costly + other.costly + (self.pending if other.must else 0),
            pending_ways=other.pending_ways * (1 if other.must else self.pending_ways),
            ways=self.ways * other.ways * (self.pending_ways if other.must else 1),
        )

    def either(self, other: "_Part") -> "_Part":
        """Return a choice of this part and another."""
        return _Part(
            varies=True,
            must=self.must or other.must,
            pending=max(self.pending, other.pending),
            costly=max(self.costly, other.costly),
            pending_ways=self.pending_ways + other.pending_ways,
            ways=max(self.ways, other.ways),
        )


def check_pattern(pattern: str, where: str) -> None:
    """Refuse a pattern that may try very many ways to cut a text.

    Raises:
        ConfigError: it is long, a repeat holds a repeat or a choice, or many of them are in a row.
    """
    shown = repr(pattern[:40])
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise ConfigError(
            f"{where} has a pattern of {len(pattern)} characters, expected at most "
            f"{MAX_PATTERN_LENGTH}"
        )
    try:
        part, _ = _read(_without_classes(pattern), 0)
    except (_RepeatWithinRepeatError, RecursionError) as error:
        raise ConfigError(
            f"{where} has a repeat within a repeat in {shown}: some texts would take for ever"
        ) from error
    if part.costly > MAX_OPEN_REPEATS or part.ways > MAX_WAYS:
        raise ConfigError(
            f"{where} has too many repeats in a row in {shown}: some texts would take for ever"
        )


class _RepeatWithinRepeatError(Exception):
    """Tell that a repeated group can match one text in several ways."""


def _read(plain: str, place: int) -> tuple[_Part, int]:
    """Return the part up to the end of a group, and the place of that end."""
    whole: _Part | None = None
    branch = _Part()
    while place < len(plain) and plain[place] != ")":
        if plain[place] == "|":
            whole = branch if whole is None else whole.either(branch)
            branch, place = _Part(), place + 1
            continue
        group = _GROUP.match(plain, place)
        if group is None:
            atom, place = _Part(must=True), place + 1
        else:
            atom, place = _read(plain, group.end())
            place += 1
        quantifier = _QUANTIFIER.match(plain, place)
        if quantifier is not None:
            atom, place = _repeated(atom, quantifier), quantifier.end()
        branch = branch.then(atom)
    return branch if whole is None else whole.either(branch), place


def _repeated(atom: _Part, quantifier: "re.Match[str]") -> _Part:
    """Return a part under a quantifier."""
    mark, low, comma, high = quantifier.groups()
    least = {"*": 0, "?": 0, "+": 1}[mark] if mark else int(low or 0)
    most = 1 if mark == "?" else None
    if not mark and (high or not comma):
        most = int(high or least)
    if most != 1 and atom.varies:
        raise _RepeatWithinRepeatError
    is_open = most is None or most - least >= _MANY
    ways = 1 if is_open or most is None else most - least + 1
    own = _Part(
        varies=is_open or ways > 1, must=False, pending=int(is_open), costly=0, pending_ways=ways
    )
    inner = _Part(
        varies=atom.varies,
        must=atom.must and least > 0,
        pending=atom.pending,
        costly=atom.costly,
        pending_ways=atom.pending_ways,
        ways=atom.ways,
    )
    return inner.then(own)


def _without_classes(pattern: str) -> str:
    r"""Return a pattern whose escapes and character classes are a letter each.

    >>> _without_classes(r"\p{L}+|[^\s\p{N}]+[\r\n]*|\(")
    'x+|x+x*|x'
    """
    text = re.sub(r"\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.", "x", pattern, flags=re.DOTALL)
    while (shorter := re.sub(r"\[\^?\]?[^\[\]]*\]", "x", text)) != text:
        text = shorter
    return text
