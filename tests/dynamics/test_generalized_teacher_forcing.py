"""Generalized teacher forcing: limits of the strength, the chain of Jacobians, the bound on gradients."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import generalized_teacher_forcing as gtf
from touchstone.dynamics import plrnn, recurrent


def expanding(models=2, dim=3, hidden=20, scale=3.0):
    """Untrained networks in float64, scaled so that they expand."""
    model = plrnn.init_plrnn(range(models), dim, hidden).to(torch.float64)
    model.W1 *= scale
    model.h2 *= scale
    return model


def data(points, models=2, batch=4, dim=3, seed=0):
    return torch.randn(points, models, batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_limits_are_one_step_and_free_run_losses():
    model, windows = expanding(), data(9)
    full, _ = model.loss_and_gradients(windows, torch.ones(9, 2, dtype=torch.float64))
    free, _ = model.loss_and_gradients(windows, torch.zeros(9, 2, dtype=torch.float64))
    flat = windows[:-1].transpose(0, 1).flatten(1, 2)
    one_step = (model.step(flat) - windows[1:].transpose(0, 1).flatten(1, 2)).square().mean((1, 2))
    run = recurrent.free_run(model, windows[0], 8).permute(2, 0, 1, 3)
    assert (full - one_step).abs().max() < 1e-12
    assert (free - (run - windows[1:]).square().mean((0, 2, 3))).abs().max() < 1e-12
    assert (full - free).abs().max() > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7])
def test_derivative_is_the_product_of_damped_jacobians(alpha):
    model, windows = expanding(models=1), data(13, models=1, batch=1)

    def final(start):
        forced = start[None, None]
        for point in windows[1:]:
            state = model.step(forced)
            forced = (1 - alpha) * state + alpha * point
        return state[0, 0]

    product, forced = torch.eye(3, dtype=torch.float64), windows[0]
    for time in range(1, 13):
        product = model.jacobian(forced)[0, 0] @ product * (1 - alpha if time > 1 else 1)
        forced = (1 - alpha) * model.step(forced) + alpha * windows[time]
    expected = torch.autograd.functional.jacobian(final, windows[0, 0, 0])
    assert (product - expected).norm() / expected.norm() < 1e-10


def test_initial_gradients_agree_with_autograd():
    model, windows = expanding(), data(8)
    alpha = torch.tensor([0.0, 0.4], dtype=torch.float64)
    found = gtf.initial_gradients(model, windows, alpha)
    start = windows[0].clone().requires_grad_()
    forced, loss = start, 0.0
    for time in range(1, 8):
        state = model.step(forced)
        loss = loss + (state - windows[time]).square().sum()
        forced = (1 - alpha)[:, None, None] * state + alpha[:, None, None] * windows[time]
        (expected,) = torch.autograd.grad(loss, start, retain_graph=True)
        torch.testing.assert_close(found[time - 1], expected, rtol=1e-10, atol=1e-12)


def test_critical_strength_bounds_the_gradient_and_zero_does_not():
    model = expanding()
    model.A = torch.full_like(model.A, 1.05)  # expands everywhere
    orbit = data(300, batch=6)
    flat = orbit.transpose(0, 1).flatten(1, 2)
    critical = gtf.critical_alpha(model, flat)
    assert (critical > 0).all()
    assert (1 - 1 / torch.linalg.matrix_norm(model.jacobian(flat), ord=2).amax(1) - critical).abs().max() < 1e-10
    # on the data, damped Jacobians contract: their products never exceed 1
    damped = (1 - critical)[:, None] * gtf.jacobian_norms(model, flat)
    assert damped.max() <= 1 + 1e-12
    bounded = gtf.initial_gradients(model, orbit, critical).norm(dim=-1)
    free = gtf.initial_gradients(model, orbit, torch.zeros(2, dtype=torch.float64)).norm(dim=-1)
    assert (bounded[-1] < 3 * bounded[50]).all()
    assert (free[-1] > 1e3 * free[50]).all()


def test_estimate_is_the_worst_window_s_geometric_mean():
    model, windows = expanding(), data(7)
    norms = torch.linalg.matrix_norm(torch.stack([model.jacobian(states) for states in windows[:-1]]), ord=2)
    expected = 1 - 1 / norms.log().mean(0).exp().amax(1)
    torch.testing.assert_close(gtf.estimate_alpha(model, windows), expected.clamp(min=0))
    contracting = expanding(scale=0.01)
    assert (gtf.estimate_alpha(contracting, windows) == 0).all()


def test_annealing_falls_slowly_and_jumps_up_at_once():
    forcing = gtf.AdaptiveForcing(2, decay=0.9, every=5)
    contracting, windows = expanding(scale=0.01), data(7)
    assert torch.equal(forcing(0, contracting, windows), torch.full((7, 2), 0.9))
    assert torch.equal(forcing(1, contracting, windows), torch.full((7, 2), 0.9))  # no estimate in between
    torch.testing.assert_close(
        forcing(5, contracting, windows)[0], torch.full((2,), 0.81, dtype=torch.float64), check_dtype=False
    )
    forcing.alpha = torch.zeros(2)
    estimate = gtf.estimate_alpha(expanding(), windows)
    assert (estimate > 0).all()
    torch.testing.assert_close(forcing(10, expanding(), windows)[0], estimate, check_dtype=False)


def test_bad_input_is_named():
    model, windows = expanding(), data(5)
    alpha = torch.zeros(2, dtype=torch.float64)
    gradients, critical = unchecked(gtf.initial_gradients), unchecked(gtf.critical_alpha)
    with pytest.raises(ValueError, match="windows"):
        gradients(model, windows * float("nan"), alpha)
    with pytest.raises(ValueError, match="windows"):
        gradients(model, windows[..., :2], alpha)
    with pytest.raises(ValueError, match="alpha"):
        gradients(model, windows, torch.zeros(0, dtype=torch.float64))
    with pytest.raises(ValueError, match="states"):
        critical(model, windows[0] * float("nan"))
    with pytest.raises(ValueError, match="states"):
        critical(model, windows[0, :, :0])
    with pytest.raises(ValueError, match="states"):
        critical(model, windows[0, :, :, :2])
    with pytest.raises(ValueError, match="decay"):
        gtf.AdaptiveForcing(1, decay=1.5)
