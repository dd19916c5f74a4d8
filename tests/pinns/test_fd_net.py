"""FD-Net: the block against forward Euler and its composed stencil, Steihaug's steps, Hessian products, and the baselines."""

import math

import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns.fd_net import FDNet, flat_loss, hessian_product, load, rollout, steihaug, trust_region
from touchstone.pinns.fd_net_baselines import (
    ALPHA,
    FixedStencil,
    PlainCNN,
    adam,
    forward_euler,
    heat_trajectories,
    lbfgs,
    least_squares_stencil,
    observed,
    reacting_trajectories,
)


def random(*shape, seed=0):
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def true_stencil(network, number):
    """Write second differences with the diffusion number ``number`` into a network."""
    with torch.no_grad():
        network.taps.copy_(torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64).expand_as(network.taps))
        network.weights.copy_(torch.tensor([number / network.auxiliary, 0.0], dtype=torch.float64))
    return network


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("auxiliary", [1, 3])
def test_true_stencil_is_forward_euler(dims, auxiliary):
    network = true_stencil(FDNet(dims, auxiliary), 0.6)
    field = random(2, *[9] * dims)
    expected = field.clone()
    for _ in range(auxiliary):
        change = torch.zeros_like(expected)
        for axis in range(-dims, 0):
            change += torch.roll(expected, 1, axis) - 2 * expected + torch.roll(expected, -1, axis)
        inside = (slice(None), *[slice(1, -1)] * dims)
        expected[inside] = (expected + 0.6 / auxiliary * change)[inside]
    assert (network(field) - expected).abs().max() < 1e-12
    assert torch.equal(network(field)[:, 0], field[:, 0]) and torch.equal(network(field)[..., -1], field[..., -1])


def test_axes_have_their_own_filters():
    network = FDNet(2, 1)
    with torch.no_grad():
        true_stencil(network, 0.5).weights[1] = 0.0
    field = random(8, 8)
    expected = 0.5 * (field[:-2, 1:-1] - 2 * field[1:-1, 1:-1] + field[2:, 1:-1])
    assert torch.allclose((network(field) - field)[1:-1, 1:-1], expected, atol=1e-13)


def test_applications_equal_one_convolution_with_the_composed_stencil():
    network = FDNet(1, auxiliary=4, seed=3)
    field = random(5, 40)
    whole = network.composed().detach()
    assert whole.shape == (9,)
    expected = sum(whole[k] * field[:, k : 40 - 8 + k] for k in range(9))
    assert (network(field)[:, 4:-4] - expected).abs().max() < 1e-10


def test_diffusion_number_is_read_off_the_composed_stencil():
    for auxiliary in (1, 2, 5):
        assert true_stencil(FDNet(1, auxiliary), 0.7).diffusion_number().item() == pytest.approx(0.7, abs=1e-12)


def test_source_and_reaction_enter_with_their_weights():
    field, source = random(3, 10), random(3, 10, seed=1)
    network = true_stencil(FDNet(1, 1, forced=True, reactive=True), 0.0)
    with torch.no_grad():
        network.source_weight.fill_(0.3)
        network.reaction.copy_(torch.tensor([0.5, 2.0]))
    inside = field + 0.3 * source + 0.5 * torch.tanh(2 * field)
    assert torch.allclose(network(field, source)[:, 1:-1], inside[:, 1:-1], atol=1e-13)


def test_parameters_are_few_and_random():
    assert sum(p.numel() for p in FDNet(1).parameters()) == 6
    assert sum(p.numel() for p in FDNet(1, forced=True, reactive=True).parameters()) == 9
    assert not torch.equal(FDNet(seed=0).taps, FDNet(seed=1).taps)
    assert torch.equal(FDNet(seed=1).taps, FDNet(seed=1).taps)


def test_loss_compares_rollouts_of_every_length_with_observations():
    network, fields = FDNet(1, 2), heat_trajectories(0, 0.4, 6, batch=3, points=20).fields
    flat, loss = flat_loss(network, fields, ahead=2)
    one = (network(fields[:, :4]) - fields[:, 1:5]).square().mean()
    two = (network(network(fields[:, :4])) - fields[:, 2:]).square().mean()
    assert torch.allclose(loss(flat), (one + two) / 2, rtol=1e-12)
    assert torch.equal(load(FDNet(1, 2, seed=9), flat).taps, network.taps)


