"""The folds of an evaluation: who is asked, and what may be learnt before."""

import hashlib
from typing import Literal

import numpy as np

from rec.data.sequences import Sequences
from rec.data.splits import EvaluationSet, Split, leave_one_out, temporal_split

Protocol = Literal["temporal", "rolling", "leave_one_out"]


def make_folds(
    sequences: Sequences, *, protocol: Protocol, quantile: float, num_folds: int
) -> list[Split]:
    """Return what is trained on and asked, once or once per cut, the newest last."""
    first = temporal_split(sequences, quantile=quantile)
    if protocol == "temporal":
        return [first]
    if protocol == "leave_one_out":
        # Only whoever came after the cut: the weights may have seen the others' last item.
        split = leave_one_out(sequences)
        times = sequences.timestamps_ms
        newest = {
            user_id: int(times[end - 1])
            for user_id, end in zip(sequences.user_ids, sequences.offsets[1:], strict=True)
            if end
        }
        keep = [newest[user_id] >= first.cut_ms for user_id in split.test.histories.user_ids]
        test = split.test.select_users(np.flatnonzero(keep))
        return [Split(cut_ms=first.cut_ms, train=split.train, test=test)]
    share = (1 - quantile) / num_folds
    return [
        temporal_split(sequences, quantile=quantile + fold * share) for fold in range(num_folds)
    ]


def fingerprint_of_test(test: EvaluationSet) -> str:
    """Return a hash of whom and what was asked, so that only like is compared with like."""
    digest = hashlib.sha256()
    for values in (test.target_offsets, test.targets, test.histories.lengths):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]
