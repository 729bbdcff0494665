"""How a job reads its command line."""

import pytest

from jobs.command import InputArguments, parse, with_columns
from jobs.repeated_flags import list_flags

INPUTS = "laptop --events a.csv --items i.csv"


@pytest.mark.parametrize(
    "flags",
    [
        "--column user_id=customer item_id=sku",
        "--column user_id=customer --column item_id=sku",
        "--column=user_id=customer --training.seed 1 --column=item_id=sku",
    ],
)
def test_a_flag_of_several_values_may_be_repeated(flags: str) -> None:
    words = f"{INPUTS} {flags} --events b.csv".split()
    arguments = parse(InputArguments, words, name="prepare", description="")
    assert arguments.events == ("a.csv", "b.csv")
    assert arguments.items == ("i.csv",)
    assert with_columns(arguments).cleaning.mapping == {"customer": "user_id", "sku": "item_id"}


def test_flags_of_several_values_are_found_within_the_recipe() -> None:
    flags = list_flags(InputArguments, flat=["recipe"])
    assert {"--events", "--column", "--cleaning.column", "--ranking.pinned"} <= set(flags)
    assert "--training.seed" not in flags
