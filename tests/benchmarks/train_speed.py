"""B6 and B7: training targets per CPU-second beside RecTools' SASRec; Ray Train beside one process.

    python -m tests.benchmarks.train_speed --items 10000 100000 --peer-folder build/rectools
    python -m tests.benchmarks.train_speed --ray

Both sides take one epoch of the same made-up log on one thread: width 64, two layers, two heads, up
to 200 events, 256 shared negatives, batches of 128. A target is an event that is predicted.
RecTools lives in an environment of its own, which the script makes where it is missing (it wants
an older numpy and pyarrow). What is compared is speed alone, not what has been learned.

``--ray`` trains a synthetic shop in this process and through Ray Train with one worker and compares
the CPU-seconds of the epochs: start-up and validation stand outside.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator

from rec.artifacts import write_json
from rec.data.sequences import Sequences
from rec.models.metric_log import LINES_FILE
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.models.training import fit
from rec.models.training_config import TrainingConfig
from tests.benchmarks.fair import machine
from tests.benchmarks.peer_environment import peer_python

WIDTH, LENGTH, BATCH, NEGATIVES = 64, 200, 128, 256
_PEER = """
import json, logging, sys, time, warnings
warnings.filterwarnings("ignore"); logging.disable(logging.WARNING)
import pandas as pd, torch
torch.set_num_threads(1)
from pytorch_lightning import Trainer
from rectools.dataset import Dataset
from rectools.models import SASRecModel
path, width, length, batch, negatives = sys.argv[1], *map(int, sys.argv[2:6])
frame = pd.read_parquet(path)
dataset = Dataset.construct(frame)
from pytorch_lightning.callbacks import Callback
class Timer(Callback):
    def on_train_epoch_start(self, *_):
        self.cpu, self.wall = time.process_time(), time.perf_counter()
    def on_train_epoch_end(self, *_):
        readings["cpu_s"] = time.process_time() - self.cpu
        readings["wall_s"] = time.perf_counter() - self.wall
readings = {}  # the trainer is copied, and its callbacks with it
def trainer():
    return Trainer(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False,
                   enable_checkpointing=False, enable_model_summary=False, callbacks=[Timer()])
model = SASRecModel(n_factors=width, n_blocks=2, n_heads=2, session_max_len=length,
                    batch_size=batch, loss="sampled_softmax", n_negatives=negatives,
                    dataloader_num_workers=0, get_trainer_func=trainer, verbose=0)
