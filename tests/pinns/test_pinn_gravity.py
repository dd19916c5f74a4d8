"""The gravity model: no curl, an exact far field, bounded features, a continuous known part, and its linear rivals."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.gravity import Body, gravity, samples, shell
from touchstone.pinns.pinn_gravity import (
    GatedNetwork,
    GravityModel,
    acceleration_loss,
    bounded_features,
    fit,
    known_potential,
    spherical_features,
)
from touchstone.pinns.pinn_gravity_baselines import (
    fit_linear,
    harmonic_design,
    mascon_design,
    mascon_places,
)

BODY = Body()
POINTS = torch.tensor(shell(BODY, 12, 0.0, 3.0, np.random.default_rng(1)))[None]


def build(seeds=(0,), outputs=1, stir=True, **options):
    """A model in float64; ``stir`` gives the last layer random weights."""
    network = GatedNetwork(bounded_features, 5, outputs, seeds).double()
    if stir:
        with torch.no_grad():
            network.last.copy_(torch.randn(network.last.shape, generator=torch.Generator().manual_seed(3)))
    return network if outputs == 3 else GravityModel(network, BODY.c20, **options).double()


def jacobian(model, point):
    return torch.autograd.functional.jacobian(lambda x: model(x[None, None])[0, 0], point)


def test_acceleration_has_no_curl_and_the_plain_networks_does():
    for model, curl_free in ((build(), True), (build(outputs=3), False)):
        matrices = [jacobian(model, point) for point in POINTS[0]]
        asymmetry = max((m - m.T).abs().max().item() / m.abs().max().item() for m in matrices)
        assert (asymmetry < 1e-6) == curl_free, asymmetry


def test_acceleration_is_minus_the_gradient_of_the_potential():
    model, h = build(), 1e-5
    steps = h * torch.eye(3, dtype=torch.float64)
    slope = [(model.potential(POINTS + e) - model.potential(POINTS - e))[..., 0] / (2 * h) for e in steps]
    assert torch.allclose(model(POINTS), -torch.stack(slope, -1), atol=1e-8)


def test_far_field_is_exact_only_with_the_boundary_blend():
    far = 1e3 * torch.nn.functional.normalize(POINTS, dim=-1)
    variable = far.clone().requires_grad_()
    exact = -torch.autograd.grad(known_potential(variable, BODY.c20).sum(), variable)[0]

    def gap(model):
        return ((model(far) - exact).norm(dim=-1) / exact.norm(dim=-1)).max().item()

    assert gap(build()) < 1e-10
    assert 1e-7 < gap(build(blended=False)) < 1e-4
    assert (exact * far).sum(-1).max() < 0  # inwards
    truth = torch.tensor(gravity(far.numpy(), BODY)[1])
    assert ((exact - truth).norm(dim=-1) / truth.norm(dim=-1)).max() < 1e-6  # C22 is left out: below r^-2


def test_known_potential_meets_at_one_and_carries_the_flattening():
    unit = torch.nn.functional.normalize(POINTS, dim=-1)
    inside, outside = (known_potential(unit * (1 + s * 1e-12), BODY.c20) for s in (-1, 1))
    assert torch.allclose(inside, outside, atol=1e-10)
    pole = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    for r in (20.0, 50.0):  # the mean over directions leaves C20 of the truth along the pole, C22 has no part there
        true = torch.tensor(gravity((pole * r).numpy(), BODY)[0])
        assert torch.allclose(known_potential(pole * r, BODY.c20)[:, 0] + 1 / r, true + 1 / r, rtol=2e-2, atol=0)
    step = 1e-4
    centre = torch.tensor([[step, 0, 0], [0.3, 0, 0]], dtype=torch.float64)
    assert torch.allclose(
        known_potential(centre, 0.0)[:, 0], torch.tensor([-1.5, 0.045 - 1.5], dtype=torch.float64), atol=1e-7
    )


def test_features_and_their_gradients_stay_bounded():
    direction = torch.tensor([[0.6, -0.48, 0.64]], dtype=torch.float64)
    for r in 10.0 ** torch.arange(-3, 7, dtype=torch.float64):
        features = bounded_features((r * direction)[None])
        slopes = torch.autograd.functional.jacobian(lambda x: bounded_features(x[None, None])[0, 0], r * direction[0])
        assert features.abs().max() <= 1
        assert torch.isfinite(slopes).all()
        assert slopes.abs().max() <= 1 / min(r, 1) + 1e-12
    assert torch.allclose(
        bounded_features(2 * direction[None])[0, 0], torch.tensor([1, 0.5, 0.6, -0.48, 0.64]).double()
    )
    assert torch.allclose(bounded_features(0.5 * direction[None])[0, 0, :2], torch.tensor([0.5, 1.0]).double())
    assert torch.allclose(spherical_features(2 * direction[None])[0, 0], torch.tensor([2, 0.6, -0.48, 0.64]).double())


def test_the_parts_of_the_potential():
    known = known_potential(POINTS, BODY.c20)
    r = POINTS.norm(dim=-1, keepdim=True)
    silent = build(stir=False, blended=False)
    assert torch.allclose(silent.potential(POINTS), 0.5 * (1 + torch.tanh(0.5 * r)) * known)
    bare = build(blended=False, fused=False)
    number = bare.network(POINTS)
    assert torch.allclose(bare.potential(POINTS), number * torch.where(r > 1, r**-3, torch.ones_like(r)))
    assert torch.allclose(build(blended=False, fused=False, power=0).potential(POINTS), number)
    model = build()
    mix = 0.5 * (1 + torch.tanh(0.5 * (r - 10)))
    inner = build(blended=False).potential(POINTS)
    assert torch.allclose(model.potential(POINTS), (1 - mix) * inner + mix * known)
    assert {"boundary", "edge"} <= {name for name, _ in model.named_parameters()}


def test_gates_mix_two_encodings():
    network = build(outputs=3).double()
    x = bounded_features(POINTS)
    u, v, z = torch.nn.functional.gelu(torch.bmm(x, network.entry)).split(16, -1)
    hidden = (1 - z) * u + z * v
    for weight in network.weights:
        z = torch.nn.functional.gelu(torch.bmm(hidden, weight))
        hidden = (1 - z) * u + z * v
    assert torch.allclose(network(POINTS), torch.bmm(hidden, network.last))
    assert len(network.weights) == 2


def test_loss_adds_absolute_and_percent_error():
    measured = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 0.1]]])
    predicted = measured + torch.tensor([[[0.0, 0.0, 1.0], [0.1, 0.0, 0.0]]])
    assert torch.allclose(acceleration_loss(predicted, measured), torch.tensor([(1.0 + 0.2 + 0.1 + 1.0) / 2]))
    assert torch.allclose(acceleration_loss(predicted, measured, percent=False), torch.tensor([1.1 / 2]))


def test_a_seed_in_a_stack_trains_as_alone_and_training_helps():
    def run(seeds):
        points, pulls = samples(BODY, seeds, 200)
        model = GravityModel(GatedNetwork(bounded_features, 5, 1, seeds), BODY.c20)
        before = acceleration_loss(model(points).detach(), pulls)
        fit(model, points, pulls, seeds, 40, batch=64)
        return before, acceleration_loss(model(points), pulls), model.network.last.detach()

    before, after, last = run([0, 1])
    assert (after < 0.7 * before).all(), (before, after)
    assert torch.allclose(run([1])[2][0], last[1], atol=1e-4)
    assert torch.equal(run([0, 1])[2], last)


def test_fifty_steps_of_a_seed_do_not_depend_on_the_stack():
    pulls = []
    for seeds in ([0, 1], [1]):
        model = GravityModel(GatedNetwork(bounded_features, 5, 1, seeds), BODY.c20)
        fit(model, *samples(BODY, seeds, 200), seeds, 50, batch=64)
        pulls.append(model(POINTS.float().expand(len(seeds), -1, -1))[-1])
    assert (pulls[0] - pulls[1]).norm() <= 1e-5 * pulls[1].norm()


def test_harmonics_are_gradients_and_recover_the_flattening():
    rng = np.random.default_rng(0)
    points, h = shell(BODY, 6, 1.2, 2.5, rng), 1e-5

    def potential(x, m, n=3):  # real parts of r^(-n-1) times an associated Legendre function
        r, u, phase = np.linalg.norm(x, axis=-1), x[:, 2] / np.linalg.norm(x, axis=-1), np.arctan2(x[:, 1], x[:, 0])
        legendre = {0: (5 * u**3 - 3 * u) / 2, 2: 15 * u * (1 - u**2)}[m]
        return np.stack([legendre * np.cos(m * phase), legendre * np.sin(m * phase)], -1) / r[:, None] ** (n + 1)

    design = harmonic_design(points, 3)
    assert design.shape == (6, 3, 16)
    assert np.allclose(design[..., 0], -points / np.linalg.norm(points, axis=-1, keepdims=True) ** 3)
    for m, columns in ((0, [9]), (2, [12, 13])):
        slope = np.stack([(potential(points + e, m) - potential(points - e, m)) / (2 * h) for e in h * np.eye(3)], 1)
        assert np.allclose(design[..., columns], slope[..., : len(columns)], atol=1e-8)
    far = shell(BODY, 300, 3.0, 6.0, rng)
    field = fit_linear(partial(harmonic_design, degree=6), far, gravity(far, BODY)[1])
    assert abs(field.coefficients[0] - 1) < 1e-6
    assert abs(field.coefficients[4] - 5**0.5 * BODY.c20) < 1e-4
    assert np.abs(field(far) - gravity(far, BODY)[1]).max() < 1e-6


def test_mascons_recover_masses():
    places = mascon_places(BODY, 12)
    assert not BODY.outside(places).any()
    assert len(np.unique(places.round(6), axis=0)) == 12
    points = shell(BODY, 200, 0.0, 3.0, np.random.default_rng(0))
    masses = np.linspace(-0.5, 1, 12)
    pull = mascon_design(points, places) @ masses
    field = fit_linear(partial(mascon_design, places=places), points, pull)
    assert np.abs(field.coefficients - masses).max() < 1e-6
    assert (mascon_design(np.array([[2.0, 0, 0]]), np.zeros((1, 3)))[0, :, 0] == [-0.25, 0, 0]).all()


GOOD = torch.ones(1, 4, 3)


def test_bad_arguments_are_named():
    loss, train, model = unchecked(acceleration_loss), unchecked(fit), build()
    with pytest.raises(ValueError, match="predicted has shape"):
        loss(GOOD[..., :2], GOOD)
    with pytest.raises(ValueError, match="measured holds 12 NaN"):
        loss(GOOD, GOOD * torch.nan)
    with pytest.raises(ValueError, match="measured holds 4 vectors of length zero"):
        loss(GOOD, 0 * GOOD)
    with pytest.raises(ValueError, match="points has shape"):
        train(model, GOOD[0], GOOD, [0], 1)
    with pytest.raises(ValueError, match="accelerations has shape"):
        train(model, GOOD, GOOD[:, :3], [0], 1)
    with pytest.raises(ValueError, match="points is empty"):
        train(model, GOOD[:, :0], GOOD[:, :0], [0], 1)
    with pytest.raises(ValueError, match="points has shape"):
        unchecked(harmonic_design)(np.ones(3), 2)
    with pytest.raises(ValueError, match="degree"):
        unchecked(harmonic_design)(np.ones((2, 3)), -1)
    with pytest.raises(ValueError, match="places holds 1 NaN"):
        unchecked(mascon_design)(np.ones((2, 3)), np.array([[0, 0, np.nan]]))
    with pytest.raises(ValueError, match="accelerations: 2 samples"):
        unchecked(fit_linear)(partial(harmonic_design, degree=0), np.ones((2, 3)), np.ones((2, 3)))
