"""Branched radial-basis networks: basis functions, gate, branches, sensors, training, free runs, rivals."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import multibranch_rbf as rbf
from touchstone.dynamics import multibranch_rbf_sensors as sensors
from touchstone.dynamics.multibranch_rbf_baselines import QuadraticRidge, StackedMLP


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seeds=(0, 1), **options):
    """A stack with six centres in three branches of pairs, float64."""
    return rbf.BranchedRBF(normal(len(seeds), 3, 6, 2), seeds, hidden=5, merged=7, **options).double()


@pytest.mark.parametrize("basis", [rbf.inverse_multiquadric, rbf.gaussian])
def test_basis_function_is_one_at_its_centre_and_falls_with_distance(basis):
    model = network(basis=basis)
    here = model.centres.detach().transpose(1, 2)  # the centres as a batch
    phi = model.functions(here)
    assert (phi.diagonal(dim1=-2, dim2=-1) == 1).all()
    away = torch.linspace(0, 3, 40).double()[:, None, None] * torch.tensor([0.6, 0.8]).double()
    line = model.functions(here[:, :1] + away.expand(2, 40, 3, 2))[..., 0]
    assert (line.diff(dim=2) < 0).all() and (line > 0).all() and (line <= 1).all()


def test_inverse_multiquadric_has_the_width_of_the_nearest_neighbour():
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0]]).expand(1, 3, 2, 2)
    model = rbf.BranchedRBF(centres, [0], hidden=5)
    phi = model.functions(centres.transpose(1, 2))
    torch.testing.assert_close(phi[0, :, 0, 1], torch.full((3,), 0.5**0.5))


def test_zero_gate_weights_do_nothing():
    gated, free = network(), network(gate=False)
    with torch.no_grad():
        for name, value in free.named_parameters():
            value.copy_(dict(gated.named_parameters())[name])
        features = normal(2, 9, 3, 2, seed=1).double()
        assert (gated.branches(features) - free.branches(features)).abs().max() > 1e-3
        gated.gate.zero_()
        torch.testing.assert_close(gated.branches(features), free.branches(features), rtol=0, atol=1e-12)
        gated.gate_bias[..., 0] = 50.0  # all attention on one function
        phi = free.functions(features)
        phi = 6 * torch.cat([phi[..., :1], 0 * phi[..., 1:]], -1)
        wanted = (phi @ free.inner + free.inner_bias).relu()
        torch.testing.assert_close(gated.branches(features), wanted)


def test_branches_see_their_own_sensor_only_and_models_are_independent():
    model, features = network(), normal(2, 9, 3, 2).double()
    changed = features.clone()
    changed[:, :, 1] += 1
    before, after = model.branches(features), model.branches(changed)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and not torch.equal(before[:, 1], after[:, 1])
    assert not torch.allclose(model(features), model(changed))
    changed = features.clone()
    changed[1] += 1
    assert torch.equal(model(features)[0], model(changed)[0])


def test_sensors_invert_and_see_no_jump():
    positions = 2 * normal(50, 3).double()
    readings = sensors.sense(positions)
    assert (sensors.locate(readings) - positions).abs().max() < 1e-8
    assert readings[..., 1].abs().max() < 2.5  # far from the cut of the azimuth
    origin = sensors.sense(torch.zeros(3).double())
    torch.testing.assert_close(origin[:, 0], sensors.SENSORS.norm(dim=1))
    assert origin[:, 1].abs().max() < 1e-12
    left = sensors.sense(torch.tensor([0.0, 1.0, 0.0]).double(), torch.tensor([[-2.0, 0.0, 0.0]]).double())
    torch.testing.assert_close(left[0, 1], torch.tensor(0.5).double().atan())  # counter-clockwise is positive


def test_recording_keeps_the_order_of_time():
    recording = sensors.record("lorenz-63", [0, 1], samples=400)
    assert (recording.train, recording.valid) == (320, 360)
    quiet = recording.sense(recording.positions)
    noise = recording.readings - quiet
    assert abs(noise.std().item() - 0.01) < 1e-3 and not torch.equal(noise[0], noise[1])
    torch.testing.assert_close(quiet[:320].mean(0), torch.zeros(3, 2), atol=1e-4, rtol=0)
    found = sensors.locate((quiet * recording.std + recording.mean).double())
    torch.testing.assert_close(found.float(), recording.positions, atol=1e-3, rtol=0)


def test_lags_and_features():
    readings = torch.arange(12.0).view(1, 2, 3, 2)  # two times, three sensors
    late = sensors.lagged(readings, 2)
    assert late.shape == (1, 1, 2, 3, 2) and torch.equal(late[:, 0, 0], readings[:, 1])
    assert sensors.by_sensor(late)[0, 0, 1].tolist() == [8.0, 9.0, 2.0, 3.0]
    assert sensors.together(late).shape == (1, 1, 1, 12)
    assert torch.equal(sensors.by_sensor(sensors.lagged(readings, 1))[:, :, 1], readings[:, :, 1])


def test_centres_lie_in_the_data_and_follow_the_seed():
    features = normal(2, 500, 3, 2)
    centres = rbf.spread_centres(features, 8, [0, 1])
    again = rbf.spread_centres(features[1:], 8, [1])
    assert centres.shape == (2, 3, 8, 2) and torch.equal(centres[1:], again)
    assert torch.cdist(features.transpose(1, 2), centres).amin(-1).mean() < 0.6


def test_training_keeps_the_best_epoch_and_seeds_do_not_depend_on_the_stack():
    inputs = normal(2, 256, 3, 2)
    targets = torch.stack([inputs[..., 0].prod(-1), inputs[..., 1].sum(-1), inputs[..., 0, 0]], -1)
    held = normal(2, 64, 3, 2, seed=1)
    held_out = (held, torch.stack([held[..., 0].prod(-1), held[..., 1].sum(-1), held[..., 0, 0]], -1))

    def fit(models, rate=1e-2):
        seeds = list(range(2))[models]
        model = rbf.BranchedRBF(rbf.spread_centres(inputs[models], 8, seeds), seeds)
        history = rbf.train(
            model, inputs[models], targets[models], tuple(value[models] for value in held_out), seeds, 6, 64, rate
        )
        return model, history

    model, history = fit(slice(0, 2))
    final = (model(held_out[0]) - held_out[1]).square().mean((1, 2))
    torch.testing.assert_close(final.detach(), history.amin(0))
    assert (history[-1] < 0.7 * history[0]).all()
    _, alone = fit(slice(1, 2))
    torch.testing.assert_close(alone[0, 0], history[0, 1], rtol=1e-3, atol=0)
    _, wild = fit(slice(0, 2), rate=0.3)
    assert wild.isfinite().all()


def test_free_run_feeds_predictions_back():
    start = sensors.lagged(normal(1, 4, 3, 2), 2)

    def forecast(features):  # next position from the latest and the earlier reading of the first sensor
        return features[:, :, 0, :3] + 1

    orbit = rbf.free_run(forecast, start, lambda p: torch.stack([p, 2 * p], -1), sensors.by_sensor, 3)
    assert orbit.shape == (1, 3, 3, 3)
    first = torch.cat([start[:, :, 0, 0], start[:, :, 1, 0, :1]], -1) + 1
    torch.testing.assert_close(orbit[:, :, 0], first)
    second = torch.stack([first[..., 0], 2 * first[..., 0], start[:, :, 0, 0, 0]], -1) + 1
    torch.testing.assert_close(orbit[:, :, 1], second)


def test_rivals():
    inputs = normal(2, 300, 3, 2)
    flat = inputs.flatten(2)
    targets = torch.stack([flat[..., 0] * flat[..., 5], flat[..., 2] ** 2, 1 + flat[..., 1]], -1)
    ridge = QuadraticRidge(inputs, targets, (inputs, targets))
    torch.testing.assert_close(ridge(inputs), targets, atol=1e-4, rtol=0)
    assert ridge.ridges == [1e-8, 1e-8]
    mlp = StackedMLP(6, 10, 3, [0, 1])
    assert sum(p.numel() for p in mlp.parameters()) == 2 * (6 * 10 + 10 + 110 + 33)
    changed = inputs.clone()
    changed[1] += 1
    assert torch.equal(mlp(inputs)[0], mlp(changed)[0]) and not torch.equal(mlp(inputs)[1], mlp(changed)[1])


def test_bad_input_is_named():
    model, features = network(), normal(2, 9, 3, 2).double()
    with pytest.raises(ValueError, match="features has shape"):
        unchecked(rbf.BranchedRBF.forward)(model, features[:, :, :2])
    with pytest.raises(ValueError, match="centres has shape"):
        network(seeds=(0, 1)).__init__(normal(1, 3, 6, 2), [0, 1])
    with pytest.raises(ValueError, match="fewer than 20 centres"):
        rbf.spread_centres(normal(2, 9, 3, 2), 20, [0, 1])
    with pytest.raises(ValueError, match="fewer than a batch"):
        rbf.train(model, features, features[..., 0], (features, features[..., 0]), [0, 1], 1)
    with pytest.raises(ValueError, match="positions holds"):
        sensors.sense(torch.full((3,), torch.nan))
    with pytest.raises(ValueError, match="attractor"):
        sensors.record("lorentz", [0])
