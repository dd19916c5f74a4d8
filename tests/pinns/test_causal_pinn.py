"""The weights, their schedule, and what the training does with them."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.nn import jets
from touchstone.nn.networks import MLP, generators
from touchstone.pinns.causal_pinn import (
    CausalWeighting,
    InUnits,
    causal_exponent,
    causal_pinn,
    causal_weights,
    jittered_slices,
    modified_network,
    solve,
)
from touchstone.pinns.problems import ac, lorenz
from touchstone.pinns.protocol import Recipe, State, default_network, predictor, relative_error, train
from touchstone.pinns.ring import PROBLEMS


def losses(slices=12, seeds=2):
    return torch.rand(seeds, slices, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_epsilon_zero_gives_the_plain_loss():
    values = losses()
    weights = causal_weights(values, 0.0, 0.1)
    assert torch.equal(weights, torch.ones_like(weights))
    assert ((weights * values).mean() - values.mean()).abs() < 1e-12


def test_training_with_epsilon_zero_is_plain_training():
    problem, recipe = ac(), Recipe(steps=5, collocation=64, initial=16)
    networks = [modified_network(problem, [0, 1], 8, 2) for _ in range(2)]
    causal_pinn(problem, [0, 1], recipe, slices=16, network=networks[0], epsilons=(0.0,))
    train(problem, networks[1], [0, 1], recipe, choose=jittered_slices(16))
    for causal, plain in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(causal, plain)


def test_weights_fall_from_one_and_follow_the_equation():
    values = losses()
    weights = causal_weights(values, 3.0, 0.1)
    assert torch.equal(weights[:, 0], torch.ones(2, dtype=torch.float64))
    assert (weights.diff(dim=1) <= 0).all() and (weights > 0).all() and (weights <= 1).all()
    by_hand = [np.exp(-3.0 * 0.1 * values[1, :i].sum().item()) for i in range(12)]
    assert np.allclose(weights[1], by_hand, rtol=1e-12)


def test_no_gradient_flows_through_the_weights():
    parameter = losses(seeds=1).requires_grad_()
    values = parameter.square()
    (gradient,) = torch.autograd.grad((causal_weights(values, 2.0, 0.1) * values).sum(), parameter)
    frozen = torch.exp(-0.2 * (values.detach().cumsum(1) - values.detach()))
    assert (gradient - frozen * 2 * parameter).abs().max() < 1e-10
    assert not causal_weights(values, 2.0, 0.1).requires_grad


@pytest.mark.parametrize("slices", [50, 200])
def test_refining_the_slices_leaves_the_weights_unchanged(slices):
    coarse = causal_weights(torch.full((slices,), 2.0, dtype=torch.float64), 1.0, 1 / slices)
    fine = causal_weights(torch.full((2 * slices,), 2.0, dtype=torch.float64), 1.0, 0.5 / slices)
    assert (coarse - fine[::2]).abs().max() < 1e-12
    assert (coarse - fine[1::2]).abs().max() < 2.0 / slices
    assert coarse[-1] < 0.2


def test_points_are_stratified_sorted_and_jittered():
    problem, recipe = ac(), Recipe(collocation=64)
    state = State(problem, MLP(11, 1, [0, 1], 4, 1, problem.embed), recipe, generators([0, 1], 1))
    choose = jittered_slices(16)
    first, second = choose(state), choose(state)
    for points in (first, second):
        times = points[..., 0].unflatten(1, (16, 4))
        assert (times == times[..., :1]).all()
        assert (times[..., 0].diff(dim=1) > 0).all()
        assert torch.equal((times[0, :, 0] * 16).floor(), torch.arange(16.0))
        assert (points[..., 1].abs() <= 1).all() and points[..., 1].unique().numel() == 128
    assert not torch.equal(first, second)


def weighting_after(residual, progress, weighting, horizon=1.0):
    problem = lorenz(horizon)
    state = State(problem, torch.nn.Identity(), Recipe(), [], progress=progress, residual=residual)
    return weighting(state)


def test_schedule_moves_each_seed_when_solved_or_when_time_is_up():
    weighting = CausalWeighting(4, epsilons=(0.1, 1.0, 10.0))
    residual = torch.zeros(2, 8, 3)
    residual[1] = 3.0  # the second seed is far from solved
    weights = weighting_after(residual, 0.0, weighting)
    assert weights.shape == (2, 8) and torch.equal(weights[:, 0], weights[:, 1])
    assert weights[1, 2].item() == pytest.approx(np.exp(-0.1 * 0.25 * 27), rel=1e-5)
    assert weighting.level.tolist() == [1, 0] and not weighting.certified.any()
    weighting_after(residual, 0.4, weighting)
    assert weighting.level.tolist() == [2, 1]
    weighting_after(residual, 0.4, weighting)
    assert weighting.level.tolist() == [2, 1] and weighting.certified.tolist() == [True, False]


@pytest.mark.parametrize("horizon", [0.5, 2.0])
def test_slices_are_as_long_as_the_horizon_makes_them(horizon):
    weighting = CausalWeighting(4, epsilons=(1.0,))
    weights = weighting_after(torch.ones(1, 8, 3), 0.0, weighting, horizon)  # each slice has a mean square of 3
    assert torch.allclose(weights[0, ::2], torch.exp(-3 * horizon * torch.arange(4.0) / 4))


def test_periodic_network_agrees_at_both_ends():
    problem = ac()
    network = modified_network(problem, [0], 16, 2).double()
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    left, right = (network(torch.stack([t, torch.full_like(t, x)], -1)[None], (1, 2)) for x in (-1.0, 1.0))
    assert (left.streams - right.streams).abs().max() < 1e-6
    middle = network(torch.stack([t, torch.zeros_like(t)], -1)[None], (1, 2))
    assert (middle.streams - left.streams).abs().amax(
        (0, 2, 3)
    ).min() > 1e-3  # value, u_t, u_x and u_xx vary in between


@pytest.mark.parametrize("build", [default_network, modified_network])
@pytest.mark.parametrize("name", PROBLEMS)
def test_derivatives_equal_nested_differentiation_on_every_problem(name, build):
    problem = PROBLEMS[name]()
    network = build(problem, [0, 1], 6, 2).double()
    points = problem.scale(torch.rand(2, 4, len(problem.low), generator=torch.Generator().manual_seed(0)).double())
    found = problem.solution(network, points, problem.orders).streams
    nested = jets.by_autograd(lambda p: problem.solution(network, p, (0,) * p.shape[-1]).value, points, problem.orders)
    size = nested.streams.abs().amax((0, 2, 3), keepdim=True)
    assert ((found - nested.streams).abs() <= 1e-5 * size).all() and size.min() > 0


def test_initial_value_is_exact_for_an_ordinary_differential_equation():
    problem = lorenz(1.0)
    jet = problem.solution(MLP(1, 3, [0], 8, 2), torch.zeros(1, 1, 1))
    assert torch.equal(jet.value, torch.ones(1, 1, 3))


def test_units_scale_value_and_derivatives():
    network, points = MLP(1, 3, [0], 8, 2), torch.rand(1, 5, 1)
    assert torch.equal(InUnits(network, 30.0)(points, (1,)).streams, 30 * network(points, (1,)).streams)


def test_training_lowers_the_error_and_repeats_bit_for_bit():
    problem, recipe = lorenz(0.05), Recipe(steps=100, collocation=16, first_rate=3e-2)
    errors = []
    for _ in range(2):
        network = MLP(1, 3, [0, 1], 16, 1)
        before = relative_error(problem, network)
        state, weighting = causal_pinn(problem, [0, 1], recipe, slices=16, network=network)
        errors.append(relative_error(problem, state.network))
    assert np.array_equal(*errors) and (errors[0] < 0.8 * before).all()
    assert weighting.weights.shape == (2, 16)


def test_a_seed_in_a_stack_trains_as_it_does_alone():
    problem, recipe, runs = lorenz(0.1), Recipe(steps=50, collocation=32), []
    for seeds in ([3, 5], [5]):
        runs.append(causal_pinn(problem, seeds, recipe, slices=16, network=MLP(1, 3, seeds, 8, 2)))
    x = torch.linspace(0, 0.1, 30)[:, None]
    many, one = (predictor(problem, state.network)(x)[-1] for state, _ in runs)
    assert (many - one).norm() <= 1e-5 * one.norm() + 1e-6
    many, one = (weighting.weights[-1] for _, weighting in runs)
    assert torch.allclose(many, one, atol=1e-5) and one.min() < 0.99


def test_a_network_that_breaks_down_is_named():
    network = MLP(1, 3, [0, 1], 8, 1)
    with torch.no_grad():
        network.weights[0][1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"step 0, term residual \(seeds \[1\]\)"):
        train(lorenz(0.5), network, [0, 1], Recipe(steps=2, collocation=8))


def test_solver_spends_its_budget_and_reports_its_steps():
    from touchstone.arena import Budget

    solution = solve(lorenz(0.1), Budget(0.3), 0)
    assert solution.steps > 0 and 0 < solution.rel_l2 < 1.5
    assert solution.predict(0.1 * torch.rand(5, 1)).shape == (5, 3)


def test_clear_errors():
    with pytest.raises(ValueError, match="losses"):
        unchecked(causal_weights)(torch.tensor([1.0, float("nan")]), 1.0, 0.1)
    with pytest.raises(ValueError, match="losses"):
        unchecked(causal_exponent)(torch.tensor([]), 0.1)
    with pytest.raises(ValueError, match="losses"):
        unchecked(causal_exponent)(torch.tensor(1.0), 0.1)
    with pytest.raises(ValueError, match="spacing"):
        causal_exponent(torch.ones(3), 0.0)
    with pytest.raises(ValueError, match="slices"):
        jittered_slices(0)
    with pytest.raises(ValueError, match="slices"):
        causal_pinn(lorenz(0.1), [0], Recipe(steps=1, collocation=10), slices=3)
