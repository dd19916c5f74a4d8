"""PV-RNN: divergence, gradients, generation, error regression, the machine and the codes."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import pv_rnn, pv_rnn_baselines
from touchstone.dynamics import pv_rnn_sequences as sequences
from touchstone.metrics.attractors import lyapunov_exponents

GENERATOR = 5


def drawn(layers=2, models=3, codes=6):
    """A stack in float64 with biases away from zero."""
    units, latent, constants = [5, 3, 2][:layers], [2, 1, 1][:layers], [2, 4, 8][:layers]
    model = pv_rnn.init_pv_rnn(range(models), units, latent, constants, codes).to(torch.float64)
    model.b += torch.linspace(-0.3, 0.4, sum(units))
    model.c += torch.linspace(-0.2, 0.2, codes)
    return model


def case(layers=2, time=6, batch=4, models=3, groups=2, bins=3):
    """A stack with targets, vectors, noise and meta-priors."""
    model = drawn(layers, models, groups * bins)
    generator = torch.Generator().manual_seed(GENERATOR)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    latent = model.Wz.shape[2]
    codes = normal(time, models, batch, groups, bins).softmax(-1)
    return (
        model,
        codes,
        normal(time, models, batch, 2 * latent),
        normal(time, models, batch, latent),
        normal(models).exp(),
    )


def naive(model, codes, a, noise, w):
    """The objective by the plainest loop and torch.distributions; model 0 of the stack at a time."""
    totals = []
    for i in range(len(w)):
        latent, rate = model.Wz.shape[2], model.rate[i]
        h = torch.zeros(a.shape[2], model.Wd.shape[1], dtype=a.dtype)
        likelihood = divergence = 0.0
        for t in range(len(a)):
            d = torch.tanh(h)
            p = torch.distributions.Normal((d @ model.Wp[i, :latent].T).tanh(), (d @ model.Wp[i, latent:].T).exp())
            q = torch.distributions.Normal(
                (d @ model.Wq[i, :latent].T + a[t, i, :, :latent]).tanh(),
                (d @ model.Wq[i, latent:].T + a[t, i, :, latent:]).exp(),
            )
            z = q.mean + q.stddev * noise[t, i]
            h = (1 - rate) * h + rate * (d @ model.Wd[i].T + z @ model.Wz[i].T + model.b[i])
            lowest = torch.tanh(h)[:, : model.Wx.shape[2]]
            spoken = (lowest @ model.Wx[i].T + model.c[i]).view(len(h), *codes.shape[3:]).log_softmax(-1)
            likelihood = likelihood - (codes[t, i] * spoken).sum((1, 2)).mean()
            divergence = divergence + torch.distributions.kl_divergence(q, p).sum(1).mean()
        totals.append((likelihood, divergence))
    likelihood, divergence = (torch.stack(values) for values in zip(*totals, strict=True))
    return likelihood, divergence, likelihood + w * divergence


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_terms_and_gradients_agree_with_distributions_and_autograd(layers):
    model, codes, a, noise, w = case(layers)
    likelihood, divergence, gradients, g_a = model.objective(codes, a, noise, w)
    a.requires_grad_()
    for tensor in model.tensors():
        tensor.requires_grad_()
    wanted_likelihood, wanted_divergence, total = naive(model, codes, a, noise, w)
    torch.testing.assert_close(likelihood, wanted_likelihood.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(divergence, wanted_divergence.detach(), rtol=1e-10, atol=0)
    wanted = list(torch.autograd.grad(total.sum(), [*model.tensors(), a]))
    for i, mask in ((0, model.mask_d), (1, model.mask_z), (2, model.mask_z.mT.repeat(1, 2, 1))):
        wanted[i] = wanted[i] * mask  # weights that do not exist are not trained
    wanted[3] = wanted[3] * model.mask_z.mT.repeat(1, 2, 1)
    for found, expected in zip([*gradients, g_a], wanted, strict=True):
        assert (found - expected).norm() < 1e-10 * expected.norm()


def test_shared_weights_and_zero_vectors_have_no_divergence():
    model, codes, a, noise, w = case()
    path = model.prior().unroll(0 * a, noise)
    assert model.divergence(path).abs().max() < 1e-14
    assert torch.equal(path.heads[..., :6], path.heads[..., 6:])
    assert model.divergence(model.unroll(a, noise)).min() >= 0


def test_first_prior_is_standard_normal_and_observations_enter_through_the_loss_only():
    model, codes, a, noise, w = case()
    path = model.unroll(a, noise)
    assert (path.heads[0, ..., :6] == 0).all()  # mean tanh 0, scale exp 0
    other = codes.flip(-1)
    assert not torch.allclose(model.objective(codes, a, noise, w)[0], model.objective(other, a, noise, w)[0])
    assert torch.equal(model.objective(codes, a, noise, w)[1], model.objective(other, a, noise, w)[1])
    torch.testing.assert_close(noise * path.scale + path.mean, path.z)


def test_without_the_metaprior_the_objective_is_the_likelihood():
    model, codes, a, noise, w = case()
    likelihood, _, gradients, g_a = model.objective(codes, a, noise, 0 * w)
    torch.testing.assert_close(likelihood, naive(model, codes, a, noise, 0 * w)[2])
    assert (gradients[2] == 0).all()  # the prior is not trained
    step = 1e-6 * torch.ones_like(a)
    rise = model.objective(codes, a + step, noise, w)[0] - model.objective(codes, a - step, noise, w)[0]
    torch.testing.assert_close(rise / 2e-6, g_a.sum((0, 2, 3)), rtol=1e-6, atol=1e-8)


def test_models_do_not_influence_each_other_and_a_path_can_be_cut():
    model, codes, a, noise, w = case()
    alone = model[1].objective(codes[:, 1:2], a[:, 1:2], noise[:, 1:2], w[1:2])
    torch.testing.assert_close(alone[0], model.objective(codes, a, noise, w)[0][1:2])
    whole = model.unroll(a, noise)
    rest = model.unroll(a[3:], noise[3:], whole.h[3])
    torch.testing.assert_close(rest.h[-1], whole.h[-1])


def test_units_of_a_layer_relax_with_their_time_constant():
    model, _, a, noise, _ = case(layers=3)
    for weights in (model.Wd, model.Wz, model.b):
        weights.zero_()
    start = torch.ones(3, 4, 10, dtype=torch.float64)
    path = model.unroll(a, noise, start)
    torch.testing.assert_close(path.h[-1, 0, 0, [0, 5, 8]], torch.tensor([0.5, 0.75, 0.875], dtype=torch.float64) ** 6)
    fresh = pv_rnn.init_pv_rnn([0], [5, 3, 2], [2, 1, 1], [2, 4, 8], 4)
    assert (fresh.Wd[0, 8:, :5] == 0).all() and (fresh.Wd[0, :5, 8:] == 0).all() and (fresh.Wd[0, :5, 5:8] != 0).all()
    assert (fresh.Wz[0, 5:, :2] == 0).all() and (fresh.Wp[0, 3, :8] == 0).all() and (fresh.Wp[0, 3, 8:] != 0).all()


def test_mean_dynamics_is_the_prior_without_noise_and_has_the_jacobian():
    model, _, a, noise, _ = case()
    h = torch.linspace(-1, 1, 3 * 4 * 8, dtype=torch.float64).view(3, 4, 8)
    following, jacobian = model.mean_dynamics(h)
    torch.testing.assert_close(following, model.prior().unroll(0 * a[:1], 0 * noise[:1], h).h[1])
    for i in range(8):
        step = torch.zeros(8, dtype=torch.float64)
        step[i] = 1e-6
        column = (model.mean_dynamics(h + step)[0] - model.mean_dynamics(h - step)[0]) / 2e-6
        torch.testing.assert_close(jacobian[..., i], column, rtol=1e-6, atol=1e-8)
    model.Wd.zero_(), model.Wz.zero_()
    exponents = lyapunov_exponents(pv_rnn.tangent_map(model), h.flatten(0, 1).numpy(), 50, 1.0, drop=100)
    np.testing.assert_allclose(exponents[:, 0], np.log(0.75), rtol=1e-6)  # the slow layer's


def test_passed_noise_ignores_the_scale_of_z():
    model, _, _, _, _ = case(layers=1)
    model = model.to(torch.float32)
    model.Wp[:, 2:] = 0
    path = pv_rnn.predict(model, torch.zeros(3, 4, 5), 3, torch.Generator().manual_seed(0))
    scale, noise = pv_rnn.passed_noise(model, path)
    torch.testing.assert_close(scale, torch.ones(3))
    torch.testing.assert_close(noise, model.Wz.norm(dim=1).sum(1))


def test_training_lowers_the_objective_and_a_seed_gives_the_same_numbers_in_any_stack():
    symbols, _ = sequences.run_machine(np.random.default_rng(0), 3, 8)
    codes = sequences.one_hot(symbols)[:, None]

    def train(seeds, w, epochs):
        model = pv_rnn.init_pv_rnn(seeds, [4], [1], [2.0], 2)
        vectors = pv_rnn.AdaptiveVectors(8, len(seeds), 3, 1)
        history = pv_rnn.fit(model, vectors, codes.expand(-1, len(seeds), -1, -1, -1), torch.tensor(w), seeds, epochs)
        return model, vectors, history

    model, vectors, history = train([0, 0, 1], [0.01, 0.1, 0.1], 30)
    assert (history[-5:].mean(0) < history[:5].mean(0)).all() and (vectors.a != 0).all()
    model, _, history = train([0, 0, 1], [0.01, 0.1, 0.1], 3)
    other, _, alone = train([1], [0.1], 3)
    torch.testing.assert_close(alone[:, 0], history[:, 2], rtol=1e-5, atol=0)
    torch.testing.assert_close(other.Wd[0], model.Wd[2], rtol=1e-3, atol=1e-4)


def test_error_regression_recognises_what_it_saw_and_leaves_the_weights():
    model, codes, *_ = case(layers=1, time=5)
    model, codes = model.to(torch.float32), codes.float()
    model.Wz *= 3
    before = [tensor.clone() for tensor in model.tensors()]
    w = torch.full((3,), 1e-3)

    def surprise(iterations, rate=0.1):
        ends = pv_rnn.error_regression(model, codes, w, torch.Generator().manual_seed(0), 3, iterations, rate, 50)
        assert ends.shape == (5, 3, 4 * 50, 5)
        spoken = model.logits(ends.tanh()).unflatten(-1, (2, 3)).log_softmax(-1).unflatten(2, (4, 50))
        return -(codes[:, :, :, None] * spoken).sum((-1, -2)).mean((0, 2, 3))

    assert (surprise(30) < surprise(1, 1e-9)).all()
    assert all(torch.equal(x, y) for x, y in zip(before, model.tensors(), strict=True))


def test_encoder_reads_its_own_step_only_and_is_trained():
    _, codes, *_ = case(time=4)
    codes = codes.float()
    encoder = pv_rnn_baselines.Encoder(codes, [0, 1, 2], latent=3, width=5)
    changed = codes.clone()
    changed[2] = changed[2].flip(-1)
    same = (encoder() == encoder(changed)).flatten(1).all(1)
    assert same.tolist() == [True, True, False, True]
    model, before = pv_rnn.init_pv_rnn([0, 1, 2], [5, 3], [2, 1], [2, 4], 6), encoder.first.detach().clone()
    pv_rnn.fit(model, encoder, codes, torch.full((3,), 0.01), [0, 1, 2], 2)
    assert (encoder.first != before).any() and encoder.second.grad.norm() > 0


def test_network_without_randomness_replays_from_its_initial_state():
    symbols, _ = sequences.run_machine(np.random.default_rng(1), 2, 6)
    codes = sequences.one_hot(symbols)[:, None]
    model, states = pv_rnn_baselines.fit_deterministic(codes, [0], 6, 2.0, 220)
    path = model.unroll(states().detach(), torch.zeros(6, 1, 2, 6))
    assert (path.z[1:] == 0).all() and (path.z[0] != 0).any() and (model.Wp == 0).all()
    assert (model.logits(path.d[1:]).argmax(-1)[:, 0].T.numpy() == symbols).mean() > 0.9


def test_machine_words_and_entropy():
    np.testing.assert_allclose(sequences.stationary(), np.array([0.79, 1, 0.7]) / 2.49)
    branch = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    assert abs(sequences.entropy_rate() - branch * 1.7 / 2.49) < 1e-12
    words = sequences.true_words(8)
    assert abs(words.sum() - 1) < 1e-12 and words[0] == 0  # eight zeros cannot be
    symbols, states = sequences.run_machine(np.random.default_rng(0), 5, 800)
    assert (symbols[states == 0] == 1).all() and abs(symbols[states == 1].mean() - 0.3) < 0.05
    assert sequences.word_divergence(symbols) < 0.1
    assert sequences.word_divergence(1 - symbols) > 1
    rise = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (sequences.true_words(9), words)]
    assert 0 < rise[0] - rise[1] - sequences.entropy_rate() < 5e-3  # words hide the state a little


def test_curves_and_codes():
    points = sequences.lissajous(np.random.default_rng(0), 3, 4, noise=0.0)
    assert points.shape == (3, 96, 2) and np.abs(points[:, 23::24]).max() < 1e-12
    torch.testing.assert_close(sequences.encode(torch.tensor(points)).sum(-1), torch.ones(3, 96, 2).double())
    again = sequences.decode(sequences.encode(torch.tensor(points)))
    assert (again - torch.tensor(points)).abs().max() < 0.01


def test_bad_input_is_named():
    model, codes, a, noise, w = case()
    with pytest.raises(ValueError, match="units, latent, constants"):
        pv_rnn.init_pv_rnn([0], [5, 3], [1], [2, 4], 2)
    with pytest.raises(ValueError, match="noise has shape"):
        unchecked(pv_rnn.PVRNN.unroll)(model, a, noise[:2])
    with pytest.raises(ValueError, match="a holds"):
        unchecked(pv_rnn.PVRNN.unroll)(model, a * torch.nan, noise)
    with pytest.raises(ValueError, match="codes has 2 x 2 entries"):
        unchecked(pv_rnn.PVRNN.objective)(model, codes[..., :2], a, noise, w)
    with pytest.raises(ValueError, match="window"):
        unchecked(pv_rnn.error_regression)(model, codes, w, torch.Generator(), window=0)
    with pytest.raises(ValueError, match="symbols"):
        sequences.word_divergence(np.zeros((2, 5), int))
    with pytest.raises(ValueError, match="points holds"):
        sequences.encode(torch.tensor([torch.nan]))
