"""Loss weights and gradient surgery: closed forms of every rule, and that one seed does not touch another."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns.balancing import (
    Adam,
    InverseDirichlet,
    LearningRateAnnealing,
    MinMax,
    NeuralTangentKernel,
    Normalised,
    ProjectingConflicts,
    RelativeLosses,
    Surgery,
    descend,
    gradient,
    gram,
    impartial,
    move,
    plain_sum,
    weighted_residual,
)
from touchstone.pinns.problems import heat, pois2d
from touchstone.pinns.protocol import Recipe, State, TrainingDiverged, default_network, edge_loss, train, uniform_points

SMALL = Recipe(steps=5, collocation=32, initial=16, boundary=16, initial_weight=1.0)


def network_of(problem, seeds):
    return default_network(problem, seeds, 8, 2)


def start(problem, seeds=(0, 1)):
    """A state at step 0, with its points and its losses."""
    network = network_of(problem, seeds)
    state = State(problem, network, SMALL, [torch.Generator().manual_seed(s) for s in seeds])
    state.points = uniform_points(state)
    terms = {"residual": problem.residual(network, state.points).square().sum(-1).mean(1)}
    return state, terms | edge_loss(problem, network, SMALL, len(seeds))


def random_gradients(losses=3, seeds=4, size=20, draw=0):
    return torch.randn(losses, seeds, size, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)


def combined(gradients, factors):
    return torch.einsum("sl,lsp->sp", factors, gradients)


def test_gradient_and_move_undo_each_other_and_keep_seeds_apart():
    state, terms = start(heat())
    rows = gradient(sum(terms.values()), state.network)  # a residual alone leaves the last bias where it is
    alone, single_terms = start(heat(), (1,))
    assert torch.allclose(rows[1:], gradient(sum(single_terms.values()), alone.network), rtol=1e-4, atol=1e-5)
    before = [p.detach().clone() for p in state.network.parameters()]
    move(state.network, rows)
    assert all((p != b).any() for p, b in zip(state.network.parameters(), before, strict=True))
    move(state.network, -rows)
    assert all(torch.allclose(p, b, atol=1e-5) for p, b in zip(state.network.parameters(), before, strict=True))


def test_descending_the_plain_sum_is_the_shared_training_loop():
    problem, seeds = heat(), [0, 1]
    ours, theirs = network_of(problem, seeds), network_of(problem, seeds)
    state = descend(problem, ours, seeds, SMALL)
    reference = train(problem, theirs, seeds, SMALL)
    assert state.step == reference.step == 5
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert set(state.terms) == {"residual", "initial", "boundary"}
    assert torch.allclose(state.terms["initial"], reference.terms["initial"], rtol=1e-3)


def test_a_rule_pays_only_for_the_losses_it_calls_and_can_be_stopped():
    problem = heat()

    def rule(state, losses):
        return gradient(losses["initial"](), state.network)

    state = descend(problem, network_of(problem, [0]), [0], SMALL, rule, watch=lambda state: state.step == 2)
    assert state.step == 2
    assert set(state.terms) == {"initial"}


def test_a_step_that_is_not_finite_leaves_the_network_as_it_was():
    problem, network = heat(), network_of(heat(), [3, 4])
    before = [p.detach().clone() for p in network.parameters()]

    def rule(state, losses):
        step = torch.zeros(2, sum(p[0].numel() for p in network.parameters()))
        step[1, 5] = torch.nan
        return step

    with pytest.raises(TrainingDiverged, match=r"step 0 .*seeds \[4\]"):
        descend(problem, network, [3, 4], SMALL, rule)
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


def test_adam_agrees_with_torch():
    target = torch.randn(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64, requires_grad=True)
    adam, reference = Adam(), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(30):
        ours = ours - 0.01 * adam(4 * (ours - target) ** 3)
        reference.zero_grad()
        (theirs - target).pow(4).sum().backward()
        reference.step()
    assert torch.allclose(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_pcgrad_of_two_gradients_is_the_projection_and_agreeing_ones_are_summed():
    g = random_gradients(losses=2, seeds=30)
    update = combined(g, ProjectingConflicts()(gram(g)))
    a, b = g
    product = (a * b).sum(1, keepdim=True)
    projected = a - product / b.square().sum(1, keepdim=True) * b + b - product / a.square().sum(1, keepdim=True) * a
    expected = torch.where(product < 0, projected, a + b)
    assert (product < 0).any() and (product > 0).any()
    assert torch.allclose(update, expected, rtol=1e-10)


def test_pcgrad_follows_the_random_order():
    g = random_gradients(losses=3, seeds=1, size=3, draw=5) - 0.3
    draw = torch.Generator().manual_seed(0)
    rows = []
    for mine in range(3):
        row = g[mine, 0].clone()
        for other in torch.randperm(3, generator=draw).tolist():
            if other != mine and row @ g[other, 0] < 0:
                row = row - row @ g[other, 0] / g[other, 0].square().sum() * g[other, 0]
        rows.append(row)
    assert torch.allclose(combined(g, ProjectingConflicts()(gram(g)))[0], sum(rows), rtol=1e-10)
    zero = g.clone()
    zero[1] = 0
    assert torch.isfinite(ProjectingConflicts()(gram(zero))).all()


def test_imtl_g_projects_equally_with_factors_that_sum_to_one():
    g = random_gradients(seeds=20) * torch.tensor([1.0, 1e-3, 50.0], dtype=torch.float64)[:, None, None]
    factors = impartial(gram(g))
    units = g / g.norm(dim=2, keepdim=True)
    projections = torch.einsum("sp,lsp->sl", combined(g, factors), units)
    assert torch.allclose(factors.sum(1), torch.ones(20, dtype=torch.float64), rtol=1e-9)
    assert torch.allclose(projections, projections[:, :1].expand(-1, 3), rtol=1e-7)
    assert torch.allclose(impartial(gram(g[:1])), torch.ones(20, 1, dtype=torch.float64))


def test_plain_sum_has_factors_one():
    g = random_gradients()
    assert torch.equal(combined(g, plain_sum(gram(g))), g.sum(0))


def test_a_fixed_weight_falls_on_the_residual_alone():
    state, terms = start(heat())
    weights = weighted_residual(1e-4)(state, terms)
    assert torch.allclose(weights["residual"], torch.tensor(1e-4))
    assert (weights["initial"] == 1).all() and (weights["boundary"] == 1).all()


def test_annealed_weights_are_maximum_over_mean():
    state, terms = start(heat())
    weights = LearningRateAnnealing(memory=0.0)(state, terms)
    residual, initial = (gradient(terms[name], state.network).abs() for name in ("residual", "initial"))
    assert torch.allclose(weights["initial"], residual.amax(1) / initial.mean(1))
    assert (weights["residual"] == 1).all()
    smoothed = LearningRateAnnealing(memory=0.9)(state, terms)
    assert torch.allclose(smoothed["initial"], 0.9 + 0.1 * weights["initial"])


def test_inverse_dirichlet_weights_make_the_spreads_equal():
    state, terms = start(pois2d(8.0))
    weights = InverseDirichlet()(state, terms)
    spreads = torch.stack([weights[name] * gradient(terms[name], state.network).std(1) for name in terms])
    assert torch.allclose(spreads, spreads.amax(0).expand(2, -1), rtol=1e-4)
    assert torch.allclose(torch.stack(list(weights.values())).amin(0), torch.ones(2))


def test_kernel_diagonal_against_one_gradient_a_point():
    state, _ = start(heat())
    misfit = heat().residual(state.network, state.points[:, :12])
    exact = sum(gradient(misfit[:, n].sum(1), state.network).square().sum(1) for n in range(12)) / 12
    estimate = NeuralTangentKernel(probes=400).mean_diagonal(misfit, state.network)
    assert torch.allclose(estimate, exact, rtol=0.25)


def test_kernel_weights_are_inverse_to_the_diagonal():
    state, terms = start(pois2d(64.0))
    weights = NeuralTangentKernel()(state, terms)
    assert set(weights) == set(terms)
    assert (weights["residual"] > 1e3 * weights["boundary"]).all()  # the stretch makes the residual's kernel tiny
    assert torch.allclose(sum(1 / weight for weight in weights.values()), torch.ones(2), rtol=1e-5)


def test_relative_losses_favour_the_one_that_falls_least():
    balance = RelativeLosses(memory=0.5)
    state, _ = start(heat())
    first = balance(state, {"residual": torch.tensor([1.0]), "initial": torch.tensor([5.0])})
    assert all((weight == 1).all() for weight in first.values())
    state.step = 1
    second = balance(state, {"residual": torch.tensor([0.5]), "initial": torch.tensor([5.0])})
    share = np.exp([5.0, 10.0]) / np.exp([5.0, 10.0]).sum()  # ratios 0.5 and 1 over a temperature of 0.1
    assert torch.allclose(torch.cat(list(second.values())), torch.tensor(0.5 + share, dtype=torch.float32))


def test_min_max_climbs_towards_the_larger_loss():
    balance = MinMax(rate=0.1)
    state, _ = start(heat())
    for state.step in range(5):
        weights = balance(state, {"residual": torch.tensor([1.0]), "initial": torch.tensor([5.0])})
    assert weights["initial"] > 1.2 > 0.8 > weights["residual"]
    assert torch.allclose(sum(weights.values()), torch.tensor([2.0]))


def test_normalised_losses_are_one_at_first_and_follow_the_running_mean():
    balance = Normalised(memory=0.5)
    state, _ = start(heat())
    weights = balance(state, {"residual": torch.tensor([1e-6, 4.0])})
    assert torch.allclose(weights["residual"], torch.tensor([1e6, 0.25]))
    state.step = 1
    weights = balance(state, {"residual": torch.tensor([1e-6, 1.0])})
    assert torch.allclose(weights["residual"], torch.tensor([1e6, 0.5]))  # mean of 4 and 1, halved memory: 2


@pytest.mark.parametrize(
    "make", [LearningRateAnnealing, InverseDirichlet, NeuralTangentKernel, RelativeLosses, MinMax, Normalised]
)
def test_every_weighting_trains_and_repeats(make):
    problem, errors = heat(), []
    for _ in range(2):
        network = network_of(problem, [0, 1])
        state = train(problem, network, [0, 1], SMALL, balance=make())
        errors.append(torch.stack(list(state.terms.values())))
    assert torch.equal(*errors)
    assert torch.isfinite(errors[0]).all()


def test_surgery_shows_products_and_factors():
    seen, problem = [], heat()
    rule = Surgery(impartial, seen=lambda state, products, factors: seen.append((products.shape, factors.sum().item())))
    descend(problem, network_of(problem, [0, 1]), [0, 1], SMALL, rule)
    assert [shape for shape, _ in seen] == [(2, 3, 3)] * 5
    assert np.allclose([total for _, total in seen], 2)


def test_bad_products_are_named():
    good = gram(random_gradients())
    for bad in (good[0], good[:, :2], good * torch.nan, good[:0]):
        with pytest.raises(ValueError, match="products"):
            unchecked(impartial)(bad)
