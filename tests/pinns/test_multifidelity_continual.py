"""Multifidelity chains: identities of a level, frozen predecessors, importances against autograd, and the testbeds."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.nn import jets
from touchstone.nn.networks import MLP
from touchstone.pinns.multifidelity_continual import Multifidelity, drift, flat, learn, memory_aware_importances
from touchstone.pinns.multifidelity_continual_baselines import (
    TESTBEDS,
    Windows,
    fisher_importances,
    pendulum_residual,
    pendulum_states,
    unrelated,
)

POINTS = torch.rand(2, 20, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def chain(levels=1, outputs=2, **options):
    """A chain for two seeds in float64."""
    model = Multifidelity(1, outputs, [0, 1], width=8, depth=2, **options).double()
    for _ in range(levels):
        model.grow()
        model.double()
    return model


def make_identity(level):
    """Linear branch the identity, last nonlinear layer zero."""
    with torch.no_grad():
        for part in (level.nonlinear.weights[-1], level.nonlinear.biases[-1], *level.linear.biases):
            part.zero_()
        for weight in level.linear.weights:
            weight.copy_(torch.eye(*weight.shape[1:]).expand_as(weight))


def test_identity_branches_hand_the_previous_output_on_with_its_derivative():
    model = chain(0)
    before = model(POINTS, (1,)).streams.detach()
    model.grow()
    model.double()
    assert not torch.allclose(model(POINTS, (1,)).streams, before)
    make_identity(model.learner)
    assert torch.equal(model(POINTS, (1,)).streams, before)


def test_a_level_is_linear_branch_plus_nonlinear_branch():
    model = chain(2)
    old = model.levels[0](*(place := model.embedding(POINTS, (0,)), model.first(place))).value
    linear, nonlinear = model.learner.linear, model.learner.nonlinear
    first = old @ linear.weights[0] + linear.biases[0]
    straight = first @ linear.weights[1] + linear.biases[1]
    hidden = torch.cat([POINTS, old], -1)
    for weight, bias in zip(nonlinear.weights[:-1], nonlinear.biases[:-1], strict=True):
        hidden = torch.tanh(hidden @ weight + bias)
    expected = straight + hidden @ nonlinear.weights[-1] + nonlinear.biases[-1]
    assert torch.allclose(model(POINTS, (0,)).value, expected, atol=1e-12)
    assert linear.weights[0].shape == (2, 2, 20)


def test_derivative_is_carried_through_the_chain():
    model, h = chain(2), 1e-6
    slope = (model(POINTS + h, (0,)).value - model(POINTS - h, (0,)).value) / (2 * h)
    assert torch.allclose(model(POINTS, (1,)).d(0), slope, atol=1e-8)


def test_training_a_level_leaves_all_earlier_networks_bitwise_unchanged():
    model = chain(2, outputs=1)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    frozen = model.frozen(POINTS, (0,))
    learn(model, lambda: model.learner(*frozen), torch.sin(5 * POINTS), None, steps=20)
    for name, p in model.named_parameters():
        assert torch.equal(p, start[name]) != name.startswith("levels.1.")
        assert p.requires_grad == name.startswith("levels.1.")
    copied = dict(model.levels[1].named_parameters())
    model.grow()
    for name, p in model.levels[2].named_parameters():
        assert torch.equal(p, copied[name])
        assert p is not copied[name]


def test_an_affine_target_is_fitted_by_the_linear_branch_alone():
    model = chain(1, outputs=1)
    with torch.no_grad():
        model.learner.nonlinear.weights[-1].zero_()
        model.learner.nonlinear.biases[-1].zero_()
    model.learner.nonlinear.requires_grad_(False)
    place, previous = model.frozen(POINTS, (0,))
    target = 3 * previous.value - 0.5
    options = {"max_iter": 500, "line_search_fn": "strong_wolfe", "tolerance_grad": 1e-12, "tolerance_change": 1e-15}
    optimiser = torch.optim.LBFGS(model.learner.linear.parameters(), **options)

    def loss():
        optimiser.zero_grad()
        value = (model.learner(place, previous).value - target).square().mean((1, 2)).sum()
        value.backward()
        return value

    optimiser.step(loss)
    assert loss() < 1e-8


def test_importances_are_averaged_absolute_gradients():
    model = chain(1)
    measured = memory_aware_importances(model, POINTS)
    squares = fisher_importances(model, POINTS)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def slopes(f):
        return torch.cat([g.flatten(1) for g in torch.autograd.grad(f, parameters)], 1)

    expected, fisher = torch.zeros_like(measured), torch.zeros_like(measured)
    for k in range(POINTS.shape[1]):
        for seed in range(2):
            expected[seed] += slopes((model(POINTS[:, k : k + 1], (0,)).value[seed] ** 2).sum())[seed].abs()
            for o in range(2):
                fisher[seed] += slopes(model(POINTS[:, k : k + 1], (0,)).value[seed, 0, o])[seed] ** 2
    assert (measured - expected / 20).abs().max() < 1e-8
    assert (squares - fisher / 20).abs().max() < 1e-8
    assert measured.min() >= 0 and measured.max() > 0.1


def test_strength_zero_is_naive_training_and_a_large_one_holds_still():
    def run(strength, anchored=True):
        network = MLP(1, 1, [0, 1], 8, 2).double()
        start = flat(network).detach().clone()
        anchors = [(torch.ones_like(start), start), (torch.ones_like(start), start)] if anchored else []
        learn(
            network, lambda: network(POINTS, (0,)), torch.sin(5 * POINTS), None, 30, anchors=anchors, strength=strength
        )
        return flat(network).detach(), start

    (free, start), (naive, _), (held, _) = run(0.0), run(0.0, anchored=False), run(1e4)
    assert torch.equal(free, naive)
    assert (held - start).norm() < 0.1 * (free - start).norm()


def test_drift_adds_half_the_weighted_squares_of_all_anchors():
    here = torch.tensor([[1.0, 2.0]])
    anchors = [
        (torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])),
        (torch.tensor([[1.0, 4.0]]), torch.tensor([[1.0, 1.0]])),
    ]
    assert drift(here, anchors).item() == 1.0 + 2.0
    assert drift(here, []).item() == 0.0


def test_penalty_counts_the_nonlinear_branch_only():
    model = chain(2)
    expected = sum(p[1].square().sum() for p in model.learner.nonlinear.parameters())
    assert torch.allclose(model.penalty()[1], expected)
    assert chain(0).penalty().eq(0).all()


def test_loss_has_values_first_and_weights_the_residual():
    network = MLP(1, 1, [0, 1], 8, 2).double()
    jet = network(POINTS, (1,))
    values = torch.ones(2, 3, 1, dtype=torch.float64)
    expected = (jet.value[:, :3] - 1).square().mean((1, 2)) + 10 * (jet.d(0)[:, 3:] - 2).square().mean((1, 2))
    loss = learn(network, lambda: network(POINTS, (1,)), values, lambda j: j.d(0) - 2, steps=1, residual_weight=10.0)
    assert torch.allclose(loss, expected)


def test_loss_adds_the_penalty_and_training_feels_it():
    model, values = chain(1, outputs=1), torch.ones(2, 20, 1, dtype=torch.float64)
    inputs = model.frozen(POINTS, (0,))
    expected = (model.learner(*inputs).value - 1).square().mean((1, 2)) + 0.3 * model.penalty()
    before = model.penalty().detach()
    loss = learn(model, lambda: model.learner(*inputs), values, None, 1, shrink=lambda: 0.3 * model.penalty())
    assert torch.allclose(loss, expected)
    learn(model, lambda: model.learner(*inputs), values, None, 30, shrink=lambda: 100 * model.penalty())
    assert (model.penalty() < 0.8 * before).all()


def test_a_seed_in_a_stack_is_that_seed_alone():
    both, alone = Multifidelity(1, 1, [3, 4], 8, 2), Multifidelity(1, 1, [4], 8, 2)
    for model in (both, alone):
        model.grow()
    points = POINTS.float()
    assert torch.allclose(both(points, (0,)).value[1], alone(points[1:], (0,)).value[0], atol=1e-6)


def test_a_seed_in_a_stack_trains_as_it_does_alone():
    answers = []
    for seeds in ([3, 4], [4]):
        model = Multifidelity(1, 1, seeds, 8, 2)
        model.grow()
        points = POINTS[-len(seeds) :].float()
        frozen = model.frozen(points, (0,))
        learn(
            model, lambda m=model, f=frozen: m.learner(*f), torch.sin(5 * points), None, 50,
            shrink=lambda m=model: 1e-4 * m.penalty(),
        )  # fmt: skip
        answers.append(model(points, (0,)).value[-1])
    assert (answers[0] - answers[1]).norm() <= 1e-5 * answers[1].norm() + 1e-6


@pytest.mark.parametrize("name", ["pendulum", "reaction"])
def test_the_laws_fulfil_their_equations(name):
    task, h = TESTBEDS[name], 1e-2
    points = task.grid(1, 9)
    step = torch.zeros_like(points)
    step[:, 0] = h
    rate = (task.law(points + step, 0) - task.law(points - step, 0)) / (2 * h)
    jet = jets.Jet(torch.stack([task.law(points, 0), rate])[None], task.orders)
    assert task.residual(jet).abs().max() < 5e-3 * max(1.0, float(rate.abs().max()))
    wrong = jets.Jet(torch.stack([task.law(points, 0), -rate])[None], task.orders)
    assert task.residual(wrong).abs().max() > 0.5


def test_pendulum_starts_at_one_one_and_its_residual_has_its_signs():
    assert torch.allclose(pendulum_states(torch.tensor([[0.0], [0.0]])), torch.ones(2, 2))
    jet = jets.Jet(torch.tensor([[[[0.5, 2.0]], [[2.0, -0.1 - 9.81 * math.sin(0.5)]]]]), (1,))
    assert pendulum_residual(jet).abs().max() < 1e-5


def test_windows_tile_the_domain_and_unrelated_functions_differ_by_window_and_seed():
    for task in TESTBEDS.values():
        for window in range(task.count):
            points = task.points(window, 50, [0, 1])
            assert points[..., 0].min() >= task.edges[window] and points[..., 0].max() <= task.edges[window + 1]
            assert not torch.equal(points[0], points[1])
            assert torch.equal(points[1:], task.points(window, 50, [1]))
            assert task.values(points, [0, 1]).shape == (2, 50, task.outputs)
    x = torch.linspace(0, 0.499, 50)[:, None]
    assert not torch.allclose(unrelated(x, 0), unrelated(x, 1))
    assert not torch.allclose(unrelated(x, 0), unrelated(x + 0.5, 0) * math.exp(0.5))
    sizes = [np.mean([unrelated(x + 0.5 * w, s).square().mean().sqrt() for s in range(40)]) for w in range(5)]
    law = [TESTBEDS["regression"].law(x + 0.5 * w, 0).square().mean().sqrt() for w in range(5)]
    assert np.allclose(sizes, law, rtol=0.35)


def test_bad_arguments_are_named():
    model = chain(1, outputs=1)
    with pytest.raises(ValueError, match="points is empty"):
        unchecked(memory_aware_importances)(model, POINTS[:, :0])
    with pytest.raises(ValueError, match="points has shape"):
        unchecked(fisher_importances)(model, POINTS[0])
    with pytest.raises(ValueError, match="points holds 40 NaN"):
        unchecked(memory_aware_importances)(model, POINTS * torch.nan)
    with pytest.raises(ValueError, match="anchors has shape"):
        unchecked(drift)(torch.ones(1, 3), [(torch.ones(1, 2), torch.ones(1, 3))])
    with pytest.raises(ValueError, match="values holds 1 NaN"):
        unchecked(learn)(model, None, torch.tensor([[[torch.nan]]]), None, 1)
    with pytest.raises(ValueError, match="steps is 0"):
        unchecked(learn)(model, None, torch.ones(1, 1, 1), None, 0)
    with pytest.raises(ValueError, match="window is 5"):
        unchecked(Windows.points)(TESTBEDS["pendulum"], 5, 1, [0])
