"""The graph as Serve's own config file: ``serve deploy`` on a cluster that runs already.

    python -m cluster.serve.config cpu > cluster/deploy/serve/cpu.yaml
    serve deploy cluster/deploy/serve/cpu.yaml

The files are generated; a test compares them with the profiles and with what ``build_app`` makes.
"""

import argparse
import sys
from typing import Any

import yaml  # type: ignore[import-untyped]

from cluster.resources import PROFILES, Profile
from cluster.serve.app import APPLICATION

IMPORT_PATH = "cluster.serve.app:build"
WORKSPACE = "/workspace"
HTTP = {"host": "127.0.0.1", "port": 8000}
_HEAD = (
    "# Generated: python -m cluster.serve.config {name}{flag} > cluster/deploy/serve/{name}.yaml\n"
)


def serve_config(profile: Profile, *, index_shards: int = 1) -> dict[str, Any]:
    """Return a config that Serve takes, with every deployment's options in sight."""
    resources = profile.serve
    graph = {
        "Gateway": resources.gateway,
        "Encoder": resources.encoder,
        "Ranker": resources.ranker,
    }
    args = {"workspace": WORKSPACE, "profile": profile.name}
    if index_shards > 1:
        args["index_shards"] = str(index_shards)
        graph |= {f"IndexShard{part}": resources.index_shard for part in range(index_shards)}
    return {
        "proxy_location": resources.proxies,
        "http_options": HTTP,
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": args,
                "deployments": [{"name": name, **options} for name, options in graph.items()],
            }
        ],
    }


def to_yaml(profile: Profile, *, index_shards: int = 1) -> str:
    """Return the file of a profile."""
    config = serve_config(profile, index_shards=index_shards)
    body: str = yaml.safe_dump(config, sort_keys=False)
    flag = f" --index-shards {index_shards}" if index_shards > 1 else ""
    return _HEAD.format(name=profile.name, flag=flag) + body


def main() -> None:
    """Print the file of the profile that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", choices=sorted(PROFILES))
    parser.add_argument("--index-shards", type=int, default=1, help="parts of the index")
    arguments = parser.parse_args()
    profile = PROFILES[arguments.profile]
    sys.stdout.write(to_yaml(profile, index_shards=arguments.index_shards))


if __name__ == "__main__":
    main()
