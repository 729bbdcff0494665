"""Batches of an epoch: each event is learned once, and no batch is larger than asked."""

import itertools

import numpy as np
import pytest

from rec.models.batches import training_batches
from tests.rec.models.logs import sequences_of


@pytest.mark.parametrize("batch_targets", [None, 30])
def test_batches_are_bounded_and_hold_each_event_once(batch_targets: int | None) -> None:
    lengths = [2, 3, 40, 5, 60, 9, 2, 2, 2, 2, 2, 2, 2, 25]
    starts = np.cumsum([1, *lengths])
    log = sequences_of(
        [list(range(start, end)) for start, end in itertools.pairwise(starts)],
        num_items=int(starts[-1]),
    )
    batches = list(
        training_batches(
            log,
            max_length=10,
            batch_size=6,
            batch_targets=batch_targets,
            generator=np.random.default_rng(0),
        )
    )
    learned = np.concatenate([batch.targets[batch.targets > 0] for batch in batches])
    firsts = set(starts[:-1].tolist())
    assert sorted(learned.tolist()) == [
        item for item in range(1, int(starts[-1])) if item not in firsts
    ]
    sizes = [len(batch.tokens) for batch in batches]
    places = [int((batch.tokens > 0).sum()) for batch in batches]
    assert max(sizes) == 6, "short windows fill a batch by number"
    assert max(places) <= (60 if batch_targets is None else 30)
    assert (max(places) > 30) == (batch_targets is None), "the bound is what holds them down"
