"""The competitors of R3: where they put points on residual fields whose answer is known."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.nn.networks import generators
from touchstone.pinns import samplers
from touchstone.pinns.problems import Problem, initial_values
from touchstone.pinns.protocol import Recipe, State, default_network
from touchstone.pinns.samplers import ADDED, EVERY, POOL_FACTOR, SAMPLERS


def bump(points):
    """Residual that is one on the left half (x < 0) and small on the right; its sign must not matter."""
    return -torch.where(points[..., 1:] < 0, 1.0, 1e-3)


def start(seeds=(0, 1), count=64, field=bump):
    """A training whose residual is a static field of the points, whatever the network says; time runs from 0 to 2."""
    problem = Problem(
        name="static",
        low=(0.0, -1.0),
        high=(2.0, 1.0),
        orders=(0, 0),
        outputs=1,
        equation=lambda u, points: field(points),
        conditions=(initial_values(torch.sin),),
    )
    return State(problem, default_network(problem, seeds, 4, 1), Recipe(collocation=count), generators(seeds, stream=1))


def after(name, updates, seeds=(0, 1), count=64, field=bump):
    """First and last population."""
    state = start(seeds, count, field)
    first = state.points = SAMPLERS[name](state)
    for state.step in range(1, updates + 1):
        state.residual = field(state.points)
        state.points = SAMPLERS[name](state)
    return first, state.points


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_start_with_the_same_uniform_points(name):
    first = after(name, 0, count=2000)[0]
    assert torch.equal(first, after("uniform", 0, count=2000)[0])
    assert (first[..., 0] >= 0).all() and (first[..., 0] <= 2).all() and (first[..., 1].abs() <= 1).all()
    assert torch.allclose(first.mean(dim=(0, 1)), torch.tensor([1.0, 0.0]), atol=0.06)


def test_a_seed_draws_the_same_points_alone_and_in_a_batch():
    alone, batch = after("RAD", EVERY, seeds=(1,))[1], after("RAD", EVERY, seeds=(0, 1))[1]
    assert torch.equal(alone[0], batch[1])
    assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize("name", ["RAR-G", "RAR-D"])
def test_rar_adds_points_of_high_residual_and_keeps_the_old_ones(name):
    first, before = after(name, EVERY - 1)
    assert torch.equal(first, before)
    first, last = after(name, 2 * EVERY)
    assert last.shape[1] == first.shape[1] + 2 * ADDED
    assert torch.equal(last[:, : first.shape[1]], first)
    assert (last[:, first.shape[1] :, 1] < 0).all()


def test_l_infinity_has_only_the_worst_points():
    first, last = after("L-infinity", EVERY)
    assert last.shape == first.shape
    assert (last[..., 1] < 0).all()


def test_rad_share_follows_its_density():
    # On the left r = 1, on the right 1e-3: weights 1/0.5005 + 1 and 1e-3/0.5005 + 1, so 3/4 of the points go left.
    first, last = after("RAD", EVERY, count=4000)
    assert last.shape == first.shape
    assert abs((last[..., 1] < 0).float().mean().item() - 0.75) < 0.02


def test_pool_is_looked_at_once_every_hundred_steps():
    seen = []

    def counting(points):
        seen.append(points.shape[1])
        return bump(points)

    state = start(field=counting)
    state.points = samplers.rad(state)
    for state.step in range(1, 2 * EVERY + 1):
        state.points = samplers.rad(state)
    assert seen == [POOL_FACTOR * 64] * 2


def test_draw_probability_closed_form():
    probability = samplers.draw_probability(torch.tensor([[1.0, 3.0]]), power=2.0, floor=1.0)
    assert torch.allclose(probability, torch.tensor([[1 / 5 + 1, 9 / 5 + 1]]) / 4)
    assert torch.allclose(samplers.draw_probability(torch.zeros(1, 4), 2.0, 0.0), torch.full((1, 4), 0.25))


def test_magnitude_is_the_norm_over_equations():
    assert samplers.magnitude(torch.tensor([[[3.0, -4.0]]])).item() == 5
    assert samplers.magnitude(torch.tensor([[[-2.0]]])).item() == 2


@pytest.mark.parametrize(
    "bad, message",
    [
        (torch.full((1, 3), torch.nan), "size holds 3 NaN"),
        (torch.zeros(3), "size has shape"),
        (torch.zeros(0, 0), "size is empty"),
    ],
)
def test_bad_residual_size_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        unchecked(samplers.draw_probability)(bad)
