"""Security properties of what is deployed, read from the files: they are validated, not run."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from cluster.runtime import SERVE_SWITCHES
from jobs.cli import JOBS
from jobs.serve import PASSWORD_VARIABLE
from rec.errors import ArtifactError
from rec.ranking.feedback.redis_store.connection import DEMANDS
from tests.cluster import kuberay
from tests.releases import make_release

DEPLOY = Path(__file__).parents[3] / "cluster" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
ON_DEMAND = ("pipeline-job.yaml", "rayservice.yaml")
"""Created when they are wanted, so no part of what `kubectl apply -k` keeps up."""


def manifests() -> list[dict[str, Any]]:
    index = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return [
        manifest
        for name in [*index["resources"], *ON_DEMAND]
        for manifest in yaml.safe_load_all((KUBERNETES / name).read_text())
    ]


def pods(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every pod's specification of a manifest."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pods(value)
    if isinstance(node, list):
        for value in node:
            yield from pods(value)


def all_pods() -> list[Mapping[str, Any]]:
    return [pod for manifest in manifests() for pod in pods(manifest)]


def containers_of(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*pod["containers"], *pod.get("initContainers", [])]


def containers() -> list[Mapping[str, Any]]:
    return [one for pod in all_pods() for one in containers_of(pod)]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests() if manifest["kind"] == kind]


def test_every_pod_runs_as_nobody_in_particular() -> None:
    # Head, two kinds of workers, Redis, the nightly job, the endpoint; the pipeline's head, workers
    # and submitter; head and workers of the endpoint on several nodes.
    assert len(all_pods()) == 11
    for pod in all_pods():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] >= 10_000
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_every_container_is_locked_down_and_bounded() -> None:
    for container in containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        limits = container["resources"]["limits"]
        assert {"cpu", "memory"} <= limits.keys()
        # A read-only root needs other places to write to, and a home in one of them.
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        needed = {"redis": {"/tmp", "/data"}, "ray-job-submitter": {"/tmp"}}
        assert needed.get(container["name"], {"/tmp", "/dev/shm", "/workspace"}) <= mounts
        if container["name"] != "redis":
            assert {"name": "HOME", "value": "/tmp"} in container["env"]


def test_only_the_head_may_speak_to_kubernetes() -> None:
    with_account = [pod for pod in all_pods() if pod["automountServiceAccountToken"]]
    assert [pod["containers"][0]["name"] for pod in with_account] == ["ray-head"] * 2


def test_cluster_demands_the_token_of_a_secret() -> None:
    (cluster,) = of_kind("RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "nextray-token"}
    major, minor = map(int, cluster["spec"]["rayVersion"].split(".")[:2])
    assert (major, minor) >= (2, 60)
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("RayCluster", kuberay.CLUSTER),
        ("RayJob", kuberay.JOB),
        ("RayService", kuberay.SERVICE),
    ],
)
def test_kuberay_knows_every_field(kind: str, schema: dict[str, Any]) -> None:
    (manifest,) = of_kind(kind)
    assert manifest["apiVersion"] == "ray.io/v1"
    jsonschema.validate(manifest["spec"], schema)
    misspelt = {**manifest["spec"], "authOption": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(misspelt, schema)


def test_lost_head_finds_its_cluster_again() -> None:
    (cluster,) = of_kind("RayCluster")
    options = cluster["spec"]["gcsFaultToleranceOptions"]
    assert set(options["redisPassword"]["valueFrom"]) == {"secretKeyRef"}
    (service,) = [s for s in of_kind("Service") if s["metadata"]["name"] == "redis"]
    assert options["redisAddress"] == f"redis:{service['spec']['ports'][0]['port']}"
    # Workers that give up sooner than the head comes back would all be lost with it.
    for pod in pods(cluster):
        waits = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        assert waits["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"


def test_pipeline_job_goes_on_where_a_lost_one_ended() -> None:
    (job,) = of_kind("RayJob")
    spec = job["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs.pipeline"]
    assert "--resume" in words
    assert spec["rayClusterSpec"]["authOptions"]["mode"] == "token"


def test_endpoint_on_several_nodes_is_what_serve_can_deploy(tmp_path: Path) -> None:
    """Read by Serve's own schema; its builder gives the graph of a promoted release."""
    (service,) = of_kind("RayService")
    text = service["spec"]["serveConfigV2"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert str(config.proxy_location.value) == "EveryNode"
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    build = getattr(importlib.import_module(module), name)
    assert application.args["workspace"] == "/workspace"
    make_release(tmp_path)
    graph = build({**application.args, "workspace": str(tmp_path)})
    assert isinstance(graph, Application)
    assert graph._bound_deployment.name == "Gateway"
    with pytest.raises(ArtifactError, match="promote"):
        build({"workspace": str(tmp_path / "nothing")})


def test_endpoint_moves_to_a_new_cluster_step_by_step() -> None:
    (service,) = of_kind("RayService")
    spec = service["spec"]
    assert spec["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    options = spec["upgradeStrategy"]["clusterUpgradeOptions"]
    assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"]
    cluster = spec["rayClusterConfig"]
    # Moving in steps needs both clusters to grow and shrink.
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token", "secretName": "nextray-token"}
    assert set(cluster["gcsFaultToleranceOptions"]["redisPassword"]) == {"valueFrom"}
    # Each cluster keeps a state of its own: KubeRay names it after the cluster.
    assert "externalStorageNamespace" not in cluster["gcsFaultToleranceOptions"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kustomize_puts_everything_together() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    assert {manifest["kind"] for manifest in made} >= {"RayCluster", "CronJob", "NetworkPolicy"}
    images = {
        one["image"] for manifest in made for pod in pods(manifest) for one in containers_of(pod)
    }
    assert images == {"nextray:cpu", "redis:7.4-alpine"}


def test_no_secret_stands_in_a_file() -> None:
    assert of_kind("Secret") == []
    for container in containers():
        for entry in container.get("env", []):
            if "TOKEN" in entry["name"]:
                assert set(entry["valueFrom"]) == {"secretKeyRef"}


def test_nothing_enters_but_what_a_policy_names() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name in ("ray", "serve", "redis", "endpoint"):
        for rule in policies[name]["ingress"]:
            assert all(source != {} for source in rule["from"])
            assert not any("ipBlock" in source for source in rule["from"])
    assert all(service["spec"]["type"] == "ClusterIP" for service in of_kind("Service"))
    # A policy that selects no pod guards nothing.
    labels = {yaml.safe_dump(manifest) for manifest in manifests()}
    apps = ("nextray-ray", "nextray-serve", "nextray-nightly", "nextray-redis", "nextray-endpoint")
    for app in apps:
        assert any(f"app: {app}" in text for text in labels)


def test_namespace_enforces_the_restricted_standard() -> None:
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_endpoint_keeps_the_event_log_on_a_server_that_syncs() -> None:
    (deployment,) = [d for d in of_kind("Deployment") if d["metadata"]["name"] == "serve"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [history] = [word for word in container["command"] if word.startswith("--history=")]
    (redis,) = of_kind("StatefulSet")
    (service,) = [s for s in of_kind("Service") if s["metadata"]["name"] == "redis"]
    assert history == f"--history=redis://redis:{service['spec']['ports'][0]['port']}/1"
    words = redis["spec"]["template"]["spec"]["containers"][0]["args"][0].split()
    for name, accepted in DEMANDS.items():
        assert words[words.index(f"--{name}") + 1] in accepted
    # The password is a secret's in every place: neither in a file here nor in a command.
    [entry] = [e for e in container["env"] if e["name"] == PASSWORD_VARIABLE]
    secret = {"name": "nextray-redis", "key": "password"}
    assert entry["valueFrom"] == {"secretKeyRef": secret}
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    admitted = [
        source["podSelector"]["matchLabels"]["app"]
        for rule in policies["redis"]["ingress"]
        for source in rule["from"]
    ]
    assert {"nextray-ray", "nextray-serve"} <= set(admitted)


def test_nightly_job_runs_what_there_is() -> None:
    (night,) = of_kind("CronJob")
    assert night["spec"]["concurrencyPolicy"] == "Forbid"
    for container in containers():
        words = container.get("command", [])
        if container["image"] == "nextray" and words:
            assert words[0] == "nextray"
            assert words[1] in JOBS


def test_image_runs_as_nobody_and_sets_what_ray_reads() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    last = text[text.rindex("FROM") :]
    user = re.search(r"^USER (\d+)", last, re.MULTILINE)
    assert user is not None
    assert int(user[1]) >= 10_000
    for name, value in {**SERVE_SWITCHES, "RAY_AUTH_MODE": "token"}.items():
        assert f"{name}={value}" in last
    assert "RAY_USAGE_STATS_ENABLED=0" in last
    assert "-c constraints.txt" in text
    assert not re.search(r"^ADD ", text, re.MULTILINE)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((DEPLOY.parents[1] / name).exists() for name in source.split())
        ignored = (DEPLOY.parents[1] / ".dockerignore").read_text().splitlines()
        assert all(f"!{name}" in ignored for name in source.split())


def test_image_passes_the_linter() -> None:
    """hadolint, which also has shellcheck read the commands."""
    linter = Path(sys.executable).with_name("hadolint")
    words = [str(linter), "--no-color", "--failure-threshold", "style", str(DEPLOY / "Dockerfile")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_drill_has_a_line_in_the_runbook() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    drills = sorted((DEPLOY.parents[1] / "tests" / "chaos").glob("test_*.py"))
    assert len(drills) > 10
    for path in drills:
        link = f"| [{path.stem}](../../tests/chaos/{path.name}) |"
        assert text.count(link) == 1, path.name


@pytest.fixture
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def test_compose_keeps_the_event_log_on_a_server_that_syncs(compose: dict[str, Any]) -> None:
    command = compose["services"]["redis"]["command"]
    for name, value in (("--appendonly", "yes"), ("--appendfsync", "always")):
        assert command[command.index(name) + 1] == value
    words = compose["services"]["serve"]["command"]
    assert words[words.index("--history") + 1].startswith("redis://redis:6379/")
    assert "redis]" in (DEPLOY / "Dockerfile").read_text()


def test_compose_publishes_on_loopback_only(compose: dict[str, Any]) -> None:
    published = [p for service in compose["services"].values() for p in service.get("ports", [])]
    assert len(published) == 4
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_services_are_locked_down_and_bounded(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name
        assert not service.get("image", "").endswith(":latest"), name


def test_compose_demands_the_token_from_a_file(compose: dict[str, Any]) -> None:
    for name in ("head", "worker", "serve"):
        service = compose["services"][name]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert service["secrets"] == ["ray_token"]
