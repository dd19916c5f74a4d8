"""Almost-linear networks: the map, its gradients, its limits, and what is read off it."""

import math

import networkx as nx
import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import al_rnn, recurrent
from touchstone.dynamics import al_rnn_analysis as analysis
from touchstone.metrics.attractors import lyapunov_exponents

LOZI = (1.7, 0.5)


def drawn(rectified=(0, 2, 6), dim=3, latent=6, scale=20.0):
    """A stack in float64 with every parameter away from its start."""
    model = al_rnn.init_al_rnn(range(len(rectified)), rectified, dim, latent).to(torch.float64)
    model.W *= scale
    model.h += torch.linspace(-0.2, 0.3, latent)
    return model


def data(points, models=3, batch=4, dim=3, seed=0):
    return torch.randn(points, models, batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_loss(model, windows, alpha):
    """The same loss by the plainest loop."""
    dim, state, losses = windows.shape[-1], model.start(windows[0]), []
    for time in range(1, len(windows)):
        state = model.step(state)
        losses.append((state[..., :dim] - windows[time]).square().mean((1, 2)))
        strength = alpha[time][:, None, None]
        forced = (1 - strength) * state[..., :dim] + strength * windows[time]
        state = torch.cat([forced, state[..., dim:]], -1)
    return torch.stack(losses).mean(0)


def lozi():
    """Lozi's map x' = 1 - a|x| + y, y' = bx as a network with three units, the last of which repeats x and is rectified."""
    a, b = LOZI
    row = [a, 1.0, -2 * a]  # -a|x| = ax - 2a max(0, x)
    return al_rnn.AlmostLinearRNN(
        torch.zeros(1, 3),
        torch.tensor([[row, [b, 0.0, 0.0], row]]),
        torch.tensor([[1.0, 0.0, 1.0]]),
        torch.tensor([[[1.0, 0.0]]]),
        torch.tensor([[-math.inf, -math.inf, 0.0]]),
    ).to(torch.float64)


def lozi_orbit(runs=20, steps=2000, drop=100):
    model = lozi()
    start = 0.1 * torch.randn(1, runs, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return recurrent.free_run(model, model.start(start), drop + steps)[0, :, drop:]


@pytest.mark.parametrize("interval", [1, 3, 99])
def test_written_gradients_agree_with_autograd(interval):
    model, windows = drawn(), data(11)
    alpha = recurrent.sparse_forcing(11, interval, 3).double()
    alpha[5, 1] = 0.3  # a strength between, in one model only
    loss, gradients = model.loss_and_gradients(windows, alpha)
    for tensor in model.tensors():
        tensor.requires_grad_()
    reference = naive_loss(model, windows, alpha)
    torch.testing.assert_close(loss, reference.detach(), rtol=1e-12, atol=0)
    expected = torch.autograd.grad(reference.sum(), model.tensors())
    assert len(expected) == len(gradients) == 4
    for found, wanted in zip(gradients, expected, strict=True):
        assert (found - wanted).norm() < 1e-10 * wanted.norm()


def test_training_gives_the_numbers_of_the_naive_loop():
    angle = 0.2 * torch.arange(300)
    series = torch.stack([angle.cos(), angle.sin(), (0.5 * angle).sin()], 1)

    def forcing(update, model, windows):
        return recurrent.sparse_forcing(len(windows), 4, len(model.A))

    class Naive(al_rnn.AlmostLinearRNN):
        def loss_and_gradients(self, windows, alpha):
            for tensor in self.tensors():
                tensor.requires_grad_()
            with torch.enable_grad():
                loss = naive_loss(self, windows, alpha)
                gradients = torch.autograd.grad(loss.sum(), self.tensors())
            return loss.detach(), list(gradients)

    settings = dict(
        series=series, seeds=[0, 0, 1], forcing=forcing, updates=12, points=17, rates=(5e-3, 1e-3), noise=0.05
    )
    fast = recurrent.train(al_rnn.init_al_rnn([0, 0, 1], [0, 2, 8], 3, 8), **settings)
    start = al_rnn.init_al_rnn([0, 0, 1], [0, 2, 8], 3, 8)
    slow = recurrent.train(Naive(*start.tensors(), start.floor), **settings)
    for found, wanted, before in zip(
        fast.tensors(), slow.tensors(), al_rnn.init_al_rnn([0, 0, 1], [0, 2, 8], 3, 8).tensors(), strict=True
    ):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found, before, atol=1e-4)


def test_one_step_and_free_running_are_limits_of_the_interval():
    model, windows = drawn(rectified=(0, 2, 3), latent=3), data(9)
    assert model.L.shape == (3, 0, 3)
    every, gradients = model.loss_and_gradients(windows, recurrent.sparse_forcing(9, 1, 3).double())
    flat = windows[:-1].transpose(0, 1).flatten(1, 2)
    one_step = (model.step(flat) - windows[1:].transpose(0, 1).flatten(1, 2)).square().mean((1, 2))
    assert (every - one_step).abs().max() < 1e-12
    assert gradients[3].shape == (3, 0, 3)
    model = drawn()
    never, _ = model.loss_and_gradients(windows, recurrent.sparse_forcing(9, 50, 3).double())
    run = recurrent.free_run(model, model.start(windows[0]), 8)[..., :3].permute(2, 0, 1, 3)
    assert (never - (run - windows[1:]).square().mean((0, 2, 3))).abs().max() < 1e-12


def test_without_rectified_units_the_map_is_affine():
    model = drawn(rectified=(0, 1))
    z, y = data(2, models=2, batch=7, dim=6)
    mixed = model.step(0.3 * z + 0.7 * y) - 0.3 * model.step(z) - 0.7 * model.step(y)
    assert mixed[0].abs().max() < 1e-12
    assert mixed[1].abs().max() > 1e-2


def test_jacobian_is_that_of_the_region():
    model = drawn()
    states = data(1, batch=5, dim=6)[0]
    found = model.jacobian(states)
    for m, rectified in enumerate(model.rectified):
        for b in range(5):
            alone = model[m]
            exact = torch.autograd.functional.jacobian(
                lambda z, alone=alone: alone.step(z[None, None])[0, 0], states[m, b]
            )
            bits = torch.ones(6, dtype=torch.float64)
            bits[6 - rectified :] = (states[m, b, 6 - rectified :] > 0).double()
            region = model.A[m].diag() + model.W[m] @ bits.diag()
            assert (exact - region).abs().max() < 1e-12
            assert (found[m, b] - region).abs().max() < 1e-12
    assert model.rectified == [0, 2, 6]


def test_the_last_units_are_rectified_and_the_first_observed():
    model = drawn(rectified=(2,))
    states = -torch.ones(1, 1, 6, dtype=torch.float64)
    kept = torch.tensor([-1.0, -1, -1, -1, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(model.step(states)[0, 0], -model.A[0] + model.W[0] @ kept + model.h[0])
    observed = data(1, models=1)[0]
    start = model.start(observed)
    torch.testing.assert_close(start[..., :3], observed)
    torch.testing.assert_close(start[0, 0, 3:], model.L[0] @ observed[0, 0])


def test_one_seed_gives_one_start_whatever_is_rectified():
    stack = al_rnn.init_al_rnn([4, 4, 5], [0, 20, 2], 3)
    assert torch.equal(stack.W[0], stack.W[1]) and not torch.equal(stack.W[0], stack.W[2])
    assert ((stack.A >= 0.9) & (stack.A < 1)).all() and stack.L.abs().max() <= 3**-0.5
    assert 0.008 < stack.W.std() < 0.012 and (stack.h == 0).all()


def test_symbols_and_occupancy_by_hand():
    orbit = torch.tensor([[9.0, -1.0, 2.0], [9.0, 1.0, -2.0], [9.0, 1.0, 2.0], [9.0, 1.0, 0.0]])
    codes = analysis.symbols(orbit, 2)
    assert codes.tolist() == [2, 1, 3, 1]
    assert analysis.symbols(orbit, 0).tolist() == [0, 0, 0, 0]
    regions, shares = analysis.occupancy(codes)
    assert regions.tolist() == [1, 2, 3] and shares.tolist() == [0.5, 0.25, 0.25]
    assert [analysis.regions_holding(shares, part) for part in (0.5, 0.6, 0.75, 0.76, 1.0)] == [1, 2, 2, 3, 3]


def test_transition_graph_and_entropy_of_known_graphs():
    golden = torch.tensor([[0, 0, 1, 0, 1, 0, 0]])  # a 1 is never followed by a 1
    regions, counts = analysis.transitions(golden)
    assert regions.tolist() == [0, 1] and counts.tolist() == [[2, 2], [2, 0]]
    assert abs(analysis.topological_entropy(counts) - math.log((1 + 5**0.5) / 2)) < 1e-12
    _, ring = analysis.transitions(torch.tensor([[0, 5, 7, 0, 5, 7]]))
    assert abs(analysis.topological_entropy(ring)) < 1e-9
    assert abs(analysis.topological_entropy(torch.ones(2, 2, dtype=torch.int64)) - math.log(2)) < 1e-12


def test_cyclic_words_are_primitive_closed_and_counted_once():
    codes = torch.tensor([[0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0]])
    assert analysis.cyclic_words(codes, 1).tolist() == [[0], [1]]
    assert analysis.cyclic_words(codes, 2).tolist() == [[0, 1]]
    assert analysis.cyclic_words(codes, 3).tolist() == [[0, 0, 1]]
    assert analysis.cyclic_words(codes, 4).tolist() == []  # 0101 repeats 01, and 1 does not follow 1
    assert analysis.cyclic_words(codes, 5).tolist() == [[0, 0, 1, 0, 1]]


def test_fixed_points_of_lozi_s_map_are_the_known_ones():
    a, b = LOZI
    found = analysis.cycles(lozi(), torch.tensor([[0], [1]]))
    assert found.words.flatten().tolist() == [0, 1]
    torch.testing.assert_close(found.orbits[1, 0, 0].item(), 1 / (1 + a - b))
    torch.testing.assert_close(found.orbits[0, 0, 0].item(), 1 / (1 - a - b))
    roots = [max(abs(np.roots([1, slope, -b]))) for slope in (-a, a)]
    np.testing.assert_allclose(found.growth, roots)


def test_fixed_points_outside_their_region_are_dropped():
    model = lozi()
    model.h = -model.h  # x' = -1 - a|x| + y has none on either side
    assert len(analysis.cycles(model, torch.tensor([[0], [1]])).words) == 0


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_cycles_close_and_lie_in_their_regions(length):
    model, orbit = lozi(), lozi_orbit()
    found = analysis.cycles(model, analysis.cyclic_words(analysis.symbols(orbit, 1), length))
    assert len(found.words) > 0 or length in (3, 5)
    assert torch.equal(analysis.symbols(found.orbits, 1), found.words)
    for states, growth in zip(found.orbits, found.growth, strict=True):
        state, product = states[:1], torch.eye(3, dtype=torch.float64)
        for step in range(length):
            assert (state - states[step]).abs().max() < 1e-9
            product = model.jacobian(state[None])[0, 0] @ product
            state = model.step(state[None])[0]
        assert (state - states[0]).abs().max() < 1e-9
        torch.testing.assert_close(torch.linalg.eigvals(product).abs().max(), growth)


def test_lyapunov_exponents_sum_to_the_volume_rate_and_stay_below_the_entropy_of_the_graph():
    model, orbit = lozi(), lozi_orbit(steps=400)
    exponents = lyapunov_exponents(
        analysis.tangent_map(model), orbit[:, 0].numpy(), steps=400, dt=1.0, count=2, drop=20
    )
    np.testing.assert_allclose(exponents.sum(1), math.log(LOZI[1]), atol=0.02)
    _, counts = analysis.transitions(analysis.symbols(orbit, 1))
    assert 0.3 < exponents[:, 0].mean() < analysis.topological_entropy(counts) + 1e-12
    assert nx.is_strongly_connected(nx.from_numpy_array(counts.numpy(), create_using=nx.DiGraph))


def test_tangent_map_is_the_step_and_the_jacobian():
    model, states = drawn(rectified=(2,)), data(1, models=1, batch=5, dim=6)[0]
    moved, tangents = analysis.tangent_map(model)(states[0].numpy(), np.broadcast_to(np.eye(6), (5, 6, 6)))
    np.testing.assert_allclose(moved, model.step(states)[0], atol=1e-14)
    np.testing.assert_allclose(tangents, model.jacobian(states)[0], atol=1e-14)


def test_bad_input_is_named():
    model, windows, alpha = drawn(), data(5), torch.zeros(5, 3, dtype=torch.float64)
    loss = unchecked(al_rnn.AlmostLinearRNN.loss_and_gradients)
    for wrong in (windows * float("nan"), windows[:, :, :0], windows[..., :2], windows[:, :2]):
        with pytest.raises(ValueError, match="windows"):
            loss(model, wrong, alpha)
    for wrong in (alpha[:3], alpha * float("nan")):
        with pytest.raises(ValueError, match="alpha"):
            loss(model, windows, wrong)
    with pytest.raises(ValueError, match="observed"):
        unchecked(al_rnn.AlmostLinearRNN.start)(model, windows[0, ..., :2])
    with pytest.raises(ValueError, match="latent"):
        unchecked(al_rnn.init_al_rnn)([0], [1], 3, latent=2)
    for wrong in ([21], [1, 2], [-1]):
        with pytest.raises(ValueError, match="rectified"):
            unchecked(al_rnn.init_al_rnn)([0], wrong, 3)
    with pytest.raises(ValueError, match="codes"):
        unchecked(analysis.occupancy)(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="rectified"):
        unchecked(analysis.symbols)(torch.zeros(2, 3), 4)
    with pytest.raises(ValueError, match="model"):
        unchecked(analysis.cycles)(model, torch.tensor([[0]]))
    with pytest.raises(ValueError, match="words"):
        unchecked(analysis.cycles)(model[0], torch.tensor([[]], dtype=torch.int64))
    with pytest.raises(ValueError, match="length"):
        unchecked(analysis.cyclic_words)(torch.zeros(1, 5, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match="codes"):
        unchecked(analysis.transitions)(torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="counts"):
        unchecked(analysis.topological_entropy)(torch.zeros(2, 3))
