"""Bilingual parity: are users of one language served as well as those of the other, across too?

A user's language is that of most titles of the history; a target's is its title's.

Shapes: B users, V items, k places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet
from rec.evaluation.slicing import slice_by_target

LANGUAGES = ("en", "zh")


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagePair:
    """Say how well users of one language find items of another (or of the same).

    Attributes:
        history: language of the users.
        target: language of the items they asked for.
        num_users: with such a history and such a target.
        ndcg: model -> mean NDCG with these targets alone.
        share: model -> share of these users' places that hold items of the target's language.
    """

    history: str
    target: str
    num_users: int
    ndcg: Mapping[str, float]
    share: Mapping[str, float]


def language_pairs(
    lists: Mapping[str, NDArray[np.int32]], test: EvaluationSet, labels: Sequence[str]
) -> list[LanguagePair]:
    """Return every pair of languages that some user stands in; none for a catalog of one language.

    Args:
        lists: model -> int32 ``(B, k)``.
        test: whom and what was asked.
        labels: language of each item's title, by item index - 1.
    """
    if not set(LANGUAGES) <= set(labels):
        return []
    spoken = history_languages(test.histories, labels)
    names = np.asarray(["", *labels], dtype=object)
    pairs = []
    for history in LANGUAGES:
        rows = np.flatnonzero(spoken == history)
        asked = test.select_users(rows)
        mine = {model: made[rows] for model, made in lists.items()}
        slices = slice_by_target(mine, asked, labels)
        for target in LANGUAGES:
            part = slices.get(target)
            if part is None:
                continue
            has_target = np.zeros(len(rows), dtype=np.bool_)
            owner = np.repeat(np.arange(len(rows)), np.diff(asked.target_offsets))
            has_target[owner[names[asked.targets] == target]] = True
            shown = {model: made[has_target] for model, made in mine.items()}
            pairs.append(
                LanguagePair(
                    history=history,
                    target=target,
                    num_users=part.num_users,
                    ndcg=part.ndcg,
                    share={
                        model: float((names[made] == target).sum() / max(1, (made > 0).sum()))
                        for model, made in shown.items()
                    },
                )
            )
    return pairs


def history_languages(histories: Sequences, labels: Sequence[str]) -> NDArray[np.object_]:
    """Return the language of most items of each history; ``""`` for none and for a tie."""
    owned = histories.select_events(histories.is_item)
    names = np.asarray(["", *labels], dtype=object)[owned.tokens]
    counts = [
        np.bincount(owned.rows()[names == language], minlength=histories.num_users)
        for language in LANGUAGES
    ]
    found = np.where(counts[0] > counts[1], LANGUAGES[0], LANGUAGES[1]).astype(object)
    found[counts[0] == counts[1]] = ""
    return found
