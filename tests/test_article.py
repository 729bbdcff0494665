"""The article as a test: its worked example, its claims, and where each of them is proven.

M-n, S-n and E-n number the errors in the article's mathematics, its claims, and the errors in its
code. ``PROVEN`` names the test of each; those of the code are in ``test_article_code``.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rec.errors import ConfigError
from rec.evaluation.classification import accuracy_at_k, f1_at_k
from rec.evaluation.ranking_metrics import precision_at_k, recall_at_k
from rec.models.training_config import TrainingConfig
from rec.ranking.lists.penalties import popularity_penalty
from rec.ranking.release import RankingConfig
from rec.ranking.retrieval.index import ExactIndex

ROOT = Path(__file__).parent.parent
E_USER = np.array([0.1, 0.2, 0.3, 0.4, 0.5], dtype=np.float32)
E_ITEM_B = np.array([0.2, 0.3, 0.4, 0.1, 0.5], dtype=np.float32)
PROVEN = {
    "M-1": "test_article.py::test_m1_worked_cosine_is_0_8909",
    "M-2": "test_article.py::test_m2_score_of_item_b_starts_from_the_right_cosine",
    "M-3": "test_article.py::test_m3_f1_is_of_precision_and_not_of_accuracy",
    "M-4": "rec/models/test_towers.py::test_the_planted_signal_and_cold_items_are_found",
    "M-5": "test_article.py::test_m5_a_penalty_only_lowers_a_score",
    "M-6": "test_article.py::test_m6_recall_is_of_the_relevant_and_of_a_list_of_k",
    "S-01": "rec/stages/test_loop.py::test_feedback_becomes_part_of_the_next_log",
    "S-02": "rec/ranking/test_feedback_stores.py::"
    "test_events_come_back_whole_and_in_order_of_arrival",
    "S-03": "rec/stages/test_preparation.py::test_every_bad_row_is_counted_by_its_reason",
    "S-04": "rec/data/test_text.py::test_chinese_is_cut_into_words",
    "S-05": "rec/models/test_baselines.py::test_content_knn_finds_an_item_without_events",
    "S-06": "rec/encoders/test_families.py::test_family_decides_pooling_and_prompt",
    "S-07": "rec/encoders/test_families.py::test_truncation_keeps_the_beginning_and_is_counted",
    "S-08": "rec/stages/test_evaluate.py::"
    "test_order_gate_falls_for_a_model_of_the_last_item_and_not_for_a_bag",
    "S-09": "rec/models/test_text_tower.py::test_an_item_that_nobody_had_is_found_by_its_text",
    "S-10": "test_article.py::test_m1_worked_cosine_is_0_8909",
    "S-11": "rec/encoders/test_content_words.py::test_model_reads_the_content_words_alone",
    "S-12": "rec/models/test_baselines.py::test_scores_of_a_user_do_not_depend_on_the_others",
    "S-13": "rec/models/test_training.py::test_every_loss_learns_the_ring",
    "S-14": "rec/evaluation/test_report_parts.py::test_other_protocols_measure_the_same_model",
    "S-15": "rec/evaluation/test_off_policy.py::test_interleaving_finds_the_better_ranking",
    "S-16": "test_article.py::test_s16_recommending_nothing_is_more_accurate_than_a_good_list",
    "S-17": "rec/ranking/test_lists.py::test_terms_add_up_to_the_score",
    "S-18": "test_article.py::test_s18_raw_counts_drown_the_cosine_and_standardised_ones_do_not",
    "S-19": "rec/encoders/test_sequence_text.py::test_order_and_repeats_stay",
    "S-20": "rec/stages/test_loop.py::test_filters_and_exclusions_still_fill_the_list",
    "S-21": "rec/stages/test_loop.py::test_list_changes_after_one_event",
    "S-22": "cluster/serve/test_observability.py::test_metrics_count_what_was_asked",
    "S-23": "rec/ranking/test_explaining.py::test_cited_event_matters_more_than_a_random_one",
    "S-24": "rec/encoders/test_enriching.py::test_rules_quote_the_item_in_both_languages",
    "S-25": "rec/encoders/test_families.py::test_embedding_is_equal_alone_and_in_any_batch",
    "S-26": "rec/encoders/test_images.py::test_lists_and_their_json_are_read_and_gaps_are_marked",
    "S-27": "rec/encoders/test_enriching.py::test_chinese_answers_are_checked_too",
    "S-28": "jobs/test_domains.py::test_log_in_the_words_of_a_domain_becomes_lists",
    "S-29": "rec/stages/test_erasing.py::test_no_byte_of_an_erased_user_is_left",
    "S-30": "rec/models/test_segments.py::test_profile_chooses_whose_popularity_a_new_user_gets",
    "S-31": "rec/encoders/test_tuning.py::"
    "test_saved_encoder_equals_the_tuned_one_and_has_a_fingerprint_of_its_own",
    "S-32": "rec/evaluation/test_report_parts.py::"
    "test_slice_asks_only_for_the_targets_of_its_label",
    "S-33": "rec/ranking/test_lists.py::"
    "test_group_above_parity_falls_until_the_other_has_caught_up",
    "S-34": "cluster/serve/test_serve.py::test_answers_equal_the_recommender_in_process",
    "S-35": "rec/evaluation/test_off_policy.py::test_terms_let_users_out_of_the_bubble",
    "S-36": "test_constraints.py::test_dependency_is_pinned_within_its_bounds",
    "E-1": "test_article_code.py::"
    "test_e1_e2_chinese_is_cut_by_a_cutter_that_is_there_and_loaded_once",
}
"""Row -> test of it. Rows E-3 to E-25 carry their number in the name of their test."""
EDITORIAL = {"E-26", "E-27"}
"""Chapter numbers and references: nothing that code could inherit."""


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


def test_m5_a_penalty_only_lowers_a_score() -> None:
    with pytest.raises(ConfigError, match="penalty-weight must be >= 0"):
        RankingConfig(penalty_weight=-0.1)
    penalty = popularity_penalty(np.array([0, 10, 1000]))
    assert (np.diff(penalty) > 0).all()
    scores = 0.5 - 0.1 * penalty
    assert (np.diff(scores) < 0).all()  # higher is better: a score, where the article says rank


def test_m6_recall_is_of_the_relevant_and_of_a_list_of_k() -> None:
    sets = (np.array([0, 4]), np.array([1, 2, 3, 9], dtype=np.int32))
    short, long = np.array([[1, 7]], dtype=np.int32), np.array([[1, 7, 2, 8]], dtype=np.int32)
    assert recall_at_k(short, *sets)[0] == 1 / 4
    assert recall_at_k(long, *sets)[0] == 2 / 4


def test_s13_the_article_has_no_loss_and_ours_is_named() -> None:
    assert TrainingConfig().loss_for(100) == "full_softmax"
    assert TrainingConfig().loss_for(100_000) == "sampled_softmax"


def test_every_row_is_proven_by_a_test_that_there_is() -> None:
    rows = {f"M-{n}" for n in range(1, 7)} | {f"S-{n:02}" for n in range(1, 37)}
    assert rows | {"E-1"} == set(PROVEN)
    for row, place in PROVEN.items():
        path, name = place.split("::")
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), row
    code = (ROOT / "tests" / "test_article_code.py").read_text(encoding="utf-8")
    named = re.findall(r"def test_((?:e\d+_)+)", code)
    found = {f"E-{number}" for name in named for number in re.findall(r"e(\d+)_", name)}
    assert found | EDITORIAL == {f"E-{n}" for n in range(1, 28)}
