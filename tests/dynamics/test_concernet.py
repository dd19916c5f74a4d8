"""The ratio loss, the projection, free runs on level sets, learning on a circle; rivals; the systems."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import concernet
from touchstone.dynamics import concernet_baselines as rivals
from touchstone.dynamics import concernet_systems as systems

SEEDS = [0, 1]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def circles(members=2, trajectories=12, points=30):
    """States on circles of different radius, and their rates."""
    draw = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(members, trajectories, points, generator=draw)
    radius = torch.linspace(0.4, 1.6, trajectories)[:, None]
    states = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return states, torch.stack([states[..., 1], -states[..., 0]], -1)


def test_ratio_loss_is_the_mean_over_pairs_of_its_definition():
    values = normal(2, 3, 4, 2)
    flat, number = values.flatten(1, 2), torch.arange(12) // 4
    for member in range(2):
        apart = (flat[member][:, None] - flat[member]).square().sum(-1)
        ratios = [
            apart[i, j] / apart[i].sum() for i in range(12) for j in range(12) if i != j and number[i] == number[j]
        ]
        torch.testing.assert_close(concernet.ratio_loss(values)[member], torch.stack(ratios).mean())


def test_ratio_loss_knows_neither_scale_nor_shift_nor_the_order_of_trajectories():
    values = normal(2, 5, 6, 1)
    loss = concernet.ratio_loss(values)
    for a, b in ((2.5, 1.0), (-0.3, -4.0)):
        torch.testing.assert_close(concernet.ratio_loss(a * values + b), loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(concernet.ratio_loss(values[:, [3, 0, 4, 1, 2]]), loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(concernet.ratio_loss(values.flip(2)), loss, rtol=1e-12, atol=0)


def test_ratio_loss_is_zero_for_constants_that_differ_and_undefined_for_one_constant():
    constants = torch.tensor([1.0, 2.0, 5.0])[None, :, None, None].expand(1, 3, 8, 1)
    assert concernet.ratio_loss(constants).item() == 0
    assert concernet.ratio_loss(torch.ones_like(constants)).isnan().item()
    crossed = constants + torch.linspace(-3, 3, 8)[:, None]
    assert concernet.ratio_loss(crossed).item() > 0.01


def test_projection_is_orthogonal_to_every_gradient_and_idempotent():
    slopes, field = normal(7, 3, 5), normal(7, 5, seed=1)
    slopes[:, 0] *= 40  # a first row of another length than 1
    normals = concernet.orthonormal(slopes)
    torch.testing.assert_close(normals @ normals.mT, torch.eye(3).double().expand(7, 3, 3), rtol=0, atol=1e-12)
    moved = concernet.project(field, normals)
    cosine = torch.einsum("bmn,bn->bm", slopes, moved).abs() / (slopes.norm(dim=-1) * field.norm(dim=-1, keepdim=True))
    assert cosine.max() < 1e-6
    torch.testing.assert_close(concernet.project(moved, normals), moved, rtol=0, atol=1e-12)
    inside = torch.linalg.lstsq(slopes.mT, field[..., None]).solution
    torch.testing.assert_close(field - moved, (slopes.mT @ inside)[..., 0], rtol=0, atol=1e-10)


def test_zero_and_dependent_gradients_remove_nothing_more():
    row, field = normal(4, 1, 3), normal(4, 3, seed=1)
    alone = concernet.project(field, concernet.orthonormal(row))
    more = concernet.project(field, concernet.orthonormal(torch.cat([row, -2 * row, 0 * row], 1)))
    torch.testing.assert_close(more, alone, rtol=0, atol=1e-12)
    near = torch.cat([row, row + 1e-4 * normal(4, 1, 3, seed=2)], 1)
    normals = concernet.orthonormal(near)
    assert (normals[:, 0] * normals[:, 1]).sum(-1).abs().max() < 1e-12


def test_gradient_is_that_of_each_output():
    found = concernet.gradient(lambda z: torch.stack([z[..., 0] ** 2, z[..., 0] * z[..., 1]], -1), normal(1, 4, 2))
    z = normal(1, 4, 2)
    expected = torch.stack([torch.stack([2 * z[..., 0], 0 * z[..., 0]], -1), z.flip(-1)], -2)
    torch.testing.assert_close(found, expected)


def test_a_linear_invariant_stays_constant_along_free_runs():
    weights = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    field = concernet.ProjectedField(lambda z: torch.sin(3 * z) + 0.4, lambda z: weights.expand(*z.shape[:-1], 1, 3))
    runs = concernet.rollout(field, normal(2, 4, 3), 0.1, 60)
    value = runs @ weights
    assert (value - value[:, :, :1]).abs().max() < 1e-6
    assert (runs[:, :, -1] - runs[:, :, 0]).norm(dim=-1).min() > 0.1
    plain = concernet.rollout(concernet.ProjectedField(field.network), normal(2, 4, 3), 0.1, 60) @ weights
    assert (plain - plain[:, :, :1]).abs().max() > 0.1


def test_contrast_finds_the_radius_and_the_field_keeps_what_was_learned():
    states, rates = circles()
    network = concernet.learn_invariants(states, SEEDS, updates=180, rate=1e-2, width=24)
    radius = states.norm(dim=-1).flatten(1)
    values = network(states.flatten(1, 2))[..., 0]
    for member in range(2):
        assert np.corrcoef(radius[member].square(), values[member])[0, 1] ** 2 > 0.9
    field = concernet.learn_field(
        states, rates, SEEDS, lambda z: concernet.gradient(network, z), updates=100, rate=1e-2, width=24
    )
    found = field(states.flatten(1, 2))
    slopes = concernet.gradient(network, states.flatten(1, 2))[..., 0, :]
    across = (found * slopes).sum(-1).abs() / (slopes.norm(dim=-1) * found.norm(dim=-1))
    assert across.max() < 1e-4  # float32
    assert (found - rates.flatten(1, 2)).square().mean() < 0.1 * rates.square().mean()
    alone = concernet.learn_invariants(states[1:], SEEDS[1:], updates=20, width=8)
    stack = concernet.learn_invariants(states, SEEDS, updates=20, width=8)
    torch.testing.assert_close(alone.weights[0][0], stack.weights[0][1], rtol=1e-3, atol=1e-5)


def test_latent_rates_follow_the_chain_rule():
    fields = normal(1, 10, 1, 6, dtype=torch.float32) * torch.ones(20, 1)
    encoder, decoder = concernet.learn_autoencoder(fields, [0], latent=3, updates=150, rate=1e-2, width=16)
    given = fields.flatten(1, 2)
    assert (decoder(encoder(given)) - given).square().mean() < 0.8 * given.square().mean()
    points, rates = normal(1, 5, 6, dtype=torch.float32), normal(1, 5, 6, seed=3, dtype=torch.float32)
    found = concernet.latent_rates(encoder, points, rates)
    expected = (encoder(points + 1e-2 * rates) - encoder(points - 1e-2 * rates)) / 2e-2
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_info_nce_is_its_definition():
    values = normal(1, 2, 3, 1)
    flat, number = values.flatten(), torch.arange(6) // 3
    apart = (flat[:, None] - flat) ** 2
    terms = [
        apart[i, j] + torch.stack([-apart[i, k] for k in range(6) if k != i]).logsumexp(0)
        for i in range(6)
        for j in range(6)
        if i != j and number[i] == number[j]
    ]
    torch.testing.assert_close(rivals.info_nce(values)[0], torch.stack(terms).mean())


def test_hamiltonian_field_learns_the_rotation_and_its_direction():
    states, rates = circles()
    units = torch.tensor([[1.0, 2.0], [1.0, 1.0]])
    field = rivals.learn_hamiltonian(states, rates, units, SEEDS, updates=200, rate=1e-2, width=24)
    found = field(states.flatten(1, 2))
    assert (found - rates.flatten(1, 2)).square().mean() < 0.1 * rates.square().mean()
    slope = concernet.gradient(field.network, states.flatten(1, 2))[..., 0, :]
    assert (slope * found).sum(-1).abs().max() < 1e-5


@pytest.mark.parametrize("names", [["spring-mass", "kinetics"], ["lotka-volterra"], ["kepler"]])
def test_invariants_are_constant_on_the_data_and_rates_are_its_derivatives(names):
    stack = systems.problem(names, [0], runs=3)
    kept = stack.values(stack.truth)
    assert np.abs(kept - kept[:, :, :1]).max() < 1e-6
    assert (kept[:, :, 0].std(1) > 0.01).all()
    slopes = stack.true_slopes(stack.states[:, 0])
    across = torch.einsum("bpmn,bpn->bpm", slopes, stack.rates[:, 0])
    assert (across.abs() / slopes.norm(dim=-1)).max() < 1e-4
    centre = (stack.states[:, :, 2:] - stack.states[:, :, :-2]) / (2 * stack.step)
    assert (centre - stack.rates[:, :, 1:-1]).square().mean() < 0.02 * stack.rates.square().mean()
    torch.testing.assert_close(stack.encode(stack.decode(stack.start)), stack.start)
    violation, error, history = stack.score(
        stack.encode(torch.as_tensor(stack.truth).flatten(1, 2)).unflatten(1, (3, -1))
    )
    assert violation.max() < 1e-8 and error.max() < 1e-10 and history.shape[1] == stack.truth.shape[2]
    broken = torch.full((len(names), 3, stack.truth.shape[2], stack.start.shape[-1]), torch.nan)
    assert stack.score(broken)[0].tolist() == [100.0] * len(names)


def test_noise_moves_states_and_rates_but_not_the_truth():
    clean, noisy = systems.problem(["spring-mass"], [0], runs=2), systems.problem(["spring-mass"], [0], 0.02, runs=2)
    assert (noisy.truth == clean.truth).all()
    assert 0.015 < (noisy.states - clean.states).std() < 0.025
    assert 0.015 < (noisy.rates - clean.rates).std() < 0.025


def test_rod_diffuses_and_keeps_its_heat():
    start = systems.heat_starts(np.random.default_rng(0), 2)
    fields = systems.heat_trajectories(start, np.array([0.0, 1.0, 1.001, 500.0]))
    np.testing.assert_allclose(fields[:, 0], start, atol=1e-12)
    np.testing.assert_allclose(systems.heat(fields), np.repeat(systems.heat(start)[:, None], 4, 1), rtol=1e-10)
    difference = (fields[:, 2] - fields[:, 1]) / 0.001
    np.testing.assert_allclose(difference, systems.heat_rates(fields[:, 1]), atol=2e-3)
    np.testing.assert_allclose(fields[:, 3], start.mean(1, keepdims=True) * np.ones(101), atol=1e-6)
    stack = systems.rod([0], updates=3, count=12, runs=2)
    assert stack.states.shape == (1, 12, 100, 9)
    assert stack.true_slopes(stack.states[:, 0]).shape == (1, 100, 1, 9)


def test_bad_input_is_named():
    states, rates = circles()
    with pytest.raises(ValueError, match="two or more trajectories"):
        unchecked(concernet.ratio_loss)(torch.ones(1, 1, 5, 1))
    with pytest.raises(ValueError, match="states has shape"):
        unchecked(concernet.learn_invariants)(states, [0])
    with pytest.raises(ValueError, match="states holds"):
        unchecked(concernet.learn_invariants)(states / 0, SEEDS)
    with pytest.raises(ValueError, match="rates has shape"):
        unchecked(concernet.learn_field)(states, rates[:, :3], SEEDS)
    with pytest.raises(ValueError, match="samples and step"):
        unchecked(concernet.rollout)(torch.sin, states[:, :, 0], 0.0, 3)
    with pytest.raises(ValueError, match="fields has shape"):
        unchecked(concernet.learn_autoencoder)(states, [0])
    with pytest.raises(ValueError, match="positions and as many"):
        unchecked(rivals.learn_hamiltonian)(states[..., :1], rates[..., :1], torch.ones(2, 1), SEEDS)
    with pytest.raises(ValueError, match="name is 'pendulums'"):
        unchecked(systems.problem)(["pendulums"], [0])
    with pytest.raises(ValueError, match="must not be empty"):
        unchecked(systems.problem)([], [0])
    with pytest.raises(ValueError, match="times is empty"):
        unchecked(systems.heat_trajectories)(np.ones((1, 101)), np.array([]))
