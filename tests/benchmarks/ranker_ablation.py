"""What each choice of the ranker is worth: NDCG@10 of its lists with one thing changed.

    python -m tests.benchmarks.ranker_ablation --log shop --log news --log wholesale --log grocery

``shop``, ``news`` and ``wholesale`` are stand-in logs; ``grocery`` is 14 weeks of 700 households
of The Complete Journey. A log's newest tenth is left aside for `tests.benchmarks.quality`; of the
rest the newest tenth is asked, so that what is chosen by these figures has not seen what those are
about. Towers are trained once a log and stay as they were before the ranker's window. Each row is
held against the recipe as it is, moment by moment. Where items without events start is chosen
anew with every variant and moves the figure by some per cent: see ``cold_offset`` and
``ndcg_without_cold`` before believing a small difference.

What was seen once, on these logs, by towers of two to five epochs that knew nothing of the
window: NDCG@10 with a choice over that without it, and its 95 % interval.

=======================  ====================  ====================  =====================
choice                   shop                  news                  grocery, wholesale
=======================  ====================  ====================  =====================
trees, over one source   1.145 [1.101, 1.194]  2.620 [2.135, 3.346]  1.076 [1.025, 1.131]
newest moment            1.023 [1.001, 1.045]  1.119 [1.039, 1.217]  not measured
habits                   1.023 [1.003, 1.042]  0.974 [0.932, 1.016]  1.008 [0.994, 1.020],
                                                                     1.004 [0.996, 1.012]
=======================  ====================  ====================  =====================

So the trees and the newest moment are proven; habits are on one log only, and another run on news
had them lose (1 / 1.045 [1.001, 1.092]): nothing is decided.

Tried and left out, grocery's figures: the habits of the users nearest to one,
as TIFU-kNN and UP-CF have them, as a column (0.998 [0.986, 1.009]; wholesale 0.998
[0.992, 1.003]), habits by category (0.991 [0.974, 1.007]), LambdaRank's gradients not normalised by
moment (0.982 [0.963, 1.002]), XE-NDCG (0.904 [0.860, 0.950]), a random fifth of the candidates
behind the first 30 (0.908 [0.877, 0.936]). A truncation at 50 instead of 20 is no better on any of
the four. Half of the moments, four draws of them, cost 0.8 % of grocery's NDCG and 1.2 % of shop's,
with intervals that reach above 0.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from jobs.recipes import LAPTOP
from rec.artifacts import read_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.items import load_items
from rec.data.samples import load_complete_journey
from rec.data.sequences import load_sequences
from rec.data.splits import next_moments, temporal_split
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.evaluation.significance import paired_bootstrap
from rec.models.cold_start import forget_unseen
from rec.ranking.columns import FEATURES
from rec.ranking.ranker import Trees, is_without_events
from rec.ranking.retrieval.sources import build_tables
from rec.stages.embedding import embed, load_embeddings
from rec.stages.fitting import Material, Passes, cosine_scorer, hold_out, known_before
from rec.stages.preparation import prepare
from rec.stages.ranker import fit_trees, gather_examples
from rec.stages.ranker_examples import Examples, Knowledge, collect_examples, open_window
from rec.stages.training import build_model, find_inputs
from tests.benchmarks.fair import machine
from tests.benchmarks.large_log import laptop_settings
from tests.benchmarks.quality_logs import news, sparse_shop, wholesale
from tests.benchmarks.quality_tasks import Task, temporal

K = 10
HABITS = ("own_faded", "own_rate", "own_idle_over_own", "own_places", "user_moment", "user_gap")
VARIANTS: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "as it is": ((), {}),
    "no trees": ((), {"min_moments": 10**9}),
    "no sequence model": (("sequence",), {}),
    "no texts": (("text", "kin", "newest_text"), {}),
    "no habits": (HABITS, {}),
    "no newest moment": (("newest_follows", "newest_accompanies", "newest_lifts",
                          "newest_neighbors", "newest_category", "newest_text"), {}),
    "no taste for popularity": (("user_popularity", "popularity_over_user"), {}),
    "half the rows": ((), {"max_rows": 200_000}),
    "twice the rows": ((), {"max_rows": 800_000}),
    "twice the trees": ((), {"num_trees": 200}),
    "leaves of 16": ((), {"num_leaves": 16}),
    "window of 0.2": ((), {"window_share": 0.2}),
}  # fmt: skip
"""Beginnings of the columns that are blanked, and fields of the configuration.

