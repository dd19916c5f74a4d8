"""Stochastic Taylor derivative estimator: jets against nested differentiation, unbiasedness, and the exact cases."""

import itertools
import math

import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.nn.networks import MLP, generators
from touchstone.pinns import stde_baselines as baselines
from touchstone.pinns.problems import burgers, pois_hd, two_body
from touchstone.pinns.stde import (
    ball_points,
    biharmonic,
    coordinate_subset,
    dense_directions,
    derivatives,
    laplacian,
    mixed_third,
    sampled_residuals,
    solve,
    train,
)


def setup(seeds=(0, 1), dims=4, width=10, count=5):
    """A float64 stack with biases that are not zero, and points inside the ball."""
    network = MLP(dims, 1, list(seeds), width, 3).double()
    draws = generators(seeds, stream=5)
    for bias in network.biases:
        bias.data = torch.stack([0.3 * torch.randn(*bias.shape[1:], generator=draw) for draw in draws]).double()
    return network, ball_points(draws, count, dims).double(), draws


def normals(draws, slots, count, dims):
    return torch.stack([torch.randn(slots, count, dims, generator=draw) for draw in draws]).double()


def along_curve(network, points, tangents, order, vanish):
    """The same derivatives by nested reverse mode in the curve's parameter."""
    seeds, slots, count, _ = tangents.shape
    tau = torch.zeros(seeds, count, points.shape[1], 1, dtype=points.dtype, requires_grad=True)
    place = points[:, None].expand(-1, count, -1, -1)
    for k in range(slots):
        place = place + tangents[:, k, :, None] * tau ** (k + 1) / math.factorial(k + 1)
    value = baselines.solution(network, place.flatten(1, 2)).unflatten(1, (count, -1))
    if not vanish:
        value = value / (1 - place.square().sum(-1, keepdim=True))
    found = [value]
    for _ in range(order):
        found.append(torch.autograd.grad(found[-1].sum(), tau, create_graph=True)[0])
    return torch.stack(found, 1)


@pytest.mark.parametrize("vanish", [False, True])
@pytest.mark.parametrize("order, slots", [(1, 1), (2, 1), (2, 2), (3, 2), (4, 1), (4, 2), (4, 4)])
def test_jets_equal_nested_differentiation(order, slots, vanish):
    network, points, draws = setup()
    tangents = normals(draws, slots, 3, 4)
    ours = derivatives(network, points, tangents, order, vanish)
    reference = along_curve(network, points, tangents, order, vanish)
    for k in range(order + 1):
        assert (ours[:, k] - reference[:, k]).abs().max() < 1e-9 * reference[:, k].abs().max(), k


@pytest.mark.parametrize("order", [2, 4])
def test_reverse_pass_gives_the_gradient_of_the_parameters(order):
    network, points, draws = setup()
    tangents = normals(draws, 2, 3, 4)
    weights = list(network.parameters())
    scale = torch.arange(1.0, order + 2, dtype=torch.float64)[:, None, None, None]
    ours = torch.autograd.grad((scale * derivatives(network, points, tangents, order, True)).square().sum(), weights)
    slow = torch.autograd.grad((scale * along_curve(network, points, tangents, order, True)).square().sum(), weights)
    for mine, theirs in zip(ours, slow, strict=True):
        assert (mine - theirs).abs().max() < 1e-9 * theirs.abs().max()


def test_basis_vectors_give_the_pure_derivatives_of_the_coordinate_jets():
    network, points, _ = setup(dims=2)
    along = derivatives(network, points, torch.tensor([[1], [1]]), 3)  # u, u_x, u_xx, u_xxx as in Korteweg-de Vries
    reference = network(points, (0, 3))
    for k in range(4):
        assert torch.allclose(along[:, k, 0], reference.d(1, k), rtol=1e-12, atol=1e-12)


def test_basis_vectors_by_number_or_as_vectors_are_the_same():
    network, points, _ = setup()
    numbers = torch.tensor([[2, 0], [1, 3]])
    vectors = torch.eye(4, dtype=torch.float64)[numbers][:, None]
    assert torch.allclose(
        derivatives(network, points, numbers, 4, True), derivatives(network, points, vectors, 4, True)
    )


