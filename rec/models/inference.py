"""What trained towers give: e_i of the catalog, e_u of histories.

Shapes: B users, V items, Q queries, L events, D width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from rec.data.sequences import Sequences
from rec.models.batches import history_batch
from rec.models.sequence_model import SequenceModel

_USER_BLOCK = 512
"""Users of one forward pass: larger ones gain nothing on a CPU and cost memory."""


@torch.inference_mode()
def embed_items(model: SequenceModel) -> Tensor:
    """Return e_i of every item, float32 ``(V, D)``."""
    model.eval()
    indexes = torch.arange(1, model.items.num_items + 1)
    blocks = [model.items(block) for block in indexes.split(1 << 16)]
    return torch.cat(blocks).contiguous()


def place_by_kin(e_i: Tensor, kin: sparse.csr_array, *, is_cold: NDArray[np.bool_]) -> Tensor:
    """Return e_i with cold items in the middle of the items nearest in text, float32 ``(V, D)``.

    A cold item was never anyone's next item, so the towers have only pushed it away.

    Args:
        e_i: float32 ``(V, D)``, L2-normalised.
        kin: sparse ``(V, V)``, weights of the items nearest in text (rows) to an item (column).
        is_cold: bool ``(V,)``; cold items without kin stay where they are.
    """
    columns = np.flatnonzero(is_cold)
    if not len(columns):
        return e_i
    middles = torch.from_numpy((kin[:, columns].T @ e_i.numpy()).astype(np.float32))
    norms = middles.norm(dim=1, keepdim=True)
    has_kin = norms.squeeze(1) > 0
    placed = e_i.clone()
    placed[torch.from_numpy(columns)[has_kin]] = (middles / norms)[has_kin]
    return placed


@torch.inference_mode()
def embed_histories(
    model: SequenceModel,
    histories: Sequences,
    *,
    items: Tensor,
    query_embeddings: NDArray[np.float32] | None = None,
) -> Tensor:
    """Return e_u of each history, float32 ``(B, D)``; zeros for a user without events.

    Args:
        model: the towers, in evaluation mode.
        histories: any lengths; the newest ``max_length`` events are read.
        items: float32 ``(V, D)``, e_i of the catalog.
        query_embeddings: float32 ``(Q, D_text)`` of ``histories.queries``.
    """
    width = items.shape[1]
    queries = torch.zeros((0, width))
    if query_embeddings is not None and len(query_embeddings):
        queries = model.items.embed_text(torch.from_numpy(query_embeddings))
    users = torch.zeros((histories.num_users, width))
    # Users of like length share a batch: padding is work.
    order = np.argsort(histories.lengths, kind="stable")
    for start in range(0, len(order), _USER_BLOCK):
        rows = order[start : start + _USER_BLOCK]
        batch = history_batch(histories.select_users(rows), max_length=model.config.max_length)
        tokens = torch.from_numpy(batch.tokens)
        states = model.encode(
            _read(tokens, items, queries),
            tokens > 0,
            torch.from_numpy(batch.timestamps_s),
            torch.from_numpy(batch.event_types),
        )  # (B, L, D)
        users[torch.from_numpy(rows)] = states[:, -1]
    users[torch.from_numpy(histories.lengths == 0)] = 0.0
    return users


def _read(tokens: Tensor, items: Tensor, queries: Tensor) -> Tensor:
    """Return the embeddings of tokens, float32 ``(B, L, D)``: 0 is padding, queries follow items.

    Rows are picked where they lie: a table of all three would copy the catalog for every list.
    """
    num_items = len(items)
    rows = items[(tokens - 1).clamp(0, num_items - 1)]  # (B, L, D)
    rows[tokens == 0] = 0.0
    is_query = tokens > num_items
    if len(queries):
        rows[is_query] = queries[tokens[is_query] - num_items - 1]
    return rows
