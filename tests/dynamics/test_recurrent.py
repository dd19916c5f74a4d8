"""The trainer of recurrent reconstructors: schedules, windows, noise, clipping, repeatability."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import plrnn, recurrent


def free(update, model, windows):
    return torch.full(windows.shape[:2], 0.2)


def circle():
    angle = torch.arange(400) * 0.3
    return torch.stack([angle.cos(), angle.sin()], 1)


def trained(seeds, updates, hidden=10, **settings):
    return recurrent.train(plrnn.init_plrnn(seeds, 2, hidden), circle(), seeds, free, updates, points=7, **settings)


def test_sparse_forcing_replaces_at_the_interval():
    alpha = recurrent.sparse_forcing(11, 5, 2)
    assert alpha.shape == (11, 2)
    assert alpha.nonzero()[:, 0].unique().tolist() == [0, 5, 10]


def test_training_learns_a_rotation_and_repeats_itself():
    series = circle()

    def error(model):
        prediction = model.step(series[None, :-1].expand(len(model.A), -1, -1))
        return (prediction - series[1:]).square().mean((1, 2))

    both = trained([0, 1], 200, rates=(3e-2, 1e-3))
    assert (error(both) < 0.2 * error(plrnn.init_plrnn([0, 1], 2, 10))).all()
    alone, stacked, again = trained([1], 8, noise=0.1), trained([0, 1], 8, noise=0.1), trained([0, 1], 8, noise=0.1)
    assert all(torch.equal(a, b) for a, b in zip(stacked.tensors(), again.tensors(), strict=True))
    torch.testing.assert_close(alone.W1[0], stacked[1].W1[0], rtol=1e-3, atol=1e-4)
    assert not torch.equal(stacked.W1, trained([0, 1], 8).W1)


def test_models_with_one_seed_see_the_same_windows_and_noise():
    twins = trained([3, 3, 4], 5, noise=0.1)
    torch.testing.assert_close(twins.W1[0], twins.W1[1])
    assert not torch.allclose(twins.W1[0], twins.W1[2])
    windows = torch.zeros(50, 3, 40, 2)
    disturbed = recurrent.WindowNoise([3, 3, 4], 0.05)(windows)
    assert torch.equal(disturbed[:, 0], disturbed[:, 1])
    assert not torch.equal(disturbed[:, 0], disturbed[:, 2])
    assert abs(disturbed.std() - 0.05) < 0.002


def test_clipping_scales_each_model_alone():
    small, large = torch.tensor([0.3, 0.0]), torch.tensor([30.0, 40.0])
    gradients = [torch.stack([small, large, torch.tensor([float("inf"), 1.0])]), torch.zeros(3, 1, 2)]
    found = recurrent.clipped(gradients, 5.0)[0]
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.0], [3.0, 4.0], [0.0, 0.0]]))


def test_outer_sum_is_the_sum_over_time_and_batch():
    left, right = torch.randn(4, 2, 3, 5), torch.randn(4, 2, 3, 6)
    torch.testing.assert_close(recurrent.outer_sum(left, right), torch.einsum("tsbi,tsbj->sij", left, right))


def test_a_stack_selects_and_converts_its_models():
    stack = plrnn.init_plrnn([0, 1], 2, 4)
    assert torch.equal(stack[1].W1, stack.W1[1:])
    assert stack.to(torch.float64).h2.dtype == torch.float64


def test_bad_input_is_named():
    model, train = plrnn.init_plrnn([0], 3, 4), unchecked(recurrent.train)
    with pytest.raises(ValueError, match="start"):
        unchecked(recurrent.free_run)(model, torch.full((1, 2, 3), float("nan")), 2)
    with pytest.raises(ValueError, match="start"):
        unchecked(recurrent.free_run)(model, torch.randn(1, 2, 2), 2)
    with pytest.raises(ValueError, match="series"):
        train(model, torch.zeros(0, 3), [0], None, 1)
    with pytest.raises(ValueError, match="series"):
        train(model, torch.full((99, 3), float("inf")), [0], None, 1)
    with pytest.raises(ValueError, match="series"):
        train(model, torch.randn(20, 3), [0], None, 1, points=30)
    with pytest.raises(ValueError, match="seeds"):
        train(model, torch.randn(99, 3), [0, 1], None, 1, points=30)
