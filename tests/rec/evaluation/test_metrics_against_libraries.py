"""Our metrics against independent libraries, on random lists."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import (
    accuracy_score,
    dcg_score,
    f1_score,
    label_ranking_average_precision_score,
    ndcg_score,
    precision_recall_fscore_support,
    roc_auc_score,
)
from sklearn.metrics.pairwise import cosine_distances

from rec.evaluation.beyond_accuracy import debiased_ndcg_at_k, intra_list_diversity_at_k
from rec.evaluation.classification import (
    accuracy_at_k,
    f1_at_k,
    group_auc_at_k,
    roc_auc_at_k,
)
from rec.evaluation.ranking_metrics import (
    gini_at_k,
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

NUM_ITEMS, K = 40, 7
Sets = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]


def random_lists(num_users: int, seed: int) -> tuple[Sets, NDArray[np.bool_], NDArray[np.int64]]:
    """Return lists and sets, and the same as tables (B, V): who wants what, who is shown what."""
    random = np.random.default_rng(seed)
    lists = random.random((num_users, NUM_ITEMS)).argsort(axis=1)[:, :K] + 1
    lengths = random.integers(0, K + 1, size=num_users)
    lists[np.arange(K) >= lengths[:, None]] = 0
    wanted = random.random((num_users, NUM_ITEMS)) < random.uniform(0.02, 0.4, (num_users, 1))
    wanted[np.arange(num_users), random.integers(0, NUM_ITEMS, num_users)] = True
    rows, items = np.nonzero(wanted)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_users))])
    scores = np.zeros((num_users, NUM_ITEMS + 1), dtype=np.int64)
    scores[np.arange(num_users)[:, None], lists] = np.arange(K, 0, -1)
    sets = (lists.astype(np.int32), offsets.astype(np.int64), (items + 1).astype(np.int32))
    return sets, wanted, scores[:, 1:]


def test_classification_metrics_equal_scikit_learn() -> None:
    sets, wanted, scores = random_lists(600, 0)
    f1, accuracy = f1_at_k(*sets), accuracy_at_k(*sets, num_items=NUM_ITEMS)
    auc = group_auc_at_k(*sets, num_items=NUM_ITEMS)
    full = sets[0][:, -1] > 0  # precision counts empty places, scikit-learn knows none
    for row in range(600):
        shown = scores[row] > 0
        assert accuracy[row] == pytest.approx(accuracy_score(wanted[row], shown))
        assert auc[row] == pytest.approx(roc_auc_score(wanted[row], scores[row]))
        if full[row]:
            assert f1[row] == pytest.approx(f1_score(wanted[row], shown, zero_division=0))
    pooled = roc_auc_score(wanted.ravel(), scores.ravel())
    assert roc_auc_at_k(*sets, num_items=NUM_ITEMS) == pytest.approx(pooled)


def test_ndcg_equals_scikit_learn_on_10_000_lists() -> None:
    sets, wanted, scores = random_lists(10_000, 1)
    ours = ndcg_at_k(*sets)
    full = np.flatnonzero(sets[0][:, -1] > 0)
    for row in full[:400]:
        theirs = ndcg_score(wanted[row : row + 1], scores[row : row + 1], k=K, ignore_ties=True)
        assert ours[row] == pytest.approx(theirs)
    # Where a list ends early scikit-learn ranks the rest; the sums by hand, for all 10,000.
    discounts = 1 / np.log2(np.arange(2, K + 2))
    place = np.where(scores > 0, K - scores, 0)
    gains = (wanted & (scores > 0)) * discounts[place]
    best = np.cumsum(discounts)[np.minimum(wanted.sum(axis=1), K) - 1]
    np.testing.assert_allclose(ours, gains.sum(axis=1) / best, atol=1e-12)
    np.testing.assert_allclose(
        recall_at_k(*sets), (wanted & (scores > 0)).sum(axis=1) / wanted.sum(axis=1)
    )
    np.testing.assert_allclose(precision_at_k(*sets), (wanted & (scores > 0)).sum(axis=1) / K)


def differences(num_lists: int, seed: int) -> dict[str, float]:
    """Return each metric's largest distance to scikit-learn's or SciPy's, over random lists."""
    sets, wanted, scores = random_lists(num_lists, seed)
    shown = scores > 0
    # Users as labels, so that one call answers for each of them.
    precision, recall, f1, _ = precision_recall_fscore_support(
        wanted.T, shown.T, average=None, zero_division=0
    )
    share = shown.sum(axis=1) / K  # empty places are misses to us, and nothing to scikit-learn
    is_full = share == 1
    # SciPy's midranks: Mann and Whitney's U is the area under the curve.
    positives = wanted.sum(axis=1)
    ranks = (rankdata(scores, axis=1) * wanted).sum(axis=1)
    auc = (ranks - positives * (positives + 1) / 2) / (positives * (NUM_ITEMS - positives))
    # One relevant item a list, the first hit: its precision is the reciprocal of its rank.
    has_hit = (wanted & shown).any(axis=1)
    first = np.where(wanted & shown, scores, 0).argmax(axis=1)
    alone = np.eye(NUM_ITEMS, dtype=bool)[first]
    assert not mrr_at_k(*sets)[~has_hit].any()
    sizes = np.tri(NUM_ITEMS)  # row m holds m + 1 targets: the best lists there can be
    best = np.asarray([dcg_score(row[None], row[None], k=K) for row in sizes])[positives - 1]
    gained = (wanted & shown) / best[:, None]  # of what is not shown 0
    blocks = [slice(start, start + 20) for start in range(0, num_lists, 20)]
    ndcg = ndcg_at_k(*sets)
    counts = np.random.default_rng(seed).integers(0, 1000, NUM_ITEMS)
    gains = wanted / np.sqrt(counts + 1)
    pairs = {
        "precision": (precision_at_k(*sets), precision * share),
        "recall": (recall_at_k(*sets), recall),
        "f1, full lists": (f1_at_k(*sets)[is_full], f1[is_full]),
        "hit rate": (hit_rate_at_k(*sets), (precision > 0).astype(float)),
        "accuracy, mean": (
            accuracy_at_k(*sets, num_items=NUM_ITEMS).mean(),
            accuracy_score(wanted.ravel(), shown.ravel()),
        ),
        "group AUC": (group_auc_at_k(*sets, num_items=NUM_ITEMS), auc),
        "ROC AUC, pooled": (
            roc_auc_at_k(*sets, num_items=NUM_ITEMS),
            roc_auc_score(wanted.ravel(), scores.ravel()),
        ),
        "MRR, mean": (
            mrr_at_k(*sets)[has_hit].mean(),
            label_ranking_average_precision_score(alone[has_hit], scores[has_hit] + 0.0),
        ),
        "NDCG, means of 20": (
            np.asarray([ndcg[rows].mean() for rows in blocks]),
            np.asarray([dcg_score(gained[rows], scores[rows], k=K) for rows in blocks]),
        ),
        "debiased NDCG": (
            debiased_ndcg_at_k(*sets, counts=counts),
            dcg_score(gains * shown, scores, k=K) / dcg_score(gains, gains, k=K),
        ),
    }
    return {name: float(np.abs(ours - theirs).max()) for name, (ours, theirs) in pairs.items()}


