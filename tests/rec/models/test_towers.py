"""What every user tower must do, whichever it is."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, GPT2Config, LlamaConfig

from rec.data.items import load_items
from rec.data.sequences import Sequences, load_sequences
from rec.data.splits import temporal_split
from rec.data.synthetic import Shop
from rec.errors import ConfigError
from rec.evaluation.order_gate import order_gate
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.models.baselines import Popularity, ScoredLists
from rec.models.inference import embed_histories, embed_items
from rec.models.sequence_model import ModelConfig, SequenceModel
from rec.models.towers.attention import lookup
from rec.models.training import fit
from rec.models.training_config import TrainingConfig
from rec.models.whitening import fit_whitening, whiten
from rec.stages.embedding import load_embeddings
from rec.stages.fitting import cosine_scorer
from rec.stages.training import find_inputs
from tests.rec.models.logs import random_text, ring_log, sequences_of, small_model

DECODERS = {
    "gpt2": GPT2Config(
        n_embd=32, n_layer=3, n_head=2, n_positions=64, vocab_size=50,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    ),
    "llama": LlamaConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=48, max_position_embeddings=64, vocab_size=50,
    ),
}  # fmt: skip
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "attention": {},
    "gru": {"tower": "gru"},
    "gpt2": {"tower": "pretrained", "decoder": "gpt2"},
    "llama": {"tower": "pretrained", "decoder": "llama"},
    "whitened": {"whitening": 0.5},
    "text-only": {"id_residual": False},
}


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Give tiny decoders with random weights, as checkpoints."""
    folder = tmp_path_factory.mktemp("decoders")
    torch.manual_seed(0)
    for name, config in DECODERS.items():
        AutoModel.from_config(config).save_pretrained(folder / name, safe_serialization=True)
    return {name: folder / name for name in DECODERS}


@pytest.fixture(params=VARIANTS)
def config(request: pytest.FixtureRequest, decoders: Mapping[str, Path]) -> ModelConfig:
    values = dict(VARIANTS[request.param])
    if "decoder" in values:
        values["decoder"] = str(decoders[values["decoder"]])
    return ModelConfig(width=16, max_length=10, dropout=0.1, **values)


def scores(model: SequenceModel, histories: Sequences) -> Tensor:
    model.eval()
    items = embed_items(model)
    return embed_histories(model, histories, items=items) @ items.T


HISTORIES = ([4, 9, 2, 7, 7, 1, 5, 3], [], [8], [6, 2])


def test_fit_reduces_the_loss(config: ModelConfig) -> None:
    rows: list[Any] = []
    training = TrainingConfig(num_epochs=8, batch_size=16, learning_rate=6e-3)
    fit(
        small_model(config), ring_log(), config=training, accelerator=Accelerator(cpu=True),
        on_epoch=rows.append,
    )  # fmt: skip
    assert rows[-1]["loss"] < 0.85 * rows[0]["loss"]


def test_padding_and_company_do_not_change_scores(config: ModelConfig) -> None:
    model = small_model(config)
    together = scores(model, sequences_of(HISTORIES, num_items=30))
    alone = torch.cat([scores(model, sequences_of([own], num_items=30)) for own in HISTORIES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_nothing_is_known_of_later_events(config: ModelConfig) -> None:
    model = small_model(config).eval()
    tokens = torch.tensor([[0, 0, 4, 9, 2, 7], [0, 0, 4, 9, 5, 1]])
    times = torch.tensor([[0, 0, 60, 120, 180, 240], [0, 0, 60, 120, 999, 9999]])
    with torch.inference_mode():
        states = model(tokens, times, (tokens > 0).long())
    torch.testing.assert_close(states[0, 2:4], states[1, 2:4], atol=1e-5, rtol=1e-5)
    assert (states[0, 4:] - states[1, 4:]).abs().max() > 1e-2


def test_order_of_events_changes_the_user(config: ModelConfig) -> None:
    found = scores(small_model(config), sequences_of([[4, 9, 2], [9, 4, 2]], num_items=30))
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_order_of_the_catalog_does_not_matter(config: ModelConfig) -> None:
    model = small_model(config)
    expected = scores(model, sequences_of(HISTORIES, num_items=30))
    order = torch.from_numpy(np.random.default_rng(1).permutation(30))  # new place -> old place
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), order + 1])
    shuffled = SequenceModel(model.items.text[rows], num_items=30, num_event_types=1, config=config)
    state = model.state_dict()
    if "items.residual.weight" in state:
        state["items.residual.weight"] = state["items.residual.weight"][rows]
    shuffled.load_state_dict(state)
    new_index = torch.empty(31, dtype=torch.int64)
    new_index[rows] = torch.arange(31)
    renamed = [[int(new_index[token]) for token in row] for row in HISTORIES]
    found = scores(shuffled, sequences_of(renamed, num_items=30))
    torch.testing.assert_close(found, expected[:, order], atol=1e-5, rtol=1e-5)


def test_weights_survive_a_file(config: ModelConfig, tmp_path: Path) -> None:
    log = sequences_of(HISTORIES, num_items=30)
    model, other = small_model(config), small_model(config, seed=2)
    assert not torch.equal(scores(model, log), scores(other, log))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(scores(model, log), scores(other, log))


def test_empty_users_are_zero_and_one_event_says_something(config: ModelConfig) -> None:
    found = scores(small_model(config), sequences_of([[], [8], [9]], num_items=30))
    assert torch.equal(found[0], torch.zeros(30))
    assert (found[1] - found[2]).abs().max() > 1e-3
    assert torch.isfinite(found).all()


