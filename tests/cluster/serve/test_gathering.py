import asyncio
from collections.abc import Coroutine, Generator, Sequence
from contextvars import ContextVar
from itertools import chain
from typing import Any

import pytest
from fastapi import HTTPException
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from cluster.serve import calls, gathering
from cluster.serve.calls import Upstream
from cluster.serve.gathering import Gatherer
from rec.errors import DataError

person: ContextVar[str] = ContextVar("person", default="nobody")


class Call:
    """What a handle call returns; ends when it is told to."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)
        self.result: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False
        self.made_for = person.get()

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.result.__await__()

    def cancel(self) -> None:
        self.is_cancelled = True

    def double(self) -> None:
        self.result.set_result([2 * number for number in self.numbers])


class Handle:
    """Keep the calls that were made."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.has_second = asyncio.Event()

    def send(self, numbers: Sequence[int]) -> Call:
        self.calls.append(Call(numbers))
        if len(self.calls) > 1:
            self.has_second.set()
        return self.calls[-1]

    def end_all(self) -> None:
        for call in self.calls:
            if not call.result.done():
                call.double()

    @property
    def asked(self) -> list[list[int]]:
        return [call.numbers for call in self.calls]


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", 60.0)
    monkeypatch.setattr(calls, "SUSPECT_DEADLINE_S", 60.0)
    monkeypatch.setattr(calls, "_PAUSE_S", 0.0)


def gatherer(handle: Handle, *, max_size: int = 4, max_held: int = 100) -> Gatherer[int, int]:
    return Gatherer(handle.send, max_size=max_size, max_held=max_held)


def test_first_goes_at_once_and_what_comes_meanwhile_goes_together() -> None:
    async def work() -> None:
        handle = Handle()
        gather = gatherer(handle)
        parts = [gather.remote(number) for number in range(4)]
        await settle()
        assert handle.asked == [[0]]
        handle.calls[0].double()
        await settle()
        assert handle.asked == [[0], [1, 2, 3]]
        handle.calls[1].double()
        assert [await part for part in parts] == [0, 2, 4, 6]
        later = gather.remote(9)
        await settle()
        assert handle.asked[2:] == [[9]]
        handle.calls[2].double()
        assert await later == 18

    run(work())


def test_full_call_waits_for_no_other() -> None:
    async def work() -> None:
        handle = Handle()
        gather = gatherer(handle)
        parts = [gather.remote(number) for number in range(10)]
        await settle()
        assert handle.asked == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]
        for call in handle.calls[:3]:
            assert len(handle.calls) == 3
            call.double()
            await settle()
        assert handle.asked[3:] == [[9]]
        handle.calls[3].double()
        assert [await part for part in parts] == [2 * number for number in range(10)]

    run(work())


def test_silent_call_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", 0.01)

    async def work() -> None:
        handle = Handle()
        gather = gatherer(handle)
        gather.remote(0)
        waiting = [gather.remote(1), gather.remote(2)]
        await handle.has_second.wait()
        assert handle.asked == [[0], [1, 2]]
        handle.calls[1].double()
        assert [await part for part in waiting] == [2, 4]

    run(work())


def test_refusal_is_its_own_request_s_alone() -> None:
    async def work() -> None:
        handle = Handle()
        gather = gatherer(handle, max_size=2)
        parts = [gather.remote(number) for number in range(3)]
        await settle()
        handle.calls[1].result.set_result([2, DataError("unknown filter 'x'")])
        assert await parts[1] == 2
        with pytest.raises(DataError, match="unknown filter"):
            await parts[2]

    run(work())


@pytest.mark.parametrize("answers", [[2], [2, 4, 6]])
def test_answers_of_another_number_are_an_error(answers: list[int]) -> None:
    async def work() -> None:
        handle = Handle()
        gather = gatherer(handle, max_size=2)
        parts = [gather.remote(number) for number in range(3)]
        await settle()
        handle.calls[1].result.set_result(answers)
        for part in parts[1:]:
            with pytest.raises(ValueError, match="2 answers"):
                await part

    run(work())


def test_who_leaves_is_not_asked_for_and_a_call_for_nobody_is_cancelled() -> None:
    async def work() -> None:
        handle = Handle()
        gather = gatherer(handle)
        parts = [gather.remote(number) for number in range(4)]
        await settle()
        parts[2].cancel()
        handle.calls[0].double()
        await settle()
        assert handle.asked == [[0], [1, 3]]
        parts[1].cancel()
        await settle()
        assert not handle.calls[1].is_cancelled
        parts[3].cancel()
        await settle()
        assert handle.calls[1].is_cancelled
        assert not handle.calls[0].is_cancelled
        # Nobody stands in the way of the next one.
        gather.remote(5)
        await settle()
        assert handle.asked[2:] == [[5]]

    run(work())


def test_requests_that_are_held_are_bounded() -> None:
    async def work() -> None:
        handle = Handle()
        gather = gatherer(handle, max_size=2, max_held=4)
        parts = [gather.remote(number) for number in range(4)]
        with pytest.raises(BackPressureError):
            gather.remote(4)
        with pytest.raises(HTTPException) as caught:
            await Upstream("ranker").call(lambda: gather.remote(4))
        assert (caught.value.status_code, caught.value.headers) == (503, {"Retry-After": "1"})
        await settle()
        handle.calls[0].double()
        parts[3].cancel()
        await settle()
        for number in (5, 6):
            gather.remote(number)
        with pytest.raises(BackPressureError):
            gather.remote(7)
        while handle.asked[-1][-1] < 6:
            handle.end_all()
            await settle()
        handle.end_all()

    run(work())


def test_call_is_made_in_the_name_of_none_of_its_requests() -> None:
    async def work() -> None:
        handle = Handle()
        gather = gatherer(handle)
        person.set("a user who may leave")
        gather.remote(0)
        await settle()
        assert handle.calls[0].made_for == "nobody"

    run(work())


def test_requests_of_a_replica_that_died_are_asked_again_together() -> None:
    async def work() -> None:
        handle, upstream = Handle(), Upstream("ranker")
        gather = gatherer(handle)

        async def ask(number: int) -> int:
            answer: int = await upstream.call(lambda: gather.remote(number), deadline_s=60)
            return answer

        asked = [asyncio.create_task(ask(number)) for number in range(4)]
        await settle()
        handle.calls[0].result.set_exception(ActorDiedError())
        await settle()
        assert handle.asked == [[0], [1, 2, 3]]
        assert upstream.is_suspect
        handle.calls[1].result.set_exception(ActorDiedError())
        while sum(map(len, handle.asked)) < 8:
            handle.end_all()
            await asyncio.sleep(0)
        handle.end_all()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6]
        assert sorted(chain.from_iterable(handle.asked[2:])) == [0, 1, 2, 3]

    run(work())


def test_deadline_is_a_request_s_own() -> None:
    async def work() -> None:
        handle, upstream = Handle(), Upstream("ranker")
        gather = gatherer(handle)
        first = gather.remote(0)
        hasty = asyncio.create_task(upstream.call(lambda: gather.remote(1), deadline_s=0.02))
        patient = asyncio.create_task(upstream.call(lambda: gather.remote(2), deadline_s=60))
        await settle()
        with pytest.raises(HTTPException) as caught:
            await hasty
        assert caught.value.status_code == 504
        handle.calls[0].double()
        assert await first == 0
        await settle()
        assert handle.asked == [[0], [2]]
        handle.calls[1].double()
        assert await patient == 4

    run(work())
