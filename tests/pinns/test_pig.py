"""Gaussian features, their closed-form derivatives and symmetries, and the training loop."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.nn import jets
from touchstone.pinns.pig import PIG, Gaussians, gaussian_jet, gaussian_network, solve, train_in_calls
from touchstone.pinns.pig_baselines import MODELS, GridFeatures, Siren, build, cosine_hats, count
from touchstone.pinns.problems import ac, burgers, heat, helm14, kdv, lorenz, pois2d, pois_hd
from touchstone.pinns.protocol import Recipe, relative_error
from touchstone.pinns.ring import PROBLEMS


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(network, size=0.05):
    """The network in float64 with every parameter moved."""
    network.double()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter += size * numbers(*parameter.shape, seed=number)
    return network


def covariance(n, dims):
    root = numbers(2, n, dims, dims, seed=5)
    return root @ root.mT + 0.1 * torch.eye(dims, dtype=torch.float64)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("orders", [(2, 2), (4, 1), (0, 3)])
def test_gaussian_derivatives_equal_autograd(diagonal, orders):
    points, means, precision = numbers(2, 6, 2), numbers(2, 5, 2, seed=1), covariance(5, 2)
    if diagonal:
        precision = torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1))

    def by_hand(p):
        gap = p[:, :, None] - means[:, None]
        return torch.exp(-0.5 * torch.einsum("spna,snab,spnb->spn", gap, precision, gap))

    jet, expected = gaussian_jet(points, means, precision, orders), jets.by_autograd(by_hand, points, orders)
    assert (jet.streams - expected.streams).abs().max() < 1e-9


@pytest.mark.parametrize("options", [{}, {"own": True}, {"full": True}])
@pytest.mark.parametrize("make", [helm14, ac, burgers, heat, kdv])
def test_network_derivatives_equal_autograd(make, options):
    problem = make()
    network = shaken(gaussian_network(problem, [0, 1], 8, width=0.3, **options))
    points = problem.scale(torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    jet = network(points, problem.orders)
    expected = jets.by_autograd(lambda p: network(p, (0, 0)).value, points, problem.orders)
    assert (jet.streams - expected.streams).abs().max() < 1e-9 * expected.streams.abs().max()


@pytest.mark.parametrize("name", sorted(set(PROBLEMS) - {"pois-hd10"}))  # which Gaussians cannot fill
def test_derivatives_equal_nested_differentiation_on_every_problem(name):
    problem = PROBLEMS[name]()
    network = shaken(gaussian_network(problem, [0, 1], 6, width=0.3))
    points = problem.scale(torch.rand(2, 5, len(problem.low), generator=torch.Generator().manual_seed(0)).double())
    found = problem.solution(network, points, problem.orders).streams
    nested = jets.by_autograd(lambda p: problem.solution(network, p, (0,) * p.shape[-1]).value, points, problem.orders)
    size = nested.streams.abs().amax((0, 2, 3), keepdim=True)
    assert ((found - nested.streams).abs() <= 1e-5 * size).all() and size.min() > 0


def test_both_ways_to_the_embedding_agree():
    plain, turning = (shaken(Gaussians(helm14(), [0], 9, **options), 0.0) for options in ({}, {"full": True}))
    points = 2 * torch.rand(1, 20, 2, dtype=torch.float64) - 1
    assert (plain(points, (2, 2)).streams - turning(points, (2, 2)).streams).abs().max() < 1e-10


def test_rotating_means_and_covariances_rotates_the_embedding():
    angle, embedding = 0.7, shaken(Gaussians(helm14(), [0], 12, width=0.4, full=True), 0.1)
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
    )
    points = 0.7 * numbers(1, 10, 2)
    before = embedding(points, (0, 0)).value
    with torch.no_grad():
        embedding.means.copy_(embedding.means @ rotation.mT)
        embedding.turns += angle
    assert (embedding(points @ rotation.mT, (0, 0)).value - before).abs().max() < 1e-10
    with torch.no_grad():
        embedding.turns -= 2 * angle  # the wrong sense of rotation is noticed
    assert (embedding(points @ rotation.mT, (0, 0)).value - before).abs().max() > 1e-4


def test_one_gaussian_without_a_network_is_its_weight_times_the_gaussian():
    problem = burgers()  # t from 0 to 1, x from -1 to 1
    network = PIG(Gaussians(problem, [0], 1, channels=1), 1, [0], channels=1, hidden=0).double()
    embedding = network.embedding
    with torch.no_grad():
        embedding.means.copy_(torch.tensor([0.0, 0.5]))
        embedding.widths.copy_(torch.tensor([0.5, 0.2], dtype=torch.float64))
        embedding.features.fill_(3.0)
    t, x = torch.rand(9, dtype=torch.float64), 2 * torch.rand(9, dtype=torch.float64) - 1
    expected = 3 * torch.exp(-0.5 * ((2 * t - 1) / 0.5) ** 2 - 0.5 * ((x - 0.5) / 0.2) ** 2)
    assert (network(torch.stack([t, x], -1)[None], (0, 0)).value[0, :, 0] - expected).abs().max() < 1e-12


@pytest.mark.parametrize("options", [{}, {"full": True}])
def test_permuting_the_gaussians_changes_nothing(options):
    network, points = shaken(gaussian_network(helm14(), [0, 1], 30, **options)), numbers(2, 10, 2)
    before = network(points, (2, 2)).streams
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in network.embedding.parameters():
            parameter.copy_(parameter[:, order])
    assert (network(points, (2, 2)).streams - before).abs().max() < 1e-12 * before.abs().max()


def test_periodic_features_agree_at_both_ends():
    network = shaken(gaussian_network(ac(), [0], 40))
    t = torch.rand(6, dtype=torch.float64)
    left, right = (network(torch.stack([t, torch.full_like(t, x)], -1)[None], (1, 2)) for x in (-1.0, 1.0))
    assert (left.streams - right.streams).abs().max() < 1e-10
    assert left.streams[:, 3].abs().max() > 1e-3


def test_own_gaussians_give_every_channel_its_own():
    embedding = shaken(Gaussians(helm14(), [0], 5, channels=3, width=0.5, own=True))
    assert embedding.means.shape == (1, 15, 2)
    points = numbers(1, 4, 2)
    before = embedding(points, (0, 0)).value
    with torch.no_grad():
        embedding.means[0, 1] += 0.1  # the first Gaussian of the second channel
    change = (embedding(points, (0, 0)).value - before).abs().amax((0, 1))
    assert change[0] == 0 and change[1] > 1e-6 and change[2] == 0


def test_cosine_hats_interpolate_and_differentiate():
    places = torch.linspace(0.05, 3.95, 40, dtype=torch.float64).requires_grad_()
    for wrap in (False, True):
        hats = [cosine_hats(places, 5, order, wrap) for order in range(3)]
        assert (hats[0].sum(-1) - 1).abs().max() < 1e-12
        coefficients = numbers(5)
        for order in range(2):
            (slope,) = torch.autograd.grad((hats[order] @ coefficients).sum(), places, create_graph=True)
            assert (slope - hats[order + 1] @ coefficients).abs().max() < 1e-10
    assert torch.equal(cosine_hats(torch.arange(5.0), 5, 0, False), torch.eye(5))
    assert torch.allclose(cosine_hats(torch.tensor([4.5]), 5, 0, True), torch.tensor([[0.5, 0, 0, 0, 0.5]]), atol=1e-6)


@pytest.mark.parametrize("make", [helm14, ac])
def test_grid_derivatives_equal_autograd(make):
    problem = make()
    network = shaken(PIG(GridFeatures(problem, [0], 6), 1, [0]))
    points = problem.scale(torch.rand(1, 9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    expected = jets.by_autograd(lambda p: network(p, (0, 0)).value, points, problem.orders)
    assert (network(points, problem.orders).streams - expected.streams).abs().max() < 1e-9


def test_models_match_in_trained_parameters():
    for problem, parameters in ((helm14(), 1297), (ac(), 1697)):
        for name in MODELS:
            assert abs(count(build(name, problem, 0, parameters)) / parameters - 1) < 0.1, name
    assert build("PIG", helm14(), 0, 1297).embedding.means.shape == (1, 150, 2)
    assert not build("frozen", helm14(), 0, 400).embedding.means.requires_grad
    assert Siren(ac(), [0], 8).weights[0].abs().max() <= 10 / 11
    with pytest.raises(ValueError, match="model is 'cosine'"):
        build("cosine", helm14(), 0, 100)


def test_training_moves_the_means_lowers_the_error_and_repeats_bit_for_bit():
    problem, errors = pois2d(1.0), []
    for _ in range(2):
        network = gaussian_network(problem, [0], 16, width=0.4)
        start = network.embedding.means.detach().clone()
        state = train_in_calls(problem, network, 0, Recipe(collocation=64, boundary=32), calls=3, redraw=2)
        errors.append(relative_error(problem, network)[0])
    assert errors[0] == errors[1] < 0.3 and state.step == 60
    assert (network.embedding.means - start).abs().max() > 0.01
    frozen = build("frozen", problem, 0, 300)
    means = frozen.embedding.means.detach().double()
    train_in_calls(problem, frozen, 0, Recipe(collocation=64, boundary=32), calls=1)
    assert torch.equal(frozen.embedding.means, means)


def test_points_are_redrawn_between_calls_only():
    problem, seen = pois2d(1.0), []
    network = gaussian_network(problem, [0], 4)
    recipe = Recipe(collocation=8, boundary=8)
    train_in_calls(problem, network, 0, recipe, 4, redraw=2, watch=lambda state: seen.append(state.points))
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]) and not torch.equal(seen[1], seen[2])


def test_solver_enters_the_ring_and_names_what_it_cannot_fill():
    solution = solve(lorenz(0.1), Budget(0.6), 0)
    assert solution.steps > 0 and np.isfinite(solution.rel_l2)
    assert solution.predict(0.1 * torch.rand(5, 1)).shape == (5, 3)
    with pytest.raises(ValueError, match="cannot fill more than 3"):
        solve(pois_hd(10), Budget(1.0), 0)


def test_bad_arguments_are_named():
    points, means, precision = numbers(1, 4, 2), numbers(1, 3, 2), covariance(3, 2)[:1]
    with pytest.raises(ValueError, match="points is empty"):
        unchecked(gaussian_jet)(points[:, :0], means, precision, (1, 1))
    with pytest.raises(ValueError, match="means holds 6 NaN"):
        unchecked(gaussian_jet)(points, means * torch.nan, precision, (1, 1))
    with pytest.raises(ValueError, match="precision has shape"):
        unchecked(gaussian_jet)(points, means, precision[:, :2], (1, 1))
    with pytest.raises(ValueError, match="orders has 1 entries"):
        unchecked(gaussian_jet)(points, means, precision, (1,))
    with pytest.raises(ValueError, match="channels is 4"):
        gaussian = Gaussians(helm14(), [0], 3)
        PIG(gaussian, 1, [0], hidden=0)
    with pytest.raises(ValueError, match="calls is 0"):
        train_in_calls(helm14(), gaussian_network(helm14(), [0], 3), 0, Recipe(), 0)
    with pytest.raises(ValueError, match="order is 3"):
        unchecked(cosine_hats)(torch.ones(2), 4, 3, False)
    with pytest.raises(ValueError, match="places holds 1 NaN"):
        unchecked(cosine_hats)(torch.tensor([torch.nan]), 4, 0, False)
