"""Stacked shallow PLRNNs: the written-out gradients, the map, the bound on its orbits."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import plrnn, recurrent


def drawn(models=3, dim=4, hidden=7):
    """A stack in float64 with every parameter away from its start."""
    model = plrnn.init_plrnn(range(models), dim, hidden).to(torch.float64)
    model.h1 += torch.linspace(-0.2, 0.3, dim)
    return model


def autograd_loss(model, windows, alpha):
    """The same loss by the plainest loop."""
    forced, losses = windows[0], []
    for time in range(1, len(windows)):
        state = model.step(forced)
        losses.append((state - windows[time]).square().mean((1, 2)))
        forced = (1 - alpha[time][:, None, None]) * state + alpha[time][:, None, None] * windows[time]
    return torch.stack(losses).mean(0)


def test_written_gradients_agree_with_autograd():
    torch.manual_seed(0)
    model = drawn()
    windows = torch.randn(12, 3, 5, 4, dtype=torch.float64)
    alpha = torch.rand(12, 3, dtype=torch.float64)
    alpha[:, 0], alpha[:, 1] = 0, 0.3
    loss, gradients = model.loss_and_gradients(windows, alpha)
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
    expected = torch.autograd.functional.jacobian(lambda z: model.step(z[None, None])[0, 0], state[0, 0])
    torch.testing.assert_close(model.jacobian(state)[0, 0], expected)


def test_orbits_stay_in_the_ball():
    model = drawn()
    spread = torch.linalg.matrix_norm(model.W1, ord=2) * model.h2.norm(dim=1) + model.h1.norm(dim=1)
    radius = spread / (1 - model.A.abs().amax(1))
    start = torch.randn(3, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start = start / start.norm(dim=-1, keepdim=True) * radius[:, None, None]
    orbit = recurrent.free_run(model, start, 300)
    assert orbit.shape == (3, 50, 300, 4)
    assert (orbit.norm(dim=-1) <= radius[:, None, None] * (1 + 1e-12)).all()
    torch.testing.assert_close(orbit[:, :, 1], model.step(model.step(start)))


def test_bad_input_is_named():
    model = plrnn.init_plrnn([0], 3, 4)
    windows, alpha = torch.randn(5, 1, 2, 3), torch.zeros(5, 1)
    loss = unchecked(plrnn.ShallowPLRNN.loss_and_gradients)
    with pytest.raises(ValueError, match="windows"):
        loss(model, windows * float("nan"), alpha)
    with pytest.raises(ValueError, match="windows"):
        loss(model, windows[:, :, :0], alpha)
    with pytest.raises(ValueError, match="windows"):
        loss(model, windows[..., :2], alpha)
    with pytest.raises(ValueError, match="alpha"):
        loss(model, windows, alpha[:3])
