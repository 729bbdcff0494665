"""Routes about texts: search, rerank, embeddings."""

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from numpy.typing import NDArray

from cluster.serve.answering import embed_queries, finish, rank_or_popular, read_asker
from cluster.serve.calls import DEADLINE_S, UnavailableError
from cluster.serve.problems import request_id_of
from cluster.serve.schemas import (
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsBody,
    RankedText,
    RecommendAnswer,
    RerankItemsBody,
    RerankTextsBody,
    SearchBody,
    Usage,
    read_filters,
)
from cluster.serve.state import GatewayState, Ranked, State, retry_later
from cluster.serve.tracing import outgoing
from rec.data.scrubbing import stored_query
from rec.ranking import requests as asking

SERVED_MODEL = "nextray"
"""Name under which any OpenAI client finds the encoder; its own name and fingerprint do as well."""
TEXTS_PER_CALL = 64
"""Two batches of the encoder: others' queries slip in between."""
EMBED_WITHIN_S = 30.0
"""For one such call: a bulk client waits longer than a page."""
router = APIRouter(tags=["texts"])


@router.post("/v1/search")
async def search(state: State, body: SearchBody, request: Request) -> RecommendAnswer:
    """Return the items that a query describes; with a user, those nearer to the user first.

    ``score = text + personal_weight * personal``: two cosines, of query and item text, of user and
    item. Send the query as a ``search`` event too where it shall count in the user's history.
    """
    query = stored_query(body.query)
    if query is None:
        raise HTTPException(422, "query: expected a text, got nothing to read")
    asker = await read_asker(state, body.user_id, body.events)
    await embed_queries(state, asker)
    try:
        [row] = await state.encode([query], deadline_s=DEADLINE_S)
        searched = asking.SearchRequest(
            text=row,
            request=asking.Request(
                history=tuple(asker.history),
                k=body.k,
                exclude=frozenset(body.exclude),
                filters=read_filters(body.filters),
                exclude_seen=body.exclude_seen,
                query_embeddings=asker.query_embeddings,
            ),
            personal_weight=body.personal_weight,
        )
        release = asker.release.name
        ranked = await state.ask_ranker(
            lambda: state.ranker.search.remote(searched, release, outgoing())
        )
    except UnavailableError as error:
        raise retry_later(str(error)) from error
    return await finish(state, asker, ranked, request_id=request_id_of(request))


@router.post("/v1/rerank", response_model_exclude_none=True)
async def rerank(
    state: State, body: RerankItemsBody | RerankTextsBody, request: Request
) -> RecommendAnswer | list[RankedText]:
    """Order given items for a user, or given texts for a query (best first).

    The second form is that of text-embeddings-inference. ``unknown_items`` in ``degraded`` says
    that the catalog lacks some of the items.
    """
    if isinstance(body, RerankTextsBody):
        return await _rerank_texts(state, body)
    known_items = state.known_items()
    known = tuple(dict.fromkeys(name for name in body.item_ids if name in known_items))
    asker = await read_asker(state, body.user_id, body.events)
    if len(known) < len(set(body.item_ids)):
        asker.degraded.append("unknown_items")
    await embed_queries(state, asker)
    ranked = Ranked(release=asker.release.name, items=[], degraded=[])
    if known:
        ranked = await rank_or_popular(
            state,
            asking.Request(
                history=tuple(asker.history),
                k=len(known),
                candidates=known,
                exclude_seen=False,
                penalty_weight=body.penalty_weight,
                query_embeddings=asker.query_embeddings,
            ),
            release=asker.release,
        )
    return await finish(state, asker, ranked, request_id=request_id_of(request))


@router.post("/v1/embeddings")
async def embed(state: State, body: EmbeddingsBody) -> EmbeddingsAnswer:
    """Return the encoder's embeddings of texts, L2-normalised; OpenAI's clients work unchanged.

    Texts that are longer than the encoder reads are cut at its end, as the catalog's are.
    """
    names = (SERVED_MODEL, state.release.encoder_model, state.fingerprint)
    if body.model not in names:
        raise HTTPException(404, f"no model {body.model!r}, there is {', '.join(names)}")
    texts = [body.input] if isinstance(body.input, str) else body.input
    rows, tokens = await embed_texts(state, texts)
    if body.dimensions not in (None, rows.shape[1]):
        raise HTTPException(422, f"dimensions: the encoder has {rows.shape[1]}, no other number")
    is_base64 = body.encoding_format == "base64"
    return EmbeddingsAnswer(
        data=[
            Embedding(index=index, embedding=_base64(row) if is_base64 else row.tolist())
            for index, row in enumerate(rows)
        ],
        model=body.model,
        usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
    )


@router.get("/v1/models")
async def list_models(state: State) -> dict[str, Any]:
    """Return the names that ``/v1/embeddings`` takes, in OpenAI's schema."""
    names = dict.fromkeys((SERVED_MODEL, state.release.encoder_model, state.fingerprint))
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "nextray"} for name in names
        ],
    }


async def embed_texts(state: GatewayState, texts: list[str]) -> tuple[NDArray[np.float32], int]:
    """Return embeddings float32 ``(N, D_text)`` and the number of tokens.

    Raises:
        HTTPException: 503 where the encoder is away or its queue is full, 504 where it is silent.
    """
    parts: list[NDArray[np.float32]] = []
    tokens = 0
    for start in range(0, len(texts), TEXTS_PER_CALL):
        rows, count = await _embed_few(state, texts[start : start + TEXTS_PER_CALL])
        parts.append(rows)
        tokens += count
    return np.concatenate(parts), tokens


async def _embed_few(state: GatewayState, texts: list[str]) -> tuple[NDArray[np.float32], int]:
    try:
        found: tuple[NDArray[np.float32], int] = await state.encoder_calls.call(
            lambda: state.encoder.embed.remote(texts, outgoing()), deadline_s=EMBED_WITHIN_S
        )
    except UnavailableError as error:
        raise retry_later(str(error)) from error
    return found


async def _rerank_texts(state: GatewayState, body: RerankTextsBody) -> list[RankedText]:
    rows, _ = await embed_texts(state, [body.query, *body.texts])
    cosines = rows[1:] @ rows[0]
    scores = cosines if body.raw_scores else (1 + cosines) / 2
    order = np.argsort(-scores, kind="stable")
    return [
        RankedText(
            index=int(place),
            score=float(scores[place]),
            text=body.texts[place] if body.return_text else None,
        )
        for place in order
    ]


def _base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
