import pytest
import torch

from tests.helpers import unchecked
from touchstone.generative.couplings import Streams, independent, paired
from touchstone.generative.rectified_flow import (
    distil,
    gaussian_velocity,
    rectified_pairs,
    rectify,
    straightness,
    transport_cost,
)
from touchstone.generative.samplers import euler, rk45
from touchstone.nn.time_embedding import TimeMLP

MOMENTS = (
    torch.tensor([0.0, 0.0]),
    torch.tensor([[1.0, 0.2], [0.2, 0.5]]),
    torch.tensor([1.0, -0.5]),
    torch.tensor([[0.4, -0.1], [-0.1, 1.2]]),
)


def gaussian(mean, cov, seeds, count, purpose):
    return mean + Streams(seeds, purpose).normal(count, len(mean)) @ torch.linalg.cholesky(cov).T


def test_learned_velocity_between_gaussians_is_the_closed_form():
    torch.set_num_threads(1)
    seeds = [0]
    streams = Streams(seeds, 1)
    lower = torch.linalg.cholesky(MOMENTS[1]), torch.linalg.cholesky(MOMENTS[3])

    def couple(batch):
        return streams.normal(batch, 2) @ lower[0].T + MOMENTS[0], streams.normal(batch, 2) @ lower[1].T + MOMENTS[2]

    model = rectify(TimeMLP(2, seeds, width=64, depth=2), couple, streams, steps=1500, batch=512)
    error = reference = 0.0
    for time in (0.1, 0.3, 0.5, 0.7, 0.9):
        start, end = couple(4000)
        points = torch.lerp(start, end, time)
        exact = gaussian_velocity(points[0], time, MOMENTS)
        error += (model(points, torch.tensor(time))[0] - exact).square().sum().item()
        reference += exact.square().sum().item()
    assert (error / reference) ** 0.5 < 0.05


def test_closed_form_is_the_conditional_mean_by_quadrature():
    """In one dimension, E[X1 - X0 | Xt = x] as an integral over x0 with x1 fixed by x."""
    mean_0, var_0, mean_1, var_1, time, x = 0.3, 0.8, -1.1, 1.7, 0.35, 0.4
    x0 = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    x1 = (x - (1 - time) * x0) / time
    weight = torch.exp(-((x0 - mean_0) ** 2) / (2 * var_0) - (x1 - mean_1) ** 2 / (2 * var_1))
    expected = ((x1 - x0) * weight).sum() / weight.sum()
    moments = tuple(torch.tensor(v, dtype=torch.float64) for v in ([mean_0], [[var_0]], [mean_1], [[var_1]]))
    found = gaussian_velocity(torch.tensor([[x]], dtype=torch.float64), time, moments)
    assert abs(found.item() - expected.item()) < 1e-10


def test_exact_flow_carries_one_gaussian_to_the_other():
    """The flow is affine, so its image of the unit vectors gives the covariance of the end law exactly."""
    moments = tuple(moment.double() for moment in MOMENTS)
    basis = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double() + moments[0]
    end = rk45(lambda z, t: gaussian_velocity(z, float(t), moments), basis, tolerance=1e-9).end
    linear = (end[1:] - end[0]).T
    torch.testing.assert_close(end[0], moments[2], atol=1e-6, rtol=0)
    torch.testing.assert_close(linear @ moments[1] @ linear.T, moments[3], atol=1e-6, rtol=0)


def test_translation_is_already_straight():
    """For X1 = X0 + c the velocity is c everywhere: S is zero and any wrong speed shows in S of a curved field."""
    start = Streams([0, 1], 1).normal(50, 2).double()
    shift = torch.tensor([1.0, -2.0]).double()
    assert straightness(lambda z, t: shift.expand_as(z), start).abs().max() < 1e-12
    # speed 2t covers the same distance on the same line: S is the integral of (1 - 2t)^2, which is 1/3 per |c|^2
    speeding = straightness(lambda z, t: 2 * t * shift.expand_as(z), start, steps=1000)
    torch.testing.assert_close(speeding, torch.full((2,), 5 / 3).double(), atol=1e-5, rtol=0)


