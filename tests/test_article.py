"""The article as a test: its worked example, and for its errors what this code does instead.

M-n and E-n number the errors that were found in the article's mathematics and code. A test that
shows its line fail would test somebody else's library, so each holds our counterpart.
"""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2Model

from rec.data.lexical import lexical_tokens
from rec.data.sequences import load_sequences
from rec.data.splits import temporal_split
from rec.encoders.transformer import pool
from rec.evaluation.classification import accuracy_at_k, f1_at_k
from rec.evaluation.ranking_metrics import precision_at_k, recall_at_k
from rec.ranking.index import ExactIndex
from rec.ranking.penalties import popularity_penalty
from rec.ranking.recommender import Recommender, current_release
from rec.ranking.requests import Request

ROOT = Path(__file__).parent.parent
E_USER = np.array([0.1, 0.2, 0.3, 0.4, 0.5], dtype=np.float32)
E_ITEM_B = np.array([0.2, 0.3, 0.4, 0.1, 0.5], dtype=np.float32)


def unit(vector: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(vector / np.linalg.norm(vector)).unsqueeze(0)


def served_cosine() -> float:
    nothing = torch.zeros((2, 0), dtype=torch.int64)
    _, scores = ExactIndex(unit(E_ITEM_B)).search(unit(E_USER), k=1, excluded=nothing)
    return float(scores[0, 0])


def test_m1_worked_cosine_is_0_8909() -> None:
    assert served_cosine() == pytest.approx(0.49 / 0.55)
    assert round(served_cosine(), 4) == 0.8909
    # The printed 0.445 is half of it: there is no other way to reach that number.
    assert served_cosine() / 2 == pytest.approx(0.445, abs=1e-3)


def test_m2_score_of_item_b_starts_from_the_right_cosine() -> None:
    penalty = popularity_penalty(np.array([0, 1, 3]))  # item B is the middle one: average
    assert served_cosine() - 0.1 * float(penalty[1]) == pytest.approx(0.8909, abs=1e-4)
    assert served_cosine() - 0.1 * float(penalty[2]) < 0.8909 - 0.1


def test_m3_f1_is_of_precision_and_not_of_accuracy() -> None:
    lists = np.array([[1, 2, 3, 4, 5]], dtype=np.int32)
    sets = (np.array([0, 5]), np.array([1, 2, 90, 91, 92], dtype=np.int32))
    precision, recall = float(precision_at_k(lists, *sets)[0]), float(recall_at_k(lists, *sets)[0])
    accuracy = float(accuracy_at_k(lists, *sets, num_items=100)[0])
    assert f1_at_k(lists, *sets)[0] == pytest.approx(2 * precision * recall / (precision + recall))
    assert f1_at_k(lists, *sets)[0] != pytest.approx(2 * accuracy * recall / (accuracy + recall))


def test_s16_recommending_nothing_is_more_accurate_than_a_good_list() -> None:
    good = np.arange(1, 11, dtype=np.int32)[None]
    sets = (np.array([0, 1]), np.array([1], dtype=np.int32))
    empty = accuracy_at_k(np.zeros_like(good), *sets, num_items=8000)[0]
    assert empty > accuracy_at_k(good, *sets, num_items=8000)[0] > 0.99


def test_s18_raw_counts_drown_the_cosine_and_standardised_ones_do_not() -> None:
    random = np.random.default_rng(0)
    cosines = random.uniform(-0.2, 0.9, 2000)
    counts = (random.pareto(1.1, 2000) * 20).astype(np.int64)
    best = set(np.argsort(-cosines)[:10].tolist())
    raw = set(np.argsort(-(cosines - 0.01 * counts))[:10].tolist())
    ours = set(np.argsort(-(cosines - 0.1 * popularity_penalty(counts)))[:10].tolist())
    assert abs(np.corrcoef(cosines - 0.01 * counts, cosines)[0, 1]) < 0.1
    assert np.corrcoef(cosines - 0.1 * popularity_penalty(counts), cosines)[0, 1] > 0.9
    assert len(ours & best) >= len(raw & best)


def test_e1_e2_chinese_is_cut_by_a_cutter_that_is_there_and_loaded_once() -> None:
    assert "连衣裙" in lexical_tokens("一款时尚的连衣裙，红色、蓝色")
    # S-11: what the encoder reads keeps its stop words; only lexical features lose them.
    assert "不" in lexical_tokens("我不喜欢红色")


def test_e4_no_training_event_is_newer_than_any_target(released_workspace: Path) -> None:
    room = released_workspace / "sequences"
    sequences = load_sequences(room / (room / "latest").read_text().strip())
    split = temporal_split(sequences)
    assert split.train.timestamps_ms.max() < split.cut_ms
    is_later = sequences.timestamps_ms >= split.cut_ms
    assert set(split.test.targets.tolist()) <= set(sequences.tokens[is_later].tolist())
    # The article's random split of rows, for contrast: most test rows have a later one in train.
    random = np.random.default_rng(42).random(sequences.num_events) < 0.2
    rows = sequences.rows()
    newest = np.zeros(sequences.num_users, dtype=np.int64)
    np.maximum.at(newest, rows[~random], sequences.timestamps_ms[~random])
    assert (newest[rows[random]] > sequences.timestamps_ms[random]).mean() > 0.8


def test_e16_padding_changes_no_embedding() -> None:
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2)).eval()
    ids = torch.randint(1, 50, (1, 6))
    padded = torch.cat([ids, torch.zeros((1, 60), dtype=torch.int64)], dim=1)
    mask = (torch.arange(66) < 6).long().unsqueeze(0)
    with torch.inference_mode():
        short = model(input_ids=ids).last_hidden_state
        long = model(input_ids=padded, attention_mask=mask).last_hidden_state
    for pooling in ("mean", "last"):
        ours = pool(long, mask, pooling=pooling)
        alone = pool(short, torch.ones((1, 6), dtype=torch.int64), pooling=pooling)
        assert torch.cosine_similarity(ours, alone).item() == pytest.approx(1.0, abs=1e-5)
    unmasked = torch.cosine_similarity(long.mean(dim=1), short.mean(dim=1)).item()
    assert unmasked < 0.9


def test_e17_e20_e24_lists_hold_k_catalog_items_for_a_user_and_never_what_they_had(
    released_workspace: Path,
) -> None:
    recommender = Recommender.load(current_release(released_workspace))
    item = recommender.item_ids[3]
    similar = [found.item_id for found in recommender.similar(item, k=5).items]
    assert len(similar) == 5
    assert item not in similar  # the article's top five always begins with the item itself
    [answer] = recommender.recommend([Request(k=5)])
    ids = [found.item_id for found in answer.items]
    assert len(set(ids)) == 5
    assert set(ids) <= set(recommender.item_ids)


def test_e11_e12_training_learns_preference(released_workspace: Path) -> None:
    """E-11 and E-12: a loss over what users took; the article reads ratings and uses none."""
    text = (current_release(released_workspace) / "metrics.json").read_text()
    metrics = json.loads(text)["metrics"]
    assert metrics["nextray"]["ndcg@10"] > 3 * metrics["popularity"]["ndcg@10"]


def test_e6_e7_removed_calls_stand_nowhere_in_the_code() -> None:
    gone = {"batch_encode_plus", "pad_to_max_length"}
    for path in [*ROOT.glob("rec/**/*.py"), *ROOT.glob("cluster/**/*.py"), *ROOT.glob("jobs/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))  # E-22: every file parses
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        names |= {
            k.arg for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords if k.arg
        }
        assert not names & gone, path
