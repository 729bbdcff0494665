"""The words that explanations are made of: a closed list for each language, and nothing beside it.

Templates take them from here, and the check of a generated sentence knows no others. What is not
in the list cannot be said: no negation, no praise, no comparison, no promise, no other language.

A *verb* says what the user did, a *label* what kind of attribute a value is. *Subject* words follow
the thing that a clause is about; *list* words say that something is in the list; *common* words say
that two things have something in common.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rec.ranking.requests import Language

_VERBS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "view": "viewed",
        "click": "viewed",
        "cart": "put into the cart",
        "add_to_cart": "put into the cart",
        "purchase": "bought",
        "buy": "bought",
        "order": "bought",
        "rate": "rated",
        "rating": "rated",
        "search": "searched for",
        "like": "liked",
        "save": "saved",
        "play": "played",
        "watch": "watched",
        "read": "read",
        "": "chose",
    },
    "zh": {
        "view": "浏览过",
        "click": "浏览过",
        "cart": "加购过",
        "add_to_cart": "加购过",
        "purchase": "购买过",
        "buy": "购买过",
        "order": "购买过",
        "rate": "评价过",
        "rating": "评价过",
        "search": "搜索过",
        "like": "赞过",
        "save": "收藏过",
        "play": "播放过",
        "watch": "看过",
        "read": "读过",
        "": "选择过",
    },
}
_LABELS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "category": "category",
        "tags": "tag",
        "price": "price band",
        "words": "name",
        "brand": "brand",
        "colour": "colour",
        "color": "color",
        "size": "size",
        "genre": "genre",
        "author": "author",
        "department": "department",
        "manufacturer": "manufacturer",
        "material": "material",
        "type": "type",
        "group": "provider",
    },
    "zh": {
        "category": "类别",
        "tags": "标签",
        "price": "价位",
        "words": "名称",
        "brand": "品牌",
        "colour": "颜色",
        "color": "颜色",
        "size": "尺寸",
        "genre": "类型",
        "author": "作者",
        "department": "部门",
        "manufacturer": "厂商",
        "material": "材质",
        "type": "款式",
        "group": "商家",
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Hold one language's words; every one stands for itself, in lower case.

    Attributes:
        verbs: as written -> the verb that it is a form of.
        labels: as written -> the label that it is a form of.
        self_words: stand for the listed item.
        you: stand for the user; a verb must follow, over ``before_verb`` at most.
        your: are followed by one of ``owned``.
        subject: follow what a clause is about.
        in_words: before a category.
        listing: say that something is in the list.
        common: say that two things share something.
        reasons: begin another clause.
        joins: put one thing beside another.
        times: after the number of a thing's events.
        events: after the number of all events.
        numbers: written out, with their unit.
        more: say that something is on the rise or in decline, before it.
        became: the same, behind it.
        plain: all other words.
        ends: of sentences.
    """

    verbs: Mapping[str, str]
    labels: Mapping[str, str]
    self_words: frozenset[str]
    you: frozenset[str]
    before_verb: frozenset[str]
    your: frozenset[str]
    owned: frozenset[str]
    subject: frozenset[str]
    in_words: frozenset[str]
    listing: frozenset[str]
    common: frozenset[str]
    reasons: frozenset[str]
    joins: frozenset[str]
    times: frozenset[str]
    events: frozenset[str]
    numbers: Mapping[str, int]
    more: Mapping[str, str]
    became: Mapping[str, str]
    plain: frozenset[str]
    ends: frozenset[str]


def verb_of(event_type: str, language: Language) -> str:
    """Return the verb of an event type; the one that fits all for a type that has none."""
    verbs = _VERBS[language]
    return verbs.get(event_type, verbs[""])


def label_of(attribute: str, language: Language) -> str | None:
    """Return the word for an attribute; ``None`` where there is none: its name must be quoted."""
    return _LABELS[language].get(attribute)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EN_LABELS = set(_LABELS["en"].values())
_ZH_VERBS = set(_VERBS["zh"].values())
_ZH_DIGITS = {"一": 1, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9}

VOCABULARIES: Mapping[Language, Vocabulary] = {
    "en": Vocabulary(
        verbs={verb: verb for verb in _VERBS["en"].values()},
        labels={
            **{label: label for label in _EN_LABELS},
            **{f"{label}s": label for label in _EN_LABELS},
            "categories": "category",
        },
        self_words=_words("this it"),
        you=_words("you"),
        before_verb=_words("also have both"),
        your=_words("your"),
        owned=_words("history events event list"),
        subject=_words("is are was were has have shares share"),
        in_words=_words("in"),
        listing=_words("here list recommended suggested shown listed"),
        common=_words("both share shares same has have common"),
        reasons=_words("because since as so therefore"),
        joins=_words("and , ("),
        times=_words("times time"),
        events=_words("events event"),
        numbers={"once": 1, "twice": 2},
        more={"more": "more", "less": "less"},
        became={},
        plain=_words("the a an item too of late about lately them : ; )") | {"of late"},
        ends=_words("."),
    ),
    "zh": Vocabulary(
        verbs={form: verb for verb in _ZH_VERBS for form in (verb, verb[:-1], f"{verb[:-1]}了")},
        labels={label: label for label in _LABELS["zh"].values()},
        self_words=_words("此商品 该商品 这件商品 这个商品 它 它们"),
        you=_words("您 你"),
        before_verb=_words("还 也 曾 曾经 都"),
        your=_words("您的 你的"),
        owned=_words("历史 行为 列表"),
        subject=_words("同属 属于 都 是 在 也 被 含有 的 均"),
        in_words=_words("同属 属于"),
        listing=_words("推荐 列表 展示"),
        common=_words("同属 相同 同 含有 都 均 共同"),
        reasons=_words("因为 由于 所以 因此 故"),
        joins=_words("和 与 及 以及 、 还 ， , （ ("),
        times=_words("次"),
        events=_words("次行为 个行为"),
        numbers={f"{digit}次": number for digit, number in _ZH_DIGITS.items()},
        more={"更多": "more", "更少": "less"},
        became={"变多": "more", "变少": "less", "增多": "more", "减少": "less"},
        plain=_words("了 中 里 为您 给您 向您 并 且 而 其 近来 最近 涉及 ： : ； ） )"),
        ends=_words("。 ."),
    ),
}
"""Chinese numbers stop at nine: ten and above are written in digits."""