def test_every_metric_of_10_000_lists_equals_scikit_learn() -> None:
    found = differences(10_000, 5)
    assert max(found.values()) < 1e-12, found


def test_diversity_equals_the_mean_pairwise_distance_of_scikit_learn() -> None:
    random = np.random.default_rng(2)
    embeddings = random.normal(size=(NUM_ITEMS, 5)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    (lists, _, _), _, _ = random_lists(200, 2)
    ours = intra_list_diversity_at_k(lists, embeddings=embeddings)
    for row, items in enumerate(lists):
        shown = items[items > 0] - 1
        if len(shown) < 2:
            assert ours[row] == 0.0
            continue
        distances = cosine_distances(embeddings[shown])
        pairs = distances[~np.eye(len(shown), dtype=bool)]
        assert ours[row] == pytest.approx(pairs.mean(), abs=1e-5)


def test_gini_equals_the_mean_absolute_difference() -> None:
    (lists, _, _), _, _ = random_lists(10_000, 3)
    exposures = np.bincount(lists.ravel(), minlength=NUM_ITEMS + 1)[1:].astype(float)
    differences = np.abs(exposures[:, None] - exposures[None, :]).mean()
    expected = differences / (2 * exposures.mean())
    assert gini_at_k(lists, num_items=NUM_ITEMS) == pytest.approx(expected)


def test_debiased_ndcg_without_power_weighs_all_targets_alike() -> None:
    sets, wanted, _ = random_lists(300, 4)
    counts = np.random.default_rng(4).integers(0, 1000, NUM_ITEMS)
    discounts = 1 / np.log2(np.arange(2, K + 2))
    best = np.cumsum(discounts)[np.minimum(wanted.sum(axis=1), K) - 1]
    expected = (ndcg_at_k(*sets) * best).sum() / best.sum()
    assert debiased_ndcg_at_k(*sets, counts=counts, power=0.0) == pytest.approx(expected)
    popular = np.argsort(-counts)[:K] + 1
    lists = np.tile(popular.astype(np.int32), (300, 1))
    weighed = debiased_ndcg_at_k(lists, *sets[1:], counts=counts)
    assert weighed < debiased_ndcg_at_k(lists, *sets[1:], counts=counts, power=0.0)
