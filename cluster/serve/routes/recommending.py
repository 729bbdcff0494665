"""Routes that ask for a list."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath

from cluster.serve.answering import answer_list
from cluster.serve.problems import request_id_of
from cluster.serve.schemas import RecommendAnswer, RecommendBody, UserId
from cluster.serve.state import State

router = APIRouter(tags=["lists"])


@router.post("/v1/recommend")
async def recommend(state: State, body: RecommendBody, request: Request) -> RecommendAnswer:
    """Return a ranked list for a user, for inline events, or for both."""
    return await answer_list(state, body, request_id=request_id_of(request))


@router.get("/v1/users/{user_id:path}/recommendations")
async def recommend_user(
    state: State,
    user_id: Annotated[UserId, InPath()],
    request: Request,
    k: Annotated[int, Query(ge=1, le=100)] = 10,
) -> RecommendAnswer:
    """Return a ranked list for a user."""
    body = RecommendBody(user_id=user_id, k=k)
    return await answer_list(state, body, request_id=request_id_of(request))