Without trees the best single source orders alone, as it does on a log that is too small.
"""
_LAST = 1e6
"""The rank of every candidate in a source that says nothing: it must lead nobody's list."""


def load_task(log: str) -> Task:
    """Return a log without its newest tenth."""
    if log == "grocery":
        sample = load_complete_journey(num_weeks=14)
        users = sample.events["user_id"].unique().sort().sample(700, seed=0)
        mine = sample.events.filter(pl.col("user_id").is_in(users.implode()))
        items = sample.items.join(mine, on="item_id", how="semi")
        mine = mine.join(items, on="item_id", how="semi")
        return temporal(log, mine, items, quantile=0.9, exclude_seen=False)
    made = {
        "shop": lambda: sparse_shop(scale=0.12),
        "news": lambda: news(scale=0.3),
        "wholesale": lambda: wholesale(scale=0.5),
    }[log]()
    return temporal(log, made.events, made.items, quantile=0.9, exclude_seen=log != "wholesale")


class Bench:
    """Hold a log's towers, its windows by their share, and what is asked of every variant."""

    def __init__(self, task: Task, workspace: Path, *, num_epochs: int) -> None:
        self.is_new_only = task.exclude_seen
        self.settings = replace(laptop_settings(num_epochs), exclude_seen=task.exclude_seen)
        events, items, _ = task.write(workspace / "files")
        # Keyed pseudonyms would order users anew in every workspace.
        config = CleaningConfig(pseudonymize_users=False)
        prepare(
            workspace, events=[str(events)], items=[str(items)], config=config, num_partitions=2
        )
        embed(workspace, config=LAPTOP.encoder)
        inputs = find_inputs(workspace)
        catalog = read_artifact(workspace / "catalog" / inputs.parents["catalog"])
        sequences = load_sequences(inputs.sequences.path)
        text, queries = load_embeddings(inputs.embeddings)
        split = temporal_split(sequences, quantile=0.9)
        self.material = Material(
            sequences=sequences, split=split, items=load_items(catalog.path), text=text,
            queries=queries,
        )  # fmt: skip
        config_of_model, seed = self.settings.model, self.settings.training.seed
        self.model = build_model(inputs.embeddings, sequences, config_of_model, seed=seed)
        # The widest window of all variants: no towers have seen any of them.
        widest = replace(self.settings.ranker, window_share=0.2)
        window = open_window(split.train, widest)
        assert window is not None, "the log is too short"
        learn, validate = hold_out(window.known, self.settings, queries=queries)
        passes = Passes(
            settings=self.settings, accelerator=Accelerator(cpu=True),
            folder=workspace / "checkpoints", resume=False,
        )  # fmt: skip
        passes.first(self.model, learn, validate=validate, config=self.settings.training)
        forget_unseen(self.model, window.known)
        self.asked = self._ask()
        self._examples: dict[tuple[int, float], Examples] = {}

    def _ask(self) -> Examples:
        split = self.material.split
        moments = next_moments(
            self.material.sequences, since_ms=split.cut_ms, per_user=2, max_moments=2000, seed=1
        )
        tables = build_tables(
            split.train, text=self.material.text, categories=self.material.items["category"]
        )
        cosines = cosine_scorer(self.model, queries=self.material.queries, tables=tables)
        return collect_examples(
            moments.without_seen() if self.is_new_only else moments,
            known=Knowledge(tables=tables, cosines=cosines),
            num_candidates=self.settings.num_candidates,
            is_new_only=self.is_new_only,
            max_rows=10**9,
        )

    def learn(self, blanked: tuple[str, ...], fields: Mapping[str, Any]) -> Trees | None:
        """Return the trees of one variant."""
        config = replace(self.settings.ranker, **fields)
        key = (config.max_rows, config.window_share)
        if key not in self._examples:
            window = open_window(self.material.split.train, config)
            assert window is not None
            self._examples[key] = gather_examples(
                window.moments,
                knowledge=known_before(self.model, self.material, window, config=config),
                config=config,
                num_candidates=self.settings.num_candidates,
                is_new_only=self.is_new_only,
            )
        return fit_trees(blank(self._examples[key], blanked), config=config, num_threads=1)

    def score(
        self, trees: Trees | None, blanked: tuple[str, ...], *, with_cold: bool = True
    ) -> NDArray[np.float64]:
        """Return NDCG@10 of every moment asked; without trees the cosine orders.

        Without cold items nobody's list shows what had no event before: what those cost.
        """
        asked = blank(self.asked, blanked)
        if trees is None:
            scores = asked.features[:, FEATURES.index("sequence")].astype(np.float64)
        else:
            scores = trees.predict(asked.features, num_threads=1)
        if not with_cold:
            scores = np.where(is_without_events(asked.features), -np.inf, scores)
        order = np.lexsort((-scores, asked.rows))
        place = np.arange(len(order)) - np.searchsorted(asked.rows, asked.rows)
        lists = np.zeros((asked.moments.num_users, K), dtype=np.int32)
        is_shown = (place < K) & np.isfinite(scores[order])
        lists[asked.rows[is_shown], place[is_shown]] = asked.items[order][is_shown]
        hit = ndcg_at_k(lists, asked.moments.target_offsets, asked.moments.targets)
        # Moments none of whose targets is a candidate were left out: nothing can be found there.
        return np.concatenate([hit, np.zeros(asked.num_asked - len(hit))])


