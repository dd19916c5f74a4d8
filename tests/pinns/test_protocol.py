"""The shared training loop and the ring."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.pinns.problems import SUITE, Problem, burgers, conv
from touchstone.pinns.protocol import (
    Recipe,
    TrainingDiverged,
    default_network,
    edge_loss,
    fixed_points,
    predictor,
    train,
)

SMALL = Recipe(steps=5, collocation=32, initial=16, boundary=8)


def test_learning_rate_runs_from_the_first_to_the_last():
    for decay in ("exponential", "cosine"):
        recipe = Recipe(decay=decay)
        assert recipe.rate(0.0) == pytest.approx(5e-3) and recipe.rate(1.0) == pytest.approx(6e-4)
        assert recipe.rate(0.3) > recipe.rate(0.4)
    with pytest.raises(ValueError, match="decay"):
        Recipe(decay="steps").rate(0.5)


@pytest.mark.parametrize("name", ["conv10", "burgers", "wave", "helm14", "ks", "pois-hd10"])
def test_a_seed_in_a_stack_trains_as_it_does_alone(name):
    problem, recipe = SUITE[name](), Recipe(steps=50, collocation=32, initial=16, boundary=8)
    together = train(problem, default_network(problem, [3, 5], 8, 2), [3, 5], recipe)
    alone = train(problem, default_network(problem, [5], 8, 2), [5], recipe)
    assert torch.equal(together.points[1], alone.points[0])
    x = problem.scale(torch.rand(50, len(problem.low), generator=torch.Generator().manual_seed(0)))
    many, one = (predictor(problem, state.network)(x)[-1] for state in (together, alone))
    assert (many - one).norm() <= 1e-5 * one.norm() + 1e-6


def test_training_repeats_bit_for_bit_and_lowers_the_loss():
    problem = burgers()
    residuals, networks = [], []
    for _ in range(2):
        network = default_network(problem, [0])
        before = edge_loss(problem, network, SMALL, 1)
        state = train(problem, network, [0], Recipe(steps=25, collocation=32))
        after = edge_loss(problem, network, SMALL, 1)
        networks.append(list(network.parameters()))
        residuals.append(state.residual)
        assert set(before) == {"initial", "boundary"}
        assert after["initial"] < 0.9 * before["initial"]
    assert torch.equal(*residuals) and all(torch.equal(a, b) for a, b in zip(*networks, strict=True))


def test_hooks_see_the_state_and_may_end_the_training():
    problem, seen = conv(10.0), []

    def weigh(state):
        assert state.residual.shape == (1, 32, 1) and not state.residual.requires_grad
        return torch.zeros(1, 32)

    def watch(state):
        seen.append((state.step, state.points))
        return state.step == 3

    state = train(problem, default_network(problem, [0]), [0], SMALL, choose=fixed_points, weigh=weigh, watch=watch)
    assert state.step == 3 and [step for step, _ in seen] == [1, 2, 3]
    assert seen[0][1] is seen[2][1]


def test_zero_weights_silence_the_residual():
    problem = conv(10.0)
    network = default_network(problem, [0])
    train(problem, network, [0], Recipe(steps=40, collocation=32, initial=16), weigh=lambda state: torch.zeros(1, 32))
    assert edge_loss(problem, network, SMALL, 1)["initial"].item() < 0.05
    assert problem.residual(network, problem.scale(torch.rand(1, 50, 2))).square().mean() > 1


def test_a_budget_ends_the_training():
    problem, budget = conv(10.0), Budget(0.3)
    state = train(problem, default_network(problem, [0]), [0], SMALL, budget)
    assert budget.exhausted() and state.step > 0 and 0 < state.progress < 1


def test_edge_losses_against_their_definition():
    problem = burgers()
    network = default_network(problem, [0, 1])
    terms = edge_loss(problem, network, SMALL, 2)
    x = problem.scale(torch.stack([torch.zeros(16), (torch.arange(16) + 0.5) / 16], -1))
    guess = predictor(problem, network)(x)
    assert torch.allclose(terms["initial"], (guess + torch.sin(torch.pi * x[:, 1:])).square().mean((1, 2)), atol=1e-6)
    t = ((torch.arange(4) + 0.5) / 4).repeat(2)
    ends = torch.stack([t, torch.tensor([-1.0, 1.0]).repeat_interleave(4)], -1)
    assert torch.allclose(terms["boundary"], predictor(problem, network)(ends).square().mean((1, 2)), atol=1e-6)


def test_a_diverging_run_stops_at_once_and_keeps_the_last_finite_state():
    problem = burgers()
    network = default_network(problem, [0, 7])
    seen = []

    def spoil(state):
        seen.append([weight.detach().clone() for weight in state.network.parameters()])
        if state.step == 3:
            with torch.no_grad():
                state.network.biases[-1][1] += float("nan")

    with pytest.raises(TrainingDiverged, match=r"step 3, term residual \(seeds \[7\]\); initial") as caught:
        train(problem, network, [0, 7], SMALL, watch=spoil)
    state = caught.value.state
    assert state.step == 3 and all(torch.isfinite(weight).all() for weight in network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), seen[1], strict=True))


@pytest.mark.parametrize("name", ["steps", "collocation", "initial", "boundary"])
def test_an_empty_recipe_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        unchecked(Recipe)(**{name: 0})


def test_points_outside_the_domain_are_refused():
    problem = conv(10.0)
    network = default_network(problem, [0])
    with pytest.raises(ValueError, match="points leave the domain of 'conv"):
        train(problem, network, [0], SMALL, choose=lambda state: torch.full((1, 4, 2), 2.0))
    with pytest.raises(ValueError, match="coordinate 1 runs from"):
        predictor(problem, network)(torch.tensor([[0.5, 9.0]]))


def test_balance_replaces_the_weights_and_sees_the_terms():
    problem, seen = burgers(), []

    def balance(state, terms):
        seen.append(set(terms))
        return {name: torch.full((1,), 100.0 if name != "residual" else 1.0) for name in terms}

    plain, balanced = (
        train(problem, default_network(problem, [0]), [0], SMALL, balance=which) for which in (None, balance)
    )
    assert seen[0] == {"residual", "initial", "boundary"}
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(plain.network.parameters(), balanced.network.parameters(), strict=True)
    )
    assert set(plain.terms) == seen[0] and not plain.terms["residual"].requires_grad


def test_a_problem_of_ones_own_needs_no_reference():
    decay = Problem(
        name="decay",
        low=(0.0,),
        high=(1.0,),
        orders=(1,),
        outputs=1,
        equation=lambda u, points: u.d(0) + u.value,
        conditions=(SUITE["pois-ms"]().conditions[0],),
    )
    assert train(decay, default_network(decay, [0]), [0], SMALL).step == 5
