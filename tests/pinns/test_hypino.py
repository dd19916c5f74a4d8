"""Manufactured problems, the written network and its derivatives, refinement, and the baselines of HyPINO."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import unchecked
from touchstone.nn import jets
from touchstone.pinns import hypino_problems
from touchstone.pinns.hypino import (
    FEATURES,
    WEIGHTS,
    HyPINO,
    draw_batches,
    fine_tune,
    fit,
    losses,
    physics,
    refine,
    remaining,
    shapes,
    summed,
    train,
    written,
)
from touchstone.pinns.hypino_baselines import UNet, at_points, random_layers, repeated, reptile, train_unet
from touchstone.pinns.hypino_problems import (
    SECOND,
    TASKS,
    Geometry,
    RandomFunctions,
    apply_operator,
    describe,
    manufactured,
    random_setting,
    swapped,
    together,
    unlabelled,
)

SIZES = (12, 40, 24)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**options):
    torch.manual_seed(0)
    return HyPINO(channels=(8, 8, 8, 8), head=8, **options)


def known(count=40, seed=0):
    """Functions and the float64 problems made from them."""
    generator = draw(seed)
    functions = RandomFunctions(count, generator, torch.float64)
    coefficients, geometry = random_setting(count, generator, torch.float64)
    return functions, geometry, describe(geometry, coefficients, functions, SIZES, generator)


def worst(found, expected):
    return float(((found - expected).abs() / (1 + expected.abs())).detach().max())


def test_manufactured_problems_are_solved_exactly_by_their_function():
    functions, geometry, batch = known()
    jet = jets.by_autograd(lambda p: functions(p).value, batch.points, SECOND)
    assert worst(jet.streams, batch.labels) < 1e-9
    assert worst(apply_operator(batch.coefficients, jet), batch.source) < 1e-9
    edge = jets.by_autograd(lambda p: functions(p).value, batch.edge, (1, 1))
    normal = (torch.stack([edge.d(0)[..., 0], edge.d(1)[..., 0]], -1) * batch.edge_normals).sum(-1, keepdim=True)
    assert worst(edge.value * batch.fixed, batch.values) < 1e-9
    assert worst(normal * batch.sloped, batch.slopes) < 1e-9
    assert (batch.edge_normals.norm(dim=-1) - 1).abs().max() < 1e-12
    # what is fed to the hypernetwork is the same problem: nothing remains of it when the solution is subtracted
    on_grid = jets.by_autograd(lambda p: functions(p).value, batch.places, SECOND)
    assert worst(remaining(batch, on_grid), batch.channels * torch.tensor([1, 1, 0, 0, 0])[:, None, None]) < 1e-9
    assert batch.channels[:, 1].sum() > 0 and (geometry.radius > 0).any()


def test_points_lie_where_they_should():
    _, geometry, batch = known(60, seed=1)
    assert (geometry.rim(batch.points)[0][..., 0] > geometry.radius[:, None]).all()
    assert batch.points.abs().max() <= 1
    rim = (geometry.rim(batch.edge)[0][..., 0] - geometry.radius[:, None]).abs() < 1e-9
    side = (batch.edge.abs().amax(-1) - 1).abs() < 1e-9
    assert (rim | side).all() and (rim & (geometry.radius[:, None] > 0)).any()
    towards = ((batch.edge - geometry.centre[:, None]) * batch.edge_normals).sum(-1)
    assert (towards[rim & ~side] < 0).all() and (towards[side & ~rim] > 0).all()  # normals leave the domain
    parabolic = (batch.coefficients[:, 4] == 0) & (batch.coefficients[:, 3] != 0)
    assert parabolic.any() and not batch.channels[parabolic, :2, 3:-3, -1].any()  # nothing is known at the last time
    assert (batch.edge[..., 1][parabolic] < 1).all()
    assert ((batch.fixed + batch.sloped) > 0).all()
    hyperbolic = batch.coefficients[:, 3] * batch.coefficients[:, 4] < 0
    assert batch.channels[hyperbolic][:, :2, 3:-3, 0].all()  # value and velocity at the start


def test_exchanging_x_and_y_gives_a_valid_problem():
    functions, _, batch = known(seed=2)
    turned = swapped(batch)

    def mirrored(points):
        return functions(points.flip(-1)).value

    jet = jets.by_autograd(mirrored, turned.points, SECOND)
    assert worst(jet.streams, turned.labels) < 1e-9
    assert worst(apply_operator(turned.coefficients, jet), turned.source) < 1e-9
    left = remaining(turned, jets.by_autograd(mirrored, turned.places, SECOND))
    assert worst(left[:, 2:], torch.zeros_like(left[:, 2:])) < 1e-9
    wrong = apply_operator(batch.coefficients, jet)
    assert worst(wrong, turned.source) > 1e-2
    again = swapped(turned)
    assert torch.equal(again.channels, batch.channels) and torch.equal(again.labels, batch.labels)


def test_rejection_and_repeatability():
    batch = manufactured(24, draw(3), SIZES)
    assert len(batch) == 24 and batch.labelled.all()
    spread = torch.stack([f[m > 0].std() for f, m in zip(batch.field, batch.inside, strict=True)])
    assert spread.min() >= 0.1 and batch.field.abs().max() <= 10 and batch.channels[:, 4].abs().max() <= 1e4
    assert torch.equal(batch.channels, manufactured(24, draw(3), SIZES).channels)
    bare = unlabelled(24, draw(3), SIZES)
    assert not bare.labelled.any() and not bare.labels.any() and not bare.field.any()
    assert (bare.source - bare.source[:, :1]).abs().max() == 0
    first, second = (next(iter(draw_batches(5, 1, 8, SIZES))) for _ in range(2))
    assert torch.equal(first.points, second.points) and first.labelled.tolist() == [True] * 4 + [False] * 4


def test_references_are_solutions(monkeypatch):
    for name, task in TASKS.items():
        points, values = task.reference()
        batch = task.batch(SIZES)
        assert not batch.labelled.any() and not batch.labels.any() and not batch.field.any()
        if name != "hole":
            jet = jets.by_autograd(
                lambda p, task=task: task.solution(p[..., :1], p[..., 1:]), torch.as_tensor(points)[None], SECOND
            )
            source = apply_operator(torch.tensor([task.coefficients], dtype=torch.float64), jet)
            assert np.isclose(jet.value[0, :, 0].detach().numpy(), values).all()
            if name in ("heat", "wave"):
                assert source.abs().max() < 1e-9
            if name == "Poisson":
                assert worst(source, -(math.pi**2) / 2 * jet.value) < 1e-9
    start = TASKS["wave"].batch((16, 8, 400))
    on = (start.sloped > 0)[0, :, 0]
    assert on.any() and start.slopes[0][on].abs().max() < 1e-5 and (start.edge[0][on][:, 1] == -1).all()


def test_hole_reference_converges_with_second_order():
    task = TASKS["hole"]
    coarse, middle, fine = (
        hypino_problems._holed(task, n).reshape(n, n)[:: (n - 1) // 25, :: (n - 1) // 25] for n in (51, 101, 201)
    )
    first, second = (np.abs(a - b).max() for a, b in ((coarse, middle), (middle, fine)))
    assert second < first / 2 and second < 5e-4
    assert fine.min() >= 0 and fine.max() > 1  # with -4 inside, the maximum lies off the rim


def test_written_network_equals_a_module_with_the_same_weights():
    torch.manual_seed(0)
    layers = HyPINO()(*(t[:2] for t in (torch.randn(2, 5), torch.randn(2, 5, 32, 32))))
    points = 2 * torch.rand(2, 30, 2, generator=draw()) - 1

    class Plain(nn.Module):
        def __init__(self, number):
            super().__init__()
            self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in shapes())
            for layer, (weight, bias) in zip(self.maps, layers, strict=True):
                layer.weight.data, layer.bias.data = weight[number].detach().T, bias[number, 0].detach()

        def forward(self, x):
            angle = (x[:, :, None] * 0.2 * math.pi * 2.0 ** torch.arange(5)).flatten(1)
            z = torch.cat([angle.cos(), angle.sin(), x], -1)
            u, v, h = (torch.tanh(layer(z)) for layer in self.maps[:3])
            for layer in self.maps[3:-1]:
                h = torch.tanh(layer(u * h + v * (1 - h)))
            return self.maps[-1](h)

    found = written(layers, points).value
    expected = torch.stack([Plain(number)(points[number]) for number in range(2)])
    assert (found - expected).abs().max() < 1e-5 and (found[0] - found[1]).abs().max() > 1e-3
    assert shapes()[0] == (FEATURES, 24)


def test_derivatives_of_the_written_network_equal_autograd():
    layers = [(w.double(), b.double() + 0.1) for w, b in repeated(random_layers(0), 3)]
    points = 2 * torch.rand(3, 9, 2, generator=draw(), dtype=torch.float64) - 1
    expected = jets.by_autograd(lambda p: written(layers, p, (0, 0)).value, points, SECOND)
    assert (written(layers, points).streams - expected.streams).abs().max() < 1e-9


def test_refinement_feeds_back_what_remains():
    batch, network, seen = manufactured(6, draw(4), SIZES, torch.float64), small().double(), []

    def spy(coefficients, channels):
        seen.append(channels)
        return network(coefficients, channels)

    networks = refine(spy, batch, 2)
    assert len(networks) == len(seen) == 3 and torch.equal(seen[0], batch.channels)
    jet = jets.by_autograd(lambda p: summed(networks[:2], p, (0, 0)).value, batch.places, SECOND)
    left = batch.channels[:, 4] - batch.inside * apply_operator(batch.coefficients, jet).view_as(batch.inside)
    assert worst(seen[2][:, 4], left) < 1e-5
    value = jet.value.view_as(batch.inside)
    assert worst(seen[2][:, 2], batch.channels[:, 0] * (batch.channels[:, 2] - value)) < 1e-5
    along = (torch.cat([jet.d(0), jet.d(1)], -1) * batch.normals).sum(-1).view_as(batch.inside)
    assert worst(seen[2][:, 3], batch.channels[:, 3] - along * batch.channels[:, 1]) < 1e-5
    assert torch.equal(seen[2][:, :2], batch.channels[:, :2])


def test_a_hypernetwork_that_writes_zeros_changes_nothing():
    batch, network = manufactured(3, draw(5), SIZES), small()
    calls = []

    def silent(coefficients, channels):
        calls.append(channels)
        layers = network(coefficients, channels)
        return layers if len(calls) == 1 else [(0 * w, 0 * b) for w, b in layers]

    networks = refine(silent, batch, 2)
    assert torch.equal(summed(networks, batch.points).streams, summed(networks[:1], batch.points).streams)
    assert torch.equal(calls[1], calls[2])


def test_losses_are_zero_for_the_solution_and_use_labels_only_where_they_exist(monkeypatch):
    functions, _, batch = known(8, seed=6)
    monkeypatch.setattr("touchstone.pinns.hypino.written", lambda layers, points, orders=SECOND: functions(points))
    assert max(float(term) for term in losses(batch, []).values()) < 1e-12
    assert set(losses(batch, [], labels=False)) == {"residual", "Dirichlet", "Neumann"}
    monkeypatch.undo()
    mixed = together([manufactured(2, draw(), SIZES), unlabelled(2, draw(), SIZES)])
    layers = repeated(random_layers(1), 4)
    terms = losses(mixed, layers)
    expected = torch.nn.functional.huber_loss(written(layers, mixed.points).value[:2], mixed.labels[:2, 0])
    assert torch.isclose(terms["value"], expected)
    assert "value" not in losses(mixed[2:], [(w[2:], b[2:]) for w, b in layers])


def test_training_lowers_the_loss_and_repeats_bit_for_bit():
    options = {"batch": 4, "sizes": SIZES, "channels": (8, 8, 8, 8), "head": 8}
    _, history = train(0, 3, **options)
    assert history == train(0, 3, **options)[1]
    _, bare = train(0, 1, labels=False, **options)
    assert bare[0] < history[0]  # the same problems and weights, fewer terms
    batch, network, unet = next(draw_batches(0, 1, 8, SIZES)), small(), UNet((8, 8))

    def total(problems):
        layers = network(problems.coefficients, problems.channels)
        return sum(WEIGHTS[name] * term for name, term in losses(problems, layers).items())

    def values(problems):
        return (unet(problems.coefficients, problems.channels) - problems.field).abs().mean()

    for model, loss in ((network, total), (unet, values)):
        fall = fit(model, [batch] * 15, 15, loss, rate=1e-2)
        assert fall[-1] < 0.9 * fall[0]
    assert np.isfinite(train_unet(0, 1, 2, SIZES)[1]).all()


def test_fine_tuning_lowers_the_loss_of_every_problem_and_stops_on_request():
    batch = together([TASKS[name].batch((12, 256, 128)) for name in ("Poisson", "hole", "Neumann")])
    layers = repeated(random_layers(0), 3)
    every = torch.arange(256), torch.arange(128)
    tuned = fine_tune(layers, batch, 40, draw(), rate=1e-2, drawn=(64, 32))
    assert (physics(batch, tuned, *every) < 0.5 * physics(batch, layers, *every)).all()
    assert torch.equal(layers[0][0], repeated(random_layers(0), 3)[0][0])
    steps = []
    fine_tune(layers, batch, 60, draw(), watch=lambda step, now: steps.append(step) or torch.tensor([step < 5]))
    assert steps == list(range(6))


def test_reptile_moves_towards_the_mean_of_the_tuned_networks():
    layers, batch = random_layers(2), unlabelled(4, draw(), SIZES)

    def tune(copies, problems):
        shift = torch.arange(len(problems), dtype=torch.float32)[:, None, None]
        return [(weight + shift, bias - shift) for weight, bias in copies]

    moved = reptile(layers, [batch], tune, steps=1, rate=0.5)
    for (weight, bias), (new, turned) in zip(layers, moved, strict=True):
        assert torch.allclose(new, weight + 0.75) and torch.allclose(turned, bias - 0.75)


def test_unet_reads_the_coefficients_and_interpolates_in_place():
    torch.manual_seed(0)
    network, channels = UNet((8, 8, 8)), torch.randn(2, 5, 16, 16)
    coefficients = torch.randn(2, 5)
    first = network(coefficients, channels)
    assert first.shape == (2, 16, 16) and (network(coefficients + 1, channels) - first).abs().max() > 1e-4
    axis = torch.linspace(-1, 1, 16)
    field = (2 * axis[:, None] - axis[None]).expand(2, 16, 16)
    points = 1.6 * torch.rand(2, 20, 2, generator=draw()) - 0.8
    assert (at_points(field, points)[..., 0] - (2 * points[..., 0] - points[..., 1])).abs().max() < 1e-4


def test_hypernetwork_reads_everything():
    network, batch = small(), manufactured(2, draw(7), SIZES)
    before = network(batch.coefficients, batch.channels)
    changes = [network(batch.coefficients + 0.3, batch.channels)]
    for channel in range(5):
        other = batch.channels.clone()
        other[:, channel] += torch.linspace(0, 1, 12)
        changes.append(network(batch.coefficients, other))
    for change in changes:
        assert max(float((a[0] - b[0]).detach().abs().max()) for a, b in zip(before, change, strict=True)) > 1e-5


def test_bad_arguments_are_named():
    network, channels = small(), torch.randn(2, 5, 12, 12)
    with pytest.raises(ValueError, match="channels has shape"):
        unchecked(HyPINO.forward)(network, torch.randn(3, 5), channels)
    with pytest.raises(ValueError, match="coefficients holds 1 NaN"):
        unchecked(HyPINO.forward)(network, torch.tensor([[torch.nan, 1, 1, 1, 1], [1.0] * 5]), channels)
    with pytest.raises(ValueError, match="coefficients has shape"):
        unchecked(UNet.forward)(UNet((8, 8)), torch.randn(2, 4), channels)
    with pytest.raises(ValueError, match="points holds"):
        unchecked(written)(random_layers(0), torch.full((1, 3, 2), torch.inf))
    with pytest.raises(ValueError, match="rounds is -1"):
        refine(network, manufactured(1, draw(), SIZES), -1)
    with pytest.raises(ValueError, match="count is 0"):
        manufactured(0, draw(), SIZES)
    with pytest.raises(ValueError, match="count is 0"):
        unlabelled(0, draw(), SIZES)
    with pytest.raises(ValueError, match="batch is 5"):
        next(draw_batches(0, 1, 5, SIZES))
    nowhere = torch.zeros(1, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="without any condition"):
        describe(
            Geometry(nowhere, nowhere, torch.zeros(1, 2), torch.zeros(1)),
            torch.ones(1, 5),
            lambda p: None,
            SIZES,
            draw(),
        )
