"""Check a generated text: each thing that it says stands in the evidence, or it is refused.

A model writes fluently and invents freely, so nothing is believed that cannot be read back. A text
passes only if it consists of quotes that the evidence has, numbers, and the closed vocabulary; and
if every claim is bound to the thing that it is true of: a verb to what was done so, a number to
what was done so often, an attribute to the thing that shares it, "in the list" to the listed item.
What cannot be bound with certainty is refused: a template says the same, always truly.

Flaw: that a text is true does not make it good English or Chinese.
"""

import itertools
from collections.abc import Callable, Collection

from rec.ranking.explanations.facts import Facts
from rec.ranking.explanations.mentions import ANY, ARTICLES, LISTED, Mentions
from rec.ranking.explanations.sentences import read_tokens

MAX_SENTENCES = 3


def is_supported(text: str, facts: Facts) -> bool:
    """Return whether every word, number and claim of a text stands in the facts.

    >>> from rec.ranking.explanations.facts import Fact
    >>> tea = Fact(text="Green tea", verbs=frozenset({"bought"}), count=3)
    >>> kind = Fact(text="Tea", attribute="category", label="category", of=frozenset({0}))
    >>> facts = Facts(language="en", facts=[tea, kind], title="Black tea")
    >>> is_supported("You bought “Green tea” 3 times, and both are in “Tea”.", facts)
    True
    >>> [is_supported(text, facts) for text in (
    ...     "You bought “Green tea” 4 times.", "You viewed “Green tea”.", "You bought “Black tea”.",
    ...     "You bought “Green tea”, the best.", "You bought “Coffee”.")]
    [False, False, False, False, False]
    """
    tokens = read_tokens(text, facts.language)
    if not tokens:
        return False
    said = Mentions(tokens, facts)
    return all(rule(said) for rule in _RULES)


def _is_whole(said: Mentions) -> bool:
    """Ends as a sentence does, names something of the evidence, repeats no word."""
    last = said.tokens[-1]
    texts = [(token.kind, token.text) for token in said.tokens]
    return (
        last.kind == "word"
        and last.text in said.words.ends
        and last.sentence < MAX_SENTENCES
        and any(meant - {LISTED} for meant in said.meant.values())
        and all(one != other for one, other in itertools.pairwise(texts))
    )


def _quotes_are_introduced(said: Mentions) -> bool:
    """Each quote is of the evidence; a value follows its label, ``in`` or a word of having.

    Nothing else follows those.
    """
    introduced: set[int] = set()
    for place in said.places("quote"):
        label = said.introduced_by(place)
        if label is not None:
            introduced.add(place)
        if not said.keep(place, {n for n in said.meant[place] if _may_stand(said, n, label)}):
            return False
    return all(said.value_of(place) in introduced for place in said.places("label"))


def _may_stand(said: Mentions, number: int, label: str | None) -> bool:
    fact = said.fact(number)
    if label is None:
        # What is said of the user, and not of the item, needs no introduction.
        return not fact.of
    return fact.attribute is not None and label in (ANY, fact.label or fact.attribute)


def _no_thing_is_named_twice(said: Mentions) -> bool:
    """A sentence that names one thing twice is true, and says nothing: a model has lost another."""
    named = [
        (said.tokens[place].sentence, said.tokens[place].text)
        for place in said.places("quote")
        if not _introduced(said, place)
    ]
    return len(named) == len(set(named))


def _attributes_are_shared(said: Mentions) -> bool:
    """A shared value is shared by all that its sentence names, or else the text before it.

    Words of having in common need such a value in their sentence.
    """
    with_value = set()
    for place in list(said.meant):
        sharers = frozenset().union(*(said.fact(n).of for n in said.meant[place]))
        if not sharers:
            continue
        sentence = said.tokens[place].sentence
        with_value.add(sentence)
        earlier = [p for p in said.meant if said.tokens[p].sentence < sentence]
        things = said.things(said.in_sentence(sentence)) or said.things(earlier)
        if not things or not all(said.keep(thing, sharers | {LISTED}) for thing in things):
            return False
        named = frozenset().union(*(said.meant[thing] for thing in things))
        if not said.keep(place, {n for n in said.meant[place] if said.fact(n).of & named}):
            return False
    return all(
        said.tokens[place].sentence in with_value
        or said.is_word(place - 1, said.words.you)
        or not said.facts.title
        for place in said.places("word")
        if said.is_word(place, said.words.common)
    )


def _user_only_does(said: Mentions) -> bool:
    """``you`` is followed by a verb, ``your`` by the history: no more is known of a user."""
    for place in said.places("word"):
        if said.is_word(place, said.words.you):
            after = place + 1
            while said.is_word(after, said.words.before_verb):
                after += 1
            token = said.at(after)
            if token is None or token.kind != "verb":
                return False
        if said.is_word(place, said.words.your):
            token = said.at(place + 1)
            after = place + 1 + (token is not None and token.kind == "number")
            if not said.is_word(after, said.words.owned | said.words.events):
                return False
    return True