def quadratic(seed=0, negative=False):
    """A symmetric matrix, positive definite or with negative eigenvalues, and a vector."""
    root = random(8, 8, seed=seed)
    matrix = root @ root.T + 0.5 * torch.eye(8, dtype=torch.float64)
    return matrix - 8 * torch.eye(8, dtype=torch.float64) if negative else matrix, random(8, seed=seed + 100)


def test_steihaug_solves_a_convex_model_inside_a_large_radius():
    matrix, gradient = quadratic()
    small = 1e-18 * gradient  # min(1/2, sqrt|g|): the smaller the gradient, the more exact the solve
    step, acted, taken = steihaug(small, lambda v: matrix @ v, radius=1e6)
    assert (matrix @ step + small).norm() < 1e-8 * small.norm()
    assert torch.allclose(acted, matrix @ step, rtol=1e-10, atol=0)
    assert taken <= 16


def test_steihaug_stops_at_the_boundary_and_descends():
    for negative in (False, True):
        matrix, gradient = quadratic(1, negative)
        step, acted, _ = steihaug(gradient, lambda v, a=matrix: a @ v, radius=0.01)
        assert step.norm().item() == pytest.approx(0.01, rel=1e-9)
        assert torch.allclose(acted, matrix @ step, rtol=1e-9)
        cauchy = -0.01 * gradient / gradient.norm()
        model = lambda p, a=matrix, g=gradient: g @ p + p @ a @ p / 2  # noqa: E731
        assert model(step) <= model(cauchy) + 1e-12 < 0
    matrix, gradient = quadratic(2, negative=True)
    step, _, _ = steihaug(gradient, lambda v: matrix @ v, radius=50.0)
    assert step.norm().item() == pytest.approx(50, rel=1e-9)


def test_hessian_products_equal_the_explicit_hessian():
    network = FDNet(1, 3, reactive=True, seed=2)
    flat, loss = flat_loss(network, heat_trajectories(1, 0.5, 8, batch=2, points=16).fields)
    assert len(flat) == 8
    vector = flat.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(vector), vector, create_graph=True)
    hessian = torch.autograd.functional.hessian(loss, flat)
    direction = random(8)
    assert (hessian_product(gradient, vector, direction) - hessian @ direction).abs().max() < 1e-8


def test_trust_region_counts_its_work_and_never_goes_up():
    calls = []

    def rosenbrock(v):
        calls.append(1)
        return (1 - v[0]) ** 2 + 100 * (v[1] - v[0] ** 2) ** 2

    descent = trust_region(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64), budget=400)
    assert (descent.vector - 1).abs().max() < 1e-6
    assert all(b <= a for a, b in zip(descent.losses, descent.losses[1:], strict=False))
    assert len(calls) == len(descent.costs)
    products = [b - a - 1 for a, b in zip(descent.costs, descent.costs[1:], strict=False)]
    assert all(p % 2 == 0 and p >= 2 for p in products)


def test_trust_region_leaves_a_saddle_and_survives_an_infinite_loss():
    saddle = lambda v: v[0] ** 2 - v[1] ** 2 + v[1] ** 4  # noqa: E731
    descent = trust_region(saddle, torch.tensor([1.0, 1e-3], dtype=torch.float64), budget=100)
    assert abs(abs(descent.vector[1].item()) - math.sqrt(0.5)) < 1e-5
    wall = lambda v: (v[0] - 1.9) ** 2 if v[0] < 2 else v[0] * torch.inf  # noqa: E731
    assert trust_region(wall, torch.tensor([-3.0], dtype=torch.float64), budget=100).losses[-1] < 1e-8


def test_training_identifies_the_diffusion_number():
    data = heat_trajectories(0, 0.3, 12, batch=6, points=40)
    network = FDNet(1, 1, seed=0)
    flat, loss = flat_loss(network, data.fields)
    load(network, trust_region(loss, flat, budget=300).vector)
    assert network.diffusion_number().item() == pytest.approx(0.3, rel=0.03)
    later = heat_trajectories(5, 0.3, 40, batch=4, points=40).fields
    path = rollout(network, later[:, 0], 39).movedim(0, 1)
    assert (path - later[:, 1:]).norm() < 0.02 * later[:, 1:].norm()


