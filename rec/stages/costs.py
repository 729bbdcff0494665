"""What the stages behind a report have taken, read from what they left."""

import json
from pathlib import Path

from rec.artifacts import Artifact
from rec.evaluation.report_costs import Cost
from rec.models.metric_log import LINES_FILE
from rec.stages.training import LOGS


def stage_costs(workspace: Path, *, embeddings: Artifact, model: Artifact) -> list[Cost]:
    """Return the costs of encoding and of training the towers; what left no figures is missing."""
    counts, spent = embeddings.counts, embeddings.manifest["details"].get("cost")
    costs = []
    if spent is not None:
        costs.append(
            Cost(
                stage="encoding",
                num_units=counts["encoded"],
                unit="texts",
                wall_s=spent["wall_s"],
                cpu_s=spent["cpu_s"],
                gpu_s=spent["gpu_s"],
            )
        )
    log = workspace / "models" / LOGS / model.name / LINES_FILE
    if log.is_file():
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        costs.append(
            Cost(
                stage="training",
                num_units=round(sum(row["targets_per_s"] * row["wall_s"] for row in rows)),
                unit="targets",
                wall_s=sum(row["wall_s"] for row in rows),
                cpu_s=sum(row["cpu_s"] for row in rows),
            )
        )
    return costs
