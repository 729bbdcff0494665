"""The article's code as a test: each of its errors shown, and what this code does instead.

E-n numbers the errors that were found in the article's listings. Its own lines are quoted and run
where they can be run; what a line asks of a library that is not here is shown on the smallest thing
of the same kind. Which claim of the article is proven where, see ``test_article``.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics.pairwise import cosine_similarity
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2Model

from rec.artifacts import latest_artifact
from rec.data.cleaning import CleaningConfig
from rec.data.events import Event
from rec.data.lexical import lexical_tokens
from rec.data.sequences import Sequences, load_sequences
from rec.data.splits import temporal_split
from rec.encoders import EncoderConfig, load_encoder
from rec.encoders.choosing import choose_encoder
from rec.encoders.encoder import make_spec
from rec.encoders.transformer import TransformerEncoder, pool
from rec.errors import DataError
from rec.evaluation.ranking_metrics import ndcg_at_k
from rec.models.batches import training_batches
from rec.models.checkpoints import load_newest
from rec.models.sequence_model import ModelConfig
from rec.models.training import fit
from rec.models.training_config import TrainingConfig
from rec.ranking.current import current_release
from rec.ranking.recommender import Recommender
from rec.ranking.requests import Request
from rec.stages.embedding import embed
from rec.stages.preparation import prepare
from tests.rec.encoders.tiny import write_bert
from tests.rec.models.logs import ring_log, small_model

ROOT = Path(__file__).parent.parent
CODE = [*ROOT.glob("rec/**/*.py"), *ROOT.glob("cluster/**/*.py"), *ROOT.glob("jobs/*.py")]
ENCODE_DATA = """\
def encode_data(texts, model):
    return tokenizer.batch_encode_plus(texts, max_length=512, pad_to_max_length=True)
"""
GENERATE = """\
def generate_recommendations(ratings, item_embeddings, top_n=5):
    for i in range(len(ratings)):
        similarity_scores = cosine_similarity(item_embeddings[i].reshape(1, -1), item_embeddings)
       相似度得分排序
        top_indices = similarity_scores.argsort()[0][-top_n:][::-1]
