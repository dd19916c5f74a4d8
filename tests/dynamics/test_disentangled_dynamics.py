"""Supervised disentanglement: the three parts of the loss, labels and domains, forecasts, independence of the stack's members."""

import numpy as np
import pytest
import torch
from torch import distributions

from tests.helpers import unchecked
from touchstone.data import ode
from touchstone.dynamics import disentangled_dynamics as sd
from touchstone.dynamics import disentangled_dynamics_baselines as rivals
from touchstone.dynamics import disentangled_dynamics_domains as domains
from touchstone.dynamics import disentangled_dynamics_video as video
from touchstone.dynamics.lstm import LSTM

VARIANTS = {
    "VAE": sd.Variant(beta=0.25, sampled=True),
    "SD-VAE": sd.Variant(beta=0.25, delta=0.5, sampled=True),
    "MLP": sd.Variant(),
    "SD-MLP": sd.Variant(delta=0.5),
    "oracle": sd.Variant(told=True),
}
NAMES = list(VARIANTS)


@pytest.fixture
def stack():
    return sd.Forecasters(VARIANTS, [4], dim=2, parameters=3, window=5, latent=6, hidden=(12, 8)).double()


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(1)
    shapes = [(7, 5, 2), (7, 5, 2), (7, 3), (7, 6)]
    return [torch.randn(*s, generator=rng, dtype=torch.float64).expand(5, *s) for s in shapes]


@pytest.fixture(scope="module")
def pendulum():
    return domains.problem("pendulum", [0, 1], train=40, validation=6, test=8, steps=60)


def test_divergence_is_the_closed_form_and_vanishes_at_the_prior():
    mean, logvar = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reference = distributions.kl_divergence(
        distributions.Normal(mean, (0.5 * logvar).exp()), distributions.Normal(0 * mean, 1 + 0 * mean)
    )
    torch.testing.assert_close(sd.divergence(mean, logvar), reference.sum(-1).mean(1), rtol=0, atol=1e-12)
    assert (sd.divergence(0 * mean, 0 * logvar) == 0).all()


def test_without_supervision_the_loss_is_that_of_a_plain_autoencoder(stack, batch):
    windows, targets, labels, noise = batch
    mean, logvar = stack.encoder(torch.cat([windows.flatten(2), 0 * labels], -1))[0].chunk(2, -1)
    decoded = stack.decoder((mean + noise[0] * (logvar / 2).exp()).expand(5, 7, 6))[0]
    nats = distributions.kl_divergence(
        distributions.Normal(mean, logvar.exp().sqrt()), distributions.Normal(torch.zeros_like(mean), 1.0)
    )
    plain = (decoded - targets[0].flatten(1)).abs().mean() + 0.25 * nats.sum(-1).mean() / 10
    losses = stack.loss(windows, targets, labels, noise)
    assert abs(losses[0] - plain) < 1e-12
    # all variants of a seed start from the same weights, so the supervised one differs by its own term only
    extra = 0.5 * sum((mean[:, i] - labels[0, :, i]).abs().mean() for i in range(3)) / 3
    assert abs(losses[1] - plain - extra) < 1e-12
    assert abs(losses[3] - losses[2] - extra) < 1e-12
    assert stack.loss(windows, targets, labels, noise, anneal=0.0)[0] < losses[0]


def test_only_sampled_members_hear_the_noise_and_only_told_ones_the_labels(stack, batch):
    windows, targets, labels, noise = batch
    before, quiet = stack.loss(windows, targets, labels, noise), stack.loss(windows, targets, labels, 0 * noise)
    assert [bool(b != q) for b, q in zip(before, quiet, strict=True)] == [True, True, False, False, False]
    forecast, other = stack.forecast(windows, labels, 5), stack.forecast(windows, labels + 1, 5)
    changed = (forecast - other).abs().amax((1, 2, 3)) > 0
    assert changed.tolist() == [name == "oracle" for name in NAMES]


