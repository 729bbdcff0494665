"""The losses against torch's own, against the whole catalog, and against their papers' formulas."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rec.models import full_softmax as module
from rec.models.batches import training_batches
from rec.models.full_softmax import full_softmax
from rec.models.losses import generalised_bce, sampled_softmax
from rec.models.negatives import NegativeSampler, own_items, target_frequencies
from tests.rec.models.logs import ring_log, sequences_of


def directions(number: int, width: int, *, seed: int) -> Tensor:
    values = torch.randn(number, width, generator=torch.Generator().manual_seed(seed))
    return F.normalize(values, dim=-1)


def gradients_of(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize(("block_users", "block_cells"), [(4096, 1 << 20), (7, 50), (1, 1)])
def test_full_softmax_in_blocks_equals_torch(
    block_users: int, block_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_USERS", block_users)
    monkeypatch.setattr(module, "_BLOCK_CELLS", block_cells)
    users, items = directions(20, 8, seed=1).requires_grad_(), directions(33, 8, seed=2)
    items.requires_grad_()
    scale = torch.tensor(12.0, requires_grad=True)
    targets = torch.randint(1, 34, (20,), generator=torch.Generator().manual_seed(3))
    weights = torch.linspace(0, 2, 20)
    ours = full_softmax(users, items, targets, scale=scale)
    whole = F.cross_entropy(scale * users @ items.T, targets - 1, reduction="none")
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-5)
    for found, expected in zip(
        gradients_of((ours * weights).sum(), users, items, scale),
        gradients_of((whole * weights).sum(), users, items, scale),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_full_softmax_of_no_target_is_empty_and_has_zero_gradients() -> None:
    items = directions(5, 4, seed=1).requires_grad_()
    users = torch.zeros(0, 4, requires_grad=True)
    losses = full_softmax(users, items, torch.zeros(0, dtype=torch.int64), scale=torch.tensor(1.0))
    assert losses.shape == (0,)
    assert torch.equal(gradients_of(losses.sum(), items)[0], torch.zeros(5, 4))


def test_uncorrected_negatives_that_are_the_catalog_give_the_full_softmax() -> None:
    users, items, targets = directions(6, 8, seed=1), directions(9, 8, seed=2), torch.arange(1, 7)
    everyone = torch.arange(1, 10)
    ours = sampled_softmax(
        users,
        items[targets - 1],
        items,
        is_false=targets[:, None] == everyone,
        scale=torch.tensor(5.0),
    )
    whole = full_softmax(users, items, targets, scale=torch.tensor(5.0))
    torch.testing.assert_close(ours, whole)


def zipf_fit(*, corrects: bool, steps: int = 400) -> tuple[Tensor, Tensor]:
    """Fit free logits to a Zipf law by negatives drawn from that law; return fit and truth."""
    num_items = 12
    truth = 1 / torch.arange(1, num_items + 1, dtype=torch.float32)
    truth /= truth.sum()
    # One user, and items whose only coordinate is their logit: the model can be any law.
    logits = torch.zeros(num_items, 1, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    generator = torch.Generator().manual_seed(5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        targets = torch.multinomial(truth, 128, replacement=True, generator=generator)
        draws = torch.multinomial(truth, 128, replacement=True, generator=generator)
        losses = sampled_softmax(
            torch.ones(128, 1),
            logits[targets],
            logits[draws],
            is_false=targets[:, None] == draws,
            scale=torch.tensor(1.0),
            log_expected=(128 * truth[draws]).log() if corrects else None,
        )
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        schedule.step()
    return logits.detach().squeeze(1).softmax(0), truth


def test_log_q_recovers_the_true_softmax_of_a_zipf_law() -> None:
    found, truth = zipf_fit(corrects=True)
    assert (found - truth).abs().max() < 0.02
    uncorrected, _ = zipf_fit(corrects=False)
    assert (uncorrected - truth).abs().max() > 0.1


def test_gbce_is_the_papers_formula_by_hand() -> None:
    users, positives = torch.tensor([[1.0]]), torch.tensor([[0.5]])
    negatives = torch.tensor([[0.2], [-0.3], [9.0]])
    loss = generalised_bce(
        users,
        positives,
        negatives,
        is_false=torch.tensor([[False, False, True]]),
        scale=torch.tensor(2.0),
        num_items=31,
        calibration=0.75,
    )
    alpha = 3 / 30
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = -(
        beta * math.log(sigmoid(1.0 - math.log(3)))
        + math.log(1 - sigmoid(0.4 - math.log(3)))
        + math.log(1 - sigmoid(-0.6 - math.log(3)))
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_masked_negative_leaves_no_gradient() -> None:
    negatives = directions(3, 4, seed=2).requires_grad_()
    users, positives = directions(2, 4, seed=1), directions(2, 4, seed=3)
    is_false = torch.tensor([[True, False, False], [True, False, True]])
    scale = torch.tensor(3.0, requires_grad=True)
    losses = sampled_softmax(users, positives, negatives, is_false=is_false, scale=scale)
    by_negative, by_scale = gradients_of(losses.sum(), negatives, scale)
    assert torch.equal(by_negative[0], torch.zeros(4))
    assert by_negative[1].abs().sum() > 0
    assert torch.isfinite(by_scale)


def test_own_items_are_those_of_the_own_window_only() -> None:
    tokens, targets = torch.tensor([[0, 3], [4, 5]]), torch.tensor([[3, 7], [5, 0]])
    negatives = torch.tensor([7, 4, 1, 3, 7])
    assert own_items(tokens, targets, negatives).tolist() == [
        [True, False, False, True, True],
        [False, True, False, False, False],
    ]


def test_mixed_draws_come_from_catalog_and_batch_and_know_their_odds() -> None:
    log = ring_log(num_items=30)
    sampler = NegativeSampler(
        catalog=np.arange(1, 31),
        frequencies=target_frequencies(log),
        num_uniform=2_000,
        num_in_batch=4_000,
    )
    generator = np.random.default_rng(1)
    counts, expected = np.zeros(31), np.zeros(31)
    batches = list(training_batches(log, max_length=20, batch_size=8, generator=generator))
    for batch in batches:
        drawn = sampler.draw(batch, generator)
        counts += np.bincount(drawn.items, minlength=31)
        expected[drawn.items] = np.exp(drawn.log_expected)
        assert set(drawn.items[2_000:]) <= set(batch.targets[batch.targets > 0])
    assert counts[0] == 0
    # Each event but a user's first is a target once an epoch: the batches' mean is the log's law.
    np.testing.assert_allclose(counts[1:] / len(batches), expected[1:], rtol=0.12)


def test_no_item_is_expected_never() -> None:
    frequencies = target_frequencies(sequences_of([[1, 2]], num_items=4))
    assert frequencies.sum() == pytest.approx(1)
    assert frequencies[1] > 0.9
    assert frequencies.min() > 0
