"""How faithful explanations are: cited events against random ones, over users of a real log.

    python -m tests.benchmarks.explanations --workspace ./workspace --users 500

For each user the top item of their list is explained. Then the list is scored again without the
first thing that the explanation cites, and again without another of the things that the user did,
drawn at random. If the citation is true, the item falls further without it.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from rec.artifacts import read_artifact
from rec.data.events import Event
from rec.data.sequences import load_sequences
from rec.evaluation.significance import paired_bootstrap
from rec.ranking.current import current_release
from rec.ranking.feedback.history import base_histories
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    release = current_release(arguments.workspace)
    recommender = Recommender.load(release)
    parents = read_artifact(release).parents
    sequences = load_sequences(arguments.workspace / "sequences" / parents["sequences"])
    sequences = sequences.select_events(sequences.is_item)
    random = np.random.default_rng(arguments.seed)
    enough = np.flatnonzero(sequences.lengths >= 5)
    rows = random.choice(enough, size=min(arguments.users, len(enough)), replace=False)
    histories = base_histories(
        sequences.select_users(rows), item_ids=recommender.item_ids, limit=200
    )
    falls, seconds, uncited = [], [], 0
    for _, history in histories:
        start = time.perf_counter()
        request = Request(history=tuple(history), k=10, explain=True)
        [answer] = recommender.recommend([request])
        seconds.append(time.perf_counter() - start)
        top = answer.items[0]
        assert top.explanation is not None
        if not top.explanation.evidence:
            uncited += 1
            continue
        cited = top.explanation.evidence[0].item_id
        others = sorted({e.item_id for e in history if e.item_id} - {cited})
        if not others:
            continue
        other = str(random.choice(others))
        scores = [
            relevance(recommender, [e for e in history if e.item_id != left_out], top.item_id)
            for left_out in (None, cited, other)
        ]
        falls.append((scores[0] - scores[1], scores[0] - scores[2]))
    drop = np.asarray(falls)
    gap = paired_bootstrap(drop[:, 0], drop[:, 1])
    print(  # noqa: T201
        json.dumps(
            {
                "users": len(rows),
                "explained": len(falls),
                "without_evidence": uncited,
                "fall_without_cited": round(float(drop[:, 0].mean()), 4),
                "fall_without_random": round(float(drop[:, 1].mean()), 4),
                "difference": [round(v, 4) for v in (gap.difference, gap.low, gap.high)],
                "cited_falls_further": round(float((drop[:, 0] > drop[:, 1]).mean()), 4),
                "explained_list_p50_ms": round(float(np.median(seconds)) * 1000, 1),
            }
        )
    )


def relevance(recommender: Recommender, history: list[Event], item_id: str) -> float:
    """Return an item's relevance to a history, among all candidates; the least where it is none."""
    request = Request(history=tuple(history), k=400, exclude_seen=recommender.ranking.exclude_seen)
    [answer] = recommender.recommend([request])
    values = {item.item_id: item.terms["relevance"] for item in answer.items}
    return values.get(item_id, min(values.values()))


if __name__ == "__main__":
    main()
