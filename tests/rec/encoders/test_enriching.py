"""Enrichment: quoted by rules or written by a model, checked, and never over the source."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rec.artifacts import Artifact
from rec.data.cleaning import CleaningConfig
from rec.data.enrichment import Source, enrich_by_rules, is_supported
from rec.data.items import load_items
from rec.encoders import EncoderConfig
from rec.encoders.language_model import LanguageModel, language_model_fingerprint
from rec.errors import ArtifactError, ConfigError
from rec.spread import in_process
from rec.stages.embedding import embed
from rec.stages.enriching import ENRICHMENT_FILE, EnrichmentConfig, enrich, write_by_model
from rec.stages.preparation import prepare
from tests.rec.encoders.tiny import write_bert

ITEMS = {
    "item_id": ["a", "b", "c", "d"],
    "title": ["Red dress", "红色连衣裙", "Old lamp", "Old lamp"],
    "text": [
        "A perfect cotton dress for summer. 40 cm long.",
        "一件漂亮的棉质连衣裙。适合夏天。",
        "The lamp is broken.",
        "The lamp is broken.",
    ],
    "category": ["dresses", "连衣裙", "lamps", "lamps"],
    "tags": [["sale"], ["促销"], [], []],
}
DRESS = Source(title="Red dress", text=ITEMS["text"][0], category=("dresses",), tags=("sale",))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return prepare_items(
        tmp_path, pl.DataFrame(ITEMS, schema_overrides={"tags": pl.List(pl.String)})
    )


def prepare_items(folder: Path, items: pl.DataFrame) -> Path:
    items.write_parquet(folder / "items.parquet")
    events = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1_750_000_000] * 2}
    pl.DataFrame(events).write_parquet(folder / "events.parquet")
    prepare(
        folder / "workspace",
        events=[str(folder / "events.parquet")],
        items=[str(folder / "items.parquet")],
        config=CleaningConfig(),
        num_partitions=1,
    )
    return folder / "workspace"


def rows_of(artifact: Artifact) -> pl.DataFrame:
    return pl.read_parquet(artifact.path / ENRICHMENT_FILE)


def write_language_model(folder: Path) -> str:
    torch.manual_seed(0)
    words = ("[UNK]", "[END]", "red", "blue", "dress", "lamp", "cotton", ",", "positive")
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=600,
                   bos_token_id=1, eos_token_id=1)
    ).save_pretrained(folder)  # fmt: skip
    plain = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
    )
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", eos_token="[END]"
    ).save_pretrained(folder)
    return str(folder)


def test_rules_quote_the_item_in_both_languages(workspace: Path) -> None:
    artifact, was_there = enrich(workspace, config=EnrichmentConfig())
    rows = rows_of(artifact)
    assert not was_there
    assert rows["generated_summary"].to_list() == [
        "A perfect cotton dress for summer.", "一件漂亮的棉质连衣裙。", "The lamp is broken.",
        "The lamp is broken.",
    ]  # fmt: skip
    assert rows["generated_language"].to_list() == ["en", "zh", "en", "en"]
    assert rows["generated_sentiment"].to_list() == ["positive", "positive", "negative", "negative"]
    assert rows["generated_tags"][0].to_list()[:2] == ["dresses", "sale"]
    assert artifact.counts["written_by"]["summary"] == {"rules": 4}
    assert artifact.manifest["config"] == {"generator": "rules", "rules_version": 1}


def test_source_text_is_left_alone_and_a_second_run_does_nothing(workspace: Path) -> None:
    catalog = next((workspace / "catalog").glob("*/items.parquet")).parent
    before = load_items(catalog)
    enrich(workspace, config=EnrichmentConfig())
    assert_frame_equal(load_items(catalog), before)

    _, was_there = enrich(workspace, config=EnrichmentConfig())
    assert was_there


def test_killed_run_goes_on_and_one_changed_title_costs_one_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rec.stages.enriching._BLOCK_ITEMS", {"rules": 1})
    items = pl.DataFrame(ITEMS, schema_overrides={"tags": pl.List(pl.String)})
    workspace = prepare_items(tmp_path, items)

    def killed(make_worker, tasks, *, label):  # type: ignore[no-untyped-def]
        yield next(in_process(make_worker, tasks, label=label))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enrich(workspace, config=EnrichmentConfig(), spread=killed)
    done, _ = enrich(workspace, config=EnrichmentConfig())
    # Items c and d are one source.
    assert (done.counts["generated"], done.counts["cached"]) == (2, 1)
    changed = items.with_columns(pl.col("title").replace("Red dress", "Blue dress"))
    prepare_items(tmp_path, changed)
    again, _ = enrich(workspace, config=EnrichmentConfig())
    assert (again.counts["generated"], again.counts["cached"]) == (1, 2)


def test_answers_of_a_model_are_taken_only_where_the_source_holds_them() -> None:
    answers = {
        "summary": "A red cotton dress.\nBuy now!",
        "tags": " cotton, Paris, dress",
        "sentiment": " Neutral.",
    }

    def answer(prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        assert all(DRESS.whole in prompt for prompt in prompts)
        kind = {40: "summary", 24: "tags", 4: "sentiment"}[max_new_tokens]
        return [answers[kind]] * len(prompts)

    [found] = write_by_model([DRESS], answer)
    assert (found.summary, found.summary_by) == ("A red cotton dress.", "model")
    assert (found.tags, found.tags_by) == (("cotton", "dress"), "model")
    assert (found.sentiment, found.sentiment_by) == ("neutral", "model")
    rules = enrich_by_rules(DRESS)
    for invented in ("A blue cotton dress.", "A red dress of 41 cm.", "Not a red dress.", ""):
        answers |= {"summary": invented, "tags": "Paris, silk", "sentiment": "negative"}
        [found] = write_by_model([DRESS], answer)
        assert found == rules


def test_chinese_answers_are_checked_too() -> None:
    source = Source(title="红色连衣裙", text="棉质，适合夏天。", category=(), tags=())
    assert is_supported("红色棉质连衣裙", source)
    assert not is_supported("蓝色棉质连衣裙", source)
    assert not is_supported("真丝连衣裙", source)


def test_causal_language_model_enriches_with_provenance(workspace: Path, tmp_path: Path) -> None:
    """A model of random weights invents; the check must send nearly all of it back to the rules."""
    model = write_language_model(tmp_path / "model")
    config = EnrichmentConfig(generator=model, batch_size=2)
    artifact, _ = enrich(workspace, config=config)
    rules = rows_of(enrich(workspace, config=EnrichmentConfig())[0])
    rows = rows_of(artifact)
    assert artifact.manifest["config"] == {
        "generator": "model",
        "fingerprint": language_model_fingerprint(model),
        "prompt_version": 1,
        "rules_version": 1,
    }
    for row, ruled in zip(rows.iter_rows(named=True), rules.iter_rows(named=True), strict=True):
        if row["generated_summary_by"] == "rules":
            assert row["generated_summary"] == ruled["generated_summary"]
    assert sum(artifact.counts["written_by"]["summary"].values()) == 4
    _, was_there = enrich(workspace, config=config)
    assert was_there


def test_continuation_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = LanguageModel(write_language_model(tmp_path), batch_size=3)
    prompts = ["red dress", "blue lamp , red cotton dress lamp", "cotton"]
    together = model.continue_texts(prompts, max_new_tokens=6)
    alone = [model.continue_texts([prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert together == alone
    assert any(together)


def test_model_that_does_not_write_is_refused(workspace: Path, tmp_path: Path) -> None:
    bert = write_bert(tmp_path / "bert", ["red"])
    with pytest.raises(ConfigError, match="does not write text"):
        enrich(workspace, config=EnrichmentConfig(generator=bert))


def test_template_reads_generated_fields_and_asks_for_them_where_there_are_none(
    workspace: Path,
) -> None:
    config = EncoderConfig(model="hashing", template="{title}. {generated_summary}")
    with pytest.raises(ArtifactError, match=r"jobs\.enrich"):
        embed(workspace, config=config)
    made, _ = enrich(workspace, config=EnrichmentConfig())
    embedded, _ = embed(workspace, config=config)
    plain, _ = embed(workspace, config=replace(config, template="{title}"))
    assert embedded.parents["enrichments"] == made.name
    assert "enrichments" not in plain.parents
    assert embedded.manifest["config"]["fingerprint"] != plain.manifest["config"]["fingerprint"]
