"""Lose nodes of a cluster of several hosts while it works. Each try gives one figure.

python -m tests.chaos.reliability --tries 5 embed recommend train
"""

import hashlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from rec.data.synthetic import ShopConfig, make_shop, write_shop
from rec.stages.training import EVALUATED, METRICS_FILE, SERVED
from tests.chaos.book import Figure, read_book, redone, running
from tests.chaos.counted import NUM_EPOCHS
from tests.chaos.hosts import Host, Rig, rig, start_head, start_worker
from tests.chaos.test_embed_kills import prepare_catalog
from tests.epochs import EpochWatch
from tests.processes import title, wait_until

STAGE_WITHIN_S = 540
NUM_ITEMS = 16_000
"""About a minute of encoding: the second actor has come before the power goes."""
KILLED_AFTER = 2
"""Training loses its node in the epoch that follows this one."""
TASKS_BEFORE = 4
"""Tasks that are done when the power goes."""
NUM_WORKERS = 3
CORES = 2
"""Of a node, and of everything that runs there: two workers never share one."""


@dataclass(kw_only=True)
class Site:
    """Hold a rig with a head and workers, and what is prepared once."""

    made: Rig
    head: Host
    workers: list[Host]
    expected: dict[str, object] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of tries, so that each has files of its own."""
    is_spent: bool = False
    """Never: every loss is repaired."""

    def ready(self) -> None:
        """Put new workers in the places of lost ones."""
        for lost in [worker for worker in self.workers if not worker.is_on()]:
            self.workers.remove(lost)
            self.workers.append(start_worker(self.made, self.head, num_cpus=CORES))

    def run(self, stage: str, workspace: Path, book: Path, *words: str) -> "_Run":
        """Start a stage as a driver on the head."""
        driver = self.head.on_ray(self.head)
        log = workspace.with_suffix(f".{stage}.log")
        command = (
            sys.executable,
            "-m",
            "tests.chaos.counted",
            stage,
            str(workspace),
            str(book),
            *words,
        )
        return _Run(process=driver.start(*command, log=log), log=log)


@dataclass(frozen=True, kw_only=True)
class _Run:
    process: "subprocess.Popen[bytes]"
    log: Path

    def wait(self) -> bool:
        """Return whether the driver ended well."""
        code = self.process.wait(timeout=STAGE_WITHIN_S)
        if code:
            print(self.log.read_text(errors="replace")[-3000:])  # noqa: T201
        return code == 0

    def is_over(self) -> bool:
        """Return whether the driver has ended."""
        return self.process.poll() is not None


@contextmanager
def site() -> Iterator[Site]:
    """Give a rig with a head of no cores, and workers: two that train and one to take over."""
    with rig() as made:
        head = start_head(made)
        workers = [start_worker(made, head, num_cpus=CORES) for _ in range(NUM_WORKERS)]
        yield Site(made=made, head=head, workers=workers)


def embed(where: Site) -> Figure:
    """Lose a worker node while the catalog is embedded."""
    folder = where.made.folder / f"embed{next(where.numbers)}"
    folder.mkdir()
    workspace = prepare_catalog(folder, num_items=NUM_ITEMS)
    run, book, strike = _run_and_cut(where, "embed", workspace, folder / "book")
    is_good = run.wait()
    lines = read_book(book)
    shards = (workspace / "embeddings" / "store").glob("*/*.parquet")
    stored = [key for shard in shards for key in pl.read_parquet(shard)["text_hash"]]
    return Figure(
        work=NUM_ITEMS,
        failures=int(not is_good),
        recovery_s=strike.recovery_s,
        duplicates=len(stored) - len(set(stored)),
        lost=NUM_ITEMS - len(set(stored)),
        redone_share=redone(lines) / NUM_ITEMS,
    )


def recommend(where: Site) -> Figure:
    """Lose a worker node while every user's list is made."""
    folder, number = where.made.folder, next(where.numbers)
    workspace = _shop(where)
    if "lists" not in where.expected:
        calm = folder / "calm.parquet"
        assert where.run("recommend", workspace, folder / "calm-book", str(calm)).wait()
        where.expected["lists"] = _digest(calm)
    output = folder / f"lists{number}.parquet"
    run, book, strike = _run_and_cut(
        where, "recommend", workspace, folder / f"recommend{number}", str(output)
    )
    is_good = run.wait() and _digest(output) == where.expected["lists"]
    lines = read_book(book)
    users = sum({line.key: line.size for line in lines}.values())
    lists = pl.read_parquet(output) if output.is_file() else pl.DataFrame({"user_id": []})
    places = lists.group_by("user_id").len() if lists.height else lists
    return Figure(
        work=users,
        failures=int(not is_good),
        recovery_s=strike.recovery_s,
        duplicates=sum(max(0, count - 10) for count in places["len"]) if lists.height else 0,
        lost=users - places.height,
        redone_share=redone(lines) / users,
    )


