"""Spreads give the same answers, and a killed worker costs its own block at most."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.data.spread import RaySpread
from cluster.data.threads import ThreadSpread
from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig
from rec.errors import DataError
from rec.spread import Spread, in_process
from rec.stages import embedding
from rec.stages.embedding import embed, load_embeddings
from rec.stages.preparation import prepare
from tests.cluster.test_distributed import prepare_shop

TASKS = list(range(23))
HASHING = EncoderConfig(model="hashing")


def square() -> Callable[[int], int]:
    return lambda number: number * number


@pytest.mark.parametrize("spread", [in_process, ThreadSpread(num_threads=3)])
def test_results_come_in_the_order_of_the_tasks(spread: Spread) -> None:
    assert list(spread(square, TASKS, label="squares")) == [n * n for n in TASKS]
    assert list(spread(square, [], label="nothing")) == []


def test_each_thread_has_a_worker_of_its_own() -> None:
    made = []
    barrier = threading.Barrier(2, timeout=30)

    def make() -> Callable[[int], int]:
        made.append(threading.get_ident())

        def work(number: int) -> int:
            barrier.wait()  # two tasks at once, or never
            return number

        return work

    assert list(ThreadSpread(num_threads=2)(make, [1, 2], label="pairs")) == [1, 2]
    assert len(set(made)) == len(made) == 2


def test_error_of_a_thread_reaches_the_caller_as_it_was_raised() -> None:
    def make() -> Callable[[int], int]:
        def work(number: int) -> int:
            raise DataError(f"task {number} is bad")

        return work

    with pytest.raises(DataError, match="is bad"):
        list(ThreadSpread(num_threads=2)(make, TASKS, label="failing"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_killed_actor_costs_its_own_task_at_most(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One worker dies by kill -9 in the middle of task 5; the others' results are kept."""

    def make() -> Callable[[int], int]:
        def work(number: int) -> int:
            (tmp_path / f"{number}-{os.urandom(4).hex()}").touch()
            if number == 5 and len(list(tmp_path.glob("5-*"))) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return number * number

        return work

    spread = RaySpread(num_actors=2)
    assert list(spread(make, TASKS, label="squares")) == [n * n for n in TASKS]
    runs = [len(list(tmp_path.glob(f"{number}-*"))) for number in TASKS]
    assert runs[5] == 2
    assert sum(runs) <= len(TASKS) + 2 * 2  # a task in work and one on the way, for two workers
    assert "constructor arguments in the object store" not in capfd.readouterr().err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_actor_killed_while_embedding_leaves_every_text_once(
    shop_files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "BLOCK_TEXTS", 16)
    monkeypatch.setattr(embedding, "BLOCK_BATCHES", 0)
    workspace = tmp_path / "workspace"
    prepare_shop(workspace, shop_files, None)
    flag = tmp_path / "killed"

    class Dying:
        """Let the first actor die after two blocks."""

        def __call__(self, make_worker, tasks, *, label):  # type: ignore[no-untyped-def]
            def make() -> Callable[[list[str]], object]:
                worker, count = make_worker(), iter(range(10**6))

                def work(texts: list[str]) -> object:
                    if next(count) == 2 and not flag.exists():
                        flag.touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    return worker(texts)

                return work

            yield from RaySpread(num_actors=2)(make, tasks, label=label)

    artifact, _ = embed(workspace, config=HASHING, spread=Dying())
    assert flag.exists()
    alone = tmp_path / "alone"
    prepare_shop(alone, shop_files, None)
    expected, _ = embed(alone, config=HASHING)
    for found, wanted in zip(load_embeddings(artifact), load_embeddings(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert artifact.counts["encoded"] == artifact.counts["distinct_texts"]


def test_small_log_is_prepared_in_this_process_with_the_same_result(
    shop_files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, items, _ = map(str, shop_files)
    used: list[str] = []

    def pool(make_worker, tasks, *, label):  # type: ignore[no-untyped-def]
        used.append(label)
        yield from in_process(make_worker, tasks, label=label)

    made = []
    for name, limit in (("small", 10**6), ("large", 10)):
        monkeypatch.setattr("rec.stages.preparation.LOCAL_ROWS", limit)
        prepared = prepare(
            tmp_path / name,
            events=[events],
            items=[items],
            config=CleaningConfig(pseudonymize_users=False),
            num_partitions=4,
            spread=pool,
            local=ThreadSpread(num_threads=2),
        )
        assert bool(used) == (name == "large")
        made.append([prepared.events.manifest["files"], prepared.sequences.manifest["files"]])
    assert made[0] == made[1]


def test_small_work_stays_in_this_process_and_large_work_does_not(
    shop_files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_shop(tmp_path / "workspace", shop_files, None)
    used = []

    def named(name: str) -> Spread:
        def spread(make_worker, tasks, *, label):  # type: ignore[no-untyped-def]
            used.append(name)
            yield from in_process(make_worker, tasks, label=label)

        return spread

    for limit, tokens in ((60.0, 64), (0.0, 63)):
        monkeypatch.setattr(embedding, "LOCAL_S", limit)
        config = EncoderConfig(model="hashing", max_tokens=tokens)
        artifact, _ = embed(
            tmp_path / "workspace", config=config, spread=named("pool"), local=named("local")
        )
        cost = artifact.manifest["details"]["cost"]
        assert cost["is_local"] == (limit > 0)
        assert cost["cpu_s"] > 0
        assert cost["gpu_s"] == 0
        assert cost["texts_per_s"] > 0
    assert used == ["local", "pool"]
