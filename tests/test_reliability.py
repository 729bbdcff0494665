"""The READMEs' table of reliability is the one that the kept tries of the drills give."""

import pytest

from tests.chaos.book import Figure, read_figures
from tests.chaos.table import BLOCK, README, WORDS, table, written


@pytest.mark.parametrize("language", sorted(README))
def test_the_published_table_is_what_the_kept_tries_give(language: str) -> None:
    text = README[language].read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == 1
    assert written(text, language=language) == text, "python -m tests.chaos.table --write"


def test_every_kept_drill_has_a_row_in_both_languages() -> None:
    figures = read_figures()
    assert figures
    assert set(figures) <= set(WORDS["en"])
    assert set(WORDS["en"]) == set(WORDS["zh"])
    for language in README:
        assert table(figures, language=language).count("\n") == 2 + len(figures)


def test_a_try_without_figures_counts_as_failed() -> None:
    bad = Figure(
        work=0, failures=1, recovery_s=None, duplicates=0, lost=0, redone_share=0.0, problem="no"
    )
    row = table({"train": [bad]}, language="en").splitlines()[-1]
    assert (
        row == "| node lost while two nodes train | 1 | 0 | 1 (0 epochs) | 0 | 0 | 0.0 % | – | – |"
    )
