"""Facts: what a text about a list or a user may name, and what may be said of it.

A text is made of them by a template, or by a model and then checked against them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rec.ranking.requests import Language

Trend = Literal["more", "less"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """Hold one thing that may be named, and what may be said of it.

    Attributes:
        text: as it must be quoted.
        verbs: what the user did with it, as the vocabulary has it; none for an attribute.
        count: how often, by every verb that it has; ``None`` where no number may be said.
        attribute: name of the attribute that it is a value of; ``None`` for an item or a query.
        label: the vocabulary's word for the attribute; its name must be quoted where there is none.
        of: places among the facts of the things that share the value with the listed item; empty
            where it is said of the user.
        trend: whether it is on the rise or in decline.
        is_listed: it is the listed item itself.
    """

    text: str
    verbs: frozenset[str] = frozenset()
    count: int | None = None
    attribute: str | None = None
    label: str | None = None
    of: frozenset[int] = frozenset()
    trend: Trend | None = None
    is_listed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Hold all that a text may be made of.

    Attributes:
        language: of the text.
        facts: what may be named.
        title: of the listed item, as it must be quoted; empty where there is none.
        total: number of all events; ``None`` where it may not be said.
    """

    language: Language
    facts: Sequence[Fact] = field(default_factory=tuple)
    title: str = ""
    total: int | None = None