def test_all_coordinates_give_the_exact_laplacian():
    network, points, draws = setup()
    value, estimate = laplacian(network, points, coordinate_subset(draws, 4, 4), True)
    exact = baselines.hessian_trace(network, points)
    assert (estimate - exact).abs().max() < 1e-10
    assert torch.allclose(value, baselines.solution(network, points))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_estimates_from_all_subsets_of_coordinates_average_to_the_laplacian(count):
    network, points, _ = setup()
    subsets = [torch.tensor([subset, subset]) for subset in itertools.combinations(range(4), count)]
    exact = baselines.hessian_trace(network, points)
    estimates = torch.stack([laplacian(network, points, subset, True)[1] for subset in subsets])
    assert (estimates.mean(0) - exact).abs().max() < 1e-10
    assert (estimates[0] - exact).abs().max() > 1e-3


def test_rademacher_is_exact_where_the_hessian_is_diagonal():
    network, points, draws = setup()
    zero = MLP(4, 1, [0, 1], 10, 3).double()
    for parameter in zero.parameters():
        parameter.data.zero_()
    zero.biases[-1].data.fill_(1.5)  # u = 1.5 (1 - |x|^2), whose Laplacian is -3 dims
    one = dense_directions(draws, 4, 1).double()
    assert one.abs().min() == one.abs().max() == 1
    assert (laplacian(zero, points, one, True)[1] + 12).abs().max() < 1e-12
    normal = dense_directions(draws, 4, 1, "normal").double()
    assert (laplacian(zero, points, normal, True)[1] + 12).abs().max() > 0.1
    assert (laplacian(network, points, one, True)[1] - baselines.hessian_trace(network, points)).abs().max() > 1e-3


def close_to_mean(samples, exact, errors=4.0):
    """The mean over the first axis lies within so many standard errors, which are small against the value."""
    error = samples.std(0) / len(samples) ** 0.5
    assert (error < 0.1 * exact.abs().max()).all()
    return bool(((samples.mean(0) - exact).abs() < errors * error).all())


def exact_biharmonic(network, points):
    """The Laplacian of the Laplacian by nested reverse mode."""
    points = points.detach().requires_grad_()
    value = baselines.solution(network, points)
    for _ in range(2):
        slope = torch.autograd.grad(value.sum(), points, create_graph=True)[0]
        parts = [torch.autograd.grad(slope[..., i].sum(), points, create_graph=True)[0][..., i] for i in range(4)]
        value = sum(parts)[..., None]
    return value.detach()


def test_estimates_are_unbiased():
    network, points, draws = setup(seeds=(0,), width=6, count=1)
    network.weights[0].data *= 2
    with torch.no_grad():
        single = derivatives(network, points, torch.arange(4)[None], 2, True)[0, 2, :, 0, 0]
        picks = torch.stack([coordinate_subset(draws, 4, 2)[0] for _ in range(20_000)])
        dense = dense_directions(draws, 4, 100_000).double()
        normal = dense_directions(draws, 4, 100_000, "normal").double()
        second = derivatives(network, points, dense, 2, True)[0, 2, :, 0, 0]
        fourth = biharmonic(network, points, normal, True)[0, :, 0, 0]
        step = 1e-4 * torch.eye(4, dtype=torch.float64)  # gradient of the Laplacian by central differences
        ends = [network(points + sign * step[:, None].flatten(0, 1), (2,) * 4) for sign in (1, -1)]
        up, down = (sum(end.d(axis, 2) for axis in range(4))[0, :, 0] for end in ends)
        gradient = (up - down) / 2e-4
        third = mixed_third(network, points, dense[:, 0], gradient.expand(1, 100_000, 4))[0, :, 0, 0]
    trace = baselines.hessian_trace(network, points)[0, 0, 0].detach()
    assert close_to_mean(4 * single[picks].mean(1), trace)
    assert close_to_mean(second, trace)
    assert close_to_mean(fourth, exact_biharmonic(network, points)[0, 0, 0])
    assert close_to_mean(third, gradient.square().sum())