def blank(examples: Examples, names: tuple[str, ...]) -> Examples:
    """Return the examples with some columns saying nothing."""
    if not names:
        return examples
    features = examples.features.copy()
    for column, name in enumerate(FEATURES):
        if name.startswith(names):
            features[:, column] = _LAST if name.endswith("_rank") else np.nan
    return replace(examples, features=features)


def main() -> None:
    """Measure every variant on every log, print a row each, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", action="append", required=True)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=LAPTOP.training.num_epochs)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"machine": machine("lightgbm"), "rows": []}
    arguments.figures.mkdir(parents=True, exist_ok=True)
    names = ["as it is", *(name for name in arguments.only if name != "as it is")]
    for log in arguments.log:
        with TemporaryDirectory() as folder:
            bench = Bench(load_task(log), Path(folder), num_epochs=arguments.epochs)
            found: dict[str, NDArray[np.float64]] = {}
            for name in names:
                start = time.process_time()
                blanked, fields = VARIANTS[name]
                trees = bench.learn(blanked, fields)
                found[name] = bench.score(trees, blanked)
                against = paired_bootstrap(found[name], found["as it is"])
                row = {
                    "log": log,
                    "variant": name,
                    "ndcg": round(float(found[name].mean()), 5),
                    "ndcg_without_cold": round(
                        float(bench.score(trees, blanked, with_cold=False).mean()), 5
                    ),
                    "cold_offset": None if trees is None else trees.cold_offset,
                    "moments": len(found[name]),
                    "against": [against.ratio, against.ratio_low, against.ratio_high],
                    "cpu_s": round(time.process_time() - start, 1),
                }
                figures["rows"].append(row)
                print(json.dumps(row), flush=True)  # noqa: T201
                path = arguments.figures / "ranker_ablation.json"
                path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