def _verbs_are_true(said: Mentions) -> bool:
    """A verb holds of what follows it and of all that comes before another clause begins.

    A thing without a verb is only named where a value is shared with it.
    """
    verb: str | None = None
    for place, token in enumerate(said.tokens):
        if token.kind == "verb":
            verb, after = token.text, place + 1
            # Chinese may say how often before it says what.
            while (number := said.at(after)) and (number.kind == "number" or number.number):
                after += 1
            after += said.is_word(after, said.words.times)
            if after not in said.meant:
                return False
        elif said.is_word(place, said.words.reasons | said.words.ends):
            verb = None
        elif place in said.meant and not _introduced(said, place):
            if said.can_be_listed(place) and said.is_word(place + 1, said.words.subject):
                verb = None  # another clause, about the listed item
            meant = said.meant[place]
            if verb is not None:
                meant = frozenset(n for n in meant if verb in said.fact(n).verbs)
            elif not _shares_value(said, token.sentence):
                meant = frozenset(n for n in meant if not said.fact(n).verbs or _is_own(said, n))
            if not said.keep(place, meant):
                return False
    return True


def _is_own(said: Mentions, number: int) -> bool:
    return number == LISTED or said.fact(number).is_listed


def _shares_value(said: Mentions, sentence: int) -> bool:
    return any(said.fact(n).of for place in said.in_sentence(sentence) for n in said.meant[place])


def _introduced(said: Mentions, place: int) -> bool:
    return said.tokens[place].kind == "quote" and said.introduced_by(place) is not None


def _only_the_listed_is_listed(said: Mentions) -> bool:
    """What is said to be in the list, or to be something, is the listed item."""
    for place in said.places("word"):
        if said.is_word(place, said.words.listing) and not said.is_word(place - 1, said.words.your):
            if not _is_of_the_listed(said, place):
                return False
        elif said.is_word(place, said.words.subject) and _is_thing_next(said, place):
            return False
    return True


def _is_thing_next(said: Mentions, place: int) -> bool:
    """Return whether a thing stands right behind a word, as in "is “Tea”"; "here is" may."""
    return (
        place + 1 in said.meant
        and not _introduced(said, place + 1)
        and not said.is_word(place - 1, said.words.listing)
    )


def _is_of_the_listed(said: Mentions, place: int) -> bool:
    sentence = said.in_sentence(said.tokens[place].sentence)
    before = [mention for mention in sentence if mention < place]
    after = place + 1
    while said.is_word(after, said.words.subject | ARTICLES | frozenset({"了"})):
        after += 1
    if after in said.meant:
        return said.keep(after, {n for n in said.meant[after] if _is_own(said, n)})
    if not before:
        # "Recommended because ...": its subject is understood.
        return said.is_word(place + 1, said.words.reasons | said.words.ends)
    subject: int | None = before[-1]
    while subject is not None:
        if not said.can_be_listed(subject):
            return False
        subject = said.joined_to(subject, -1)
    return True


def _trends_are_true(said: Mentions) -> bool:
    """A word of rise or decline holds of what it stands beside, and of all joined to that."""
    for place in said.places("word"):
        token = said.tokens[place]
        for trends, step in ((said.words.more, 1), (said.words.became, -1)):
            if token.text not in trends:
                continue
            mention: int | None = place + step
            if mention not in said.meant:
                return False
            while mention is not None:
                trend = trends[token.text]
                if not said.keep(
                    mention, {n for n in said.meant[mention] if said.fact(n).trend == trend}
                ):
                    return False
                mention = said.joined_to(mention, 1 if step == 1 else -1)
    return True


def _numbers_are_true(said: Mentions) -> bool:
    """Each number is followed by its unit, and is that of the thing before it, or each behind.

    All numbers of a text stand on one side of their things: else "2 times “A”, 2 times “B”"
    would be true of A alone.
    """
    counted: list[tuple[int, int]] = []
    for place, token in enumerate(said.tokens):
        if token.kind == "number":
            if said.is_word(place + 1, said.words.events):
                if token.number != said.facts.total:
                    return False
            elif said.is_word(place + 1, said.words.times):
                counted.append((place, token.number))
            else:
                return False
        elif token.kind == "word" and token.number:
            counted.append((place, token.number))
        elif said.is_word(place, said.words.times | said.words.events):
            before = said.at(place - 1)
            is_plain = said.is_word(place, said.words.owned)
            if not is_plain and (before is None or before.kind != "number"):
                return False
    if not counted:
        return True
    meant = dict(said.meant)
    for side in (max, min):
        said.meant = dict(meant)
        if all(_counts(said, place, number, side) for place, number in counted):
            return True
    return False


def _counts(
    said: Mentions, place: int, number: int, side: Callable[[Collection[int]], int]
) -> bool:
    """Say whether the nearest mention before (``max``) or behind (``min``) has a count."""
    mentions = said.in_sentence(said.tokens[place].sentence)
    there = [m for m in mentions if (m < place) == (side is max)]
    if not there:
        return False
    mention = side(there)
    return said.keep(mention, {n for n in said.meant[mention] if said.fact(n).count == number})


_RULES = (
    _is_whole,
    _quotes_are_introduced,
    _no_thing_is_named_twice,
    _attributes_are_shared,
    _user_only_does,
    _verbs_are_true,
    _only_the_listed_is_listed,
    _trends_are_true,
    _numbers_are_true,
)
"""In this order: later ones read what earlier ones have left."""
