import asyncio
import threading
from collections.abc import Sequence

import pytest

from cluster.serve.batching import Batcher


class Doubler:
    """Double numbers, the first batch only when it may."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.has_begun = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.has_begun.set()
        assert self.may_go.wait(10)
        return [2 * number for number in numbers]


def test_lone_caller_waits_for_nobody() -> None:
    doubler = Doubler()
    doubler.may_go.set()
    assert asyncio.run(Batcher(doubler, max_size=4)(7)) == 14
    assert doubler.batches == [[7]]


def test_what_comes_while_a_batch_runs_is_the_next_one() -> None:
    doubler = Doubler()

    async def run() -> list[int]:
        batched = Batcher(doubler, max_size=3)
        first = asyncio.create_task(batched(0))
        await asyncio.to_thread(doubler.has_begun.wait, 10)
        others = [asyncio.create_task(batched(number)) for number in range(1, 6)]
        gone = others.pop(1)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        doubler.may_go.set()
        return list(await asyncio.gather(first, *others))

    assert asyncio.run(run()) == [0, 2, 6, 8, 10]
    # Nobody waits for 2 any more, and four are one too many for one batch.
    assert doubler.batches == [[0], [1, 3, 4], [5]]


def test_error_reaches_every_caller_of_its_batch_and_no_other() -> None:
    def invert(numbers: Sequence[float]) -> list[float]:
        return [1 / number for number in numbers]

    async def run() -> tuple[list[float | BaseException], float]:
        batched = Batcher(invert, max_size=2)
        found = await asyncio.gather(*(batched(n) for n in (0, 1, 2, 4)), return_exceptions=True)
        return found, await batched(8)

    found, last = asyncio.run(run())
    assert [type(one) for one in found[:2]] == [ZeroDivisionError] * 2
    assert (found[2:], last) == ([0.5, 0.25], 0.125)


def test_answers_of_another_number_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        asyncio.run(Batcher(lambda _: [1, 2], max_size=2)(0))
