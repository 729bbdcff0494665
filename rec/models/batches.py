"""Batches: sequences to left-padded windows for training, and histories for inference.

Ties in time are shuffled by seed in every epoch: their order is an artefact, not a signal. And no
target is predicted from events tied with it: who is asked for a basket has not seen half of it.

Shapes: B windows, L places, E events.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rec.data.sequences import Sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Hold windows of one length, left-padded with 0.

    ``targets`` (int64 ``(B, L)``) is the item after each place, 0 where there is none to learn;
    ``target_types`` is the type code + 1 of the event that it comes from, ``sources`` the place
    whose e_u predicts it: the newest one strictly older than the target. ``users`` (int64
    ``(B,)``) is the row of each window's user.
    """

    tokens: NDArray[np.int64]
    timestamps_s: NDArray[np.int64]
    event_types: NDArray[np.int64]
    targets: NDArray[np.int64]
    target_types: NDArray[np.int64]
    sources: NDArray[np.int64]
    users: NDArray[np.int64]


def shuffle_ties(sequences: Sequences, generator: np.random.Generator) -> Sequences:
    """Return the sequences with the order inside every tie in time drawn at random."""
    rows = sequences.rows()
    if not has_ties(sequences):
        return sequences
    order = np.lexsort((generator.random(sequences.num_events), sequences.timestamps_ms, rows))
    return replace(
        sequences,
        tokens=sequences.tokens[order],
        event_types=sequences.event_types[order],
    )


def has_ties(sequences: Sequences) -> bool:
    """Return whether any user has two events at the same time."""
    same_user = np.diff(sequences.rows()) == 0
    return bool((same_user & (np.diff(sequences.timestamps_ms) == 0)).any())