def test_one_item_and_users_without_targets_train(config: ModelConfig) -> None:
    model = small_model(config, num_items=1)
    log = sequences_of([[1, 1, 1], [], [1]], num_items=1)
    fit(model, log, config=TrainingConfig(num_epochs=1), accelerator=Accelerator(cpu=True))
    assert torch.isfinite(scores(model, log)).all()


class Lists:
    """The lists of a model by cosine."""

    name = "cosine"

    def __init__(self, model: SequenceModel, queries: NDArray[np.float32]) -> None:
        score = cosine_scorer(model, queries=queries)
        self._lists = ScoredLists(_Scorer(score))

    def top_k(self, histories: Sequences, *, k: int, exclude_seen: bool) -> NDArray[np.int32]:
        return self._lists.top_k(histories, k=k, exclude_seen=exclude_seen)


class _Scorer:
    name = "cosine"

    def __init__(self, score: Any) -> None:
        self.score = score


def test_the_planted_signal_and_cold_items_are_found(
    config: ModelConfig, trained_workspace: Path, shop: Shop
) -> None:
    inputs = find_inputs(trained_workspace)
    sequences = load_sequences(inputs.sequences.path)
    items, queries = load_embeddings(inputs.embeddings)
    split = temporal_split(sequences, quantile=0.9)
    text = torch.from_numpy(np.concatenate([np.zeros_like(items[:1]), items, queries]))
    torch.manual_seed(1)
    model = SequenceModel(
        text,
        num_items=len(items),
        num_event_types=len(sequences.event_type_names),
        config=replace(config, width=32, max_length=20),
    )
    training = TrainingConfig(
        num_epochs=10, batch_size=32, learning_rate=5e-3, cold_negatives=False
    )
    fit(model, split.train, config=training, accelerator=Accelerator(cpu=True))
    ours = Lists(model, queries)
    asked = order_gate(ours, split.test, k=10, exclude_seen=True, seed=1)
    assert asked is not None
    gate = asked.ndcg
    popular = ScoredLists(Popularity(split.train))
    test = split.test.without_seen()
    floor = ndcg_at_k(
        popular.top_k(test.histories, k=10, exclude_seen=True), test.target_offsets, test.targets
    ).mean()
    assert gate["ordered"] > 3 * floor, (gate, floor)
    assert gate["shuffled"] < 0.5 * gate["ordered"]
    assert gate["reversed"] < 0.5 * gate["ordered"]
    catalog = load_items(trained_workspace / "catalog" / inputs.parents["catalog"])
    is_cold = np.asarray([i in shop.cold_item_ids for i in catalog["item_id"]])
    first = test.targets[test.target_offsets[:-1]] - 1
    rows = np.flatnonzero(is_cold[first])
    cosines = cosine_scorer(model, queries=queries)(test.histories.select_users(rows))
    own = cosines[np.arange(len(rows)), first[rows]]
    above = (cosines > own[:, None]).mean()
    # A user's next cluster is a twelfth of the catalog; chance would be a half.
    assert above < 0.25


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tower": "pretrained"}, "--model.tower pretrained expects --model.decoder"),
        ({"tower": "pretrained", "decoder": "/nowhere"}, "--model.decoder /nowhere"),
        ({"tower": "pretrained", "decoder": "gpt2", "num_layers": 9}, "has 3 layers"),
        ({"whitening": 1.5}, "--model.whitening must be"),
        ({"num_layers": 0}, "--model.num-layers must be"),
    ],
)
def test_towers_that_cannot_be_are_refused_in_one_line(
    values: dict[str, Any], message: str, decoders: Mapping[str, Path], monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if values.get("decoder") == "gpt2":
        values = values | {"decoder": str(decoders["gpt2"])}
    with pytest.raises(ConfigError, match=message) as error:
        small_model(ModelConfig(**values))
    assert "\n" not in str(error.value)


def test_whitening_makes_directions_equal_and_half_of_it_shrinks_them() -> None:
    text = random_text(400, width=6, seed=3)[1:] * torch.tensor([9.0, 4, 2, 1, 1, 1]) + 5
    spreads = []
    for power in (0.0, 0.5, 1.0):
        mean, matrix = fit_whitening(text, power=power)
        values = torch.linalg.eigvalsh(((text - mean) @ matrix).T.cov())
        spreads.append(float(values.max() / values.min()))
        assert torch.allclose(whiten(text, mean=mean, matrix=matrix).norm(dim=1), torch.ones(400))
    assert spreads[2] == pytest.approx(1, abs=1e-3)
    assert spreads[1] == pytest.approx(spreads[0] ** 0.5, rel=1e-2)


def test_the_bias_table_has_the_gradient_of_an_embedding() -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(6, 2, generator=generator).requires_grad_()
    buckets = torch.randint(0, 5, (3, 4, 4), generator=generator)  # row 5 is never met
    weights = torch.randn(3, 2, 4, 4, generator=generator)
    ours, theirs = lookup(table, buckets), torch.nn.functional.embedding(buckets, table)
    assert torch.equal(ours, theirs.permute(0, 3, 1, 2))
    [found] = torch.autograd.grad((ours * weights).sum(), table)
    [expected] = torch.autograd.grad((theirs.permute(0, 3, 1, 2) * weights).sum(), table)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found[5], torch.zeros(2))
