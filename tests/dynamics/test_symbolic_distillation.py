"""Symbolic distillation: symmetries and exact limits of the network, its data, and the search for formulas."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import symbolic_distillation as sd
from touchstone.dynamics import symbolic_distillation_baselines as rivals
from touchstone.dynamics import symbolic_distillation_particles as particles
from touchstone.dynamics import symbolic_regression as regression
from touchstone.nn.networks import generators

FORCES = list(particles.FORCES)


@pytest.fixture(scope="module")
def graphs():
    return {force: particles.simulate(force, 6, seed=3) for force in FORCES}


def network(members=2, messages=5, hidden=8):
    return sd.GraphNet(generators(range(members), 1), messages, hidden)


class Exact(sd.GraphNet):
    """Messages are true forces, and the node model divides their sum by the mass."""

    def __init__(self, force):
        super().__init__(generators([0], 1), 2, 4)
        self.force = force

    def messages(self, nodes):
        return particles.pair_forces(nodes[0], self.force)[None]

    def update(self, nodes, messages):
        return messages.unflatten(2, (nodes.shape[2], -1)).sum(3) / nodes[..., 5:]


def test_relabelling_particles_permutes_accelerations(graphs):
    nodes, order = graphs["spring"].nodes[:7].double().expand(2, -1, -1, -1), torch.tensor([2, 0, 3, 1])
    for net in (network().double(), rivals.HamiltonianNet(generators([0, 1], 1), 8).double().eval()):
        assert (net(nodes[:, :, order]) - net(nodes)[:, :, order]).abs().max() < 1e-8
        assert (net(nodes)[:, :, order] - net(nodes)).abs().max() > 1e-3
    assert network()(particles.simulate("spring", 1, 8).nodes.expand(2, -1, -1, -1)).shape[2] == 8


@pytest.mark.parametrize("force", FORCES)
def test_true_forces_over_mass_have_no_loss(force, graphs):
    nodes, truth = graphs[force].nodes, graphs[force].accelerations
    error = (Exact(force)(nodes[None])[0] - truth).abs().max()
    assert error < 1e-5 * truth.abs().max()
    # action and reaction: the force on i by j is minus that on j by i
    forces = torch.zeros(len(nodes), 4, 4, 2)
    receiver, sender = particles.pairs(4)
    forces[:, receiver, sender] = particles.pair_forces(nodes, force)
    assert (forces + forces.transpose(1, 2)).abs().max() < 1e-5 * forces.abs().max()


def test_forces_are_the_ones_in_the_table(graphs):
    # an attracting pair at distance 2 along x, masses 2 and 3, charges of one sign: spring, 1/r, 1/r^2, repelling charge
    nodes = torch.tensor([[[0.0, 0, 0, 0, 1, 2], [2.0, 0, 0, 0, 1, 3]]])
    expected = {"spring": 2 * (2 - 1), "1/r": 6 / 2, "1/r^2": 6 / 4, "charge": -1 / 4}
    for force, strength in expected.items():
        assert particles.pair_forces(nodes, force)[0, 0].tolist() == pytest.approx([strength, 0], abs=1e-3)
        assert len(graphs[force].nodes) == 118  # of 6 x 20 frames, without the largest percent


def test_an_invertible_matrix_on_messages_can_be_absorbed(graphs):
    net, nodes = network(1).double(), graphs["charge"].nodes[:7][None].double()
    before, messages = net(nodes), net.messages(nodes)
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double() + 3 * torch.eye(5)
    net.edge.weights[-1].data @= matrix
    net.edge.biases[-1].data @= matrix
    assert (net(nodes) - before).abs().max() > 1e-3
    net.node.weights[0].data[:, 6:] = torch.linalg.inv(matrix) @ net.node.weights[0].data[:, 6:]
    assert (net(nodes) - before).abs().max() < 1e-8 * before.abs().max()
    assert (net.messages(nodes) - messages @ matrix).abs().max() < 1e-8


def test_linear_regression_on_forces_is_blind_to_mixtures_and_offsets(graphs):
    forces = particles.pair_forces(graphs["1/r"].nodes, "1/r").flatten(0, 1)
    mixed = forces @ torch.tensor([[0.3, -1.0], [2.0, 0.4]]) + 5
    assert (1 - sd.linear_r2(mixed, forces)).abs().max() < 1e-5
    noise = torch.randn(len(forces), 2, generator=torch.Generator().manual_seed(0))
    assert sd.linear_r2(noise, forces).max() < 0.1
    assert (sd.linear_r2(mixed + mixed.std(0) * noise, forces) - 0.5).abs().max() < 0.15
    assert sd.linear_r2(torch.full_like(forces, 0.25), forces).tolist() == [0, 0]  # a message that was switched off


def test_leading_messages_have_the_largest_variance():
    messages = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0, 0.0, 2.0])
    order, share = sd.leading(messages)
    assert order.tolist() == [1, 3] and share == pytest.approx(13 / 14, abs=0.01)


@pytest.mark.parametrize("force", FORCES)
def test_the_search_returns_the_exact_law(force, graphs):
    nodes = graphs[force].nodes
    variables, (a, b, c, d), radial = particles.pair_variables(nodes), *particles.FORCES[force][2:]
    target = (particles.pair_forces(nodes, force).flatten(0, 1) @ torch.tensor([0.8, -0.6])).double().numpy() + 0.1
    law = regression.select(regression.power_laws(target, variables))
    assert law.structure == (((a, b, c, d), radial),)
    assert 1 - np.var(law(variables) - target) / np.var(target) > 0.9999


def test_genetic_programming_finds_a_formula():
    draw = np.random.default_rng(0)
    variables = {"dx": draw.normal(size=300), "dy": draw.normal(size=300), "mj": draw.uniform(0.5, 3, 300)}
    target = 2 * variables["mj"] * variables["dx"] - 1
    best = regression.select(regression.evolve(target, variables, generations=15, population=100))
    assert best.complexity <= 5 and best.error < 1e-8
    assert np.abs(best(variables) - target).max() < 1e-6


def test_a_constant_formula_has_a_value_for_every_sample():
    best = regression.scaled(2.0, {"dx": np.arange(5.0)}, np.full(5, 3.0))
    assert best({"dx": np.arange(7.0)}).tolist() == [3.0] * 7


def test_the_rule_of_selection_takes_the_steepest_drop():
    laws = [regression.Law((), np.zeros(1), size, error) for size, error in [(1, 1.0), (5, 0.9), (7, 0.1), (20, 0.05)]]
    assert regression.select(laws) is laws[2]
    assert regression.front([*laws, regression.Law((), np.zeros(1), 9, 0.2)]) == laws


def test_absolute_fit_ignores_outliers():
    x = np.linspace(-1, 1, 101)
    target = 3 * x + 1
    target[::10] += 100
    constants, error = regression.absolute_fit(np.stack([x, np.ones(101)], 1)[None], target, rounds=40)
    assert constants[0] == pytest.approx([3, 1], abs=0.02) and error[0] == pytest.approx(1100 / 101, rel=0.01)


@pytest.mark.parametrize("force", ["spring", "1/r^2"])
def test_a_network_of_true_forces_distils_to_the_law(force, graphs):
    model, _ = sd.distil(Exact(force), 0, graphs[force], samples=1200)
    (a, b, c, d), radial = particles.FORCES[force][2:]
    assert model.exponents() == [((a - 1, b, c, d), radial)]
    more = particles.simulate(force, 4, particles=8, seed=9)  # the law holds for any number of particles
    assert (model(more.nodes) - more.accelerations).abs().mean() < 1e-3 * more.accelerations.abs().mean()


def test_members_train_as_if_alone_and_the_penalties_do_what_they_say(graphs, monkeypatch):
    monkeypatch.setitem(sd.PENALTIES, "l1", 1.0)
    settings = {"messages": 6, "hidden": 16, "updates": 40, "batch": 16, "rate": 1e-2}
    both = sd.train(graphs["spring"], [0, 1], "l1", **settings)
    alone = sd.train(graphs["spring"], [1], "l1", **settings)
    nodes = graphs["spring"].nodes[None]
    assert (both(nodes.expand(2, -1, -1, -1))[1] - alone(nodes)[0]).abs().max() < 1e-2
    free = sd.train(graphs["spring"], [1], "none", **settings)
    assert alone.messages(nodes).abs().mean() < 0.5 * free.messages(nodes).abs().mean()
    drawn = sd.train(graphs["spring"], [1], "kl", **settings)
    assert drawn.messages(nodes).shape[-1] == 12 and drawn(nodes).shape == nodes.shape[:3] + (2,)
    truth = graphs["spring"].accelerations
    assert (free(nodes)[0] - truth).abs().mean() < truth.abs().mean()


def test_hamiltonian_forces_are_slopes_and_momentum_is_kept(graphs):
    net = rivals.HamiltonianNet(generators([0], 1), 8).double().eval()
    nodes = graphs["spring"].nodes[:3][None].double()
    step = torch.zeros_like(nodes)
    step[..., 1, 0] = 1e-5  # particle 1 along x
    up, down = ([part.sum((0, 2)) for part in net.energies(nodes + sign * step)] for sign in (1, -1))
    slope = (up[0] + up[1] - down[0] - down[1]) / 2e-5
    assert (net(nodes)[0, :, 1, 0] * nodes[0, :, 1, 5] + slope).abs().max() < 1e-6
    fitted = rivals.fit(lambda draws: rivals.HamiltonianNet(draws, 8), graphs["spring"], [0], updates=3, batch=8)
    flat = rivals.fit(lambda draws: rivals.AllParticles(draws, 4, 8), graphs["spring"], [0], updates=3, batch=8)
    assert fitted(graphs["spring"].nodes[None]).shape == flat(graphs["spring"].nodes[None]).shape


def test_direct_search_sees_what_it_needs(graphs):
    variables = rivals.direct_variables(graphs["spring"].nodes)
    forces = [2 * (1 - 1 / variables[f"r{j}"]) * variables[f"dx{j}"] for j in (1, 2, 3)]
    truth = graphs["spring"].accelerations[:, 0, 0].numpy()
    assert np.abs(-sum(forces) / variables["m0"] - truth).max() < 0.05 * np.abs(truth).max()
    found = rivals.direct(graphs["spring"], generations=2, population=30)
    assert found[-1].error < 1.01 * np.abs(truth - np.median(truth)).mean()


def test_bad_input_is_named(graphs):
    few = graphs["spring"]
    empty = particles.Graphs(few.nodes[:0], few.accelerations[:0])
    with pytest.raises(ValueError, match="force"):
        particles.simulate("string", 2)
    with pytest.raises(ValueError, match="runs"):
        particles.simulate("spring", 0)
    with pytest.raises(ValueError, match="nodes"):
        sd.train(empty, [0])
    with pytest.raises(ValueError, match="penalty"):
        sd.train(few, [0], "l2")
    with pytest.raises(ValueError, match="seeds"):
        sd.train(few, [])
    with pytest.raises(ValueError, match="accelerations"):
        sd.distil(network(), 0, particles.Graphs(few.nodes, few.accelerations * float("nan")))
    with pytest.raises(ValueError, match="nodes"):
        rivals.fit(rivals.AllParticles, empty, [0])
    with pytest.raises(ValueError, match="nodes"):
        rivals.direct(empty)
    with pytest.raises(ValueError, match="forces"):
        unchecked(sd.linear_r2)(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match="messages"):
        unchecked(sd.linear_r2)(torch.full((3, 2), float("nan")), torch.ones(3, 2))
    variables = particles.pair_variables(few.nodes)
    count = len(variables["r"])
    search = unchecked(regression.power_laws)
    with pytest.raises(ValueError, match="target"):
        search(np.full(count, np.nan), variables)
    with pytest.raises(ValueError, match="qj"):
        search(np.ones(count), {name: values for name, values in variables.items() if name != "qj"})
    with pytest.raises(ValueError, match="positive"):
        search(np.ones(count), variables | {"mi": -variables["mi"]})
    with pytest.raises(ValueError, match="dx"):
        unchecked(regression.evolve)(np.ones(count - 1), variables)
    with pytest.raises(ValueError, match="formulas"):
        regression.select([])
