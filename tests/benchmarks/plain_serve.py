"""The smallest Serve there is, to measure beside ours: one deployment that echoes, on our settings.

python -m tests.benchmarks.plain_serve PORT
"""

import os
import signal
import sys
import threading

from cluster.resources import LAPTOP
from cluster.runtime import connect, prepare_environment

APPLICATION = "plain"
DEPLOYMENT = "Echo"


def main() -> None:
    """Serve on a port until SIGTERM."""
    prepare_environment(os.environ)
    from fastapi import FastAPI, Request
    from ray import serve

    from cluster.serve.app import start_proxies

    api = FastAPI()

    class Echo:
        @api.get("/readyz")
        def ready(self) -> None:
            return

        @api.post("/{path:path}")
        async def echo(self, path: str, request: Request) -> dict[str, int]:
            return {"path": len(path), "bytes": len(await request.body())}

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with connect(LAPTOP):
        start_proxies(LAPTOP, host="127.0.0.1", port=int(sys.argv[1]))
        ingress = serve.ingress(api)(Echo)
        app = serve.deployment(name=DEPLOYMENT, **LAPTOP.serve.gateway)(ingress).bind()
        serve.run(app, name=APPLICATION, route_prefix="/")
        stop.wait()
        serve.shutdown()


if __name__ == "__main__":
    main()
