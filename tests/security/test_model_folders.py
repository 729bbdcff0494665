"""A stranger's model is refused before transformers sees it, in one line, in bounded time."""

import shutil
from pathlib import Path

import pytest

from rec.encoders import EncoderConfig, choose_encoder, load_encoder
from rec.encoders.checkpoints import read_checkpoint
from rec.errors import ConfigError
from tests.rec.encoders.tiny import write_bert
from tests.security.bounds import bounded
from tests.security.model_folders import (
    HOSTILE,
    TOO_LARGE,
    added,
    edit,
    replace_all,
    split,
    tokenizer,
    write,
)

PUBLISHED_PATTERNS = (
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"""
    r"""[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+""",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
"""Of GPT-2, Llama 3 and Qwen, GPT-4o, DeepSeek: they must pass."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "good"
    write_bert(folder, ["red", "lamp"])
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def load(folder: Path) -> None:
    spec = choose_encoder(EncoderConfig(model=str(folder)), texts=["red lamp"]).spec
    assert load_encoder(spec).encode(["red lamp"]).shape == (1, 16)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folder_is_refused_in_one_line(folder: Path, name: str) -> None:
    change, says = HOSTILE[name]
    change(folder)
    with bounded(), pytest.raises(ConfigError, match=says) as refused:
        read_checkpoint(folder)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)
    with pytest.raises(ConfigError):
        load(folder)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_network_that_its_weights_do_not_fill_takes_no_memory(folder: Path, name: str) -> None:
    change, says = TOO_LARGE[name]
    change(folder)
    with bounded(), pytest.raises(ConfigError, match=says) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("pattern", PUBLISHED_PATTERNS)
def test_published_tokenizers_pass(folder: Path, pattern: str) -> None:
    tokenizer(pre_tokenizer=split(pattern), added_tokens=added(500))(folder)
    edit("tokenizer.json", normalizer=replace_all(1, 3))(folder)
    read_checkpoint(folder)


def test_good_folder_loads_also_from_the_cache_of_the_hub(good: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in good.iterdir():
        shutil.copy(path, blobs / f"hash-of-{path.name}")
        (snapshot / path.name).symlink_to(blobs / f"hash-of-{path.name}")
    load(snapshot)


def test_template_of_a_chat_and_a_padding_to_the_moon_are_not_run(folder: Path) -> None:
    """Both stand in honest folders too, so they are read and nothing comes of it."""
    jinja = (
        "{% for i in range(10**12) %}x{% endfor %}{{ ''.__class__.__mro__[1].__subclasses__() }}"
    )
    write("chat_template.jinja", jinja)(folder)
    edit("tokenizer_config.json", chat_template=jinja)(folder)
    padding = {
        "strategy": {"Fixed": 10**9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    tokenizer(padding=padding)(folder)
    with bounded():
        load(folder)
