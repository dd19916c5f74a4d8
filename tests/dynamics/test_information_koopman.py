"""Information-shaped Koopman autoencoder: entropy, contrastive loss, matrix, loss; its test problems and rivals."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.dynamics import information_koopman as ik
from touchstone.dynamics import information_koopman_baselines as rivals
from touchstone.dynamics import information_koopman_entrant as ring
from touchstone.dynamics import information_koopman_systems as systems
from touchstone.dynamics.protocol import Series, Simulator

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def waves(runs=6, time=40, channels=5):
    """Series that two modes generate."""
    phase = 0.3 * torch.arange(time)[None, :, None] + torch.arange(runs)[:, None, None]
    return (phase + torch.arange(channels)).sin()


def test_entropy_of_white_latents_and_of_one_mode():
    white = torch.linalg.qr(draw(50, 4) - draw(50, 4).mean(0))[0]
    white = torch.cat([white, -white])  # centred, and with equal variances
    assert ik.von_neumann_entropy(white).item() == pytest.approx(math.log(4), abs=1e-10)
    line = draw(50, 1) * draw(1, 4, seed=1)
    assert ik.von_neumann_entropy(line).item() == pytest.approx(0, abs=1e-6)
    some = ik.von_neumann_entropy(draw(2, 50, 4) * torch.tensor([3.0, 1.0, 0.1, 0.01]))
    assert ((some > 0) & (some < math.log(4))).all()


def test_entropy_does_not_see_rotation_scale_and_mean():
    latents = draw(60, 4) * torch.tensor([3.0, 1.0, 0.5, 0.1])
    rotation = torch.linalg.qr(draw(4, 4, seed=2))[0]
    moved = 1e-3 * latents @ rotation + draw(4, seed=3)
    torch.testing.assert_close(ik.von_neumann_entropy(moved), ik.von_neumann_entropy(latents), rtol=0, atol=1e-6)


def test_entropy_pushes_the_smaller_mode_up():
    latents = (draw(60, 2) * torch.tensor([3.0, 0.5])).requires_grad_()
    [gradient] = torch.autograd.grad(ik.von_neumann_entropy(latents), latents)
    assert (gradient * latents).sum(0)[1] > 0 > (gradient * latents).sum(0)[0]


def test_equal_similarities_give_the_share_of_positives():
    equal = torch.ones(3, 16, 5, dtype=DOUBLE)
    expected = -math.log(2 * 3 / 15)
    torch.testing.assert_close(ik.info_nce(equal, 3), torch.full((3,), expected, dtype=DOUBLE), rtol=0, atol=1e-12)
    assert (ik.info_nce(draw(20, 16, 5)) >= 0).all()


def test_contrastive_loss_agrees_with_its_definition():
    window, k, temperature = draw(1, 9, 4), 2, 0.5
    z = window[0] / window[0].norm(dim=1, keepdim=True)
    terms = []
    for n in range(k, 9 - k):
        score = {m: math.exp(float(z[n] @ z[m]) / temperature) for m in range(9) if m != n}
        positive = sum(value for m, value in score.items() if abs(m - n) <= k)
        terms.append(-math.log(positive / sum(score.values())))
    assert ik.info_nce(window, k, temperature).item() == pytest.approx(np.mean(terms), rel=1e-12)
    slow = torch.stack([torch.cos(0.2 * torch.arange(16.0)), torch.sin(0.2 * torch.arange(16.0))], 1)
    shuffled = slow[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    assert ik.info_nce(slow[None]) < 0.5 * ik.info_nce(shuffled[None])


def test_the_matrix_of_linear_data_is_found():
    matrix = torch.linalg.qr(draw(4, 4))[0]
    before = draw(3, 30, 4, seed=1)
    found = ik.ridge_operator(before, before @ matrix, ridge=1e-9)
    torch.testing.assert_close(found, matrix.expand(3, 4, 4), rtol=0, atol=1e-6)
    assert ik.ridge_operator(before, before @ matrix, ridge=100.0).norm() < found.norm()  # a ridge shrinks
    orbit = ik.latent_run(found[:1], before[:1, :2], 3)
    torch.testing.assert_close(orbit[:, :, 2], before[:1, :2] @ matrix @ matrix @ matrix, atol=1e-5, rtol=0)


def test_without_the_two_terms_the_loss_is_the_plain_one():
    model, windows = ik.KoopmanAutoencoder([0, 0], 5, latent=4, width=8).double(), draw(2, 6, 13, 5)
    windows[1] = windows[0]
    parts = model.loss(windows, torch.tensor([0.0, 2.0]).double(), torch.tensor([0.0, 0.1], dtype=DOUBLE))
    z = model.encode(windows)[0]
    operator = torch.stack([ik.ridge_operator(one[:-1], one[1:]) for one in z]).mean(0)
    forecast = model.decode((z[:, :-1] @ operator)[None].expand(2, -1, -1, -1))[0]
    again = model.decode(z[:, :-1][None].expand(2, -1, -1, -1))[0]
    plain = (forecast - windows[0, :, 1:]).square().mean((0, 2)).sum()
    plain = plain + 0.1 * (again - windows[0, :, :-1]).square().mean((0, 2)).sum()
    torch.testing.assert_close(parts["total"][0], plain, rtol=1e-12, atol=0)
    full = plain + 2 * ik.info_nce(z[:, :-1]).mean() - 0.1 * ik.von_neumann_entropy(z[:, :-1].flatten(0, 1))
    torch.testing.assert_close(parts["total"][1], full, rtol=1e-12, atol=0)


def test_models_of_a_stack_do_not_influence_each_other():
    series = waves()
    arguments = {"updates": 4, "pairs": 10, "batch": 4}
    together = ik.train(ik.KoopmanAutoencoder([3, 3], 5), series, [3, 3], [2.0, 0.0], [0.1, 0.0], **arguments)
    alone = ik.train(ik.KoopmanAutoencoder([3], 5), series, [3], [0.0], [0.0], **arguments)
    for one, two in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one[1:], two, rtol=1e-4, atol=1e-6)
    assert not torch.equal(together.encoder.weights[0][0], together.encoder.weights[0][1])


def test_training_and_refit_predict_waves():
    series = waves(runs=20)
    model = ik.train(ik.KoopmanAutoencoder([0], 5, 4, 16), series, [0], [0.0], [0.0], updates=120, pairs=10, rate=1e-2)
    operator, latents = ik.refit(model, series)
    assert latents.shape == (1, 20 * 40, 4)
    with torch.no_grad():
        run = model.decode(ik.latent_run(operator, model.encode(series[None, :, 0]), 5))[0]
    assert (run - series[:, 1:6]).norm() < 0.4 * series[:, 1:6].norm()


def test_lifted_observations():
    data = systems.lifted("duffing", train=6, test=3, steps=12)
    assert data.train.shape == (6, 12, 64)
    assert data.test.shape == data.truth.shape == (3, 12, 64)
    assert 0.005 < (data.test - data.truth).std() < 0.015
    np.testing.assert_allclose(data.train.std((0, 1)), 1, atol=0.01)
    again = systems.lifted("duffing", train=6, test=3, steps=12)
    np.testing.assert_array_equal(data.train, again.train)
    assert np.abs(systems.lifted("pendulum", 30, 3, 2).states[:, 0, 0]).max() < 2.5


def test_regressions_are_exact_on_what_they_can_represent():
    series = waves(runs=10).double().numpy()
    fit = rivals.choose(rivals.fit_dmd, [1, 2, 3], series, horizon=10)
    assert np.abs(fit.run(series[:, 0], 30) - series[:, 1:31]).max() < 1e-3
    assert fit.operator.shape == (3, 3) or fit.operator.shape == (4, 4)
    wide = np.concatenate([series, series**2], -1)
    fit = rivals.fit_edmd(wide, 1e-10, scores=2, degree=2)
    assert fit.operator.shape == (6, 6)
    assert np.isfinite(fit.run(wide[:, 0], 5)).all()


def test_variational_rival_trains():
    series = waves()
    model = rivals.LinearVAE([0, 1], 5, latent=4, width=8)
    windows, noise = series[None, :, :11].expand(2, -1, -1, -1), torch.zeros(2, 6, 10, 4)
    before = model.loss(windows, noise).detach()
    after = rivals.train_vae(model, series, [0, 1], updates=40, pairs=10, rate=1e-2).loss(windows, noise)
    assert (after < 0.7 * before).all()
    assert model.encode(windows).shape == (2, 6, 11, 4)


def test_the_entrant_learns_a_simulator():
    series = Series("waves", waves(1, 200, 3)[0].double().numpy(), 0.3)
    simulator = ring.learn(series, Budget(0.5), seed=0)
    assert isinstance(simulator, Simulator)
    run = simulator.simulate(np.stack([series.states[:9], series.states[3:12]]), 7)
    assert run.shape == (2, 7, 3)
    assert np.isfinite(run).all()


def test_bad_arguments_are_named():
    model, series = ik.KoopmanAutoencoder([0], 5), waves()
    with pytest.raises(ValueError, match="latents hold 1"):
        unchecked(ik.von_neumann_entropy)(draw(1, 4))
    with pytest.raises(ValueError, match="neighbours is 3"):
        unchecked(ik.info_nce)(draw(1, 7, 4))
    with pytest.raises(ValueError, match="series holds"):
        unchecked(ik.train)(model, series * torch.nan, [0], [0.0], [0.0], 1)
    with pytest.raises(ValueError, match="series has 40 times"):
        unchecked(ik.train)(model, series, [0], [0.0], [0.0], 1, pairs=40)
    with pytest.raises(ValueError, match="alpha has 2"):
        unchecked(ik.train)(model, series, [0], [0.0, 1.0], [0.0], 1)
    with pytest.raises(ValueError, match="series has shape"):
        unchecked(ik.refit)(model, series[0])
    with pytest.raises(ValueError, match="name is 'duffin'"):
        unchecked(systems.lifted)("duffin")
    with pytest.raises(ValueError, match="must be positive"):
        unchecked(systems.lifted)("duffing", train=0)
    with pytest.raises(ValueError, match="rank is 9"):
        unchecked(rivals.fit_dmd)(series.numpy(), 9)
