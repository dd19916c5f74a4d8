"""ConFIG: equal angles, the length rule, degenerate gradients, and the momentum variant against hand-made steps."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.pinns.balancing import Adam, Surgery, descend, gradient, gram
from touchstone.pinns.config import MomentumConFIG, WarmCosine, config_update, conflict_free, solve
from touchstone.pinns.problems import heat, lorenz
from touchstone.pinns.protocol import Recipe, default_network, predictor, train

SMALL = Recipe(steps=12, collocation=32, initial=16, boundary=16, initial_weight=1.0)


def gradients(losses=3, seeds=20, size=30, draw=0):
    scale = torch.tensor([1.0, 1e-3, 200.0, 7.0][:losses], dtype=torch.float64)[:, None, None]
    noise = torch.Generator().manual_seed(draw)
    return scale * torch.randn(losses, seeds, size, generator=noise, dtype=torch.float64)


def cosines(update, g):
    return torch.einsum("sp,lsp->sl", update, g) / (update.norm(dim=1, keepdim=True) * g.norm(dim=2).T)


def unit(v):
    return v / v.norm(dim=-1, keepdim=True)


def test_the_update_makes_one_positive_angle_with_every_gradient():
    for losses, shift in ((2, 0.0), (3, 0.0), (4, 0.0), (3, 0.8)):
        g = gradients(losses) + shift
        angles = cosines(config_update(g), g)
        assert (angles > 0).all()
        assert (angles - angles[:, :1]).abs().max() < 1e-8


def test_the_length_is_the_sum_of_projections_and_shrinks_with_conflict():
    g = gradients(3)
    update = config_update(g)
    expected = torch.einsum("lsp,sp->s", g, unit(update))
    assert torch.allclose(update.norm(dim=1), expected, rtol=1e-9)
    angle = torch.linspace(0.1, 3.1, 20, dtype=torch.float64)
    pair = torch.stack([torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([[1.0, 0.0]]).double().expand(20, 2)])
    lengths = config_update(pair).norm(dim=1)
    assert torch.allclose(lengths, 2 * (angle / 2).cos(), rtol=1e-9)  # both at half the angle from the bisector
    assert (lengths.diff() < 0).all()


def test_one_loss_keeps_its_gradient():
    g = gradients(1)
    assert torch.allclose(config_update(g), g[0], rtol=1e-12)


def test_equal_gradients_give_their_sum():
    g = gradients(1).expand(2, -1, -1)
    assert torch.allclose(config_update(g), 2 * g[0], rtol=1e-9)


def test_scaling_one_gradient_changes_the_length_only():
    g = gradients(3)
    scaled = g * torch.tensor([10.0, 1.0, 1.0], dtype=torch.float64)[:, None, None]
    before, after = config_update(g), config_update(scaled)
    assert torch.allclose(unit(before), unit(after), atol=1e-10)
    assert (after.norm(dim=1) > before.norm(dim=1)).all()


def test_two_losses_against_the_closed_form():
    g = gradients(2)
    a, b = g
    product = (a * b).sum(1, keepdim=True)
    a_only = a - product / b.square().sum(1, keepdim=True) * b
    b_only = b - product / a.square().sum(1, keepdim=True) * a
    direction = unit(unit(a_only) + unit(b_only))
    update = config_update(g)
    assert (unit(update) - direction).abs().max() < 1e-10
    assert torch.allclose(update, ((a + b) * direction).sum(1, keepdim=True) * direction, rtol=1e-9, atol=1e-12)


def test_three_losses_against_the_pseudo_inverse():
    g = gradients(3)
    for seed in range(5):
        rows = unit(g[:, seed])
        direction = unit(torch.linalg.pinv(rows) @ torch.ones(3, dtype=torch.float64))
        expected = (g[:, seed] @ direction).sum() * direction
        assert torch.allclose(config_update(g)[seed], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_opposite_gradients_give_no_update(kind):
    first = gradients(1)[0]
    g = torch.stack([first, -5 * first]).to(kind)
    update = config_update(g)
    assert torch.isfinite(update).all()
    assert update.abs().max() < 1e-6 * first.abs().max()


def test_a_zero_gradient_has_no_say():
    g = gradients(3)
    g[1] = 0
    assert torch.allclose(config_update(g), config_update(g[[0, 2]]), rtol=1e-9)
    assert (config_update(torch.zeros_like(g)) == 0).all()


def test_every_seed_has_its_own_matrix():
    g = gradients(3)
    together = config_update(g)
    alone = torch.cat([config_update(g[:, seed : seed + 1]) for seed in range(20)])
    assert torch.allclose(together, alone, rtol=1e-9)


def test_momentum_with_one_loss_is_adam():
    momentum, adam, g = MomentumConFIG(), Adam(), gradients(1)[0]
    for step in range(30):
        now = g * (1 + step) ** 0.5 + step
        assert torch.allclose(momentum.direction(now, 0, 1), adam(now), rtol=1e-8)


def test_momentum_waits_for_every_loss_and_counts_each_by_itself():
    g, momentum = gradients(3), MomentumConFIG()
    assert (momentum.direction(g[0], 0, 3) == 0).all()
    assert (momentum.direction(g[1], 1, 3) == 0).all()
    assert momentum.updates == 0
    step = momentum.direction(g[2], 2, 3)
    # One visit each: the corrected moments are the gradients, and the first Adam step is a sign.
    assert torch.allclose(step, config_update(g).sign(), atol=1e-4)
    assert momentum.visits == [1, 1, 1] and momentum.updates == 1


def test_second_momentum_step_by_hand():
    g, new, momentum = gradients(2), gradients(1, draw=9)[0], MomentumConFIG(betas=(0.5, 0.75), epsilon=0.0)
    for index in (0, 1):
        momentum.direction(g[index], index, 2)
    step = momentum.direction(new, 0, 2)
    first = (0.25 * g[0] + 0.5 * new) / 0.75  # visited twice; the other moment is g[1] still
    one, two = config_update(g), config_update(torch.stack([first, g[1]]))
    pseudo = (0.75 * two - 0.5 * 0.5 * one) / 0.5
    second = (0.75 * 0.25 * one**2 + 0.25 * pseudo**2) / (1 - 0.75**2)
    assert torch.allclose(step, two / second.sqrt(), rtol=1e-8)


def test_momentum_evaluates_one_loss_a_step():
    problem, seen = heat(), []
    descend(problem, default_network(problem, [0], 8, 2), [0], SMALL, MomentumConFIG(),
            watch=lambda state: seen.append(list(state.terms)))  # fmt: skip
    assert seen == [["residual"], ["initial"], ["boundary"]] * 4


def test_training_lowers_every_loss():
    problem = heat()
    for rule in (Surgery(conflict_free), MomentumConFIG()):
        network = default_network(problem, [0, 1], 8, 2)
        first = descend(problem, network, [0, 1], Recipe(steps=1, collocation=64), Surgery(conflict_free)).terms
        descend(problem, network, [0, 1], Recipe(steps=60, collocation=64), rule)
        last = descend(problem, network, [0, 1], Recipe(steps=1, collocation=64), Surgery(conflict_free)).terms
        assert all((last[name] < first[name]).all() for name in ("residual", "initial"))


@pytest.mark.parametrize("make", [lambda: Surgery(conflict_free), MomentumConFIG])
def test_a_seed_in_a_stack_trains_as_it_does_alone(make):
    problem, answers = heat(), []
    recipe = Recipe(steps=50, collocation=32, initial=16, boundary=16, initial_weight=1.0)
    x = problem.scale(torch.rand(50, 2, generator=torch.Generator().manual_seed(0)))
    for seeds in ([3, 5], [5]):
        network = default_network(problem, seeds, 8, 2)
        descend(problem, network, seeds, recipe, make())
        answers.append(predictor(problem, network)(x)[-1])
    assert (answers[0] - answers[1]).norm() <= 1e-5 * answers[1].norm() + 1e-6


def test_a_problem_with_one_loss_is_solved_with_adam():
    problem = lorenz(0.5)
    networks = [default_network(problem, [0], 8, 2) for _ in range(2)]
    descend(problem, networks[0], [0], SMALL, Surgery(conflict_free))
    train(problem, networks[1], [0], SMALL)
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_first_updates_of_a_network_have_positive_products():
    problem, network = heat(), default_network(heat(), [0, 1, 2], 8, 2)
    low = []

    def seen(state, products, factors):
        low.append((products @ factors[..., None]).min().item())

    descend(problem, network, [0, 1, 2], SMALL, Surgery(conflict_free, seen=seen))
    assert len(low) == 12 and min(low) > 0
    assert gradient(problem.residual(network, torch.rand(3, 4, 2)).sum((1, 2)), network).shape[0] == 3


def test_learning_rates():
    recipe = WarmCosine(steps=1000, first_rate=1e-3, last_rate=1e-4)
    assert abs(recipe.rate(0.0) - 1e-5) < 1e-12
    assert abs(recipe.rate(0.5) - 5.5e-4) < 1e-12
    assert abs(recipe.rate(1.0) - 1e-4) < 1e-12


def test_bad_input_is_named():
    g = gradients(2)
    for bad in (g * torch.nan, g[:, :0], g[0]):
        with pytest.raises(ValueError, match="gradients"):
            unchecked(config_update)(bad)
    with pytest.raises(ValueError, match="products"):
        unchecked(conflict_free)(gram(g)[:, :1])
    direction = unchecked(MomentumConFIG.direction)
    with pytest.raises(ValueError, match="index is 2"):
        direction(MomentumConFIG(), g[0], 2, 2)
    with pytest.raises(ValueError, match="gradient holds"):
        direction(MomentumConFIG(), g[0] * torch.inf, 0, 2)
    momentum = MomentumConFIG()
    momentum.direction(g[0], 0, 2)
    with pytest.raises(ValueError, match="gradient has shape"):
        direction(momentum, g[1, :3], 1, 2)


def test_the_entrant_solves_within_its_budget():
    solution = solve(heat(), Budget(0.5), 0)
    assert solution.steps > 5
    assert solution.predict(torch.tensor([[0.5, 0.5]])).shape == (1, 1)
