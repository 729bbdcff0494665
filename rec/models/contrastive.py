"""The contrastive loss of an encoder, and its gradient for any batch on any number of processes.

Every process sees the embeddings of all texts of the global batch and takes the whole loss; the
gradient flows back through its own texts only. Their sum over the processes is the gradient of the
whole batch: a text that is a negative elsewhere gets that part of its gradient too. The texts are
encoded twice, first without a graph and then chunk by chunk with one, so that memory follows the
chunk and not the batch.

Shapes: B anchors, C documents (the B positives first), T texts of a batch, D width.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

Chunk = tuple[Tensor, Tensor]
"""Token ids and mask, int64 ``(b, t)``."""


def info_nce(anchors: Tensor, documents: Tensor, *, is_false: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of finding each anchor's document among all, a scalar.

    Also called multiple-negatives ranking or NT-Xent loss.

    Args:
        anchors: float32 ``(B, D)``, normalised.
        documents: float32 ``(C, D)``, normalised; anchor ``b`` belongs to document ``b``, the
            others are its negatives.
        is_false: bool ``(B, C)``; documents that are no negatives of an anchor although they are
            not its own: they leave its sum.
        temperature: what cosines are divided by; lower looks more at the hardest negatives.

    Source: van den Oord et al. 2018, Representation Learning with Contrastive Predictive Coding.
    """
    logits = anchors @ documents.T / temperature  # (B, C)
    own = torch.arange(len(anchors), device=anchors.device)
    is_false = is_false.clone()
    is_false[own, own] = False
    return F.cross_entropy(logits.masked_fill(is_false, float("-inf")), own)


def backward_in_chunks(
    encoder: nn.Module,
    chunks: Sequence[Chunk],
    loss: Callable[[Tensor], Tensor],
    *,
    accelerator: Accelerator,
    seed: int,
) -> float:
    """Add the gradient of a loss over everyone's embeddings to the encoder; return the loss.

    Also called GradCache. Dropout draws the same masks in both passes of a chunk.

    Args:
        encoder: ids and mask to embeddings; DDP's wrapper where there are several processes.
        chunks: this process's texts; as many texts on every process.
        loss: float32 ``(T, D)`` embeddings, process after process, to a scalar; the same function
            on every process.
        accelerator: the processes.
        seed: of dropout, for this step.

    Source: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup.
    """
    rank = accelerator.process_index
    is_single = len(chunks) == 1
    with nullcontext() if is_single else torch.no_grad():
        parts = [_encode(encoder, chunk, seed=(seed, rank, n)) for n, chunk in enumerate(chunks)]
    mine = torch.cat(parts)
    everyone = accelerator.gather(mine.detach()).requires_grad_()
    value = loss(everyone)
    [gradient] = torch.autograd.grad(value, everyone)
    # DDP averages over processes, the gradient of the whole batch is the sum.
    own = gradient[rank * len(mine) : (rank + 1) * len(mine)] * accelerator.num_processes
    if is_single:
        mine.backward(own)
        return float(value.detach())
    start = 0
    for number, chunk in enumerate(chunks):
        is_last = number + 1 == len(chunks)
        # Processes meet once, after the last chunk.
        with nullcontext() if is_last else accelerator.no_sync(encoder):
            part = _encode(encoder, chunk, seed=(seed, rank, number))
            part.backward(own[start : start + len(part)])
        start += len(part)
    return float(value.detach())


def _encode(encoder: nn.Module, chunk: Chunk, *, seed: tuple[int, int, int]) -> Tensor:
    step, rank, number = seed
    torch.manual_seed((step * 1_009 + rank) * 10_007 + number)  # primes: no two chunks meet
    embeddings: Tensor = encoder(*chunk)
    return embeddings
