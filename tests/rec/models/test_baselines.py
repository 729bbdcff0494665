"""Baselines against hand computations and against the textbook's dense formulas."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rec.data.sequences import Sequences
from rec.models.baselines import ItemKNN, PersonalFrequency, ScoredLists, Scorer, count_items
from rec.models.ease import EASE
from rec.models.factorization import ImplicitALS
from rec.models.nearest import ContentKNN, WindowedKNN
from rec.models.standard_baselines import fit_baselines
from tests.rec.models.logs import random_text, ring_log, sequences_of

NUM_ITEMS = 6
LOG = sequences_of([[1, 2, 3], [2, 3], [1, 2, 2, 4], [5], []], num_items=NUM_ITEMS)


def dense_counts(log: Sequences) -> NDArray[np.float64]:
    counts = np.zeros((log.num_users, log.num_items))
    np.add.at(counts, (log.rows(), log.tokens - 1), 1)
    return counts


def all_scorers(log: Sequences) -> list[Scorer]:
    text = random_text(log.num_items)[1:].numpy()
    return [EASE(log), ImplicitALS(log, width=8), WindowedKNN(log), ContentKNN(text)]


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    users = np.minimum(dense_counts(LOG), 1)[:, :5]  # nobody had item 6
    weights = EASE(LOG, l2=2.0).weights
    for item in range(5):
        others = np.delete(np.arange(5), item)
        rows = users[:, others]
        expected = np.linalg.solve(rows.T @ rows + 2.0 * np.eye(4), rows.T @ users[:, item])
        assert weights[others, item] == pytest.approx(expected, abs=1e-5)
        assert weights[item, item] == 0


def test_ease_shows_only_the_most_frequent_items() -> None:
    scores = EASE(LOG, max_items=3).score(LOG)
    assert np.isfinite(scores).all(axis=0).tolist() == [True, True, True, False, False, False]


def test_ials_solves_the_dense_normal_equations_of_a_history() -> None:
    model = ImplicitALS(LOG, width=4, alpha=3.0, l2=0.5)
    items = model.items.double().numpy()
    for row, counts in enumerate(dense_counts(LOG)):
        trust = np.diag(1 + 3.0 * counts)
        wish = (counts > 0).astype(float)
        left = items.T @ trust @ items + 0.5 * np.eye(4)
        expected = np.linalg.solve(left, items.T @ trust @ wish)
        assert model.user_factors(LOG)[row].numpy() == pytest.approx(expected, abs=1e-4)


def test_every_sweep_of_ials_lowers_its_loss() -> None:
    log = ring_log()
    counts = dense_counts(log)
    losses = []
    for num_sweeps in range(1, 5):
        model = ImplicitALS(log, width=8, num_sweeps=num_sweeps)
        users = model.user_factors(log).numpy()
        wrong = (1 + 10.0 * counts) * ((counts > 0) - model.score(log)) ** 2
        losses.append(wrong.sum() + 10.0 * ((users**2).sum() + (model.items.numpy() ** 2).sum()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_windowed_knn_counts_pairs_by_their_distance() -> None:
    log = sequences_of([[1, 2, 3]], num_items=3)
    # Item 1 stands 1 from 2 and 2 from 3: totals 1.5, 2, 1.5, halved as both directions share.
    near = np.array([[0, 1, 0.5], [1, 0, 1], [0.5, 1, 0]]) / 2
    totals = near.sum(axis=1)
    expected = near / np.sqrt(np.outer(totals, totals))
    assert WindowedKNN(log, window=2).neighbors.toarray() == pytest.approx(expected)
    history = sequences_of([[3, 1]], num_items=3)
    scores = WindowedKNN(log, window=2, decay=0.5).score(history)
    assert scores[0] == pytest.approx(expected[0] + 0.5 * expected[2])


def test_content_knn_finds_an_item_without_events() -> None:
    text = np.eye(4, dtype=np.float32)[[0, 1, 2, 0]]
    scores = ContentKNN(text).score(sequences_of([[2], [1], []], num_items=4))
    assert scores[1].argsort()[::-1][:2].tolist() in ([0, 3], [3, 0])
    assert scores[1, 0] == pytest.approx(scores[1, 3])
    assert not scores[2].any()


def test_content_knn_takes_away_what_all_texts_share() -> None:
    text = np.array([[1, 0.1], [1, -0.1]], dtype=np.float32)
    scores = ContentKNN(text).score(sequences_of([[1]], num_items=2))
    assert scores[0] == pytest.approx([1, -1])


def test_personal_frequency_with_decay_prefers_the_newer_of_two() -> None:
    history = sequences_of([[1, 1, 2]], num_items=2)
    often, late = (PersonalFrequency(history, decay=decay).score(history)[0] for decay in (1, 0.3))
    assert often.argmax() == 0
    assert late.argmax() == 1


@pytest.mark.parametrize("name", ["ease", "ials", "windowed_knn", "content_knn"])
def test_scores_of_a_user_do_not_depend_on_the_others(name: str) -> None:
    log = ring_log()
    [scorer] = [one for one in all_scorers(log) if one.name == name]
    alone = scorer.score(log.select_users(np.array([5])))
    assert alone[0] == pytest.approx(scorer.score(log)[5], abs=1e-5)


def test_a_user_without_events_gets_what_is_popular_from_every_baseline() -> None:
    text = random_text(NUM_ITEMS)[1:].numpy()
    cold = LOG.select_users(np.array([4]))
    for lists in fit_baselines(LOG, text=text):
        assert lists.top_k(cold, k=1, exclude_seen=True).tolist() == [[2]], lists.name


def test_what_is_not_proposed_stands_by_popularity_behind_what_is() -> None:
    lists = ScoredLists(ItemKNN(LOG), backing=count_items(LOG))
    # Nobody had anything with item 5: four times 2, then 1 and 3 by index, then 4, 6 never.
    made = lists.top_k(LOG.select_users(np.array([3])), k=5, exclude_seen=True)
    assert made.tolist() == [[2, 1, 3, 4, 6]]
    [row] = lists.top_k(LOG.select_users(np.array([1])), k=4, exclude_seen=True).tolist()
    assert row == [1, 4, 5, 6]
