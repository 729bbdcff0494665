import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fastapi import HTTPException
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentResponse

from cluster.serve import calls
from cluster.serve.calls import UnavailableError, Upstream
from rec.errors import DataError


class Answer:
    """What a handle call returns: awaited for the result, cancelled by who gives up."""

    def __init__(self, run: Callable[[], Awaitable[Any]]) -> None:
        self._run = run
        self.is_cancelled = False

    def __await__(self) -> Any:
        return self._run().__await__()

    def cancel(self) -> None:
        self.is_cancelled = True


class Deployment:
    """Do in turn what it is told: raise, answer, or (``None``) stay silent."""

    def __init__(self, *turns: Any) -> None:
        self._turns = list(turns)
        self.answers: list[Answer] = []

    def send(self) -> Answer:
        turn = self._turns.pop(0)

        async def run() -> Any:
            if turn is None:
                await asyncio.Event().wait()
            if isinstance(turn, Exception):
                raise turn
            return turn

        self.answers.append(Answer(run))
        return self.answers[-1]


def ask(upstream: Upstream, deployment: Deployment, *, deadline_s: float = 0.05) -> Any:
    return asyncio.run(upstream.call(deployment.send, deadline_s=deadline_s))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_PAUSE_S", 0.0)


def test_request_is_sent_again_when_its_replica_dies() -> None:
    upstream = Upstream("ranker")
    assert ask(upstream, Deployment(ActorDiedError(), ActorDiedError(), "list")) == "list"
    assert not upstream.is_suspect


def test_three_dead_replicas_are_enough() -> None:
    deployment = Deployment(*(ActorDiedError() for _ in range(4)))
    with pytest.raises(UnavailableError, match="ranker"):
        ask(Upstream("ranker"), deployment)
    assert len(deployment.answers) == 3


def test_silence_past_the_deadline_is_504_and_is_taken_out_of_the_queue() -> None:
    deployment = Deployment(None)
    with pytest.raises(HTTPException) as caught:
        ask(Upstream("ranker"), deployment)
    assert caught.value.status_code == 504
    assert deployment.answers[0].is_cancelled


def test_silence_of_a_deployment_that_died_means_it_is_away() -> None:
    upstream = Upstream("ranker")
    with pytest.raises(UnavailableError):
        ask(upstream, Deployment(ActorDiedError(), None))
    with pytest.raises(UnavailableError):
        ask(upstream, Deployment(None))
    assert ask(upstream, Deployment("back")) == "back"
    with pytest.raises(HTTPException):
        ask(upstream, Deployment(None))


def test_who_waits_already_learns_that_a_replica_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SUSPECT_DEADLINE_S", 0.01)
    upstream, silent = Upstream("ranker"), Deployment(None)

    async def run() -> None:
        waiting = asyncio.create_task(upstream.call(silent.send, deadline_s=60))
        await asyncio.sleep(0)
        assert silent.answers
        with pytest.raises(UnavailableError):
            await upstream.call(Deployment(*[ActorDiedError()] * 3).send, deadline_s=60)
        async with asyncio.timeout(5):
            with pytest.raises(UnavailableError):
                await waiting

    asyncio.run(run())


def looking(run: Callable[[], Awaitable[Any]], *, is_found: bool) -> Answer:
    """Return an answer of a call that has found a replica, or is still looking for one."""
    answer = Answer(run)
    answer._replica_result_future = Future()  # type: ignore[attr-defined]
    if is_found:
        answer._replica_result_future.set_result(None)  # type: ignore[attr-defined]
    return answer


def test_private_word_of_serve_is_there() -> None:
    source = inspect.getsource(DeploymentResponse.__mro__[1].__init__)
    assert "self._replica_result_future = " in source


@pytest.mark.parametrize("is_found", [False, True])
def test_call_without_a_replica_ends_long_before_its_deadline(
    monkeypatch: pytest.MonkeyPatch, *, is_found: bool
) -> None:
    monkeypatch.setattr(calls, "SUSPECT_DEADLINE_S", 0.01)
    upstream = Upstream("ranker", silent_s=0.05)

    async def slow() -> str:
        await asyncio.sleep(0.5)
        return "late"

    async def run() -> Any:
        return await upstream.call(lambda: looking(slow, is_found=is_found), deadline_s=5)

    if is_found:
        assert asyncio.run(run()) == "late"
    else:
        with pytest.raises(UnavailableError):
            asyncio.run(run())


def test_full_deployment_is_waited_for_while_others_get_their_answers() -> None:
    upstream = Upstream("ranker", silent_s=0.1)
    is_over = asyncio.Event()

    async def slow() -> str:
        await is_over.wait()
        return "late"

    async def run() -> Any:
        waiting = asyncio.create_task(
            upstream.call(lambda: looking(slow, is_found=False), deadline_s=5)
        )
        for _ in range(10):
            assert await upstream.call(Deployment("list").send, deadline_s=5) == "list"
            await asyncio.sleep(0.03)
        is_over.set()
        return await waiting

    assert asyncio.run(run()) == "late"
    assert not upstream.is_suspect


def test_full_queue_is_503_with_retry_after() -> None:
    deployment = Deployment(BackPressureError(9, 8))
    with pytest.raises(HTTPException) as caught:
        ask(Upstream("ranker"), deployment)
    assert caught.value.status_code == 503
    assert caught.value.headers == {"Retry-After": "1"}
    assert len(deployment.answers) == 1


def test_refusal_reaches_the_caller_without_a_traceback() -> None:
    refusal = RayTaskError("recommend", "Traceback: secrets", DataError("unknown filter 'x'"))
    with pytest.raises(DataError) as caught:
        ask(Upstream("ranker"), Deployment(refusal.as_instanceof_cause()))
    assert str(caught.value) == "unknown filter 'x'"
    assert not isinstance(caught.value, RayTaskError)