def test_trajectories_solve_the_heat_equation():
    for dims in (1, 2):
        data = heat_trajectories(0, 0.001, 3, batch=2, points=129, dims=dims, modes=3, forced=True)
        u = data.fields
        second = sum(torch.roll(u, 1, a) - 2 * u + torch.roll(u, -1, a) for a in range(-dims, 0))
        rate = (u[:, 2] - u[:, 0]) / 2
        gap = (rate - data.number * second[:, 1] - data.source)[(slice(None), *[slice(1, -1)] * dims)]
        assert gap.abs().max() < 3e-3 * rate.abs().max()
        assert u[:, :, 0].abs().max() == 0 and u[..., -1].abs().max() == 0


def test_reaction_moves_fields_towards_plus_and_minus_one():
    data = reacting_trajectories(0, 0.4, 5, batch=3)
    u, step = data.fields, 0.4 / 63**2 / ALPHA
    change = ALPHA * (u[:, :, :-2] - 2 * u[:, :, 1:-1] + u[:, :, 2:]) * 63**2 + 10 * (u - u**3)[:, :, 1:-1]
    rate = (u[:, 2:] - u[:, :-2])[:, :, 1:-1] / (2 * step)
    assert (rate - change[:, 1:-1]).norm() < 0.05 * rate.norm()


def test_noise_has_its_size_and_spares_the_boundary():
    exact = heat_trajectories(0, 0.5, 20).fields
    noisy = observed(exact, 0.01, seed=0)
    ratio = (noisy - exact)[..., 1:-1].square().mean().sqrt() / exact.square().mean().sqrt()
    assert ratio.item() == pytest.approx(0.01, rel=0.03)
    assert torch.equal(noisy[..., 0], exact[..., 0])
    assert torch.equal(observed(exact, 0.0, seed=0), exact)


def test_fixed_stencils():
    start = random(4, 20)
    made = rollout(FixedStencil([0.2, 0.5, 0.3]), start, 5).movedim(0, 1)
    fitted = least_squares_stencil(torch.cat([start[:, None], made], 1))
    assert fitted.stencil == pytest.approx([0.2, 0.5, 0.3], abs=1e-10)
    assert torch.allclose(forward_euler(0.4)(start), true_stencil(FDNet(1, 1), 0.4)(start), atol=1e-13)


def test_other_optimisers_count_and_learn():
    bowl = lambda v: (v - 3).square().sum()  # noqa: E731
    for descent in (adam(bowl, torch.zeros(3), 0.1, 200), lbfgs(bowl, torch.zeros(3), 50)):
        assert descent.losses[-1] < 1e-3
        assert descent.costs == list(range(1, len(descent.losses) + 1))
        assert bowl(descent.vector).item() == pytest.approx(descent.losses[-1], rel=1e-5, abs=1e-12)
    network = PlainCNN(seed=1)
    assert sum(p.numel() for p in network.parameters()) == 897
    flat, loss = flat_loss(network, heat_trajectories(0, 0.5, 6, batch=2, points=20).fields)
    assert adam(loss, flat, 3e-3, 60).losses[-1] < loss(flat).item() / 3
    state = torch.random.get_rng_state()
    PlainCNN(seed=2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_bad_arguments_are_named():
    fields = torch.ones(2, 6, 10, dtype=torch.float64)
    with pytest.raises(ValueError, match="dims is 3"):
        FDNet(3)
    with pytest.raises(ValueError, match="auxiliary is 0"):
        FDNet(1, 0)
    with pytest.raises(ValueError, match="trajectories holds 120 NaN"):
        unchecked(flat_loss)(FDNet(), fields * torch.nan)
    with pytest.raises(ValueError, match="trajectories is empty"):
        unchecked(flat_loss)(FDNet(), fields[:0])
    with pytest.raises(ValueError, match="trajectories has 3 times"):
        unchecked(flat_loss)(FDNet(), fields[:, :3])
    with pytest.raises(ValueError, match="gradient has shape"):
        unchecked(steihaug)(torch.ones(2, 2), lambda v: v, 1.0)
    with pytest.raises(ValueError, match="radius is 0.0"):
        steihaug(torch.ones(2), lambda v: v, 0.0)
    with pytest.raises(ValueError, match="start holds 1 NaN"):
        unchecked(trust_region)(lambda v: v.sum(), torch.tensor([torch.nan]))
    with pytest.raises(ValueError, match="number is -1"):
        heat_trajectories(0, -1.0, 5)
    with pytest.raises(ValueError, match="times is 1"):
        heat_trajectories(0, 1.0, 1)
    with pytest.raises(ValueError, match="trajectories has shape"):
        unchecked(least_squares_stencil)(fields[0])