def test_mixed_third_derivative_against_nested_differentiation():
    network, points, draws = setup()
    a, b = normals(draws, 2, 3, 4).unbind(1)
    s, t = (torch.zeros(2, 3, 5, 1, dtype=torch.float64, requires_grad=True) for _ in "st")
    place = points[:, None] + s * a[:, :, None] + t * b[:, :, None]
    value = network(place.flatten(1, 2), (0,) * 4).value.unflatten(1, (3, -1))
    for variable in (s, s, t):
        value = torch.autograd.grad(value.sum(), variable, create_graph=True)[0]
    assert (mixed_third(network, points, a, b) - value).abs().max() < 1e-10 * max(1, value.abs().max())


def test_product_of_two_draws_is_unbiased_and_the_square_of_one_is_not():
    network, points, draws = setup(seeds=(0,), dims=6, count=1)
    single = 6 * derivatives(network, points, torch.arange(6)[None], 2, True)[0, 2, :, 0, 0].detach()
    source = single.mean() - 0.3 * single.std()
    draw = torch.Generator().manual_seed(0)
    first, second = (single[torch.randint(6, (100_000,), generator=draw)] - source for _ in range(2))
    square = (single.mean() - source) ** 2
    assert close_to_mean(first * second, square, 4)
    assert abs(first.square().mean() - square - single.var(correction=0)) < 0.02 * single.var()
    assert first.square().mean() > 2 * square


def test_the_other_engines_agree():
    network, points, draws = setup()
    axes, vectors = coordinate_subset(draws, 4, 2), dense_directions(draws, 4, 3).double()
    ours, theirs = laplacian(network, points, axes, True)[1], baselines.stochastic_dimensions(network, points, axes)
    assert (ours - theirs).abs().max() < 1e-10
    assert (
        laplacian(network, points, vectors, True)[1] - baselines.hutchinson(network, points, vectors)
    ).abs().max() < 1e-10
    assert (
        3 * biharmonic(network, points, vectors, True) - baselines.nested_fourth(network, points, vectors)
    ).abs().max() < 1e-8


def test_subsets_are_without_replacement_and_one_a_seed():
    draws = generators([0, 1])
    sets = torch.stack([coordinate_subset(draws, 10, 7) for _ in range(300)])
    assert all(len(set(one.tolist())) == 7 for pair in sets for one in pair)
    share = torch.bincount(sets.flatten(), minlength=10) / sets.numel()
    assert (share - 0.1).abs().max() < 0.015
    assert not torch.equal(sets[:, 0], sets[:, 1])


def test_points_have_uniform_radius():
    radius = ball_points(generators([0]), 20_000, 50).norm(dim=-1)
    assert abs(radius.mean() - 0.5) < 0.01 and radius.max() <= 1 + 1e-6 and (radius < 0.1).float().mean() > 0.08


def test_sampled_residual_of_the_ring_problem_is_unbiased():
    problem = pois_hd(4)
    copies = 400  # one network 400 times over, each with draws of its own
    network, points, _ = setup(seeds=(0,) * copies, count=2)
    points = points[:1].expand(copies, -1, -1)
    exact = problem.residual(network, points).detach()[0, :, 0]
    pair = sampled_residuals(problem, network, generators(range(copies), stream=1), 2)(points)
    for part in pair:
        assert close_to_mean(part.detach()[..., 0], exact)
    assert abs(torch.corrcoef(torch.stack([part.detach()[:, 0, 0] for part in pair]))[0, 1]) < 0.2
    whole = sampled_residuals(problem, network, generators(range(copies)), 4)(points)[0][0, :, 0]
    assert (whole - exact).abs().max() < 1e-10


