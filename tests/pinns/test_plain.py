"""The baseline learns, and enters the ring."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from touchstone.arena import Budget, entrants
from touchstone.nn.networks import single
from touchstone.pinns import plain
from touchstone.pinns.plain import (
    GradientNorms,
    adam_lbfgs_pinn,
    gradient_norm,
    gradient_norm_pinn,
    lbfgs,
    plain_pinn,
    solve,
    solve_with_gradient_norms,
    solve_with_lbfgs,
)
from touchstone.pinns.problems import burgers, conv, end_values, heat, initial_values
from touchstone.pinns.protocol import (
    Recipe,
    default_network,
    edge_loss,
    predictor,
    relative_error,
    train,
    uniform_points,
    weighted_sum,
)
from touchstone.pinns.ring import RING

SMALL = Recipe(steps=60, collocation=64, initial=32, boundary=16, first_rate=1e-2)


def test_plain_network_learns_which_way_slow_convection_goes():
    problem = conv(0.5)
    state = plain_pinn(problem, [0, 1], Recipe(steps=600, collocation=64, initial=32, first_rate=1e-2))
    errors = relative_error(problem, state.network)
    backwards = conv(-0.5).error(predictor(problem, state.network))
    assert errors.shape == (2,) and errors.max() < 0.3
    assert (errors < 0.7 * backwards).all()


def test_plain_network_is_an_entrant():
    solution = solve(conv(10.0), Budget(0.4), 0)
    assert solution.steps > 1 and set(RING.score(solution, None)) == {"rel_l2", "steps"}
    assert solution.predict(torch.rand(3, 2)).shape == (3, 1)
    assert {"plain", "plain-lbfgs", "gradient-norms", "causal-pinn"} <= set(entrants("pinns"))


def test_lbfgs_lowers_the_loss_of_every_seed_by_much_more_than_adam():
    problem = heat()
    state = plain_pinn(problem, [0, 1], SMALL)
    points = uniform_points(state)

    def loss(network):
        kind = next(network.parameters()).dtype
        residual = problem.residual(network, points.to(kind)).square().sum(-1).mean(1)
        return residual + 100 * sum(edge_loss(problem, network, SMALL, 2).values())

    before = loss(state.network)
    taken = lbfgs(problem, state.network, points, SMALL, 60)
    polished = loss(state.network)
    longer = plain_pinn(problem, [0, 1], replace(SMALL, steps=180)).network  # as many gradients
    assert taken == 60 and (polished < 0.6 * before).all() and (polished < loss(longer)).all()
    assert next(state.network.parameters()).dtype == torch.float64


def test_lbfgs_of_a_stack_is_that_of_each_seed():
    problem = heat()
    stack = plain_pinn(problem, [0, 1], SMALL).network
    alone, points = single(stack, 1), problem.scale(torch.rand(2, 64, 2))
    lbfgs(problem, stack, points, SMALL, 20)
    lbfgs(problem, alone, points[1:], SMALL, 20)
    for many, one in zip(stack.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(many[1], one[0], atol=1e-8)
    with pytest.raises(ValueError, match="points holds 2 NaN"):
        lbfgs(problem, stack, points.index_fill(2, torch.tensor([0]), float("nan"))[:, :1, :1], SMALL, 20)


def test_adam_then_lbfgs_uses_steps_and_iterations():
    state = adam_lbfgs_pinn(burgers(), [0], SMALL, iterations=20)
    assert state.step == 80 and state.network.weights[0].dtype == torch.float64
    solution = solve_with_lbfgs(heat(), Budget(0.5), 0)
    assert solution.steps > 20 and solution.predict(torch.rand(3, 2)).shape == (3, 1)


def test_gradient_norms_balance_the_gradients():
    problem = burgers()
    network, balance = default_network(problem, [0, 1]), GradientNorms(every=1, memory=0.0)
    lengths = []

    def spy(state, terms):
        weights = balance(state, terms)
        lengths.append(torch.stack([weights[name] * gradient_norm(term, network) for name, term in terms.items()]))
        return weights

    train(problem, network, [0, 1], Recipe(steps=3, collocation=32), balance=spy)
    for length in lengths:  # all terms pull equally hard, in every seed
        assert torch.allclose(length, length[:1].expand_as(length), rtol=1e-4)


def test_gradient_norms_have_a_memory():
    problem = burgers()
    network, balance = default_network(problem, [0]), GradientNorms(every=2, memory=0.9)
    kept = []

    def spy(state, terms):
        fresh = {name: gradient_norm(term, network) for name, term in terms.items()}
        before = dict(balance.weights)
        kept.append((state.step, before, sum(fresh.values()) / fresh["residual"], dict(balance(state, terms))))
        return balance.weights

    train(problem, network, [0], Recipe(steps=4, collocation=32), balance=spy)
    for step, before, fresh, after in kept:
        expected = (
            fresh if not before else 0.9 * before["residual"] + 0.1 * fresh if step % 2 == 0 else before["residual"]
        )
        assert torch.allclose(after["residual"], expected, rtol=1e-5)
    assert gradient_norm_pinn(problem, [0], SMALL).step == 60
    assert solve_with_gradient_norms(problem, Budget(0.4), 0).steps > 1


def test_lbfgs_goes_on_where_the_loss_is_small(monkeypatch):
    # the solution has size 1e-4 and the loss 1e-8: without the stretch PyTorch keeps no curvature there
    small = replace(heat(), conditions=(initial_values(lambda x: 1e-4 * torch.sin(np.pi * x)), end_values()))

    def left(stretch):
        monkeypatch.setattr(plain, "STRETCH", stretch)
        network = default_network(small, [0], width=12, depth=2)
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1e-4 if weight.shape[-1] == 1 else 1.0)
        points = small.scale(torch.rand(1, 200, 2, generator=torch.Generator().manual_seed(1)))
        lbfgs(small, network, points, SMALL, 200)
        terms = {"residual": small.residual(network, points.double()).square().sum(-1).mean(1)}
        return float(weighted_sum(terms | edge_loss(small, network, SMALL, 1), SMALL).detach())

    assert left(plain.STRETCH) < 0.2 * left(1.0)
