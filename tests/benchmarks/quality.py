"""B1: lists of our recipe beside the peers', on the same cuts of the same logs, by one scorer.

    python -m tests.benchmarks.quality --logs films_last grocery shop --movielens DIR

Ours is ``nextray pipeline`` and ``nextray recommend`` on the files of the training events, nothing
set but whether repeats are wanted (as anybody would). The peers are RecTools' SASRec, eSASRec
and HSTU and implicit's iALS, in an environment of their own that the script makes, and simple ones
of ours. What they are tuned and stopped by is part of the training events; the targets are read by
the scorer alone. Every peer's short lists, and its lists of cold users, are filled by the
popularity that does better on validation. CPU-seconds are of one fit and its lists, tuning apart.

Every result is kept under ``--folder`` and taken from there next time: delete what is to run anew.
"""

import argparse
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from rec.artifacts import write_json
from rec.evaluation.ranking_metrics import coverage_at_k, mrr_at_k, ndcg_at_k, recall_at_k
from rec.evaluation.significance import paired_bootstrap
from tests.benchmarks.fair import machine
from tests.benchmarks.peer_environment import peer_python
from tests.benchmarks.quality_ours import run_ours
from tests.benchmarks.quality_simple import GRIDS, SimplePeers, read_texts
from tests.benchmarks.quality_tasks import K, Task, load_tasks
from tests.benchmarks.quality_ticket import run_id_only

OURS = "nextray"
TICKET = "nextray_id_only"
SEQUENCE_PEERS = ("sasrec", "esasrec", "hstu")
CHILDREN = ("implicit_ials", *SEQUENCE_PEERS)
OTHERS = (*GRIDS, *CHILDREN, TICKET)
LOGS = ("films_last", "films", "grocery", "shop")
SOFTMAX_ITEMS = 10_000
"""Catalogs up to this size are trained on with all items as negatives."""