def train(where: Site) -> Figure:
    """Lose a node on which a training worker runs; its place is taken on a third."""
    trained = _shop(where)
    folder, number = where.made.folder, next(where.numbers)
    if "model" not in where.expected:
        calm = _linked(trained, folder / f"calm-train{number}")
        assert where.run("train", calm, folder / "unused").wait()
        where.expected["model"] = _model_digest(calm)
    struck = _linked(trained, folder / f"train{number}")
    lost: list[Host] = []
    moments: list[float] = []

    def strike(epoch: int) -> None:
        moments.append(time.monotonic())
        if epoch == KILLED_AFTER and not lost:
            lost.append(next(w for w in where.workers if _trains(w)))
            lost[0].power_off()
            moments[-1] = time.monotonic()

    with EpochWatch(struck, on_epoch=strike) as watch:
        is_good = where.run("train", struck, folder / "unused").wait()
    assert lost, "no node was lost while it trained"
    before = watch.epochs.index(KILLED_AFTER)
    return Figure(
        work=NUM_EPOCHS,
        failures=int(not is_good or _model_digest(struck) != where.expected["model"]),
        recovery_s=moments[before + 1] - moments[before],
        duplicates=0,
        lost=NUM_EPOCHS - len(set(watch.epochs)),
        redone_share=(len(watch.epochs) - len(set(watch.epochs))) / NUM_EPOCHS,
    )


DRILLS: dict[str, Callable[[Site], Figure]] = {
    "embed": embed,
    "recommend": recommend,
    "train": train,
}


@dataclass(kw_only=True)
class _Strike:
    host: Host
    recovery_s: float


def _run_and_cut(
    where: Site, stage: str, workspace: Path, book: Path, *words: str
) -> tuple[_Run, Path, _Strike]:
    """Start a stage and cut the power of a node in the middle of a task."""
    run = where.run(stage, workspace, book, *words)
    names = {worker.name: worker for worker in where.workers}

    def is_underway() -> bool:
        assert not run.is_over(), run.log.read_text(errors="replace")[-3000:]
        lines = read_book(book)
        return len({line.key for line in lines if line.what == "end"}) >= TASKS_BEFORE and bool(
            running(lines)
        )

    wait_until(is_underway, within_s=240, what="tasks are done")
    victim = names[sorted(running(read_book(book)))[0]]
    victim.power_off()
    start, known = time.monotonic(), len(read_book(book))
    lost = redone(read_book(book)[:known])
    # What was lost is begun again, or nothing was and the run simply ends.
    wait_until(
        lambda: redone(read_book(book)) > lost or run.is_over(),
        within_s=STAGE_WITHIN_S,
        what="lost work is done again",
    )
    return run, book, _Strike(host=victim, recovery_s=time.monotonic() - start)


def _shop(where: Site) -> Path:
    """Return a workspace with a release, made once by a job submitted to this cluster."""
    workspace = where.made.folder / "shop"
    if not workspace.exists():
        config = ShopConfig(num_users=3000, num_items=400, events_per_user=15)
        events, items, _ = write_shop(make_shop(config), where.made.folder / "files")
        where.head.nextray(
            *("submit", "pipeline", "smoke", "--events", str(events), "--items", str(items)),
            *("--workspace", str(workspace), "--training.num-epochs", "2"),
        )
    return workspace


def _linked(source: Path, workspace: Path) -> Path:
    workspace.mkdir()
    for room in ("catalog", "events", "sequences", "embeddings"):
        (workspace / room).symlink_to(source / room)
    return workspace


def _trains(host: Host) -> bool:
    return any("RayTrainWorker" in title(pid) for pid in host.processes())


def _model_digest(workspace: Path) -> dict[str, str]:
    (manifest,) = (workspace / "models").glob("*/manifest.json")
    return {name: _digest(manifest.parent / name) for name in (METRICS_FILE, EVALUATED, SERVED)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
