"""Stacked shallow PLRNNs: the written-out gradients, the map, the bound on its orbits."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import plrnn


def drawn(models=3, dim=4, hidden=7):
    """A stack in float64 with every parameter away from its start."""
    model = plrnn.init_plrnn(range(models), dim, hidden).to(torch.float64)
    model.h1 += torch.linspace(-0.2, 0.3, dim)
    return model


def autograd_loss(model, windows, alpha):
    """The same loss by the plainest loop."""
    forced, losses = windows[0], []
    for time in range(1, len(windows)):
        state = plrnn.step(model, forced)
        losses.append((state - windows[time]).square().mean((1, 2)))
        forced = (1 - alpha[time][:, None, None]) * state + alpha[time][:, None, None] * windows[time]
    return torch.stack(losses).mean(0)


def test_written_gradients_agree_with_autograd():
    torch.manual_seed(0)
    model = drawn()
    windows = torch.randn(12, 3, 5, 4, dtype=torch.float64)
    alpha = torch.rand(12, 3, dtype=torch.float64)
    alpha[:, 0], alpha[:, 1] = 0, 0.3
    loss, gradients = plrnn.loss_and_gradients(model, windows, alpha)
    for tensor in model.tensors():
        tensor.requires_grad_()
    reference = autograd_loss(model, windows, alpha)
    torch.testing.assert_close(loss, reference.detach(), rtol=1e-12, atol=0)
    expected = torch.autograd.grad(reference.sum(), model.tensors())
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_jacobian_agrees_with_autograd():
    model = drawn(models=1)
    state = torch.randn(1, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.functional.jacobian(lambda z: plrnn.step(model, z[None, None])[0, 0], state[0, 0])
    torch.testing.assert_close(plrnn.jacobian(model, state)[0, 0], expected)


def test_orbits_stay_in_the_ball():
    model = drawn()
    spread = torch.linalg.matrix_norm(model.W1, ord=2) * model.h2.norm(dim=1) + model.h1.norm(dim=1)
    radius = spread / (1 - model.A.abs().amax(1))
    start = torch.randn(3, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start = start / start.norm(dim=-1, keepdim=True) * radius[:, None, None]
    orbit = plrnn.free_run(model, start, 300)
    assert orbit.shape == (3, 50, 300, 4)
    assert (orbit.norm(dim=-1) <= radius[:, None, None] * (1 + 1e-12)).all()
    torch.testing.assert_close(orbit[:, :, 1], plrnn.step(model, plrnn.step(model, start)))


def test_sparse_forcing_replaces_at_the_interval():
    alpha = plrnn.sparse_forcing(11, 5, 2)
    assert alpha.shape == (11, 2)
    assert alpha.nonzero()[:, 0].unique().tolist() == [0, 5, 10]


def test_training_learns_a_rotation_and_repeats_itself():
    angle = torch.arange(400) * 0.3
    series = torch.stack([angle.cos(), angle.sin()], 1)

    def free(update, model, windows):
        return torch.full(windows.shape[:2], 0.2)

    def error(model):
        prediction = plrnn.step(model, series[None, :-1].expand(len(model.A), -1, -1))
        return (prediction - series[1:]).square().mean((1, 2))

    both = plrnn.train(series, [0, 1], free, hidden=10, updates=200, points=7, rates=(3e-2, 1e-3))
    assert (error(both) < 0.2 * error(plrnn.init_plrnn([0, 1], 2, 10))).all()
    alone = plrnn.train(series, [1], free, hidden=10, updates=8, points=7)
    stacked = plrnn.train(series, [0, 1], free, hidden=10, updates=8, points=7)
    again = plrnn.train(series, [0, 1], free, hidden=10, updates=8, points=7)
    assert all(torch.equal(a, b) for a, b in zip(stacked.tensors(), again.tensors(), strict=True))
    torch.testing.assert_close(alone.W1[0], stacked[1].W1[0], rtol=1e-3, atol=1e-4)


def test_bad_input_is_named():
    model = plrnn.init_plrnn([0], 3, 4)
    windows, alpha = torch.randn(5, 1, 2, 3), torch.zeros(5, 1)
    loss = unchecked(plrnn.loss_and_gradients)
    with pytest.raises(ValueError, match="windows"):
        loss(model, windows * float("nan"), alpha)
    with pytest.raises(ValueError, match="windows"):
        loss(model, windows[:, :, :0], alpha)
    with pytest.raises(ValueError, match="windows"):
        loss(model, windows[..., :2], alpha)
    with pytest.raises(ValueError, match="alpha"):
        loss(model, windows, alpha[:3])
    with pytest.raises(ValueError, match="start"):
        unchecked(plrnn.free_run)(model, windows[0] * float("nan"), 2)
    with pytest.raises(ValueError, match="start"):
        unchecked(plrnn.free_run)(model, windows[0, :, :, :2], 2)
    with pytest.raises(ValueError, match="series"):
        unchecked(plrnn.train)(torch.zeros(0, 3), [0], None, 4, 1)
    with pytest.raises(ValueError, match="series"):
        unchecked(plrnn.train)(torch.randn(20, 3), [0], None, 4, 1, points=30)