model.fit(dataset)
print(json.dumps(readings), flush=True)
"""


def make_log(num_items: int, *, num_users: int, seed: int = 0) -> Sequences:
    """Return users of log-normal lengths, about 60 events each, over Zipf-like items."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(3.7, 0.9, num_users), 3, 400).astype(np.int64)
    total = int(lengths.sum())
    ranks = np.exp(random.uniform(0, np.log(num_items + 1), total)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(total) - np.repeat(offsets[:-1], lengths)
    return Sequences(
        user_ids=[str(user) for user in range(num_users)],
        offsets=offsets,
        tokens=np.clip(ranks, 1, num_items).astype(np.int32),
        timestamps_ms=1_700_000_000_000 + place * 60_000,
        event_types=np.zeros(total, dtype=np.int16),
        event_type_names=("view",),
        num_items=num_items,
    )


def run_ours(log: Sequences) -> dict[str, float]:
    text = torch.nn.functional.normalize(torch.randn(log.num_items + 1, 384), dim=-1)
    model = SequenceModel(
        text,
        num_items=log.num_items,
        num_event_types=1,
        config=ModelConfig(width=WIDTH, max_length=LENGTH),
    )
    config = TrainingConfig(
        num_epochs=1,
        batch_size=BATCH,
        batch_targets=None,
        num_negatives=NEGATIVES,
        loss="sampled_softmax",
    )
    rows: list[Any] = []
    fit(model, log, config=config, accelerator=Accelerator(cpu=True), on_epoch=rows.append)
    return {"cpu_s": rows[0]["cpu_s"], "wall_s": rows[0]["wall_s"]}


def run_peer(log: Sequences, python: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        pl.DataFrame(
            {
                "user_id": log.rows(),
                "item_id": log.tokens,
                "weight": np.ones(log.num_events),
                "datetime": log.timestamps_ms,
            }
        ).with_columns(pl.from_epoch("datetime", time_unit="ms")).write_parquet(path)
        words = [str(path), *(str(n) for n in (WIDTH, LENGTH, BATCH, NEGATIVES))]
        done = subprocess.run(
            [str(python), "-c", _PEER, *words], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr[-1500:])
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare_with_peer(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    python = peer_python(arguments.peer_folder)
    rows = []
    for num_items in arguments.items:
        log = make_log(num_items, num_users=arguments.users)
        num_targets = int(np.maximum(log.lengths - 1, 0).sum())
        # RecTools reads the newest events of a user once; ours all of them, in windows.
        theirs = int(np.minimum(np.maximum(log.lengths - 1, 0), LENGTH).sum())
        speeds: dict[str, list[float]] = {"nextray": [], "rectools": []}
        for _ in range(arguments.rounds):
            speeds["nextray"].append(num_targets / run_ours(log)["cpu_s"])
            speeds["rectools"].append(theirs / run_peer(log, python)["cpu_s"])
        a, b = (statistics.median(values) for values in speeds.values())
        row = {
            "items": num_items,
            "targets": num_targets,
            "nextray_targets_per_cpu_s": round(a, 1),
            "rectools_targets_per_cpu_s": round(b, 1),
            "ratio": round(a / b, 2),
            "rounds": {name: [round(v, 1) for v in values] for name, values in speeds.items()},
        }
        print(json.dumps(row), flush=True)  # noqa: T201
        rows.append(row)
    return rows


def compare_with_ray(arguments: argparse.Namespace) -> dict[str, Any]:
    from cluster.resources import LAPTOP, TrainResources
    from cluster.runtime import connect
    from cluster.train.trainer import train_model
    from rec.data.cleaning import CleaningConfig
    from rec.data.synthetic import ShopConfig, make_shop, write_shop
    from rec.encoders import EncoderConfig
    from rec.ranking.ranker import RankerConfig
    from rec.stages.embedding import embed
    from rec.stages.preparation import prepare
    from rec.stages.train_settings import TrainSettings
    from rec.stages.training import train

    resources = TrainResources(num_workers=1, worker_cpus=1, worker_gpus=0)
    readings: dict[str, list[float]] = {"process": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder, connect(LAPTOP):
        shop = make_shop(ShopConfig(num_users=1500, events_per_user=40))
        files = [[str(path)] for path in write_shop(shop, Path(folder) / "files")]
        for number in range(arguments.rounds):
            for side in readings:
                workspace = Path(folder) / f"{side}-{number}"
                prepare(
                    workspace, events=files[0], items=files[1], config=CleaningConfig(),
                    num_partitions=2,
                )  # fmt: skip
                embed(workspace, config=EncoderConfig(model="hashing"))
                settings = TrainSettings(
                    model=ModelConfig(),
                    training=TrainingConfig(num_epochs=4, patience=4),
                    ranker=RankerConfig(enabled=False),
                    test_quantile=0.9,
                    exclude_seen=True,
                    num_candidates=50,
                )
                if side == "process":
                    train(workspace, settings, accelerator=Accelerator(cpu=True), resume=False)
                else:
                    train_model(workspace, settings, resources=resources, resume=False)
                [lines] = (workspace / "models" / "logs").glob(f"*/{LINES_FILE}")
                epochs = [json.loads(line) for line in lines.read_text().splitlines()]
                readings[side].append(sum(row["cpu_s"] for row in epochs[1:]))
    ratio = statistics.median(readings["ray"]) / statistics.median(readings["process"])
    return {"cpu_s": readings, "ray_over_process": round(ratio, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-folder", type=Path, default=Path("build/rectools"))
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = compare_with_ray(arguments) if arguments.ray else compare_with_peer(arguments)
    figures = {"machine": machine(), "found": found, "wall_s": time.perf_counter() - started}
    write_json(arguments.figures / f"train_speed{'_ray' * arguments.ray}.json", figures)
    print(json.dumps(figures, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