"""
WORDS = ("red", "dress", "blue", "coat", "lamp", "with", "a", "shade", "of", "paper")
TINY = ModelConfig(width=16, num_layers=1, max_length=8, dropout=0.2)
SHORT = TrainingConfig(num_epochs=2, batch_size=16, num_negatives=16)


@pytest.fixture(scope="module")
def gpt2() -> GPT2Model:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=66)
    return GPT2Model(config).eval()


@pytest.fixture(scope="module")
def recommender(released_workspace: Path) -> Recommender:
    return Recommender.load(current_release(released_workspace))


@pytest.fixture(scope="module")
def log(released_workspace: Path) -> Sequences:
    return load_sequences(latest_artifact(released_workspace, "sequences", made_by="prepare").path)


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> TransformerEncoder:
    folder = write_bert(tmp_path_factory.mktemp("bert"), WORDS)
    made = load_encoder(make_spec(EncoderConfig(model=folder, max_tokens=8, batch_size=4)))
    assert isinstance(made, TransformerEncoder)
    return made


def shuffled_ratings() -> pd.Series:
    """Return what ``train_test_split`` hands the article: rows whose labels are out of order."""
    return pd.Series([5.0, 3.0, 4.0], index=[7, 0, 9])


def visits(recommender: Recommender, number: int) -> tuple[Event, ...]:
    ids = recommender.item_ids[number : number + 4]
    return tuple(
        Event(user_id="u", event_type="view", timestamp_ms=1_740_000_000_000 + n, item_id=item)
        for n, item in enumerate(ids)
    )


def test_e1_e2_chinese_is_cut_by_a_cutter_that_is_there_and_loaded_once() -> None:
    assert "连衣裙" in lexical_tokens("一款时尚的连衣裙，红色、蓝色")
    # S-11: what the encoder reads keeps its stop words; only lexical features lose them.
    assert "不" in lexical_tokens("我不喜欢红色")


def test_e3_a_log_without_users_items_and_times_is_no_log(tmp_path: Path) -> None:
    theirs = tmp_path / "user_behavior.csv"
    theirs.write_text("sequence,rating\n浏览 连衣裙,5\n", encoding="utf-8")
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\nd1,连衣裙\n", encoding="utf-8")
    with pytest.raises(DataError, match="user_id"):
        prepare(
            tmp_path / "w", events=[str(theirs)], items=[str(items)], config=CleaningConfig(),
            num_partitions=1,
        )  # fmt: skip
    theirs.write_text("user_id,item_id,timestamp\nu,d1,1700000000\n", encoding="utf-8")
    prepared = prepare(
        tmp_path / "w", events=[str(theirs)], items=[str(items)], config=CleaningConfig(),
        num_partitions=1,
    )  # fmt: skip
    assert prepared.sequences.counts["events"] == 1


def test_e4_no_training_event_is_newer_than_any_target(log: Sequences) -> None:
    split = temporal_split(log)
    assert split.train.timestamps_ms.max() < split.cut_ms
    is_later = log.timestamps_ms >= split.cut_ms
    assert set(split.test.targets.tolist()) <= set(log.tokens[is_later].tolist())
    # The article's random split of rows, for contrast: most test rows have a later one in train.
    random = np.random.default_rng(42).random(log.num_events) < 0.2
    rows = log.rows()
    newest = np.zeros(log.num_users, dtype=np.int64)
    np.maximum.at(newest, rows[~random], log.timestamps_ms[~random])
    assert (newest[rows[random]] > log.timestamps_ms[random]).mean() > 0.8


def test_e5_chinese_is_read_by_an_encoder_that_knows_it() -> None:
    text = "一款时尚的连衣裙"
    # gpt2's kind: bytes, merged as English has them. Three tokens for every Chinese character.
    english = ByteLevelBPETokenizer()
    english.train_from_iterator(["a stylish dress in red and blue"] * 50, vocab_size=400)
    theirs = len(english.encode(text).ids)
    assert theirs == 3 * len(text)
    spec = choose_encoder(EncoderConfig(), texts=[text] * 20).spec
    assert spec.kind == "universal"
    assert 2 * load_encoder(spec).count_tokens([text])[0] < theirs


def test_e6_e7_e22_removed_calls_stand_nowhere_and_every_file_parses() -> None:
    gone = {"batch_encode_plus", "pad_to_max_length"}
    assert named(ast.parse(ENCODE_DATA)) >= gone
    with pytest.raises(IndentationError):
        ast.parse(GENERATE)
    for path in CODE:
        assert not named(ast.parse(path.read_text(encoding="utf-8"))) & gone, path


def named(tree: ast.AST) -> set[str]:
    """Return the attributes and keyword arguments that code names."""
    nodes = list(ast.walk(tree))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return names | {word.arg for call in calls for word in call.keywords if word.arg}


def test_e8_a_text_longer_than_the_model_is_cut_and_counted(
    gpt2: GPT2Model, tiny_encoder: TransformerEncoder
) -> None:
    with pytest.raises(IndexError):  # no truncation: a position that the model has not
        gpt2(input_ids=torch.ones((1, 67), dtype=torch.int64))
    before = tiny_encoder.num_truncated
    long = tiny_encoder.encode([" ".join(WORDS * 100)])
    assert tiny_encoder.num_truncated == before + 1
    np.testing.assert_allclose(long, tiny_encoder.encode([" ".join(WORDS)]), atol=1e-6)


def test_e9_no_argument_is_dead() -> None:
    def unused(*arguments: str, code: str | None = None) -> str:
        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "ARG", "--quiet"]
        done = subprocess.run(
            [*ruff, "--output-format", "concise", *arguments],
            input=code, capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        return done.stdout

    assert "ARG001 Unused function argument: `model`" in unused("-", code=ENCODE_DATA)
    assert unused("rec", "cluster", "jobs") == ""


def test_e10_e19_labels_are_arrays_in_the_order_of_their_rows(log: Sequences) -> None:
    with pytest.raises((KeyError, ValueError)):  # it is read by its labels, not by its places
        torch.tensor(shuffled_ratings())
    with pytest.raises(AttributeError, match="numpy"):
        shuffled_ratings().numpy()
    batch = next(
        training_batches(log, max_length=8, batch_size=16, generator=np.random.default_rng(0))
    )
    assert torch.as_tensor(batch.targets).dtype == torch.int64
    # A target is what the same user took next: it stands in that user's own row of the log.
    for user, targets in zip(batch.users.tolist(), batch.targets, strict=True):
        own = log.tokens[log.offsets[user] : log.offsets[user + 1]]
        assert set(targets[targets > 0].tolist()) <= set(own.tolist())


def test_e11_e12_training_learns_preference(gpt2: GPT2Model, released_workspace: Path) -> None:
    """A loss over what users took; the article reads ratings and uses none."""
    with pytest.raises(AttributeError, match="loss"):
        _ = gpt2(input_ids=torch.ones((1, 4), dtype=torch.int64)).loss
    text = (current_release(released_workspace) / "metrics.json").read_text()
    metrics = json.loads(text)["metrics"]
    assert metrics["nextray"]["ndcg@10"] > 3 * metrics["popularity"]["ndcg@10"]


def test_e13_training_is_seeded_warmed_up_kept_and_ends_without_dropout(tmp_path: Path) -> None:
    def train(**options: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
        model, rates = small_model(TINY), []
        fit(
            model, ring_log(), config=SHORT, accelerator=Accelerator(cpu=True),
            on_epoch=lambda row: rates.append(row["learning_rate"]), **options,
        )  # fmt: skip
        assert not model.training
        return {name: value.clone() for name, value in model.state_dict().items()}, rates

    weights, rates = train(checkpoints=tmp_path)
    again, _ = train()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert rates[-1] < rates[0] < SHORT.learning_rate  # up in the warm-up, then down
    kept = load_newest(tmp_path)
    assert kept is not None
    assert kept.epoch == SHORT.num_epochs
    assert all(torch.equal(kept.best[name], weights[name]) for name in weights)


def test_e14_zeroed_gradients_do_not_add_up_and_clipped_ones_are_bounded() -> None:
    weight = torch.ones(1, requires_grad=True)
    for _ in range(2):
        (1000 * weight).backward()
    assert weight.grad is not None
    assert weight.grad.item() == 2000  # what zeroing prevents: two steps in one gradient
    weight.grad.zero_()
    (1000 * weight).backward()
    assert weight.grad.item() == 1000  # and what it does not: the size of a gradient

    norms: list[float] = []

    class Watching(Accelerator):
        def clip_grad_norm_(self, parameters: Any, max_norm: Any, norm_type: Any = 2) -> Any:
            kept = list(parameters)
            before = super().clip_grad_norm_(kept, max_norm, norm_type)
            after = torch.stack([p.grad.norm() for p in kept if p.grad is not None]).norm()
            assert before > max_norm
            norms.append(float(after))
            return before

    config = TrainingConfig(num_epochs=1, batch_size=16, clip_norm=0.01)
    fit(small_model(TINY), ring_log(), config=config, accelerator=Watching(cpu=True))
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
    assert len(norms) > 2


def test_e15_e18_texts_are_encoded_a_batch_at_a_time(
    gpt2: GPT2Model, tiny_encoder: TransformerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("input_ids", "attention_mask"):  # attributes of a batch, not of a model
        with pytest.raises(AttributeError, match=name):
            getattr(gpt2, name)
    sizes, forward = [], tiny_encoder._forward

    def watched(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        sizes.append(len(ids))
        return forward(ids, mask)

    monkeypatch.setattr(tiny_encoder, "_forward", watched)
    texts = [WORDS[n % 10] for n in range(150)]
    assert tiny_encoder.encode(texts).shape == (150, tiny_encoder.width)
    assert max(sizes) == 4
    assert sum(sizes) == 150


def test_e16_padding_changes_no_embedding(gpt2: GPT2Model) -> None:
    torch.manual_seed(0)
    ids = torch.randint(1, 50, (1, 6))
    padded = torch.cat([ids, torch.zeros((1, 60), dtype=torch.int64)], dim=1)
    mask = (torch.arange(66) < 6).long().unsqueeze(0)
    with torch.inference_mode():
        short = gpt2(input_ids=ids).last_hidden_state
        long = gpt2(input_ids=padded, attention_mask=mask).last_hidden_state
    for pooling in ("mean", "last"):
        ours = pool(long, mask, pooling=pooling)
        alone = pool(short, torch.ones((1, 6), dtype=torch.int64), pooling=pooling)
        assert torch.cosine_similarity(ours, alone).item() == pytest.approx(1.0, abs=1e-5)
    unmasked = torch.cosine_similarity(long.mean(dim=1), short.mean(dim=1)).item()
    assert unmasked < 0.9


def test_e17_e20_lists_hold_k_catalog_items_and_never_the_item_itself(
    recommender: Recommender,
) -> None:
    made = np.random.default_rng(0).normal(size=(50, 8))
    theirs = [
        [j for j in cosine_similarity(row[None], made).argsort()[0][-5:] if j != i]
        for i, row in enumerate(made)
    ]
    assert {len(places) for places in theirs} == {4}  # its own first place is always the item
    item = recommender.item_ids[3]
    similar = [found.item_id for found in recommender.similar(item, k=5).items]
    assert len(similar) == 5
    assert item not in similar
    [answer] = recommender.recommend([Request(k=5)])
    ids = [found.item_id for found in answer.items]
    assert len(set(ids)) == 5
    assert set(ids) <= set(recommender.item_ids)


def test_e21_e24_one_list_a_user_whoever_else_asks(recommender: Recommender) -> None:
    """The article loops over rows, with a global for an argument; a user has many rows."""
    requests = [Request(history=visits(recommender, n), k=5) for n in (0, 40, 80)]
    together = recommender.recommend(requests)
    assert len(together) == 3  # twelve events of three users
    for request, answer in zip(requests, together, strict=True):
        [alone] = recommender.recommend([request])
        assert [i.item_id for i in alone.items] == [i.item_id for i in answer.items]
        np.testing.assert_allclose(
            [i.score for i in alone.items], [i.score for i in answer.items], atol=1e-5
        )


def test_e23_nothing_is_encoded_twice(released_workspace: Path, tmp_path: Path) -> None:
    _, is_there = embed(released_workspace, config=EncoderConfig(model="hashing"))
    assert is_there
    log, items = tmp_path / "events.csv", tmp_path / "items.csv"
    log.write_text("user_id,item_id,timestamp\nu,d1,1700000000\n", encoding="utf-8")

    def encoded(titles: str) -> int:
        items.write_text("item_id,title\n" + titles, encoding="utf-8")
        prepare(
            tmp_path / "w", events=[str(log)], items=[str(items)], config=CleaningConfig(),
            num_partitions=1,
        )  # fmt: skip
        return int(
            embed(tmp_path / "w", config=EncoderConfig(model="hashing"))[0].counts["encoded"]
        )

    assert encoded("d1,连衣裙\nd2,大衣\n") == 2
    assert encoded("d1,连衣裙\nd2,红色大衣\n") == 1


def test_e25_lists_are_of_a_catalog_without_what_was_seen_and_are_measured(
    recommender: Recommender, log: Sequences, released_workspace: Path
) -> None:
    histories = log.select_events(log.is_item)
    lists = recommender.rank(histories, k=10).items
    for user, shown in enumerate(lists):
        own = histories.tokens[histories.offsets[user] : histories.offsets[user + 1]]
        assert not set(shown.tolist()) & set(own.tolist())
    assert lists.max() <= len(recommender.item_ids) == pl.DataFrame(recommender.files.items).height
    text = (current_release(released_workspace) / "metrics.json").read_text()
    found = json.loads(text)["metrics"]["nextray"]
    for name in ("accuracy@10", "precision@10", "recall@10", "f1@10", "roc_auc@10"):
        assert 0 < found[name] < 1, name
    test = temporal_split(log).test.without_seen()
    asked = recommender.rank(test.histories, k=10).items.astype(np.int32)
    ours = ndcg_at_k(asked, test.target_offsets, test.targets)
    assert ours.mean() > 0
