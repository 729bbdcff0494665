"""Routes about the release that answers."""

from fastapi import APIRouter

from cluster.serve.schemas import ReleaseAnswer
from cluster.serve.state import State

router = APIRouter(tags=["release"])


@router.get("/v1/release")
async def get_release(state: State) -> ReleaseAnswer:
    """Return which release answers."""
    release = state.release
    return ReleaseAnswer(
        release=release.name, items=len(release.item_ids), fingerprint=release.fingerprint
    )
