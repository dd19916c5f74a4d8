import pytest
import torch
from scipy import stats

from tests.helpers import unchecked
from touchstone.data.digits import digits
from touchstone.metrics.samples import (
    digit_features,
    digit_fid,
    digit_fid_floor,
    energy_distance,
    floor,
    frechet_distance,
    sliced_wasserstein,
)


def normal(seed, count=500, dimension=2):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def test_energy_distance_on_the_line_is_scipys_squared():
    x, y = normal(0, 200, 1), normal(1, 150, 1) + 0.5
    assert energy_distance(x, y).item() == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-6)


def test_energy_distance_of_two_points():
    assert energy_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])).item() == pytest.approx(10)


def test_sliced_wasserstein_of_a_translation():
    """Every projection moves by theta.c, and the mean of (theta.c)^2 over directions is |c|^2 / d."""
    x = normal(0)
    shift = torch.tensor([3.0, 4.0])
    assert sliced_wasserstein(x, x + shift).item() == pytest.approx((25 / 2) ** 0.5, rel=0.1)
    assert sliced_wasserstein(x, x.flip(0)).item() == 0
    assert sliced_wasserstein(normal(0, 300, 1), normal(0, 300, 1) * 2).item() == pytest.approx(
        normal(0, 300, 1).square().mean().sqrt().item(), rel=1e-5
    )


def test_frechet_distance_of_a_scaled_and_moved_set():
    """For y = 2x + c the covariances commute: |mean difference|^2 + sum of (2s - s)^2 = ... + trace of the covariance."""
    x = normal(0, 400, 3).double()
    y = 2 * x + torch.tensor([1.0, 0.0, -1.0])
    expected = (y.mean(0) - x.mean(0)).square().sum() + torch.cov(x.T).trace()
    assert frechet_distance(x, y).item() == pytest.approx(expected.item(), rel=1e-9)
    assert abs(frechet_distance(x, x).item()) < 1e-9


def test_digit_fid_orders_real_noisy_and_noise():
    data = digits()
    generator = torch.Generator().manual_seed(0)
    noisy = data.train + 0.5 * torch.randn(data.train.shape, generator=generator)
    floor_value, middle = digit_fid(data.train), digit_fid(noisy)
    noise = digit_fid(torch.randn(2000, 64, generator=generator))
    assert floor_value < middle / 2 and middle < noise
    assert digit_features(data.held_out).shape == (500, 32)
    assert digit_fid_floor(pairs=3) == pytest.approx(floor_value.item(), rel=0.5)


def test_digit_features_tell_digits_apart():
    from touchstone.metrics.samples import _digit_classifier

    guess = _digit_classifier()(digits().held_out).argmax(-1)
    assert (guess == digits().held_out_labels).float().mean() > 0.94


def test_floor_is_the_mean_over_fresh_pairs():
    seen = []

    def sample(seed):
        seen.append(seed)
        return normal(seed, 100)

    value = floor(sliced_wasserstein, sample, pairs=4)
    assert len(set(seen)) == 8
    assert value == pytest.approx(
        sum(float(sliced_wasserstein(normal(s, 100), normal(s + 1, 100))) for s in sorted(seen)[::2]) / 4
    )


@pytest.mark.parametrize("function", [energy_distance, sliced_wasserstein, frechet_distance])
def test_bad_input_is_named(function):
    good, nan = normal(0), torch.full((500, 2), torch.nan)
    for bad in (nan, torch.zeros(0, 2), torch.zeros(500)):
        with pytest.raises(ValueError, match="x"):
            unchecked(function)(bad, good)
    for bad in (nan, torch.zeros(0, 2), torch.zeros(500, 3)):
        with pytest.raises(ValueError, match="y"):
            unchecked(function)(good, bad)


def test_bad_digits_and_unequal_counts_are_named():
    with pytest.raises(ValueError, match="images"):
        unchecked(digit_fid)(torch.zeros(3, 63))
    with pytest.raises(ValueError, match="y holds"):
        unchecked(sliced_wasserstein)(normal(0), normal(1, 400))
