"""The Gateway deployment: HTTP in, HTTP out. Its routes lie in ``cluster.serve.routes``."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI

from cluster.serve.border import MAX_BODY_BYTES, Border
from cluster.serve.observing import Observing, log_as_json
from cluster.serve.openapi import describe, responses
from cluster.serve.problems import add_problem_handlers
from cluster.serve.routes import (
    catalog,
    feedback,
    health,
    observability,
    page,
    recommending,
    releases,
    searching,
    user_history,
    users,
)
from cluster.serve.state import GatewayState

ROUTERS = (
    recommending.router,
    searching.router,
    feedback.router,
    catalog.router,
    # Before the user's own route, whose id may hold slashes.
    user_history.router,
    users.router,
    releases.router,
    health.router,
    observability.router,
    page.router,
)


class Gateway:
    """Answer the HTTP contract."""

    def __init__(self, encoder: Any, ranker: Any, workspace: str, release: str) -> None:
        """Open the workspace; a replica that starts later takes what is promoted by then."""
        self.state = GatewayState(encoder, ranker, workspace=Path(workspace), release=Path(release))
        self.state.releases.follow()
        log_as_json()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return this replica's HTTP application; Serve asks for it after the constructor."""
        api = FastAPI(
            title="nextray",
            version="0.1.0",
            description="Next item, on Ray: ranked lists that change with the user's last event.",
            responses=responses(),
            # Theirs load scripts from elsewhere; ours is in cluster.serve.routes.page.
            docs_url=None,
            redoc_url=None,
        )
        api.state.gateway = self.state
        api.add_middleware(Border, keys=self.state.keys.entries, max_bytes=MAX_BODY_BYTES)
        api.add_middleware(Observing, metrics=self.state.metrics)
        add_problem_handlers(api)
        for router in ROUTERS:
            api.include_router(router)
        describe(api)
        return api
