"""Interests: what a user's history is about, counted, and a summary made of these counts alone.

Nothing is guessed: an interest is an attribute's value, a word of titles or a query that the user's
own events have, with their number, their share (newer events count for more) and whether it is on
the rise or in decline. The sentence is a template's; a language model may word it under the same
check as explanations.

Flaw: values of an attribute that most items have say nothing and are left out, so that a user whose
taste is the catalog's own has few interests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from rec.ranking.explanations.facts import Fact, Facts, Trend
from rec.ranking.explanations.narrating import Narrator
from rec.ranking.explanations.prompting import fact_line
from rec.ranking.explanations.vocabulary import label_of, verb_of
from rec.ranking.explanations.wording import quotable
from rec.ranking.requests import Language

QUERY = "query"
MAX_VALUES = 3
"""Of each kind, most weight first."""
DECAY = 0.98
"""Weight of an event beside the next newer one: half after 34 events."""
RECENT_SHARE = 0.25
"""Newest part of a history that trends are seen in."""
_FEWEST = 5
"""Events on each side below which no trend is told."""
_CLEAR = 1.96
"""Standard errors between two shares that differ by chance in one history of twenty."""
_PROMPTS: Mapping[Language, str] = {
    "en": """Sum up what a user did, only from the facts.

Facts: 12 events; category “Lamps” 7 times; category “Chairs” 3 times; searched for “oak” 2 times
Summary: Your 12 events are about “Lamps” (7 times) and “Chairs” (3 times). You searched for \
“oak” (2 times).

Facts: 40 events; category “Novels” 21 times; category “Poems” 9 times; more “Poems”
Summary: Your 40 events are about “Novels” (21 times) and “Poems” (9 times). Lately more “Poems”.

Facts: {facts}
Summary:""",
    "zh": """只用事实，概括用户的行为。

事实：12 次行为；类别“灯” 7 次；类别“椅子” 3 次；搜索过“橡木” 2 次
概括：您的 12 次行为涉及“灯”（7 次）和“椅子”（3 次）。您搜索过“橡木”（2 次）。

事实：40 次行为；类别“小说” 21 次；类别“诗歌” 9 次；“诗歌”变多
概括：您的 40 次行为涉及“小说”（21 次）和“诗歌”（9 次）。近来“诗歌”变多。

