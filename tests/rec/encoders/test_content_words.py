"""The article's reading, without stop words and punctuation, is an encoder's other self."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.recipes import RECIPES
from rec.encoders import EncoderConfig, EncoderSpec, fingerprint_of, load_encoder
from rec.encoders.content_words import content_words
from rec.encoders.encoder import make_spec
from rec.encoders.tuning import TunableEncoder
from rec.errors import ConfigError
from tests.rec.encoders.tiny import write_bert

WHOLE = "The dress, which is not for the office!"
BARE = "dress not office"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EncoderSpec:
    words = ["The", "dress", ",", "which", "is", "not", "for", "the", "office", "!"]
    model = write_bert(tmp_path_factory.mktemp("model"), words)
    return make_spec(EncoderConfig(model=model, words="content"))


def test_model_reads_the_content_words_alone(spec: EncoderSpec) -> None:
    ours, plain = load_encoder(spec), load_encoder(replace(spec, words="all"))
    np.testing.assert_allclose(ours.encode([WHOLE]), plain.encode([BARE]), atol=1e-6)
    assert np.abs(ours.encode([WHOLE]) - plain.encode([WHOLE])).max() > 1e-2
    assert ours.count_tokens([WHOLE]) == plain.count_tokens([BARE])
    assert ours.num_tokens == 2 * plain.count_tokens([BARE])[0]
    # Of nothing but stop words nothing is left, and that has an embedding too.
    assert np.isfinite(ours.encode(["The who", ""])).all()


def test_both_readings_have_a_fingerprint_and_the_default_keeps_its_own(spec: EncoderSpec) -> None:
    assert fingerprint_of(spec) == load_encoder(spec).fingerprint
    assert fingerprint_of(spec) != fingerprint_of(replace(spec, words="all"))
    # Stored embeddings and releases of before name this one.
    hashing = make_spec(EncoderConfig(model="hashing"))
    assert fingerprint_of(hashing) == "666525c29f6b006d"


def test_chinese_gets_the_spaces_of_the_article() -> None:
    pytest.importorskip("jieba")
    assert content_words("红色的连衣裙，适合夏天。") == "红色 连衣裙 适合 夏天"


def test_model_does_not_learn_from_what_is_left_of_a_sentence(spec: EncoderSpec) -> None:
    with pytest.raises(ConfigError, match=r"expected --encoder\.words all, got content"):
        TunableEncoder(spec)


def test_recipe_differs_from_laptop_in_the_reading_alone() -> None:
    stripped, laptop = RECIPES["stripped"][1], RECIPES["laptop"][1]
    assert stripped.encoder.words == "content"
    assert replace(stripped, encoder=laptop.encoder) == laptop
