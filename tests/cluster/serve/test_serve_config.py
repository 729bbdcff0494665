"""The generated Serve config files: as the profiles say, as Serve reads them, as the graph is."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.build_app import build_app as built
from ray.serve.schema import ServeDeploySchema

from cluster.resources import PROFILES
from cluster.serve import config
from cluster.serve.app import build
from tests.releases import make_release

FOLDER = Path(__file__).parents[3] / "cluster" / "deploy" / "serve"


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_file_is_what_its_profile_generates(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text == config.to_yaml(PROFILES[name])
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(PROFILES)


@pytest.mark.parametrize(
    ("name", "index_shards"), [*((name, 1) for name in sorted(PROFILES)), ("cpu", 2)]
)
def test_serve_reads_the_file_and_makes_the_same_graph(
    name: str, index_shards: int, tmp_path: Path
) -> None:
    content = yaml.safe_load(config.to_yaml(PROFILES[name], index_shards=index_shards))
    [application] = ServeDeploySchema.model_validate(content).applications
    assert application.import_path == config.IMPORT_PATH
    assert application.args["profile"] == name
    make_release(tmp_path)
    app = build({**application.args, "workspace": str(tmp_path)})
    made = {one.name: one for one in built(app, name="nextray").deployments}
    named = {one.name: one for one in application.deployments}
    shards = {f"IndexShard{part}" for part in range(index_shards) if index_shards > 1}
    assert made.keys() == named.keys() == {"Gateway", "Encoder", "Ranker"} | shards
    for deployment, ours in made.items():
        wanted: dict[str, Any] = named[deployment].model_dump(exclude_unset=True)
        info = ours._deployment_config
        assert wanted["max_ongoing_requests"] == info.max_ongoing_requests
        assert wanted["max_queued_requests"] == info.max_queued_requests
        scaling = info.autoscaling_config
        for field, value in wanted["autoscaling_config"].items():
            assert getattr(scaling, field) == value
        for field, value in wanted["ray_actor_options"].items():
            assert ours.ray_actor_options[field] == value
