"""Estimates from a log of known propensities against the truth of a simulator."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rec.errors import ConfigError, DataError
from rec.evaluation.experiments import (
    assign_arm,
    check_sample_ratio,
    interleaving_winner,
    team_draft,
)
from rec.evaluation.filter_bubble import BubbleConfig, simulate_bubble
from rec.evaluation.off_policy import (
    Estimate,
    OffPolicyConfig,
    doubly_robust,
    ips,
    snips,
    support_of,
)
from rec.ranking.lists.exploring import explore_tail, position_probabilities

NUM_ITEMS, NUM_PLACES = 12, 3


def simulate(seed: int) -> tuple[dict[str, Estimate], float]:
    """Log 500 lists of one policy; estimate another that turns its scores round.

    Rewards are per place, their chances known.
    """
    random = np.random.default_rng(seed)
    scores = np.linspace(2.0, 0.0, NUM_ITEMS)
    chances = random.uniform(0.05, 0.6, NUM_ITEMS)
    other = scores[::-1]
    target = place_table(other, epsilon=1.0)
    logged_table = place_table(scores, epsilon=0.8)
    truth = float((target * chances[:, None]).sum() / NUM_PLACES)
    logits = (scores - scores.max()) / scores.std()
    noise = random.gumbel(size=(500, NUM_ITEMS)) * (random.random((500, 1)) < 0.8)
    drawn = np.argsort(-(logits + noise), axis=1)[:, :NUM_PLACES]  # 0.8 of the lists
    items, places = drawn.ravel(), np.tile(np.arange(NUM_PLACES), 500)
    values = (
        (random.random(items.shape) < chances[items]).astype(np.float64),
        logged_table[items, places],
        target[items, places],
    )
    config = OffPolicyConfig(min_effective=20)
    guess = np.full(NUM_ITEMS, 0.3)  # a poor model
    predicted = guess[items]
    baseline = (target * guess[:, None]).sum(axis=0)[places]
    estimates = {
        "ips": ips(*values, config=config),
        "snips": snips(*values, config=config),
        "dr": doubly_robust(*values, predicted=predicted, baseline=baseline, config=config),
    }
    return estimates, truth


TABLES: dict[tuple[bytes, float], NDArray[np.float64]] = {}


def place_table(scores: NDArray[np.float64], *, epsilon: float) -> NDArray[np.float64]:
    """Return the probability of every item at every place, (V, T)."""
    key = (scores.tobytes(), epsilon)
    if key not in TABLES:
        weights = np.exp((scores - scores.max()) / scores.std())
        table = np.zeros((NUM_ITEMS, NUM_PLACES))
        for item in range(NUM_ITEMS):
            others = [other for other in range(NUM_ITEMS) if other != item]
            for place in range(NUM_PLACES):
                order = np.asarray([*others[:place], item, *others[place:]])[:NUM_PLACES]
                table[item, place] = position_probabilities(weights, order)[place]
        table *= epsilon
        for place in range(NUM_PLACES):
            table[place, place] += 1 - epsilon
        TABLES[key] = table
    return TABLES[key]


def test_served_draws_have_the_propensities_of_the_table() -> None:
    scores = np.linspace(2.0, 0.0, NUM_ITEMS)
    table, random = place_table(scores, epsilon=0.8), np.random.default_rng(0)
    for _ in range(20):
        drawn = explore_tail(scores, num_places=NUM_PLACES, epsilon=0.8, generator=random)
        expected = table[drawn.order, np.arange(NUM_PLACES)]
        assert drawn.propensities == pytest.approx(expected, abs=1e-9)
    assert table.sum(axis=0) == pytest.approx(1.0, abs=1e-9)


def coverage(num_runs: int) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Return in how many runs each estimator's interval covers the truth, and all errors."""
    covered = dict.fromkeys(("ips", "snips", "dr"), 0)
    errors: dict[str, list[float]] = {name: [] for name in covered}
    for seed in range(num_runs):
        estimates, truth = simulate(seed)
        for name, estimate in estimates.items():
            covered[name] += estimate.low <= truth <= estimate.high
            errors[name].append(estimate.value - truth)
    return covered, errors


def test_intervals_cover_the_truth_in_nine_of_ten_runs() -> None:
    covered, errors = coverage(200)
    assert min(covered.values()) >= 180, covered
    # Over 200 runs what is left of the error is bias, within three standard errors.
    for name, values in errors.items():
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200) + 0.01, name
    assert np.std(errors["snips"]) < np.std(errors["ips"])


def test_answer_without_support_is_refused() -> None:
    rewards, half = np.ones(500), np.full(500, 0.5)
    with pytest.raises(DataError, match="impressions without propensities"):
        ips(rewards, np.zeros(500), half)
    with pytest.raises(DataError, match="even ones"):
        snips(rewards, half, np.eye(500)[0])
    with pytest.raises(DataError, match=r"only 60\.0% of what the other policy would"):
        ips(rewards, half, half, support=support_of(np.array([[1.0, 0.0]]), np.array([[0.6, 0.4]])))
    with pytest.raises(DataError, match="expected logged places"):
        ips(np.zeros(0), np.zeros(0), np.zeros(0))


def test_arms_are_stable_independent_and_of_the_asked_size() -> None:
    shares = {"control": 0.8, "new": 0.2}
    users = [f"user-{number}" for number in range(20_000)]
    arms = {
        name: [assign_arm(u, experiment=name, shares=shares, key=b"key") == "new" for u in users]
        for name in ("a", "b")
    }
    assert arms["a"] == [
        assign_arm(u, experiment="a", shares=shares, key=b"key") == "new" for u in users
    ]
    assert np.mean(arms["a"]) == pytest.approx(0.2, abs=0.01)
    both = np.mean(np.asarray(arms["a"]) & np.asarray(arms["b"]))
    assert both == pytest.approx(0.04, abs=0.006)
    counts = {"control": 20_000 - sum(arms["a"]), "new": sum(arms["a"])}
    assert check_sample_ratio(counts, shares=shares).is_sound
    with pytest.raises(ConfigError, match="sum to 1"):
        assign_arm("u", experiment="a", shares={"x": 0.4}, key=b"key")


def test_interleaving_finds_the_better_ranking() -> None:
    random = np.random.default_rng(0)
    good, bad = [f"i{n}" for n in range(10)], [f"i{n}" for n in range(9, -1, -1)]
    wins = []
    for _ in range(200):
        made = team_draft(bad, good, k=6, generator=random)
        assert len(set(made.items)) == 6
        assert abs(sum(made.teams) - 3) == 0
        clicks = [random.random() < 0.8 / (1 + int(item[1:])) for item in made.items]
        score = sum(
            (1 if team else -1) for team, hit in zip(made.teams, clicks, strict=True) if hit
        )
        wins.append(score)
    assert sum(win > 0 for win in wins) > sum(win < 0 for win in wins)
    assert interleaving_winner(wins) < 0.001


def test_terms_let_users_out_of_the_bubble() -> None:
    plain = simulate_bubble(BubbleConfig())
    terms = simulate_bubble(
        BubbleConfig(popularity_weight=0.05, repetition_weight=0.1, diversity=0.5)
    )
    assert terms.topic_entropy[-1] > plain.topic_entropy[-1] + 0.3
    assert terms.coverage[5:].mean() > plain.coverage[5:].mean()
    assert terms.gini[-1] < plain.gini[-1]
