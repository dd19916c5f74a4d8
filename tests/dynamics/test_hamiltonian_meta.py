"""Hamiltonian graph network: conservation, symmetry, no divergence; meta-gradients, adaptation, CKA; systems and errors."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import hamiltonian_graph as hg
from touchstone.dynamics import hamiltonian_meta as meta
from touchstone.dynamics import hamiltonian_meta_baselines as rivals
from touchstone.dynamics import hamiltonian_meta_systems as systems
from touchstone.nn.networks import generators


def network(seeds=(0, 1), width=8, rounds=2, scale=1.5):
    """Untrained networks in double precision, with biases that are not 0."""
    draw = torch.Generator().manual_seed(3)
    weights = [tensor.double() * scale for tensor in hg.init_graph(seeds, width, rounds)]
    return [w + 0.1 * torch.randn(w.shape, generator=draw, dtype=w.dtype) for w in weights]


def random_states(points=5, bodies=3, nets=2, seed=1):
    return torch.randn(nets, points, bodies, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def task_points(bodies=2, tasks=2, seed=2):
    """Random support and query in double precision; the second task lies on a line."""
    states, rates = random_states(8 * tasks, bodies, seed=seed), random_states(8 * tasks, bodies, seed=seed + 9)
    active = torch.ones(tasks, 4, dtype=torch.float64)
    active[1:, 1::2] = 0
    parts = [(active[:, None, None] * part.unflatten(1, (tasks, 8))) for part in (states, rates)]
    points = meta.Points(*parts, active)
    return points.first(5), meta.Points(parts[0][:, :, 5:], parts[1][:, :, 5:], active)


def kind(runs=12, time=20, bodies=1):
    """Trajectories whose states tell run and time."""
    place = torch.stack(torch.meshgrid(torch.arange(runs), torch.arange(time), indexing="ij"), -1).float()
    states = torch.cat([place, place], -1)[None, :, :, None].expand(2, -1, -1, bodies, -1)
    return meta.Kind(states, states.sin(), torch.ones(4))


def test_energy_is_constant_along_the_model_s_own_flow():
    weights = network((0,), rounds=1)
    start = random_states(1, 2, nets=1)
    run = systems.rollout(weights, start, torch.ones(4), steps=1000, dt=0.01)
    values = hg.graph_energy(weights, run[:, 0])
    assert (run[0, 0, -1] - run[0, 0, 0]).abs().max() > 0.1
    assert ((values - values[:, :1]) / values[:, :1]).abs().max() < 1e-4


@pytest.mark.parametrize("bodies", [1, 2, 3])
def test_field_has_no_divergence(bodies):
    weights, states = network(), random_states(2, bodies).requires_grad_()
    rates = hg.field(weights, states, graph=True)
    trace, size = torch.zeros(2, 2, dtype=torch.float64), 0.0
    for body in range(bodies):
        for axis in range(4):
            (slope,) = torch.autograd.grad(rates[:, :, body, axis].sum(), states, retain_graph=True)
            trace, size = trace + slope[:, :, body, axis], size + slope[:, :, body, axis].abs().max()
    assert size > 1e-3
    assert trace.abs().max() < 1e-5


def test_energy_does_not_depend_on_the_order_of_bodies():
    weights, states = network(), random_states()
    turned = states[:, :, [2, 0, 1]]
    swapped = states[:, :, [1, 0, 2]]
    value = hg.graph_energy(weights, states)
    for other in (turned, swapped):
        torch.testing.assert_close(hg.graph_energy(weights, other), value, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        hg.node_embeddings(weights, turned), hg.node_embeddings(weights, states)[:, :, [2, 0, 1]]
    )


def test_bodies_hear_each_other_and_not_themselves():
    weights, states = network(), random_states()
    alone = sum(hg.graph_energy(weights, states[:, :, [i]]) for i in range(3))
    assert (hg.graph_energy(weights, states) - alone).abs().max() > 1e-3
    silent = [tensor.clone() for tensor in weights]
    for start in (hg.EMBEDDING, hg.EMBEDDING + hg.ROUND):
        silent[start + 4] *= 0
    alone = sum(hg.graph_energy(silent, states[:, :, [i]]) for i in range(3))
    torch.testing.assert_close(hg.graph_energy(silent, states), alone)


def test_field_of_a_known_energy():
    states = random_states(4, 2)
    found = hg.field(
        [torch.zeros(2)], states, lambda weights, x: (x[..., 2:] ** 2 / 2 + x[..., :2] ** 4 / 4).sum((2, 3))
    )
    torch.testing.assert_close(found, torch.cat([states[..., 2:], -(states[..., :2] ** 3)], -1))


@pytest.mark.parametrize("second_order", [False, True])
def test_without_an_inner_rate_the_meta_gradient_is_the_plain_one(second_order):
    weights = [tensor.requires_grad_() for tensor in network(scale=1.0)]
    support, query = task_points()
    slopes = []
    for rate in (0.0, 0.005):
        loss = meta.meta_loss(weights, support, query, 3, rate, second_order).sum()
        slopes.append(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
    joint = meta.meta_loss(weights, support, query, steps=0).sum()
    plain = torch.autograd.grad(joint, weights, allow_unused=True, materialize_grads=True)
    for a, b in zip(slopes[0], plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert max((a - b).abs().max() for a, b in zip(slopes[1], plain, strict=True)) > 1e-3


def test_second_order_gradient_is_the_slope_of_the_meta_loss_and_first_order_is_not():
    weights = [tensor.requires_grad_() for tensor in network((0,), scale=1.0)]
    support, query = task_points()
    support, query = (meta.Points(p.states[:1], p.rates[:1], p.active) for p in (support, query))
    target, place = weights[2], (0, 1, 2)
    exact, rough = (
        torch.autograd.grad(meta.meta_loss(weights, support, query, 2, 0.005, order).sum(), target)[0][place].item()
        for order in (True, False)
    )
    values = []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            target[place] += shift
        values.append(meta.meta_loss(weights, support, query, 2, 0.005).item())
        with torch.no_grad():
            target[place] -= shift
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(exact, rel=1e-5)
    assert abs(rough - exact) > 1e-3 * abs(exact)


def test_inner_steps_and_adam_lower_the_support_loss_of_each_task_alone():
    weights, (support, _) = network(scale=1.0), task_points()
    tasks = [tensor.requires_grad_() for tensor in meta.for_tasks(weights, 2)]
    before = meta.task_losses(tasks, support)
    assert (meta.task_losses(meta.inner_steps(tasks, support, 5, 0.01), support) < before).all()
    none, some, many = meta.adapt(weights, support, 1e-2, [0, 3, 30])
    torch.testing.assert_close(meta.task_losses(none, support), before.detach())
    assert (meta.task_losses(many, support) < meta.task_losses(some, support)).all()
    second = meta.Points(support.states[:, 1:], support.rates[:, 1:], support.active[1:])
    (alone,) = meta.adapt(weights, second, 1e-2, [3])
    torch.testing.assert_close(some[2][1::2], alone[2])  # networks are ordered by seed, then by task
    with pytest.raises(ValueError, match="steps"):
        meta.adapt(weights, support, 1e-2, [5, 5])


def test_inactive_coordinates_do_not_count():
    weights, (support, _) = network(), task_points()
    tasks = meta.for_tasks(weights, 2)
    other = support.rates.clone()
    found = hg.field(tasks, support.states.flatten(0, 1)).unflatten(0, (2, 2))
    expected = (support.active[None, :, None, None] * found - other).square().sum((3, 4)).mean(2)
    torch.testing.assert_close(meta.task_losses(tasks, support).view(2, 2), expected)
    run = systems.rollout(weights, random_states(2, 1), torch.tensor([1.0, 0, 1, 0]).double(), steps=3)
    assert torch.equal(run[..., 1], run[:, :, :1, :, 1].expand(-1, -1, 4, -1))
    assert (run[:, :, -1, :, 0] != run[:, :, 0, :, 0]).all()


def test_support_and_query_are_different_points_of_a_few_runs():
    support, query = meta.sample([kind(), kind()], generators([0, 1]), support=30, query=40, runs=4)
    assert support.states.shape == (2, 2, 30, 1, 4) and query.states.shape == (2, 2, 40, 1, 4)
    both = torch.cat([support.states, query.states], 2)[:, :, :, 0, :2]
    for seed in range(2):
        for task in range(2):
            places = {tuple(place) for place in both[seed, task].tolist()}
            assert len(places) == 70 and len({run for run, _ in places}) == 4
    torch.testing.assert_close(query.rates, query.states.sin())
    assert not torch.equal(both[0, 0], both[1, 0]) and not torch.equal(both[0, 0], both[0, 1])


def test_training_is_the_same_alone_and_in_a_stack_and_learns():
    spring = systems.data("spring", [0, 1], runs=12, samples=20)
    pair = systems.data("two-body", [0, 1], runs=12, samples=20)
    small = hg.init_graph([0, 1], width=8)
    both = meta.meta_train([spring, pair], [0, 1], updates=3, tasks=2, steps=1, start=small)
    own = [meta.Kind(k.states[1:], k.rates[1:], k.active) for k in (spring, pair)]
    alone = meta.meta_train(own, [1], updates=3, tasks=2, steps=1, start=[w[1:] for w in small])
    for a, b in zip(both, alone, strict=True):
        torch.testing.assert_close(a[1:], b)
    longer = meta.meta_train([spring], [0, 1], updates=40, steps=0, rate=1e-2, start=small)
    support, _ = meta.sample([spring], generators([0, 1], 5))
    assert (meta.task_losses(longer, support) < 0.5 * meta.task_losses(small, support)).all()


def test_plain_network_takes_one_body_and_is_a_hamiltonian_too():
    weights = rivals.init_plain([0, 1], width=8)
    states = random_states(4, 1).float()
    states.requires_grad_()
    rates = hg.field(weights, states, rivals.plain_energy, graph=True)
    slopes = [torch.autograd.grad(rates[..., i].sum(), states, retain_graph=True)[0][..., i] for i in range(4)]
    assert sum(slopes).abs().max() < 1e-5 < slopes[0].abs().max()
    with pytest.raises(ValueError, match="states has 2 bodies"):
        rivals.plain_energy(weights, random_states(4, 2).float())


def test_cka_knows_rotations_and_scales():
    x = random_states(20, 1)[:, :, 0]
    rotation, _ = torch.linalg.qr(random_states(4, 1)[:, :, 0])
    one = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(meta.linear_cka(x, 3 * x @ rotation + 2), one)
    centred = x - x.mean(1, keepdim=True)
    basis, _ = torch.linalg.qr(centred)
    outside = random_states(20, 1, seed=7)[:, :, 0]
    outside = outside - outside.mean(1, keepdim=True)
    outside = outside - basis @ (basis.mT @ outside)
    assert meta.linear_cka(x, outside).abs().max() < 1e-12
    mixed = meta.linear_cka(x, centred + outside)
    assert ((0.1 < mixed) & (mixed < 0.99)).all()
    torch.testing.assert_close(meta.linear_cka(centred + outside, x), mixed)


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_systems_follow_from_their_energies(name):
    own = systems.system(name)
    kind = systems.data(name, [0], runs=12, samples=20)
    states, rates = kind.states[0, :, 3].double().numpy(), kind.rates[0, :, 3].numpy()
    energy, dim = own.invariants["energy"], len(own.centre)
    slope = np.zeros_like(states)
    for place in np.ndindex(states.shape[1:]):
        shift = np.zeros_like(states)
        shift[(slice(None), *place)] = 1e-5
        ends = [energy(systems.from_bodies(states + sign * shift, dim)) for sign in (1, -1)]
        slope[(slice(None), *place)] = (ends[0] - ends[1]) / 2e-5
    expected = np.concatenate([slope[..., 2:], -slope[..., :2]], -1)
    np.testing.assert_allclose(rates, kind.active.numpy() * expected, atol=1e-5)
    flat = np.arange(3.0 * dim).reshape(3, dim)
    np.testing.assert_array_equal(systems.from_bodies(systems.to_bodies(flat), dim), flat)
    starts = own.draw(40, 5)
    assert starts.shape == (40, dim)


def test_errors_are_relative_and_use_the_true_energy():
    truth = systems.data("spring", [0], runs=12, samples=20).states[0].numpy()
    state, energy = systems.errors("spring", truth, 1.1 * truth)
    np.testing.assert_allclose(state, 0.1, rtol=1e-4)
    np.testing.assert_allclose(energy, 0.21, rtol=1e-4)
    broken = truth.copy()
    broken[2, 5:] = np.nan
    state, energy = systems.errors("spring", truth, broken)
    assert np.isinf(state[2]) and np.isinf(energy[2]) and not state[[0, 1, 3]].any()


def test_rollout_of_the_true_energy_follows_the_trajectory():
    pair = systems.data("two-body", [0], runs=12, samples=201)

    def energy(weights, x):
        apart = ((x[:, :, 0, :2] - x[:, :, 1, :2]) ** 2).sum(-1) + 0.05**2
        return (x[..., 2:] ** 2).sum((2, 3)) / 2 - apart**-0.5

    run = systems.rollout([torch.zeros(1)], pair.states[:, :, 0].double(), pair.active, steps=100, energy=energy)
    state, drift = systems.errors("two-body", pair.states[0, :, ::2].numpy(), run[0].float().numpy())
    assert state.max() < 2e-2 and np.median(state) < 1e-3 and drift.max() < 1e-2


def test_bad_input_is_named():
    spring = systems.data("spring", [0, 1], runs=12, samples=20)
    with pytest.raises(ValueError, match="width and rounds"):
        hg.init_graph([0], width=0)
    with pytest.raises(ValueError, match="states has shape"):
        unchecked(hg.field)(network(), random_states()[..., :3])
    with pytest.raises(ValueError, match="kinds"):
        meta.meta_train([], [0])
    with pytest.raises(ValueError, match="kinds"):
        meta.meta_train([spring], [0])
    with pytest.raises(ValueError, match="support 300"):
        meta.sample([spring], generators([0, 1]), support=300)
    with pytest.raises(ValueError, match="rates holds"):
        meta.Kind(spring.states, spring.rates / 0, spring.active)
    with pytest.raises(ValueError, match="second has shape"):
        unchecked(meta.linear_cka)(torch.ones(2, 5, 3), torch.ones(2, 4, 3))
    with pytest.raises(ValueError, match="did you mean 'pendulum'"):
        systems.system("pendulm")
    with pytest.raises(ValueError, match="run has shape"):
        unchecked(systems.errors)("spring", np.ones((2, 3, 1, 4)), np.ones((2, 2, 1, 4)))
