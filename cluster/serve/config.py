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
_HEAD = "# Generated: python -m cluster.serve.config {name} > cluster/deploy/serve/{name}.yaml\n"


def serve_config(profile: Profile) -> dict[str, Any]:
    """Return a config that Serve takes, with every deployment's options in sight."""
    resources = profile.serve
    graph = {
        "Gateway": resources.gateway,
        "Encoder": resources.encoder,
        "Ranker": resources.ranker,
    }
    return {
        "proxy_location": resources.proxies,
        "http_options": HTTP,
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": {"workspace": WORKSPACE, "profile": profile.name},
                "deployments": [{"name": name, **options} for name, options in graph.items()],
            }
        ],
    }


def to_yaml(profile: Profile) -> str:
    """Return the file of a profile."""
    body: str = yaml.safe_dump(serve_config(profile), sort_keys=False)
    return _HEAD.format(name=profile.name) + body


def main() -> None:
    """Print the file of the profile that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", choices=sorted(PROFILES))
    sys.stdout.write(to_yaml(PROFILES[parser.parse_args().profile]))


if __name__ == "__main__":
    main()
