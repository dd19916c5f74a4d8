"""R3 sampling: what is retained and released, the law of accumulation, and the limits of the causal gate."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from tests.pinns.test_samplers import start
from touchstone.pinns.problems import conv
from touchstone.pinns.protocol import Recipe, default_network, predictor, relative_error, train
from touchstone.pinns.r3_sampling import CausalR3, advance_gate, r3_points, retain_resample_release, time_gate


def update(state, residual, choose=r3_points):
    """One step of the sampler on a given residual ``[seeds, points]``; time runs from 0 to 2, place from -1 to 1."""
    state.residual = residual[..., None]
    state.points = choose(state)
    return state.points


def test_retained_points_are_those_above_the_mean_and_keep_their_coordinates():
    state = start(seeds=(0, 1, 2), count=200)
    points = state.points = r3_points(state)
    residual = torch.sin(20 * points[..., 0]) * torch.exp(points[..., 1])  # both signs: fitness is the absolute value
    following = update(state, residual)
    kept = (following == points).all(dim=-1)
    above = residual.abs() > residual.abs().double().mean(dim=1, keepdim=True)
    assert following.shape == points.shape
    assert torch.equal(kept, above)
    assert 0 < kept.sum() < kept.numel()
    assert not (following == points)[~kept].any()


def test_the_mean_is_taken_within_each_seed():
    points = torch.zeros(2, 2, 1)
    fitness = torch.tensor([[1.0, 3.0], [10.0, 30.0]])
    following = retain_resample_release(points, fitness, points + 1)
    assert torch.equal(following[..., 0], torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 7e5])
def test_constant_fitness_retains_nothing(value):
    points = torch.zeros(1, 1000, 2)
    following = retain_resample_release(points, torch.full((1, 1000), value), points + 1)
    assert (following == 1).all()


def test_a_solved_region_is_released_at_once():
    state = start(seeds=(0,), count=500)
    points = state.points = r3_points(state)
    for _ in range(50):
        points = update(state, (points[..., 0] < 0.2).float())
    assert (points[..., 0] < 0.2).float().mean() > 0.9
    points = update(state, (points[..., 0] > 1.8).float())  # the peak has moved to the other side
    assert (points[..., 0] < 0.2).float().mean() < 0.2


def test_accumulation_law_on_a_static_top_hat():
    # A point inside (area 1 %) stays, one outside is redrawn: it is still outside after i updates with 0.99^(i+1).
    state = start(seeds=range(50), count=1000)
    points = state.points = r3_points(state)
    worst = 0.0
    for number in range(301):
        inside = (points[..., 0] < 0.2) & (points[..., 1] < -0.8)
        worst = max(worst, abs(inside.float().mean().item() - (1 - 0.99 ** (number + 1))))
        points = update(state, -inside.float())
        assert points.shape == (50, 1000, 2)
    assert worst < 0.01


def test_gate_limits():
    time = torch.linspace(0, 1, 101)[None]
    assert torch.allclose(time_gate(time, torch.tensor([6.0])), torch.ones_like(time), atol=1e-6)
    assert time_gate(time, torch.tensor([-2.0])).max() < 1e-6
    half = time_gate(time, torch.tensor([0.5]))
    assert abs(half[0, 50].item() - 0.5) < 1e-6
    assert (half.diff() < 0).all()  # early times first
    # alpha = 5: a fifth after the edge, g = (1 - tanh 1)/2
    assert abs(half[0, 70].item() - 0.5 * (1 - np.tanh(1))) < 1e-6


def test_open_gate_gives_plain_r3():
    causal = CausalR3(opening=10.0)
    plain, gated = start(count=300), start(count=300)
    points, others = r3_points(plain), causal.choose(gated)
    plain.points, gated.points = points, others
    for _ in range(20):
        residual = torch.cos(9 * points[..., 0] + points[..., 1])
        assert (causal.weigh(gated) - 1).abs().max() < 1e-6
        points, others = update(plain, residual), update(gated, residual, causal.choose)
        assert (points - others).abs().max() < 1e-6


def test_closed_gate_moves_the_population_and_the_loss_to_early_times():
    causal, state = CausalR3(), start(seeds=(0,), count=1000)
    state.points = causal.choose(state)
    for _ in range(30):
        update(state, torch.ones(1, 1000), causal.choose)
    assert state.points[..., 0].mean() < 0.5  # of 2: the gate sees rescaled times
    weight = causal.weigh(state)
    early = state.points[..., 0] < 0.2
    assert weight[early].min() > weight[~early].max()
    assert torch.allclose(weight, causal.gate(state).square())


def test_gate_advance_closed_form_and_clip():
    advanced = advance_gate(torch.zeros(3), torch.tensor([0.0, 0.1, 1.0]), rate=1e-3, tolerance=20.0)
    expected = 1e-3 * torch.tensor([0.1, 0.1, 2.0611537e-09])  # min(0.1, exp(-20 L))
    assert torch.allclose(advanced, expected, rtol=1e-4, atol=0)


def test_gates_are_one_a_seed_and_see_the_gated_residual():
    causal, state = CausalR3(opening=10.0), start(seeds=(0, 1), count=100)
    state.points = causal.choose(state)
    update(state, torch.tensor([[0.01], [2.0]]).expand(2, 100), causal.choose)
    assert torch.allclose(causal.opening - 10, torch.tensor([5e-4, 0.0]), atol=2e-6)
    causal, state = CausalR3(opening=-3.0), start(seeds=(0,), count=100)
    state.points = causal.choose(state)
    update(state, torch.full((1, 100), 2.0), causal.choose)  # behind a closed gate even a large residual looks small
    assert torch.allclose(causal.opening + 3, torch.tensor([5e-4]), atol=1e-6)


def test_no_residual_is_evaluated_but_the_loss_ones():
    problem, calls = conv(10.0), []
    equation = problem.equation
    object.__setattr__(problem, "equation", lambda u, points: calls.append(points.shape[1]) or equation(u, points))
    train(problem, default_network(problem, [0], 8, 2), [0], Recipe(steps=12, collocation=32), choose=r3_points)
    assert calls == [32] * 12


@pytest.mark.parametrize("causal", [False, True])
def test_training_is_deterministic_and_learns(causal):
    def run(seeds):
        sampler, problem = CausalR3(), conv(1.0)
        network = default_network(problem, seeds, 16, 1)
        choose, weigh = (sampler.choose, sampler.weigh) if causal else (r3_points, None)
        train(problem, network, seeds, Recipe(steps=40, collocation=64), choose=choose, weigh=weigh)
        return relative_error(problem, network)

    errors = run([0])
    assert np.array_equal(errors, run([0]))
    assert errors[0] < 0.9, errors


@pytest.mark.parametrize("causal", [False, True])
def test_a_seed_in_a_stack_trains_as_it_does_alone(causal):
    problem, answers, openings = conv(10.0), [], []
    x = problem.scale(torch.rand(50, 2, generator=torch.Generator().manual_seed(0)))
    for seeds in ([3, 5], [5]):
        sampler, network = CausalR3(), default_network(problem, seeds, 8, 2)
        choose, weigh = (sampler.choose, sampler.weigh) if causal else (r3_points, None)
        train(problem, network, seeds, Recipe(steps=50, collocation=64, initial=16), choose=choose, weigh=weigh)
        answers.append(predictor(problem, network)(x)[-1])
        openings.append(sampler.opening[-1])
    assert (answers[0] - answers[1]).norm() <= 1e-5 * answers[1].norm() + 1e-6
    assert abs(openings[0] - openings[1]) < 1e-6 and (openings[0] > -0.5) == causal


GOOD = torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((GOOD, torch.full((1, 4), torch.nan), GOOD), "fitness holds 4 NaN"),
        ((GOOD, torch.zeros(1, 5), GOOD), "fitness has shape"),
        ((GOOD[0], torch.zeros(1, 4), GOOD), "points has shape"),
        ((GOOD, torch.zeros(1, 4), GOOD[:, :3]), "fresh has shape"),
        ((GOOD[:, :0], torch.zeros(1, 0), GOOD[:, :0]), "points is empty"),
    ],
)
def test_bad_update_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        unchecked(retain_resample_release)(*arguments)


def test_bad_gate_arguments_are_named():
    with pytest.raises(ValueError, match="opening has shape"):
        unchecked(time_gate)(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="time holds 1 NaN"):
        unchecked(time_gate)(torch.tensor([[torch.nan]]), torch.zeros(1))
    with pytest.raises(ValueError, match="opening is empty"):
        unchecked(advance_gate)(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="gated_loss holds 1 NaN"):
        unchecked(advance_gate)(torch.zeros(1), torch.tensor([torch.nan]))