def test_training_on_a_translation_learns_it():
    seeds = [0, 1]
    start = Streams(seeds, 1).normal(500, 2)
    couple = paired(Streams(seeds, 2), start, start + torch.tensor([1.0, -2.0]))
    model = rectify(TimeMLP(2, seeds, width=64, depth=2), couple, Streams(seeds, 3), steps=600)
    assert straightness(model, start).max() < 0.02
    assert (euler(model, start, 1).end - start - torch.tensor([1.0, -2.0])).norm(dim=-1).mean() < 0.2


def test_reflow_straightens_and_does_not_raise_the_cost():
    seeds = [0]
    bits = torch.randint(2, (1, 2000, 1), generator=torch.Generator().manual_seed(5)) * 2.0 - 1
    data = torch.cat([2 * bits, 0 * bits], dim=-1) + 0.1 * Streams(seeds, 4).normal(2000, 2)
    streams = Streams(seeds, 1)
    first = rectify(TimeMLP(2, seeds, width=64, depth=2), independent(streams, data), streams, steps=400)
    start, end = rectified_pairs(first, Streams(seeds, 2).normal(2000, 2))
    second = rectify(first, paired(streams, start, end), streams, steps=400)
    fresh = Streams(seeds, 3).normal(1000, 2)
    assert straightness(second, fresh) < straightness(first, fresh) / 5
    assert transport_cost(start, end, 2) < 0.9 * transport_cost(start, data, 2)
    distilled = distil(first, paired(streams, start, end), steps=300)
    exact = rk45(first, fresh).end
    off = [(euler(flow, fresh, 1).end - exact).norm(dim=-1).mean() for flow in (first, distilled)]
    assert off[1] < off[0] / 3


def test_the_given_model_is_left_alone_and_seeds_repeat():
    seeds = [3]
    model = TimeMLP(2, seeds, width=16, depth=1)
    before = [p.clone() for p in model.parameters()]
    data = Streams(seeds, 9).normal(100, 2)

    def train(seeds, data):
        streams = Streams(seeds, 1)
        return rectify(TimeMLP(2, seeds, width=16, depth=1), independent(streams, data), streams, steps=20, batch=32)

    once, twice = train(seeds, data), train(seeds, data)
    rectify(model, independent(Streams(seeds, 1), data), Streams(seeds, 2), steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))
    stacked = train([5, 3], torch.cat([data, data]))
    for alone, both in zip(once.parameters(), stacked.parameters(), strict=True):
        torch.testing.assert_close(alone[0], both[1], atol=1e-5, rtol=1e-4)


def test_transport_cost_closed_form():
    start = torch.zeros(1, 2, 2)
    end = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    assert transport_cost(start, end, 1).item() == pytest.approx(3)
    assert transport_cost(start, end, 2).item() == pytest.approx(13)
    with pytest.raises(ValueError, match="power"):
        transport_cost(start, end, 0.5)


@pytest.mark.parametrize(
    "bad", [torch.full((1, 4, 2), torch.nan), torch.zeros(4, 2), torch.zeros(1, 0, 2)], ids=["nan", "shape", "empty"]
)
def test_bad_input_is_named(bad):
    good = torch.zeros(1, 4, 2)
    still = lambda z, t: torch.zeros_like(z)  # noqa: E731
    for call in (
        lambda: unchecked(rectified_pairs)(still, bad),
        lambda: unchecked(straightness)(still, bad),
        lambda: unchecked(transport_cost)(bad, good, 2),
    ):
        with pytest.raises(ValueError, match="start"):
            call()
    with pytest.raises(ValueError, match="end"):
        unchecked(transport_cost)(good, bad, 2)
    with pytest.raises(ValueError, match="data"):
        unchecked(independent)(Streams([0]), bad)
    with pytest.raises(ValueError, match="points"):
        unchecked(gaussian_velocity)(bad[:, :1] if bad.ndim == 2 else bad, 0.5, MOMENTS)