def cut_windows(
    sequences: Sequences, *, max_length: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the windows of an epoch as event ranges ``(starts, ends)``, ends exclusive.

    A window holds up to ``max_length`` inputs and the target after the last one. Long sequences
    are cut at a random offset, so that every epoch sees other beginnings. Windows overlap by one
    event: every event but a user's first is a target exactly once.
    """
    lengths = sequences.lengths
    rows = np.flatnonzero(lengths >= 2)
    shift = generator.integers(0, max_length, size=len(rows))
    # Inputs 0 .. length - 2 of a user are cut at places == shift (mod max_length).
    num_inputs = lengths[rows] - 1
    shift = np.where(num_inputs <= max_length, 0, shift)
    num_windows = np.where(shift > 0, 1, 0) + -(-(num_inputs - shift) // max_length)
    owner = np.repeat(np.arange(len(rows)), num_windows)
    firsts = np.cumsum(num_windows) - num_windows
    place = np.arange(len(owner)) - firsts[owner]
    has_head = (shift > 0)[owner]
    begin = np.where(
        has_head,
        np.where(place == 0, 0, shift[owner] + (place - 1) * max_length),
        place * max_length,
    )
    finish = np.where(has_head & (place == 0), shift[owner], begin + max_length)
    finish = np.minimum(finish, num_inputs[owner])
    base = sequences.offsets[rows][owner]
    return base + begin, base + finish + 1


def training_batches(
    sequences: Sequences,
    *,
    max_length: int,
    batch_size: int,
    batch_targets: int | None = None,
    generator: np.random.Generator,
    first: int = 0,
) -> Iterator[Batch]:
    """Yield the batches of one epoch, windows of like length together, in random order.

    Args:
        sequences: what to learn from.
        max_length: L at most.
        batch_size: B at most.
        batch_targets: most places of one batch's windows together, see :func:`group_windows`.
        generator: fixes the epoch.
        first: the batch to begin with; a resumed epoch goes on in its middle.
    """
    shuffled = shuffle_ties(sequences, generator)
    starts, ends = cut_windows(shuffled, max_length=max_length, generator=generator)
    lengths = ends - starts - 1
    ties = _tie_starts(shuffled)
    # Noise of a tenth mixes the buckets a little: the same windows do not always meet.
    order = np.argsort(lengths * generator.uniform(0.9, 1.1, size=len(lengths)), kind="stable")
    ends_of = group_windows(lengths[order], batch_size=batch_size, batch_targets=batch_targets)
    groups = np.split(order, ends_of[:-1])
    for number in generator.permutation(len(groups))[first:]:
        picks = groups[int(number)]
        yield _window_batch(shuffled, starts[picks], ends[picks], tie_starts=ties)


def group_windows(
    lengths: NDArray[np.int64], *, batch_size: int, batch_targets: int | None
) -> NDArray[np.int64]:
    """Return where each batch ends among windows in order, int64, the last at their number.

    Args:
        lengths: places of each window, >= 1.
        batch_size: most windows of a batch.
        batch_targets: most places of a batch; one window may exceed it. ``None`` is no bound.

    >>> group_windows(np.array([1, 1, 1, 5, 5]), batch_size=2, batch_targets=6).tolist()
    [2, 4, 5]
    """
    sums = np.concatenate([[0], np.cumsum(lengths)])
    ends: list[int] = []
    start = 0
    while start < len(lengths):
        end = min(start + batch_size, len(lengths))
        if batch_targets is not None:
            within = int(np.searchsorted(sums, sums[start] + batch_targets, side="right")) - 1
            end = min(end, max(start + 1, within))
        ends.append(end)
        start = end
    return np.asarray(ends, dtype=np.int64)


def history_batch(histories: Sequences, *, max_length: int) -> Batch:
    """Return the newest events of every history as one batch; targets are all 0."""
    newest = histories.newest(max_length)
    width = max(1, int(newest.lengths.max(initial=1)))
    shape = (newest.num_users, width)
    rows = newest.rows()
    columns = width - (newest.offsets[1:][rows] - np.arange(newest.num_events))
    batch = Batch(
        tokens=np.zeros(shape, dtype=np.int64),
        timestamps_s=np.zeros(shape, dtype=np.int64),
        event_types=np.zeros(shape, dtype=np.int64),
        targets=np.zeros(shape, dtype=np.int64),
        target_types=np.zeros(shape, dtype=np.int64),
        sources=np.zeros(shape, dtype=np.int64),
        users=np.arange(newest.num_users),
    )
    batch.tokens[rows, columns] = newest.tokens
    batch.timestamps_s[rows, columns] = newest.timestamps_ms // 1000
    batch.event_types[rows, columns] = newest.event_types + 1
    return batch


def _tie_starts(sequences: Sequences) -> NDArray[np.int64]:
    """Return for every event the first event of its tie in time, int64 ``(E,)``."""
    rows, times = sequences.rows(), sequences.timestamps_ms
    is_first = np.ones(sequences.num_events, dtype=np.bool_)
    is_first[1:] = (np.diff(rows) != 0) | (np.diff(times) != 0)
    firsts: NDArray[np.int64] = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    return firsts


def _window_batch(
    sequences: Sequences,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    *,
    tie_starts: NDArray[np.int64],
) -> Batch:
    lengths = ends - starts - 1
    width = int(lengths.max())
    columns = np.arange(width) - (width - lengths)[:, None]  # (B, L), negative = padding
    is_event = columns >= 0
    picks = np.where(is_event, starts[:, None] + columns, 0)
    following = np.where(is_event, picks + 1, 0)
    after = sequences.tokens[following]
    sources = tie_starts[following] - 1 - starts[:, None] + (width - lengths)[:, None]
    is_known = sources >= (width - lengths)[:, None]
    is_target = is_event & is_known & (after <= sequences.num_items)
    target_types = np.where(is_target, sequences.event_types[following] + 1, 0)
    return Batch(
        tokens=np.where(is_event, sequences.tokens[picks], 0).astype(np.int64),
        timestamps_s=np.where(is_event, sequences.timestamps_ms[picks] // 1000, 0),
        event_types=np.where(is_event, sequences.event_types[picks] + 1, 0).astype(np.int64),
        targets=np.where(is_target, after, 0).astype(np.int64),
        target_types=target_types.astype(np.int64),
        sources=np.where(is_target, sources, 0),
        users=np.searchsorted(sequences.offsets, starts, side="right") - 1,
    )