def test_training_learns_and_is_deterministic():
    weights = torch.randn(9, generator=torch.Generator().manual_seed(1))

    def run(steps):
        network, draws = MLP(10, 1, [0], 16, 2), generators([0], stream=1)

        def residuals(points):
            source, sets = two_body(points, weights)[1], [coordinate_subset(draws, 10, 4) for _ in range(2)]
            return tuple(laplacian(network, points, one, True)[1] - source for one in sets)

        assert train(network, residuals, lambda: ball_points(draws, 32, 10), steps=steps, rate=5e-3) == steps
        points = ball_points(generators([0], stream=9), 500, 10)
        truth = two_body(points, weights)[0]
        return float((baselines.solution(network, points) - truth).detach().norm() / truth.norm())

    assert run(150) < 0.4
    assert run(5) == run(5)


def estimated(seeds):
    """A stack in five dimensions, its two estimates of the residual, and its points."""
    network, draws = MLP(5, 1, seeds, 8, 2), generators(seeds, stream=1)
    return network, sampled_residuals(pois_hd(5), network, draws, 2), lambda: ball_points(draws, 16, 5)


def test_a_seed_in_a_stack_trains_as_it_does_alone():
    x, answers = ball_points(generators([9]), 50, 5), []
    for seeds in ([3, 5], [5]):
        network, pair, choose = estimated(seeds)
        train(network, pair, choose, steps=50)
        answers.append(baselines.solution(network, x.expand(len(seeds), -1, -1))[-1])
    assert (answers[0] - answers[1]).norm() <= 1e-5 * answers[1].norm()


@pytest.mark.parametrize("silent", [0, 1])
def test_training_multiplies_the_two_draws(silent):
    network, pair, choose = estimated([0, 1])
    before = [weight.detach().clone() for weight in network.parameters()]

    def residuals(points):
        return [part * (number != silent) for number, part in enumerate(pair(points))]

    train(
        network, residuals, choose, steps=3
    )  # the square of either draw would move the weights, their product is zero
    assert all(torch.equal(weight, start) for weight, start in zip(network.parameters(), before, strict=True))


def test_a_loss_that_is_not_finite_leaves_the_weights_of_the_step_before():
    network, pair, choose = estimated([0, 1])
    seen = []

    def residuals(points):
        return [part * (torch.nan if len(seen) == 3 else 1) for part in pair(points)]

    def watch(step):
        seen.append([weight.detach().clone() for weight in network.parameters()])

    with pytest.raises(FloatingPointError, match="NaN or infinite at step 3"):
        train(network, residuals, choose, steps=10, watch=watch)
    assert len(seen) == 3
    assert all(torch.equal(weight, last) for weight, last in zip(network.parameters(), seen[-1], strict=True))


def test_ring_entry_and_refusal():
    solution = solve(pois_hd(6), Budget(0.3), 0)
    assert solution.steps > 5 and math.isfinite(solution.rel_l2)
    with pytest.raises(ValueError, match="burgers.*nothing to sample"):
        solve(burgers(), Budget(1), 0)


GOOD = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0)) / 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((GOOD * torch.nan, torch.tensor([[0]])), "points holds 12 NaN"),
        ((GOOD[0], torch.tensor([[0]])), "points has shape"),
        ((GOOD, torch.zeros(1, 2, 3)), "tangents has shape"),
        ((GOOD, torch.zeros(1, 1, 2, 4)), "tangents has shape"),
        ((GOOD, torch.zeros(1, 0, dtype=torch.long)), "tangents is empty"),
        ((GOOD, torch.tensor([[0]]), 5), "order is 5"),
        ((GOOD, torch.zeros(1, 3, 2, 3), 2), "order is 2"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        unchecked(derivatives)(MLP(3, 1, [0], 8, 2), *arguments)


def test_bad_draws_and_losses_are_named():
    with pytest.raises(ValueError, match="count is 5: draw 1 to 3"):
        coordinate_subset(generators([0]), 3, 5)
    with pytest.raises(ValueError, match="law is 'cauchy'"):
        dense_directions(generators([0]), 3, 5, "cauchy")
    network = MLP(3, 1, [0], 8, 2)
    with pytest.raises(FloatingPointError, match="step 0"):
        train(network, lambda points: (points[..., :1] * torch.inf,) * 2, lambda: GOOD, steps=2)