def test_forecasts_feed_back_and_longer_ones_begin_like_shorter_ones(stack, batch):
    windows, _, labels, _ = batch
    long = stack.forecast(windows, labels, 13)
    assert long.shape == (5, 7, 13, 2)
    first = stack.decode(stack.encode(windows, labels)[0])
    second = stack.decode(stack.encode(first, labels)[0])
    torch.testing.assert_close(long[:, :, :5], first.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(long[:, :, 5:10], second.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(long[:, :, :7], stack.forecast(windows, labels, 7), rtol=0, atol=0)


@pytest.mark.parametrize("name", domains.FAMILIES)
def test_labels_are_exact_at_the_ends_of_the_range_and_not_clipped(name):
    family = domains.FAMILIES[name]
    low, high = np.array(family.low), np.array(family.high)
    assert (family.label(low[None]) == 0).all() and (family.label(high[None]) == 1).all()
    np.testing.assert_allclose(family.label((high + 0.3 * (high - low))[None]), 1.3)
    np.testing.assert_allclose(family.label((low - 0.3 * (high - low))[None]), -0.3)


@pytest.mark.parametrize("name", domains.FAMILIES)
def test_domains_are_disjoint_on_the_generated_data(name):
    parts = domains.problem(name, [0], train=30, validation=5, test=30, steps=22)
    outside = {part: domains.excess(parts[part].labels.double().numpy()) for part in parts}
    for part in ("train", "validation", "in range"):
        assert (outside[part] <= 1e-6).all()
    assert (outside["OOD-easy"] > 0).all() and (outside["OOD-easy"] <= 0.15 + 1e-6).all()
    assert (outside["OOD-hard"] > 0.15).all() and (outside["OOD-hard"] <= 0.3 + 1e-6).all()
    sets = [tuple(row) for part in parts.values() for row in part.labels[0].tolist()]
    assert len(set(sets)) == len(sets)
    assert parts["train"].states.std((0, 1, 2), correction=0).sub(1).abs().max() < 1e-4
    assert (parts["train"].observed - parts["train"].states).std() == pytest.approx(
        domains.FAMILIES[name].noise, rel=0.1
    )


@pytest.mark.parametrize("name", domains.FAMILIES)
def test_each_run_keeps_the_invariant_of_its_own_parameters(name):
    family, random = domains.FAMILIES[name], np.random.default_rng(2)
    parameters = domains.draw(family, "OOD-hard", 4, random)
    system = family.build(parameters)
    start = family.start(random, 4)
    states = ode.integrate(system, start, family.dt * np.arange(40), 1e-8)
    invariant = next(iter(system.invariants.values()))
    values = np.stack([invariant(states[:, k]) for k in range(40)])
    np.testing.assert_allclose(values, values[:1].repeat(40, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(domains.simulate(name, parameters, start, 40), states[..., : family.dim])


def test_members_do_not_meet(pendulum):
    both = sd.Forecasters(VARIANTS, [0, 1], 2, 1, hidden=(20, 10))
    sd.train(both, pendulum["train"], pendulum["validation"], updates=12, batch=8, horizon=20, checks=3, clip=0.05)
    own = {part: domains.Trajectories(*(t[1:] for t in vars(data).values())) for part, data in pendulum.items()}
    alone = sd.Forecasters({"SD-VAE": VARIANTS["SD-VAE"]}, [1], 2, 1, hidden=(20, 10))
    sd.train(alone, own["train"], own["validation"], updates=12, batch=8, horizon=20, checks=3, clip=0.05)
    member = both.members.index(("SD-VAE", 1))
    for many, one in zip(both.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(many[member], one[0], rtol=1e-3, atol=1e-5)


def test_clipping_shortens_each_member_on_its_own():
    parameters = [torch.nn.Parameter(torch.zeros(2, 3, 2)), torch.nn.Parameter(torch.zeros(2, 1, 4))]
    for p in parameters:
        p.grad = torch.ones_like(p)
        p.grad[1] *= 0.01
    small = parameters[0].grad[1].clone()
    sd.clip_members(parameters, 1.0)
    assert sum(p.grad[0].square().sum() for p in parameters) == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(parameters[0].grad[1], small)


def test_training_forecasts_better_and_writes_the_parameter_into_the_first_latent():
    rate = 1 + torch.rand(1, 60, 1, generator=torch.Generator().manual_seed(0))
    phase = rate[..., None] * 0.2 * torch.arange(60.0)[:, None]
    circle = torch.cat([phase.sin(), phase.cos()], -1)
    data = domains.Trajectories(circle, circle, rate - 1)
    variants = {name: sd.Variant(1e-3, delta, True) for name, delta in (("VAE", 0.0), ("SD-VAE", 1.0))}
    model = sd.Forecasters(variants, [3], 2, 1, hidden=(60, 30))
    before = sd.errors(model, data, 10).mean(1)
    sd.train(model, data, data, updates=200, batch=16, rates=(5e-3, 5e-4), horizon=20, checks=4)
    assert (sd.errors(model, data, 10).mean(1) < 0.5 * before).all()
    fit = sd.determination(*sd.read_parameters(model, data))
    assert fit[1] > 0.3 > fit[0]


def test_reading_averages_the_windows_of_a_trajectory(pendulum):
    model = sd.Forecasters({"MLP": sd.Variant(), "SD-MLP": sd.Variant(delta=1.0)}, [0, 1], 2, 1, hidden=(8,))
    data = pendulum["in range"]
    read, true = sd.read_parameters(model, data, windows=2)
    ends = [data.observed[:, :, :10], data.observed[:, :, -10:]]
    means = [model.encode(end.repeat(2, 1, 1, 1), true)[0][..., :1] for end in ends]
    torch.testing.assert_close(read, (means[0] + means[1]).detach() / 2)
    assert torch.equal(true[2:], data.labels)
    with pytest.raises(ValueError, match="windows"):
        sd.read_parameters(model, data, windows=0)


def test_kept_weights_are_those_with_the_best_validation(pendulum):
    model = sd.Forecasters({"MLP": sd.Variant()}, [0, 1], 2, 1, hidden=(16, 8))
    noisy = pendulum["validation"].observed
    seen = domains.Trajectories(noisy, noisy, pendulum["validation"].labels)
    scores, plain = [], sd.errors
    try:
        sd.errors = lambda *arguments: scores.append(plain(*arguments)) or scores[-1]
        sd.train(
            model,
            pendulum["train"],
            pendulum["validation"],
            updates=12,
            batch=4,
            rates=(0.3, 0.3),
            horizon=20,
            checks=6,
        )
    finally:
        sd.errors = plain
    best = torch.stack([score.mean(1) for score in scores]).amin(0)
    torch.testing.assert_close(plain(model, seen, 20).mean(1), best)


class Straight(torch.nn.Module):
    """Continues in a straight line; exact on ramps."""

    members, seeds, window = [("line", 0)], [0], 4

    def forecast(self, past, labels, steps):
        slope = past[:, :, -1:] - past[:, :, -2:-1]
        return past[:, :, -1:] + slope * torch.arange(1, steps + 1.0)[:, None]


def test_errors_hold_forecasts_against_the_states_that_follow():
    ramp = torch.arange(30.0)[:, None] * torch.tensor([1.0, -2.0]) + torch.arange(3.0)[:, None, None]
    data = domains.Trajectories(ramp[None], ramp[None], torch.zeros(1, 3, 1))
    assert sd.errors(Straight(), data, 12).abs().max() < 1e-4
    shifted = domains.Trajectories(ramp[None], ramp[None] + 0.5, torch.zeros(1, 3, 1))
    torch.testing.assert_close(sd.errors(Straight(), shifted, 12), torch.full((1, 12), 0.5))
    broken = Straight()
    broken.forecast = lambda past, labels, steps: past[:, :, -1:] * torch.full((steps, 1), torch.nan)
    assert torch.isinf(sd.errors(broken, data, 12)).all()


def test_training_windows_are_consecutive_and_carry_their_systems_labels():
    time = torch.arange(20.0)[:, None].expand(20, 1)
    observed = torch.stack([time + 100 * run for run in range(6)])[None]
    data = domains.Trajectories(observed, observed, torch.arange(6.0)[None, :, None])
    pieces, labels = sd.draw_windows(data, 7, 50, [torch.Generator().manual_seed(0)])
    assert (pieces.diff(dim=2) == 1).all()
    assert torch.equal(pieces[0, :, 0, 0] // 100, labels[0, :, 0])
    firsts = pieces[0, :, 0, 0] % 100
    assert firsts.min() == 0 and firsts.max() == 13


def test_determination_is_one_for_the_truth_and_nothing_for_the_mean():
    true = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sd.determination(true, true), torch.ones(2))
    torch.testing.assert_close(sd.determination(true.mean(1, keepdim=True).expand_as(true), true), torch.zeros(2))
    assert (sd.determination(-true, true) < -1).all()


def test_recurrent_rival_is_trained_on_what_it_will_do(pendulum):
    network = LSTM(2, 5, torch.ones(2))
    windows = pendulum["train"].observed[0, :7, :10]
    free = torch.from_numpy(network.simulate(windows.numpy(), 10)).float()
    torch.testing.assert_close(rivals.continued(network, windows).detach(), free, rtol=1e-5, atol=1e-6)
    model = rivals.train_lstm(
        [0, 1], pendulum["train"], pendulum["validation"], updates=2, batch=4, cells=6, horizon=20
    )
    past = sd.forecast_windows(pendulum["in range"], 10, 15)[0]
    forecast = model.forecast(past, pendulum["in range"].labels, 15)
    assert forecast.shape == (2, 8, 15, 2)
    alone = torch.from_numpy(model.networks[1].simulate(past[1].numpy(), 15)).float()
    torch.testing.assert_close(forecast[1], alone)


def test_video_divergence_and_supervision_have_their_closed_forms():
    model = video.VideoModel(state=3, memory=8)
    for part, numbers in (
        (model.prior, [0.0, 0.5, 0.0, 1.0, 0.0, -1.0]),
        (model.posterior, [1.0, 0.5, -1.0, 0.0, 0.3, 0.0]),
    ):
        torch.nn.init.zeros_(part[-1].weight)
        part[-1].bias.data = torch.tensor(numbers)
    frames, labels = torch.rand(2, 4, 32, 32), torch.tensor([[1.5], [-0.5]])
    parts = model.losses(frames, labels, free=0.0)

    def normal(part):
        mean, spread = part[-1].bias.data.chunk(2)
        return distributions.Normal(mean, torch.nn.functional.softplus(spread) + 0.1)

    nats = distributions.kl_divergence(normal(model.posterior), normal(model.prior)).sum()
    torch.testing.assert_close(parts["divergence"].detach(), nats)
    assert parts["supervision"].item() == pytest.approx((0.5 + 1.5) / 2)
    assert model.losses(frames, labels, free=100.0)["divergence"].item() == pytest.approx(100)
    future, read = model.forecast(frames, 5)
    assert future.shape == (2, 5, 32, 32) and torch.equal(read, torch.tensor([[1.0, 0.5, -1.0]]).expand(2, 3))


def test_videos_show_longer_rods_and_training_lowers_the_pixel_error():
    frames, labels = domains.videos("OOD-hard", 6, 12, np.random.default_rng(0))
    assert frames.shape == (6, 12, 32, 32) and 0 <= frames.min() and frames.max() <= 1
    ink = frames.mean((1, 2, 3))
    assert ink[labels[:, 0] > 1].min() > ink[labels[:, 0] < 0].max()
    models = [video.train_video(frames, labels, 0, delta=1.0, updates=n, batch=3, length=6) for n in (1, 12)]
    before, after = (m.losses(frames, labels)["pixels"] for m in models)
    assert after < before


def test_bad_input_is_named(pendulum):
    with pytest.raises(ValueError, match="variants"):
        unchecked(sd.Forecasters)({}, [0], 2, 1)
    with pytest.raises(ValueError, match="latent"):
        sd.Forecasters(VARIANTS, [0], 2, 9, latent=8)
    model = sd.Forecasters({"MLP": sd.Variant()}, [0], 2, 1, hidden=(4,))
    with pytest.raises(ValueError, match="past"):
        unchecked(sd.Forecasters.forecast)(model, torch.full((1, 2, 10, 2), torch.nan), torch.zeros(1, 2, 1), 5)
    with pytest.raises(ValueError, match="past has shape"):
        unchecked(sd.Forecasters.forecast)(model, torch.zeros(1, 2, 9, 2), torch.zeros(1, 2, 1), 5)
    with pytest.raises(ValueError, match="updates"):
        unchecked(sd.train)(model, pendulum["train"], pendulum["validation"], updates=0)
    with pytest.raises(ValueError, match="steps"):
        sd.forecast_windows(pendulum["in range"], 10, 60)
    with pytest.raises(ValueError, match="domain"):
        domains.draw(domains.FAMILIES["pendulum"], "far", 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="runs"):
        domains.draw(domains.FAMILIES["pendulum"], "in range", 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="name"):
        domains.problem("spring", [0])
    with pytest.raises(ValueError, match="seeds"):
        domains.problem("pendulum", [])
    with pytest.raises(ValueError, match="parameters"):
        unchecked(domains.Family.label)(domains.FAMILIES["pendulum"], np.ones((2, 3)))
    with pytest.raises(ValueError, match="updates"):
        rivals.train_lstm([0], pendulum["train"], pendulum["validation"], updates=0)
    with pytest.raises(ValueError, match="length"):
        video.train_video(torch.zeros(2, 5, 32, 32), torch.zeros(2, 1), 0, length=6)
    with pytest.raises(ValueError, match="labels"):
        unchecked(video.VideoModel.losses)(video.VideoModel(), torch.zeros(2, 3, 32, 32), torch.zeros(1, 1))
