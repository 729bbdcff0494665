"""Prompts: what a language model reads before it words an explanation.

A small model copies the form of the examples that it is shown, numbers and all: after an example
with "5 times" it says five times of anything. So the examples have the shape of the facts that are
to be worded: as many things, the same verbs, counts where there are counts. Titles stand in quotes,
as data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rec.ranking.explanations.facts import Fact, Facts
from rec.ranking.requests import Language

_HEADS: Mapping[Language, tuple[str, str, str]] = {
    "en": (
        "Say in one sentence why an item is in the list, only from the facts.",
        "Facts: ",
        "Sentence:",
    ),
    "zh": ("只用事实，用一句话说明为什么推荐此商品。", "事实：", "句子："),
}
_TITLES: Mapping[Language, Sequence[tuple[str, str]]] = {
    "en": (("Oat milk", "Granola"), ("Desk lamp", "Armchair"), ("Wool socks", "Rain jacket")),
    "zh": (("燕麦奶", "麦片"), ("台灯", "扶手椅"), ("羊毛袜", "雨衣")),
}
_VALUES: Mapping[Language, Sequence[str]] = {
    "en": ("Dairy", "Furniture", "Outdoor"),
    "zh": ("乳品", "家具", "户外"),
}
_COUNTS = ((3, 2), (2, 4), (6, 3))
"""Of the first and the second thing of each example, where the facts have counts above one."""


def explanation_prompt(facts: Facts) -> str:
    """Return what the model reads: three examples of the facts' shape, and the facts.

    >>> tea = Fact(text="Tea", verbs=frozenset({"viewed"}), count=1)
    >>> print(explanation_prompt(Facts(language="en", facts=[tea], title="Cup")))
    Say in one sentence why an item is in the list, only from the facts.
    <BLANKLINE>
    Facts: viewed “Oat milk”
    Sentence: This is here because you viewed “Oat milk”.
    <BLANKLINE>
    Facts: viewed “Desk lamp”
    Sentence: This is here because you viewed “Desk lamp”.
    <BLANKLINE>
    Facts: viewed “Wool socks”
    Sentence: This is here because you viewed “Wool socks”.
    <BLANKLINE>
    Facts: viewed “Tea”
    Sentence:
    """
    head, before, after = _HEADS[facts.language]
    space = " " * (facts.language == "en")
    examples = [
        f"{before}{fact_line(example)}\n{after}{space}{_sentence(example)}"
        for example in examples_like(facts)
    ]
    return "\n\n".join([head, *examples, f"{before}{fact_line(facts)}\n{after}"])


def examples_like(facts: Facts) -> list[Facts]:
    """Return facts of the same shape about other things."""
    language = facts.language
    things = [fact for fact in facts.facts if fact.attribute is None][:2]
    shared = [fact for fact in facts.facts if fact.attribute is not None and fact.of]
    values = shared[:1] if len(things) == 1 else []
    examples = []
    for titles, value, counts in zip(_TITLES[language], _VALUES[language], _COUNTS, strict=True):
        toys = [
            replace(thing, text=title, count=count if (thing.count or 1) > 1 else 1)
            for thing, title, count in zip(things, titles, counts, strict=False)
        ]
        toys += [replace(fact, text=value) for fact in values]
        examples.append(Facts(language=language, facts=toys, title="-"))
    return examples


def fact_line(facts: Facts) -> str:
    """Return the facts as the model reads them.

    >>> from rec.ranking.explanations.facts import Fact
    >>> tea = Fact(text="Tea", verbs=frozenset({"bought"}), count=2)
    >>> kind = Fact(text="Hot", attribute="category", label="category", of=frozenset({0}))
    >>> fact_line(Facts(language="en", facts=[tea, kind], title="Cup"))
    'bought “Tea” 2 times; category “Hot”'
    """
    is_english = facts.language == "en"
    space = " " * is_english

    def times(fact: Fact) -> str:
        if fact.count is None or (fact.count == 1 and not fact.attribute):
            return ""
        return f" {fact.count} times" if is_english else f" {fact.count} 次"

    things = [fact for fact in facts.facts if fact.attribute is None]
    values = [fact for fact in facts.facts if fact.attribute is not None]
    shared = [fact for fact in values if fact.of]
    lines = []
    if facts.total is not None:
        lines.append(f"{facts.total} events" if is_english else f"{facts.total} 次行为")
    lines += [
        f"{v.label or f'“{v.attribute}”'}{space}“{v.text}”{times(v)}" for v in values if not v.of
    ]
    for fact in things:
        this = "this" if is_english else "此商品"
        name = this if fact.is_listed else f"“{fact.text}”"
        lines.append(f"{''.join(sorted(fact.verbs))}{space}{name}{times(fact)}")
    if len(things) == 1:  # of two, the model would not know which
        lines += [f"{v.label or f'“{v.attribute}”'}{space}“{v.text}”" for v in shared[:1]]
    for fact in facts.facts:
        if fact.trend is not None:
            word = {"more": "变多", "less": "变少"}[fact.trend]
            lines.append(f"{fact.trend} “{fact.text}”" if is_english else f"“{fact.text}”{word}")
    return ("; " if is_english else "；").join(lines)


def _sentence(facts: Facts) -> str:
    """Return an example's sentence; the check lets it pass."""
    is_english = facts.language == "en"
    things = [fact for fact in facts.facts if fact.attribute is None]
    values = [fact for fact in facts.facts if fact.attribute is not None]
    deeds = [_deed(thing, is_english=is_english) for thing in things]
    if is_english:
        said = f"This is here because you {' and '.join(deeds)}"
        return said + "".join(_in_common(value) for value in values) + "."
    said = f"因为您{'，还'.join(deeds)}"
    return said + ("".join(_in_common_zh(value) for value in values) or "，所以推荐此商品") + "。"


def _deed(thing: Fact, *, is_english: bool) -> str:
    verb, many = "".join(sorted(thing.verbs)), (thing.count or 1) > 1
    if is_english:
        name = "this" if thing.is_listed else f"“{thing.text}”"
        return f"{verb} {name}" + (f" {thing.count} times" if many else "")
    name = "此商品" if thing.is_listed else f"“{thing.text}”"
    return f"{verb}{name}" + (f" {thing.count} 次" if many else "")


def _in_common(value: Fact) -> str:
    if value.attribute == "category":
        return f", and both are in the category “{value.text}”"
    if value.attribute == "words":
        return f", and both names have “{value.text}”"
    return f", and both have the {value.label or f'“{value.attribute}”'} “{value.text}”"


def _in_common_zh(value: Fact) -> str:
    if value.attribute == "category":
        return f"，它们同属“{value.text}”"
    if value.attribute == "words":
        return f"，它们的名称都含有“{value.text}”"
    return f"，它们的{value.label or f'“{value.attribute}”'}相同：“{value.text}”"
