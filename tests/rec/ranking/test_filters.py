"""Filters: which items a request allows, by values and by conditions."""

import numpy as np
import polars as pl
import pytest

from rec.errors import DataError
from rec.ranking.requests import Condition, Request
from rec.ranking.retrieval.filters import Filters

ITEMS = pl.DataFrame(
    {
        "item_index": [1, 2, 3, 4, 5],
        "item_id": list("abcde"),
        "category": [["tea"], ["tea", "gift"], [], None, ["cup"]],
        "price": [2.0, 5.0, None, 10.0, float("nan")],
        "stock": [0, 3, 7, 1, 2],
        "brand": ["Ming", "Ding", None, "Ming", "Long"],
        "is_new": [True, False, None, True, False],
    }
)


def allowed(**filters: tuple[str, ...] | Condition) -> str:
    names = {item_id: place for place, item_id in enumerate(ITEMS["item_id"], start=1)}
    found = Filters(ITEMS, index_of=names, withdrawn=None)
    for _ in range(2):  # the second time out of what is remembered
        mask = found.allowed([Request(filters=filters), Request()])
    assert mask is not None
    assert mask[1].all()
    return "".join(np.asarray(list("abcde"))[mask[0]])


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"brand": ("Ming",)}, "ad"),
        ({"brand": ("Ming", "Ding")}, "abd"),
        ({"brand": ()}, ""),
        ({"category": ("tea",)}, "ab"),
        ({"is_new": ("true",)}, "ad"),
        ({"price": Condition(least=2.0)}, "abd"),
        ({"price": Condition(most=5.0)}, "ab"),
        ({"price": Condition(least=2.5, most=10.0)}, "bd"),
        ({"stock": Condition(least=1, most=1)}, "d"),
        ({"brand": Condition(none_of=("Ming",))}, "bce"),
        ({"category": Condition(any_of=("tea", "cup"), none_of=("gift",))}, "ae"),
        ({"category": Condition(none_of=("tea",))}, "cde"),
        ({"price": Condition(least=1.0), "brand": Condition(none_of=("Ding",))}, "ad"),
        ({"price": Condition()}, "abcde"),
    ],
)
def test_item_matches_every_condition(
    filters: dict[str, tuple[str, ...] | Condition], expected: str
) -> None:
    assert allowed(**filters) == expected


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"size": ("L",)}, "unknown filter 'size', the items have item_id, category, price"),
        ({"size": Condition(most=1.0)}, "unknown filter 'size'"),
        (
            {"brand": Condition(least=1.0)},
            "filter 'brand' has bounds, expected numbers, got String",
        ),
        ({"price": Condition(least=3.0, most=2.0)}, "expected min <= max, got 3.0 and 2.0"),
        ({"price": Condition(least=float("nan"))}, "expected min <= max, got nan"),
    ],
)
def test_condition_that_says_nothing_is_refused(
    filters: dict[str, tuple[str, ...] | Condition], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        allowed(**filters)
