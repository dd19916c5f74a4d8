"""Colliding spheres: conservation, free flight, spin; the network's identity, the loss's two signs, rivals."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import rigid_body_resnet as resnet
from touchstone.dynamics import rigid_body_resnet_baselines as rivals
from touchstone.dynamics import rigid_body_simulator as box

SEEDS = [0, 1]


def scenario(places, velocities, spins=None, mass=(1.0, 2.0), radius=(0.5, 0.4), world=(0, 0, 0, 0)):
    """One scenario with the bodies given."""
    count = len(places)
    states = np.zeros((1, box.SLOTS, 13))
    states[0, :count, :3], states[0, :count, 3:6] = places, velocities
    states[0, :count, 6] = 1
    if spins is not None:
        states[0, :count, 10:] = spins
    masses, radii = np.ones((1, box.SLOTS)), np.zeros((1, box.SLOTS))
    masses[0, :count], radii[0, :count] = mass[:count], radius[:count]
    return box.Scenarios(states, masses, radii, np.arange(box.SLOTS)[None] < count, np.array([world], float))


def momentum_and_energy(scenarios, states):
    mass, velocity = scenarios.mass[..., None], states[..., 3:6]
    inertia = 0.4 * scenarios.mass * scenarios.radius**2
    kinetic = (mass * velocity**2).sum() / 2 + (inertia * (states[..., 10:] ** 2).sum(-1)).sum() / 2
    return (mass * velocity).sum((0, 1)), kinetic


def pair():
    return scenario([[-0.6, 0, 0], [0.5, 0.3, 0.1]], [[2.0, 0.5, 0], [-1.5, 0, 0.3]], [[3.0, 1, 0], [0, -2, 4]])


def test_smooth_elastic_collision_conserves_momentum_and_kinetic_energy():
    start = pair()
    end, contacts = box.simulate(start, seconds=0.3, friction=0.0)
    assert contacts.tolist() == [1]
    before, after = (momentum_and_energy(start, s) for s in (start.states, end))
    np.testing.assert_allclose(after[0], before[0], atol=1e-10)
    assert abs(after[1] - before[1]) < 1e-10
    np.testing.assert_allclose(end[..., 10:], start.states[..., 10:], atol=1e-12)  # no friction, no torque
    assert np.abs(end[0, :2, 3:6] - start.states[0, :2, 3:6]).max() > 0.5


def test_friction_conserves_momentum_and_angular_momentum_and_loses_energy():
    start = pair()
    end, _ = box.simulate(start, seconds=0.3, friction=0.3)
    (p, kinetic), (p_end, kinetic_end) = (momentum_and_energy(start, s) for s in (start.states, end))
    np.testing.assert_allclose(p_end, p, atol=1e-10)
    assert kinetic_end < kinetic - 1e-3

    def angular(states):
        inertia = 0.4 * start.mass * start.radius**2
        return (
            np.cross(states[..., :3], start.mass[..., None] * states[..., 3:6]) + inertia[..., None] * states[..., 10:]
        ).sum((0, 1))

    # the bodies overlap a little when they touch, so the two arms do not meet in one point
    np.testing.assert_allclose(angular(end), angular(start.states), atol=0.05)
    assert np.abs(end[0, :2, 10:] - start.states[0, :2, 10:]).max() > 0.3


def test_head_on_collision_of_equal_masses_exchanges_velocities():
    start = scenario([[-0.6, 0, 0], [0.6, 0, 0]], [[1.0, 0, 0], [-0.4, 0, 0]], mass=(1.0, 1.0), radius=(0.5, 0.5))
    end, _ = box.simulate(start, seconds=0.4)
    np.testing.assert_allclose(end[0, :2, 3], [-0.4, 1.0], atol=1e-12)


def test_contact_without_slip_does_not_spin_and_friction_at_most_stops_the_slip():
    normal, lightness = np.array([[0.0, 0, 1]]), np.array([2.0])
    straight = box.collide(normal, np.array([[0.0, 0, -1]]), lightness)
    np.testing.assert_allclose(straight, [[0, 0, 1.0]])
    grazing = box.collide(normal, np.array([[0.1, 0, -5.0]]), lightness)
    assert grazing[0, 0] == pytest.approx(-0.1 / 7)  # sticks: slip over 3.5 times the lightness
    fast = box.collide(normal, np.array([[50.0, 0, -1]]), lightness)
    assert fast[0, 0] == pytest.approx(-0.3 * fast[0, 2])  # slides: Coulomb
    assert (box.collide(normal, np.array([[1.0, 0, 1]]), lightness) == 0).all()


def test_wall_reflects():
    start = scenario([[2.0, 0, 0]], [[2.0, 1.0, 0]], mass=(1.3,), radius=(0.5,))
    end, contacts = box.simulate(start, seconds=0.5, friction=0.0)
    assert contacts.tolist() == [1]
    np.testing.assert_allclose(end[0, 0, 3:6], [-2, 1, 0], atol=1e-12)
    assert end[0, 0, 0] == pytest.approx(2.0, abs=0.01)  # 0.5 m there, 0.5 m back


def test_free_flight_is_a_parabola_to_first_order_and_spin_turns_by_rate_times_time():
    misses = []
    for dt in (1 / 250, 1 / 500):
        start = scenario([[0, 0, 1.0]], [[0.5, -1, 1.5]], [[1.0, 2.0, -3.0]], (1.0,), (0.4,), world=(0.8, 0, 0, 0))
        end, contacts = box.simulate(start, seconds=0.5, dt=dt)
        parabola = np.array([0.25, -0.5, 1.0 + 0.75 - 0.8 * 9.81 * 0.125])
        misses.append(np.abs(end[0, 0, :3] - parabola).max())
        assert contacts.tolist() == [0]
    assert 1.9 < misses[0] / misses[1] < 2.1 and misses[1] < 0.01
    spin = np.array([1.0, 2.0, -3.0])
    angle = 0.5 * np.linalg.norm(spin)
    expected = np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * spin / np.linalg.norm(spin)])
    np.testing.assert_allclose(end[0, 0, 6:10], expected, atol=1e-3)


def test_drag_slows_at_the_stated_rate():
    start = scenario([[0, 0, 0]], [[1.0, 0, 0]], [[0, 0, 2.0]], (2.0,), (0.5,), world=(0, 0.3, 0.1, 0.02))
    end, _ = box.simulate(start, seconds=0.02, dt=1e-4)
    assert (1 - end[0, 0, 3]) / 0.02 == pytest.approx((0.3 + 0.1) / 2.0, rel=0.01)
    assert (2 - end[0, 0, 12]) / 0.02 == pytest.approx(0.02 * 2.0 / (0.4 * 2.0 * 0.25), rel=0.01)


def test_quaternion_product_composes_rotations():
    def matrix(q):
        a, b, c, d = q
        return np.array(
            [
                [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
            ]
        )

    p, q = np.random.default_rng(0).standard_normal((2, 4))
    p, q = p / np.linalg.norm(p), q / np.linalg.norm(q)
    np.testing.assert_allclose(matrix(box.quaternion_product(p, q)), matrix(p) @ matrix(q), atol=1e-12)


def test_drawn_scenarios_start_apart_and_repeat():
    drawn = box.draw_scenarios(np.random.default_rng(3), 200)
    again = box.draw_scenarios(np.random.default_rng(3), 200)
    np.testing.assert_array_equal(drawn.states, again.states)
    assert set(drawn.present.sum(1)) == {3, 4, 5}
    for i, j in box.PAIRS:
        gap = np.linalg.norm(drawn.states[:, i, :3] - drawn.states[:, j, :3], axis=-1) - drawn.radius[:, [i, j]].sum(1)
        assert (gap[drawn.present[:, i] & drawn.present[:, j]] >= 0).all()
    assert (np.abs(drawn.states[..., :3]).max(-1) <= 3 - drawn.radius)[drawn.present].all()
    quaternions = np.linalg.norm(drawn.states[..., 6:10], axis=-1)
    np.testing.assert_allclose(quaternions, drawn.present, atol=1e-12)


def test_loss_does_not_see_the_sign_of_a_quaternion():
    first = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    other = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(1))
    turned = torch.cat([other[..., :3], -other[..., 3:]], -1)
    for a, b in zip(resnet.squared_errors(first, other), resnet.squared_errors(first, turned), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    position, orientation = resnet.squared_errors(first, first)
    assert position.max() == 0 and orientation.max() == 0
    assert resnet.squared_errors(first, turned)[0].min() > 0


def test_zero_blocks_make_the_trunk_the_identity_up_to_relu():
    network = resnet.BodyNetwork(SEEDS, blocks=3, width=16)
    for block in network.blocks:
        for parameter in block.parameters():
            torch.nn.init.zeros_(parameter)
    inputs = torch.randn(2, 7, 85)
    torch.testing.assert_close(network.trunk(inputs), torch.relu(network.inlet(inputs)), rtol=0, atol=0)
    plain = resnet.BodyNetwork(SEEDS, blocks=3, width=16, skip=False)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in network.parameters())


def test_batch_norm_matches_the_library_for_each_seed():
    ours, theirs = resnet.BatchNorm(2, 6), [torch.nn.BatchNorm1d(6) for _ in SEEDS]
    for _ in range(3):
        hidden = 3 * torch.randn(2, 40, 6) + 1
        outputs = ours(hidden)
        for i, layer in enumerate(theirs):
            torch.testing.assert_close(outputs[i], layer(hidden[i]), rtol=1e-4, atol=1e-5)
    ours.eval()
    hidden = torch.randn(2, 5, 6)
    for i, layer in enumerate(theirs):
        torch.testing.assert_close(ours(hidden)[i], layer.eval()(hidden[i]), rtol=2e-2, atol=2e-2)


def test_absent_bodies_do_not_count_and_training_lowers_the_error():
    examples, contacts, drawn = rivals.make_examples(SEEDS, 64, stream=0)
    flights = rivals.free_flight(drawn)
    values = torch.rand(2, 64, 5)
    spoiled = torch.where(examples.present > 0, values, torch.full_like(values, 1e6))
    torch.testing.assert_close(resnet.body_mean(values, examples.present), resnet.body_mean(spoiled, examples.present))
    quiet = (torch.from_numpy(contacts) == 0)[..., None, None] & (examples.present[..., None] > 0)
    assert 0 < quiet.float().mean() < 1
    assert (torch.where(quiet, examples.targets - flights, 0.0)).abs().max() < 1e-6
    scores = []
    for epochs in (1, 15):
        network = resnet.BodyNetwork(SEEDS, blocks=2, width=32)
        network = resnet.train(network, examples, SEEDS, epochs, batch=32, rate=3e-3)
        with torch.no_grad():
            predicted = network(examples.bodies, examples.world)
        errors = resnet.squared_errors(predicted, examples.targets)
        scores.append(sum(resnet.body_mean(error, examples.present) for error in errors))
    assert (scores[1] < scores[0]).all()
    torch.testing.assert_close(predicted[..., 3:].norm(dim=-1), torch.ones(2, 64, 5))


def test_ridge_finds_a_linear_law_whatever_the_slot_and_staying_predicts_the_start():
    examples, _, drawn = rivals.make_examples(SEEDS, 300, stream=1)
    lawful = 0.7 * examples.bodies[..., 3:6] + 0.2 * examples.world[:, :, None, :3]
    targets = torch.cat([lawful, 0.5 * examples.bodies[..., 6:10]], -1) * examples.present[..., None]
    made = resnet.Examples(examples.bodies, examples.world, targets, examples.present)
    found = rivals.ridge(made, made, penalty=1e-9)
    there = examples.present[..., None] > 0
    assert (torch.where(there, found - targets, 0.0)).abs().max() < 1e-3
    stayed = rivals.stay(examples, rivals.mean_displacement(examples))
    np.testing.assert_allclose(stayed[0, ..., 3:].numpy(), drawn[0].states[..., 6:10], atol=1e-6)


def test_targets_keep_the_sign_of_the_first_quaternion():
    first, last = np.zeros((1, 1, 13)), np.zeros((1, 1, 13))
    first[..., 6], last[..., 6], last[..., 0] = 1, -1, 2.5
    np.testing.assert_allclose(rivals.targets_of(first, last)[0, 0], [2.5, 0, 0, 1, 0, 0, 0])


def test_bad_input_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="count"):
        box.draw_scenarios(rng, 0)
    with pytest.raises(ValueError, match="bodies"):
        box.draw_scenarios(rng, 3, bodies=(4, 6))
    with pytest.raises(ValueError, match="dt"):
        box.simulate(pair(), dt=0.0)
    broken = pair()
    broken.states[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="states holds"):
        box.simulate(broken)
    with pytest.raises(ValueError, match="blocks"):
        resnet.BodyNetwork(SEEDS, blocks=0)
    examples, _, _ = rivals.make_examples([0], 8, stream=2)
    network, train = resnet.BodyNetwork([0], blocks=1, width=4), unchecked(resnet.train)
    with pytest.raises(ValueError, match="batch"):
        train(network, examples, [0], epochs=1)
    with pytest.raises(ValueError, match="bodies has shape"):
        train(network, examples, SEEDS, epochs=1, batch=4)
    with pytest.raises(ValueError, match="penalty"):
        unchecked(rivals.ridge)(examples, examples, penalty=-1.0)
