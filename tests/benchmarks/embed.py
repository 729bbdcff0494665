"""B5: embedding through Ray Data with two workers, beside the raw loop and plain map_batches.

    python -m tests.benchmarks.embed --peer-python PEER/bin/python --texts 20000 100000

Starting Ray, its workers and torch in each costs the same for any number of texts. Two sizes tell
that fixed part from the part that grows, and so what a million texts would take. Both sizes must
give every worker a block, or the larger one pays for the start of a worker more.
PEER is an environment with sentence-transformers and ray[data].
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import torch

from cluster.data.spread import RaySpread
from cluster.memory import MemoryMeter
from cluster.resources import LAPTOP
from cluster.runtime import connect, prepare_environment
from rec.artifacts import write_json
from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig, load_encoder
from rec.encoders.checkpoints import find_checkpoint
from rec.encoders.encoder import make_spec
from rec.stages.embedding import BLOCK_TEXTS, embed
from rec.stages.preparation import prepare
from tests.benchmarks.encode import BATCH_SIZE, MAX_TOKENS, MODEL, make_texts
from tests.benchmarks.fair import Reading, in_turns, machine, medians

NUM_WORKERS = 2
MILLION = 1_000_000
_PLAIN = """
import sys
import ray.data
class Encode:
    def __init__(self, folder, max_tokens, batch_size):
        import torch
        torch.set_num_threads(1)
        from sentence_transformers import SentenceTransformer
        self.model = SentenceTransformer(folder, device="cpu")
        self.model.max_seq_length = max_tokens
        self.batch_size = batch_size
    def __call__(self, batch):
        batch["embedding"] = self.model.encode(
            list(batch["title"]), batch_size=self.batch_size, normalize_embeddings=True)
        return batch
folder, items, out, batch_size, max_tokens = sys.argv[1:6]
# Two for the encoders; with no more, reading and writing may wait for ever.
ray.init(address="local", num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.1")
ray.data.read_parquet(items).repartition(int(sys.argv[6])).map_batches(
    Encode, fn_constructor_args=(folder, int(max_tokens), int(batch_size)), batch_size=512,
    concurrency=2, num_cpus=1).write_parquet(out)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--texts", type=int, nargs=2, default=(20_000, 100_000))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="torch-bf16")
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args(argv)
    if min(arguments.texts) < 2 * NUM_WORKERS * BLOCK_TEXTS:
        parser.error(f"--texts must be >= {2 * NUM_WORKERS * BLOCK_TEXTS}, two blocks a worker")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    prepare_environment(os.environ)
    torch.set_num_threads(1)
    config = EncoderConfig(
        model=MODEL, max_tokens=MAX_TOKENS, batch_size=BATCH_SIZE, backend=arguments.backend
    )
    sides: dict[str, Callable[[], Reading]] = {}
    with tempfile.TemporaryDirectory() as room:
        for count in arguments.texts:
            folder = Path(room) / str(count)
            texts = write_catalog(folder, count)
            sides |= {
                f"raw loop {count}": lambda t=texts: raw_loop(config, t),
                f"nextray {count}": lambda f=folder: through_ray(config, f, is_new=True),
                f"nextray again {count}": lambda f=folder: through_ray(config, f, is_new=False),
                f"plain map_batches {count}": lambda f=folder: plain(arguments.peer_python, f),
            }
        readings = in_turns(sides, rounds=arguments.rounds)
    table = {name: medians(rows) for name, rows in readings.items()}
    small, large = arguments.texts

    def at_a_million(side: str, clock: str) -> float:
        low, high = (table[f"{side} {count}"][clock] for count in (small, large))
        slope = (high - low) / (large - small)
        return round(high + slope * (MILLION - large), 1)

    expected = {
        side: {clock: at_a_million(side, clock) for clock in ("wall_s", "cpu_s")}
        for side in ("raw loop", "nextray", "plain map_batches")
    }
    figures = {
        "benchmark": "B5",
        "texts": list(arguments.texts),
        "rounds": arguments.rounds,
        "backend": arguments.backend,
        "machine": machine("ray"),
        "sides": table,
        "expected_at_a_million": expected,
        "raw_loop_over_nextray_cpu": round(
            expected["raw loop"]["cpu_s"] / expected["nextray"]["cpu_s"], 3
        ),
        "plain_over_nextray_cpu": round(
            expected["plain map_batches"]["cpu_s"] / expected["nextray"]["cpu_s"], 3
        ),
        "again_over_first_wall": round(
            table[f"nextray again {large}"]["wall_s"] / table[f"nextray {large}"]["wall_s"], 4
        ),
    }
    write_json(arguments.figures / "embed.json", figures)


def write_catalog(folder: Path, count: int) -> list[str]:
    """Write a prepared workspace of ``count`` items; return their texts."""
    folder.mkdir()
    texts = make_texts(count)
    ids = [str(number) for number in range(count)]
    pl.DataFrame({"item_id": ids, "title": texts}).write_parquet(folder / "items.parquet")
    events = {"user_id": ["u", "u"], "item_id": ids[:2], "timestamp": [1_750_000_000] * 2}
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    prepare(
        folder / "workspace",
        events=[str(folder / "events.parquet")],
        items=[str(folder / "items.parquet")],
        config=CleaningConfig(),
        num_partitions=1,
    )
    return texts


def raw_loop(config: EncoderConfig, texts: Sequence[str]) -> Reading:
    """Encode in this process, on one thread; loading the model is not counted."""
    encoder = load_encoder(make_spec(config))
    wall, cpu = time.perf_counter(), time.process_time()
    encoder.encode(texts)
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def through_ray(config: EncoderConfig, folder: Path, *, is_new: bool) -> Reading:
    """Run the stage, Ray's start included; on a workspace without embeddings if ``is_new``."""
    if is_new:
        for name in ("store", "latest"):
            shutil.rmtree(folder / "workspace/embeddings" / name, ignore_errors=True)
        for made in (folder / "workspace/embeddings").glob("*/manifest.json"):
            shutil.rmtree(made.parent)
    with MemoryMeter() as meter, connect(LAPTOP):
        spread = RaySpread(num_actors=NUM_WORKERS)
        _, is_skipped = embed(folder / "workspace", config=config, spread=spread, num_threads=1)
    assert is_skipped != is_new
    return meter.read()


def plain(python: Path, folder: Path) -> Reading:
    """Do what a tutorial does, in the peer's environment."""
    shutil.rmtree(folder / "plain", ignore_errors=True)
    words = [str(find_checkpoint(MODEL)), str(folder / "items.parquet"), str(folder / "plain")]
    with MemoryMeter() as meter:
        done = subprocess.run(
            [str(python), "-c", _PLAIN, *words, str(BATCH_SIZE), str(MAX_TOKENS), "16"],
            check=False,
            capture_output=True,
            text=True,
            # Its workers must not import from here.
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
    assert done.returncode == 0, done.stderr[-1500:]
    return meter.read()


if __name__ == "__main__":
    main()
