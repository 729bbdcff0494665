"""The serving graph: Gateway -> Encoder, Gateway -> Ranker (-> IndexShards); start and stop."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from cluster.resources import PROFILES, Profile
from cluster.runtime import is_free
from cluster.serve.calls import RETRY_AFTER_S
from cluster.serve.encoder import Encoder
from cluster.serve.gateway import Gateway
from cluster.serve.histories import load_histories
from cluster.serve.index_shards import IndexShard
from cluster.serve.keys import ensure_admin_key
from cluster.serve.metrics import empty_folder
from cluster.serve.ranker import Ranker
from rec.artifacts import read_artifact
from rec.errors import ArtifactError, ConfigError
from rec.ranking.current import current_release
from rec.ranking.release import RELEASE_FILE
from rec.stages.mending import mend_feedback

APPLICATION = "nextray"
READY_WITHIN_S = 120
MAX_INDEX_SHARDS = 64
"""A list waits for the slowest of them."""
_CAUSE = re.compile(r"((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)): (.*)")
_SHOWN_CHARACTERS = 500
SERVE_LOG = LoggingConfig(encoding="JSON", enable_access_log=False)
"""Serve's own lines; ours, one a request, are in ``cluster.serve.observing``."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeArgs:
    """Say what is served, and on what."""

    workspace: Path
    release: Path
    profile: Profile
    index_shards: int = 1
    """Parts that the index is held in, each on replicas of its own; 1 = by the rankers."""

    def __post_init__(self) -> None:
        if not 1 <= self.index_shards <= MAX_INDEX_SHARDS:
            raise ConfigError(
                f"--index-shards must be in [1, {MAX_INDEX_SHARDS}], got {self.index_shards}"
            )


def build_app(args: ServeArgs) -> Application:
    """Compose the graph. Read it bottom-up: what the gateway calls is above it."""
    resources = args.profile.serve
    release = str(args.release.resolve())
    encoder = serve.deployment(name="Encoder", logging_config=SERVE_LOG, **resources.encoder)(
        Encoder
    ).bind(release, _threads(resources.encoder))
    settings = json.loads((args.release / RELEASE_FILE).read_text(encoding="utf-8"))
    workspace = str(args.workspace.resolve())
    shards = [
        serve.deployment(
            name=f"IndexShard{part}", logging_config=SERVE_LOG, **resources.index_shard
        )(IndexShard).bind(workspace, part, args.index_shards, _threads(resources.index_shard))
        for part in range(args.index_shards if args.index_shards > 1 else 0)
    ]
    ranker = serve.deployment(name="Ranker", logging_config=SERVE_LOG, **resources.ranker)(
        Ranker
    ).bind(workspace, settings["fingerprint"], _threads(resources.ranker), shards)
    ingress: Any = serve.ingress()(Gateway)
    gateway: Any = serve.deployment(
        name="Gateway",
        # Serve answers by itself where the gateway's queue is full.
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_S),
        logging_config=SERVE_LOG,
        **resources.gateway,
    )(ingress)
    app: Application = gateway.bind(encoder, ranker, workspace, release)
    return app


def build(arguments: dict[str, str]) -> Application:
    """Return the graph of a workspace's current release, for Serve's own configuration files.

    Args:
        arguments: ``workspace``, ``profile`` and perhaps ``index_shards``, as the file gives them.

    Raises:
        ArtifactError: nothing was promoted, or a file has changed.
    """
    workspace = Path(arguments["workspace"])
    release = ready_workspace(workspace)
    profile = PROFILES[arguments.get("profile", "cpu")]
    return build_app(
        ServeArgs(
            workspace=workspace,
            release=release,
            profile=profile,
            index_shards=int(arguments.get("index_shards", 1)),
        )
    )


def ready_workspace(workspace: Path) -> Path:
    """Prepare what replicas read; return the current release, its files compared with its sha256.

    Raises:
        ArtifactError: nothing was promoted, or a file has changed.
    """
    release = current_release(workspace)
    read_artifact(release, verify=True)
    ensure_admin_key(workspace)
    mend_feedback(workspace)
    empty_folder(workspace)
    load_histories(workspace, release)
    return release


@contextmanager
def serving(
    workspace: Path,
    *,
    profile: Profile,
    host: str = "127.0.0.1",
    port: int = 8000,
    index_shards: int = 1,
) -> Iterator[str]:
    """Serve the current release while a block runs; give the base URL.

    Needs a connection to Ray. The release's files are compared with their sha256 first.

    Raises:
        ArtifactError: nothing was promoted, a file has changed, or the graph did not get ready.
        ConfigError: something listens on the port already.
    """
    if not is_free(host, port):
        raise ConfigError(
            f"--port {port} of {host} is taken: stop what listens there or name another"
        )
    release = ready_workspace(workspace)
    for name in ("ray.serve", "ray.serve._private"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        start_proxies(profile, host=host, port=port)
        args = ServeArgs(
            workspace=workspace, release=release, profile=profile, index_shards=index_shards
        )
        deploy(build_app(args))
        url = f"http://{host}:{port}"
        wait_until_ready(url)
        yield url
    finally:
        serve.shutdown()


def start_proxies(profile: Profile, *, host: str, port: int) -> None:
    """Start Serve and what answers HTTP.

    Raises:
        ArtifactError: a proxy did not get ready.
    """
    try:
        serve.start(proxy_location=profile.serve.proxies, http_options={"host": host, "port": port})
    except RayError as error:
        raise ArtifactError(
            f"no HTTP proxy got ready on {host}:{port} ({type(error).__name__}): the machine may "
            "be too busy or the port taken; `nextray doctor` looks, then start it again"
        ) from error


def deploy(app: Application) -> None:
    """Run the graph; Serve is started.

    Raises:
        ArtifactError: a replica did not start; the message is what it complained of.
    """
    try:
        serve.run(app, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        # Serve names the deployment alone; what its replica complained of is in the status.
        found = serve.status().applications.get(APPLICATION)
        said = [one.message for one in found.deployments.values()] if found else []
        cause = root_cause("\n".join([str(error), *said]))
        raise ArtifactError(
            f"the service did not start: {cause}; `nextray doctor` looks at this "
            "machine, --verbose shows more"
        ) from error


def root_cause(message: str) -> str:
    r"""Return what a replica complained of, out of Serve's message with its traceback.

    >>> root_cause("Deploying failed: 3 times\n  File x\nrec.errors.ArtifactError: no index\n")
    'no index'
    >>> root_cause("Deploying failed: no room")
    'Deploying failed: no room'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    causes = [match for line in lines if (match := _CAUSE.match(line))]
    if not causes:
        return " ".join(lines)[:_SHOWN_CHARACTERS]
    kind, text = causes[-1].groups()
    # Our own errors say what to do; of others the kind says something too.
    return (text if kind.startswith("rec.errors.") else f"{kind}: {text}")[:_SHOWN_CHARACTERS]


def wait_until_ready(url: str, *, within_s: float = READY_WITHIN_S) -> None:
    """Return when a real recommendation has succeeded.

    Raises:
        ArtifactError: it did not in time.
    """
    deadline = time.monotonic() + within_s
    last = "no answer"
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=35)
            if answer.status_code == httpx.codes.OK:
                return
            last = f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            last = str(error)
        time.sleep(0.1)
    raise ArtifactError(f"the service at {url} was not ready within {within_s:g} s: {last}")


def _threads(options: Any) -> int:
    return max(1, int(options["ray_actor_options"]["num_cpus"]))