def run_task(task: Task, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return lists and figures of every system: ``{system: {"lists": ..., ...figures}}``."""
    folder = arguments.folder / f"{task.log}-{task.fold}".replace(" ", "-")
    found: dict[str, dict[str, Any]] = {}

    def keep(name: str, lists: NDArray[np.int32], figures: dict[str, Any]) -> None:
        at = folder / name
        at.mkdir(parents=True, exist_ok=True)
        np.save(at / "lists.npy", lists)
        write_json(at / "figures.json", figures)

    def is_kept(name: str) -> bool:
        return (folder / name / "figures.json").exists() and (folder / name / "lists.npy").exists()

    if not is_kept(OURS):
        figures: dict[str, Any] = {}
        output = run_ours(task, folder / OURS, recipe=arguments.recipe, figures=figures)
        keep(OURS, task.read_lists(pl.read_parquet(output)), figures)
    text = read_texts(folder / OURS / "workspace", task.items)
    simple = SimplePeers(task, text=text)
    for name in arguments.peers:
        if not is_kept(name):
            if name in GRIDS:
                lists, figures = simple.run(name)
            elif name == TICKET:
                lists, figures = run_id_only(simple, job=job_for("sasrec", task, arguments))
            else:
                lists, figures = run_child(name, task, folder, arguments)
            keep(name, simple.fill(lists), figures)
        print(json.dumps({"task": f"{task.log} {task.fold}", "done": name}), flush=True)  # noqa: T201
    for name in (OURS, *arguments.peers):
        figures = json.loads((folder / name / "figures.json").read_text(encoding="utf-8"))
        found[name] = {"lists": np.load(folder / name / "lists.npy"), **figures}
    return found


def run_child(
    name: str, task: Task, folder: Path, arguments: argparse.Namespace
) -> tuple[NDArray[np.int32], dict[str, Any]]:
    """Return a peer's lists, made in the peers' environment, and what it took."""
    events, _, users = task.write(folder / "files")
    output = folder / f"{name}.parquet"
    tuned = folder / "ials" / "figures.json"
    settings = {"alpha": 10.0, "l2": 10.0}
    if name == "implicit_ials" and tuned.exists():
        settings |= json.loads(tuned.read_text(encoding="utf-8"))["settings"]
    files = {"events": str(events), "users": str(users), "output": str(output)}
    job = {**job_for(name, task, arguments), **files, **settings}
    write_json(folder / f"{name}.json", job)
    python = peer_python(arguments.peer_folder)
    script = Path(__file__).with_name("quality_child.py")
    done = subprocess.run(
        [str(python), str(script), str(folder / f"{name}.json")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return task.read_lists(pl.read_parquet(output)), json.loads(done.stdout.splitlines()[-1])


def job_for(name: str, task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a sequence peer is told.

    Small logs get small batches, for steps enough. RecTools pads every user to the length, so it
    is that of nineteen users of twenty: longer ones cost epochs and hold little more.
    """
    lengths = task.train.group_by("user_id").len()["len"].to_numpy()
    num_users, num_items = (task.train[column].n_unique() for column in ("user_id", "item_id"))
    return {
        "model": name,
        "exclude_seen": task.exclude_seen,
        "k": K,
        "seed": 7,
        "width": 64,
        "length": int(min(100, np.ceil(np.quantile(lengths, 0.95)))),
        "loss": "softmax" if num_items <= SOFTMAX_ITEMS else "sampled_softmax",
        "negatives": 256,
        "batch_size": 32 if num_users < 5000 else 128,
        "budget_s": arguments.budget_s,
        "wall_s": arguments.wall_s,
        "patience": arguments.patience,
        "max_epochs": 200,
    }


def score_log(folds: list[tuple[Task, dict[str, dict[str, Any]]]]) -> dict[str, Any]:
    """Return the metrics of every system over all folds' users, and ours against the best peer."""
    names = list(folds[0][1])
    rows: dict[str, dict[str, Any]] = {}
    ndcg: dict[str, NDArray[np.float64]] = {}
    for name in names:
        values: dict[str, list[NDArray[np.float64]]] = {"ndcg": [], "recall": [], "mrr": []}
        for task, found in folds:
            lists, sets = found[name]["lists"], task.target_sets()
            values["ndcg"].append(ndcg_at_k(lists, *sets))
            values["recall"].append(recall_at_k(lists, *sets))
            values["mrr"].append(mrr_at_k(lists, *sets))
        ndcg[name] = np.concatenate(values["ndcg"])
        covered = [
            coverage_at_k(found[name]["lists"], num_items=len(task.items)) for task, found in folds
        ]
        rows[name] = {
            **{f"{key}@{K}": float(np.concatenate(parts).mean()) for key, parts in values.items()},
            f"coverage@{K}": float(np.mean(covered)),
            "cpu_s": round(sum(found[name]["cpu_s"] for _, found in folds), 1),
            "runs": [
                {key: value for key, value in found[name].items() if key != "lists"}
                for _, found in folds
            ],
        }
    peers = [name for name in names if name not in (OURS, TICKET)]
    best = max(peers, key=lambda name: ndcg[name].mean())
    against = paired_bootstrap(ndcg[OURS], ndcg[best])
    is_warm = np.concatenate(
        [np.isin(task.users, task.train["user_id"].unique().to_list()) for task, _ in folds]
    )
    return {
        "users": len(is_warm),
        "users_with_history": int(is_warm.sum()),
        "exclude_seen": folds[0][0].exclude_seen,
        "folds": [task.fold for task, _ in folds],
        "models": rows,
        "with_history": {
            name: float(values[is_warm].mean()) for name, values in ndcg.items() if is_warm.any()
        },
        "without_history": {
            name: float(values[~is_warm].mean())
            for name, values in ndcg.items()
            if not is_warm.all()
        },
        "best_peer": best,
        "ratio": against.ratio,
        "ratio_low": against.ratio_low,
        "ratio_high": against.ratio_high,
    }


def render(logs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables in Markdown."""
    lines = []
    for log, result in logs.items():
        users = f"{result['users']} users ({result['users_with_history']} with a history)"
        what = "seen items left out" if result["exclude_seen"] else "repeats wanted"
        lines += [
            f"\n{log}: {users}, {what}",
            "",
            "| system | NDCG@10 | recall@10 | MRR | coverage | CPU-s |",
            "|---|---|---|---|---|---|",
        ]
        models = result["models"].items()
        for name, row in sorted(models, key=lambda pair: -pair[1][f"ndcg@{K}"]):
            metrics = (row[f"{key}@{K}"] for key in ("ndcg", "recall", "mrr", "coverage"))
            cells = " | ".join(f"{value:.4f}" for value in metrics)
            # Who ran out of budget may have had better lists to come: the reader must know.
            is_cut = any(run.get("stopped_by") in ("budget", "wall") for run in row["runs"])
            label = f"{name} (stopped by the budget)" if is_cut else name
            lines.append(f"| {label} | {cells} | {row['cpu_s']} |")
        lines.append(
            f"\nnextray / {result['best_peer']}: {result['ratio']:.3f} "
            f"({result['ratio_low']:.3f} to {result['ratio_high']:.3f})"
        )
    ratios = [result["ratio"] for result in logs.values()]
    mean = float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9)))))
    lines.append(f"\ngeometric mean over {len(ratios)} logs: {mean:.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", nargs="+", choices=LOGS, default=list(LOGS))
    parser.add_argument("--movielens", type=Path, help="interactions.parquet and items.parquet")
    parser.add_argument("--weeks", type=int, help="newest weeks of complete_journey, all if absent")
    parser.add_argument("--scale", type=float, default=0.3, help="of the synthetic sparse shop")
    parser.add_argument("--folds", type=float, nargs="+", default=[0.7, 0.8, 0.9], help="of films")
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--peers", nargs="+", choices=OTHERS, default=list(OTHERS))
    parser.add_argument(
        "--budget-s", type=float, default=600, help="CPU-s of a sequence peer's fit"
    )
    parser.add_argument(
        "--wall-s", type=float, default=3600, help="wall time of it, for busy machines"
    )
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better NDCG")
    parser.add_argument("--peer-folder", type=Path, default=Path("build/rectools"))
    parser.add_argument("--folder", type=Path, default=Path("build/quality"))
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logs: dict[str, dict[str, Any]] = {}
    for name in arguments.logs:
        tasks = load_tasks(
            name, movielens=arguments.movielens, weeks=arguments.weeks, scale=arguments.scale,
            folds=arguments.folds,
        )  # fmt: skip
        logs[name] = score_log([(task, run_task(task, arguments)) for task in tasks])
        figures = {"machine": machine("lightgbm"), "settings": vars(arguments), "logs": logs}
        arguments.figures.mkdir(parents=True, exist_ok=True)
        text = json.dumps(figures, indent=2, default=str)
        (arguments.figures / "quality.json").write_text(text, encoding="utf-8")
    print(render(logs))  # noqa: T201


if __name__ == "__main__":
    main()