事实：{facts}
概括：""",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Interest:
    """Hold one thing that a history is about.

    Attributes:
        kind: name of the attribute, ``words`` of titles, or ``query``.
        value: of the attribute, or the query.
        num_events: that have it.
        weight: their share of all events, in 0..1, newer ones counting for more.
        recent_share: share of the newest events that have it.
        earlier_share: share of those before; 0 where there are none.
        trend: ``more`` or ``less`` where the two differ clearly; ``None`` else.
    """

    kind: str
    value: str
    num_events: int
    weight: float
    recent_share: float
    earlier_share: float
    trend: Trend | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Interests:
    """Hold what a user's history is about.

    Attributes:
        text: up to three sentences, of ``interests`` alone.
        language: of ``text``.
        num_events: that were read: on items of the catalog, and queries.
        num_recent: the newest of them, that trends are seen in.
        interests: by kind, most weight first.
        is_generated: a language model wrote the text, and it passed the check.
    """

    text: str
    language: Language
    num_events: int
    num_recent: int
    interests: tuple[Interest, ...]
    is_generated: bool = False


def summarise(
    events: Sequence[Mapping[str, tuple[str, ...]]],
    *,
    language: Language,
    narrator: Narrator | None,
    seconds: float,
) -> Interests:
    """Return what events are about, counted and in words.

    Args:
        events: as ``find_interests``.
        language: of the text.
        narrator: words the text if there is one; what does not pass the check is the template's.
        seconds: that it may take.
    """
    found = find_interests(events)
    facts = facts_of_interests(found, num_events=len(events), language=language)
    said = None
    if narrator is not None and facts.facts:
        [said] = narrator.narrate([facts], seconds=seconds, prompt=_prompt)
    return Interests(
        text=interests_in_words(facts) if said is None else said,
        language=language,
        num_events=len(events),
        num_recent=recent_of(len(events)),
        interests=found,
        is_generated=said is not None,
    )


def _prompt(facts: Facts) -> str:
    return _PROMPTS[facts.language].replace("{facts}", fact_line(facts))


def find_interests(events: Sequence[Mapping[str, tuple[str, ...]]]) -> tuple[Interest, ...]:
    """Return what events are about, kinds in the order in which they come up.

    Args:
        events: of each event, oldest first, kind -> values.

    Twenty events on tea, then six on cups:

    >>> tea, cup = {"category": ("Tea",)}, {"category": ("Cup",)}
    >>> [(i.value, i.num_events, i.trend) for i in find_interests([tea] * 20 + [cup] * 6)]
    [('Tea', 20, 'less'), ('Cup', 6, 'more')]
    """
    num_events = len(events)
    num_recent = recent_of(num_events)
    total = sum(DECAY**age for age in range(num_events))
    weights: dict[tuple[str, str], float] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    for place, event in enumerate(events):
        is_recent = place >= num_events - num_recent
        for kind, values in event.items():
            for value in dict.fromkeys(values):
                key = (kind, value)
                weights[key] = weights.get(key, 0.0) + DECAY ** (num_events - 1 - place)
                counts.setdefault(key, [0, 0])[is_recent] += 1
    kinds = list(dict.fromkeys(kind for kind, _ in weights))
    found = []
    for kind in kinds:
        mine = sorted((key for key in weights if key[0] == kind), key=lambda key: -weights[key])
        for key in mine[:MAX_VALUES]:
            earlier, recent = counts[key]
            found.append(
                Interest(
                    kind=kind,
                    value=key[1],
                    num_events=earlier + recent,
                    weight=weights[key] / total,
                    recent_share=recent / num_recent,
                    earlier_share=earlier / max(1, num_events - num_recent),
                    trend=_trend(recent, num_recent, earlier, num_events - num_recent),
                )
            )
    return tuple(found)


def recent_of(num_events: int) -> int:
    """Return how many of some events are the newest ones that trends are seen in."""
    return max(1, round(RECENT_SHARE * num_events)) if num_events else 0


def _trend(recent: int, num_recent: int, earlier: int, num_earlier: int) -> Trend | None:
    """Return whether two shares differ by more than chance (pooled two-proportion z-test)."""
    if min(num_recent, num_earlier) < _FEWEST:
        return None
    share = (recent + earlier) / (num_recent + num_earlier)
    spread = sqrt(share * (1 - share) * (1 / num_recent + 1 / num_earlier))
    rise = recent / num_recent - earlier / num_earlier
    if spread == 0 or abs(rise) <= _CLEAR * spread:
        return None
    return "more" if rise > 0 else "less"


def facts_of_interests(
    interests: Sequence[Interest], *, num_events: int, language: Language
) -> Facts:
    """Return what a summary names: the main values, the main query, and what has a trend."""
    main = _main(interests)
    trends = [i for i in interests if i.trend and i not in main and i.kind != QUERY]
    return Facts(
        language=language,
        total=num_events,
        facts=tuple(
            Fact(
                text=quotable(interest.value),
                verbs=frozenset({verb_of("search", language)} if interest.kind == QUERY else ()),
                count=interest.num_events,
                attribute=None if interest.kind == QUERY else quotable(interest.kind),
                label=None if interest.kind == QUERY else label_of(interest.kind, language),
                trend=interest.trend,
            )
            for interest in (*main, *trends[:1])
        ),
    )


def interests_in_words(facts: Facts) -> str:
    """Return the template's summary; it says so where nothing is known.

    >>> kind = Fact(text="Tea", attribute="category", label="category", count=12, trend="more")
    >>> query = Fact(text="cup", verbs=frozenset({"searched for"}), count=1)
    >>> interests_in_words(Facts(language="en", total=30, facts=[kind, query]))
    'Your 30 events are about “Tea” (12 times). You searched for “cup” (once). Lately more “Tea”.'
    >>> interests_in_words(Facts(language="en", total=0))
    'Nothing is known of this user yet.'
    """
    is_english = facts.language == "en"
    values = [fact for fact in facts.facts if fact.attribute is not None]
    queries = [fact for fact in facts.facts if fact.attribute is None]
    texts = []
    if values:
        named = (" and " if is_english else "和").join(map(_counted(facts.language), values[:2]))
        are = "event is" if facts.total == 1 else "events are"
        texts.append(
            f"Your {facts.total} {are} about {named}."
            if is_english
            else f"您的 {facts.total} 次行为涉及{named}。"
        )
    if queries:
        named = _counted(facts.language)(queries[0])
        texts.append(f"You searched for {named}." if is_english else f"您搜索过{named}。")
    rise = next((f"“{fact.text}”" for fact in values if fact.trend == "more"), None)
    fall = next((f"“{fact.text}”" for fact in values if fact.trend == "less"), None)
    if is_english and (rise or fall):
        said = [f"more {rise}" if rise else "", f"less {fall}" if fall else ""]
        texts.append(f"Lately {' and '.join(filter(None, said))}.")
    elif rise or fall:
        said = [f"{rise}变多" if rise else "", f"{fall}变少" if fall else ""]
        texts.append(f"近来{'，'.join(filter(None, said))}。")
    if texts:
        return (" " if is_english else "").join(texts)
    return "Nothing is known of this user yet." if is_english else "对该用户还一无所知。"


def _main(interests: Sequence[Interest]) -> list[Interest]:
    """Return the two main values of the first kind that there is, and the main query."""
    kinds = [interest.kind for interest in interests if interest.kind != QUERY]
    main = [i for i in interests if kinds and i.kind == kinds[0]][:2]
    return main + [i for i in interests if i.kind == QUERY][:1]


def _counted(language: Language) -> Callable[[Fact], str]:
    def say(fact: Fact) -> str:
        if language == "zh":
            return f"“{fact.text}”（{fact.count} 次）"
        times = "once" if fact.count == 1 else f"{fact.count} times"
        return f"“{fact.text}” ({times})"

    return say
