"""MultiAdam: what a loss's scale may not change, and what it becomes with one group."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.pinns.balancing import descend, gradient
from touchstone.pinns.multiadam import MultiAdam, solve
from touchstone.pinns.problems import heat, lorenz, pois2d
from touchstone.pinns.protocol import Recipe, TrainingDiverged, default_network, predictor, train

SMALL = Recipe(steps=20, collocation=32, initial=16, boundary=16, initial_weight=1.0)


def stream(groups=2, size=30, steps=50):
    """Gradients of several groups, step by step, of very different lengths."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor([10.0**k for k in range(groups)], dtype=torch.float64)[:, None]
    return [scale * torch.randn(groups, size, generator=draw, dtype=torch.float64) for _ in range(steps)]


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_scaling_one_loss_leaves_every_update_unchanged(group, factor):
    plain, scaled = MultiAdam(epsilon=1e-16), MultiAdam(epsilon=1e-16)
    weight = torch.ones(2, 1, dtype=torch.float64)
    weight[group] = factor
    for gradients in stream():
        a, b = plain.direction(gradients), scaled.direction(weight * gradients)
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


def test_scaling_the_residual_leaves_a_training_run_unchanged():
    # The same network under u_t - 0.05 u_xx = 0 and under a thousand times this equation.
    problem = heat()
    louder = heat()
    object.__setattr__(louder, "equation", lambda u, points: 1000 * problem.equation(u, points))
    networks = [default_network(p, [0], 8, 2).double() for p in (problem, louder)]
    for p, network in zip((problem, louder), networks, strict=True):
        descend(p, network, [0], SMALL, MultiAdam(epsilon=1e-16))
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)


def test_one_group_is_adam():
    target = torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64, requires_grad=True)
    multi, adam = MultiAdam(), torch.optim.Adam([theirs], lr=1e-3, betas=(0.99, 0.99))
    for _ in range(50):
        ours = ours - 1e-3 * multi.direction(2 * (ours - target)[None])
        adam.zero_grad()
        (theirs - target).square().sum().backward()
        adam.step()
    assert (ours - theirs.detach()).abs().max() < 1e-12


def test_identical_groups_give_the_adam_update():
    one, four = MultiAdam(), MultiAdam()
    for gradients in stream(groups=1):
        assert torch.allclose(four.direction(gradients.expand(4, -1)), one.direction(gradients), rtol=1e-12)


def test_constant_gradients_give_the_mean_of_their_signs():
    gradients = torch.tensor([[3.0, -1e-3, 2.0, 0.0], [1e-3, -70.0, -5.0, 4.0]])
    multi = MultiAdam()
    for _ in range(400):
        direction = multi.direction(gradients)
    assert torch.allclose(direction, torch.tensor([1.0, -1.0, 0.0, 0.5]), atol=1e-4)


def test_the_second_moment_is_split_too():
    # Groups of size 1 and 1000 with opposite signs cancel; one shared second moment would follow the large one.
    multi = MultiAdam()
    gradients = torch.tensor([[1.0], [-1000.0]])
    for _ in range(10):
        direction = multi.direction(gradients)
    assert direction.abs().item() < 1e-6


def test_moments_by_hand():
    multi = MultiAdam(betas=(0.5, 0.75), epsilon=0.0)
    multi.direction(torch.tensor([[2.0]]))
    second = multi.direction(torch.tensor([[-1.0]]))
    # m = (0.5 * 1 - 0.5) / 0.75 = 0; with the sign of the second gradient flipped it would be 4/3
    assert second.item() == 0
    third = multi.direction(torch.tensor([[3.0]]))
    m, v = 1.5 / 0.875, (((0.25 * 4 * 0.75 + 0.25) * 0.75) + 0.25 * 9) / (1 - 0.75**3)
    assert abs(third.item() - m / v**0.5) < 1e-6


def test_a_group_without_gradient_adds_zero_not_nan():
    # The last bias shifts u by a constant, which a Laplacian does not see.
    problem = pois2d(1.0)
    network = default_network(problem, [0, 1], 8, 2)
    points = torch.rand(2, 10, 2)
    residual = problem.residual(network, points).square().sum(-1).mean(1)
    assert (gradient(residual, network)[:, -1] == 0).all()
    for epsilon in (0.0, 1e-8):
        direction = MultiAdam(epsilon=epsilon).direction(torch.tensor([[0.0, 1.0], [5.0, 1.0]]))
        assert torch.allclose(direction, torch.tensor([0.5, 1.0]))
    start = network.biases[-1].detach().clone()
    descend(problem, network, [0, 1], SMALL, MultiAdam())
    assert torch.isfinite(network.biases[-1]).all() and (network.biases[-1] != start).all()


def test_initial_and_boundary_losses_share_a_group():
    problem = heat()
    network, calls = default_network(problem, [0], 8, 2), []
    rule = MultiAdam()
    descend(
        problem, network, [0], Recipe(steps=1), lambda state, losses: calls.append(set(losses)) or rule(state, losses)
    )
    assert calls == [{"residual", "initial", "boundary"}]
    assert rule.first.shape[:2] == (2, 1)


def test_a_seed_in_a_stack_trains_as_it_does_alone():
    problem, answers = heat(), []
    recipe = Recipe(steps=50, collocation=32, initial=16, boundary=16, initial_weight=1.0)
    x = problem.scale(torch.rand(50, 2, generator=torch.Generator().manual_seed(0)))
    for seeds in ([3, 5], [5]):
        network = default_network(problem, seeds, 8, 2)
        descend(problem, network, seeds, recipe, MultiAdam())
        answers.append(predictor(problem, network)(x)[-1])
    assert (answers[0] - answers[1]).norm() <= 1e-5 * answers[1].norm() + 1e-6


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_finite_weights():
    sound, problem, seen = heat(), heat(), []
    network = default_network(problem, [0, 7], 8, 2)

    def equation(u, points):
        return sound.equation(u, points) * torch.tensor([1.0, torch.nan if len(seen) == 3 else 1.0]).view(2, 1, 1)

    object.__setattr__(problem, "equation", equation)

    def watch(state):
        seen.append([weight.detach().clone() for weight in network.parameters()])

    with pytest.raises(TrainingDiverged, match=r"step 3 .*seeds \[7\]"):
        descend(problem, network, [0, 7], SMALL, MultiAdam(), watch=watch)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), seen[2], strict=True))


def test_a_problem_with_one_loss_is_solved_with_adam():
    problem = lorenz(0.5)
    networks = [default_network(problem, [0], 8, 2) for _ in range(2)]
    descend(problem, networks[0], [0], SMALL, MultiAdam(betas=(0.9, 0.999)))
    train(problem, networks[1], [0], SMALL)
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="betas"):
        MultiAdam(betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="epsilon"):
        MultiAdam(epsilon=-1.0)
    direction = unchecked(MultiAdam.direction)
    for bad in (torch.tensor([[1.0, torch.nan]]), torch.empty(0, 3)):
        with pytest.raises(ValueError, match="gradients"):
            direction(MultiAdam(), bad)
    multi = MultiAdam()
    multi.direction(torch.ones(2, 3))
    with pytest.raises(ValueError, match="gradients has shape"):
        direction(multi, torch.ones(2, 4))


def test_the_entrant_solves_within_its_budget():
    solution = solve(heat(), Budget(0.5), 0)
    assert solution.steps > 5
    assert solution.predict(torch.tensor([[0.5, 0.5]])).shape == (1, 1)
