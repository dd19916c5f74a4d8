import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import special

from tests.helpers import unchecked
from touchstone.training import log_bessel as lb
from touchstone.training.bessel_reference import reference_log_iv, reference_log_kv


def grid(orders, arguments):
    v = torch.cat([torch.tensor([0.0, 0.5]), torch.logspace(0, 4, orders - 2)]).double()
    x = torch.logspace(-3, 5, arguments, dtype=torch.float64)
    return tuple(axis.flatten() for axis in torch.meshgrid(v, x, indexing="ij"))


@pytest.mark.parametrize(("function", "reference"), [(lb.log_iv, reference_log_iv), (lb.log_kv, reference_log_kv)])
def test_grid_against_forty_digits(function, reference):
    v, x = grid(9, 10)
    for order, argument, value in zip(v.tolist(), x.tolist(), function(v, x).tolist(), strict=True):
        wanted = reference(order, argument)
        assert abs(mpmath.mpf(value) - wanted) <= 1e-12 * max(1, abs(wanted)), (order, argument)


def test_against_scipy_where_scipy_works():
    v, x = grid(12, 40)
    with np.errstate(all="ignore"):
        i = np.log(special.ive(v.numpy(), x.numpy())) + x.numpy()
        k = np.log(special.kve(v.numpy(), x.numpy())) - x.numpy()
    for ours, theirs in ((lb.log_iv(v, x).numpy(), i), (lb.log_kv(v, x).numpy(), k)):
        works = np.isfinite(theirs)
        assert 0.5 < works.mean() < 0.9 and np.isfinite(ours).all()
        # SciPy itself is good to about 1e-10 near the end of its range
        np.testing.assert_allclose(ours[works], theirs[works], rtol=1e-9, atol=1e-9)


def test_wronskian():
    v, x = grid(40, 50)
    left = torch.logaddexp(lb.log_iv(v, x) + lb.log_kv(v + 1, x), lb.log_iv(v + 1, x) + lb.log_kv(v, x))
    gap = (left + x.log()).abs()
    assert gap.max() < 1e-10
    assert gap[(v <= 1e3) & (x <= 1e4)].max() < 1e-11


def test_half_integer_closed_forms():
    x = torch.logspace(-3, 2, 80, dtype=torch.float64)
    half = torch.full_like(x, 0.5)
    torch.testing.assert_close(lb.log_kv(half, x), 0.5 * torch.log(math.pi / (2 * x)) - x, rtol=1e-13, atol=1e-13)
    # ln sinh x without overflow or cancellation
    sinh = x + torch.log(-torch.expm1(-2 * x)) - math.log(2)
    torch.testing.assert_close(lb.log_iv(half, x), 0.5 * torch.log(2 / (math.pi * x)) + sinh, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("function", [lb.log_iv, lb.log_kv])
def test_derivative(function):
    v, x = grid(12, 20)
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(v, x).sum(), x)
    with torch.no_grad():
        step = 1e-4 * x
        values = [function(v, x + shift * step) for shift in (-2, -1, 1, 2)]
        central = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    torch.testing.assert_close(slope, central, rtol=1e-6, atol=1e-6)
    assert (slope > 0).all() if function is lb.log_iv else (slope < 0).all()


def test_regions_meet():
    x = torch.logspace(-3, 5, 60, dtype=torch.float64)
    for bound, terms in lb.DEBYE_TERMS:
        v = torch.full_like(x, bound)
        for kind, function in (("i", lb.log_iv), ("k", lb.log_kv)):
            more = lb._debye(v, x, kind, 13)
            torch.testing.assert_close(lb._debye(v, x, kind, terms), more, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(function(v, x), more, rtol=1e-12, atol=1e-12)
    v = torch.linspace(0, 15, 31, dtype=torch.float64)
    border = 30 + v**2 / 2
    torch.testing.assert_close(lb._hankel(v, border, "i"), lb._series(v, border), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lb._hankel(v, border, "k"), lb._integral(v, border), rtol=1e-12, atol=1e-12)
    small, order = torch.logspace(-3, 2, 40, dtype=torch.float64), torch.full((40,), 15.0, dtype=torch.float64)
    torch.testing.assert_close(lb._debye(order, small, "i", 13), lb._series(order, small), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lb._debye(order, small, "k", 13), lb._integral(order, small), rtol=1e-12, atol=1e-12)


def test_region_numbers():
    v = torch.tensor([600.0, 500.0, 200.0, 50.0, 15.0, 3.0, 3.0, 14.9]).double()
    x = torch.tensor([1.0, 1e4, 1.0, 1.0, 1e5, 40.0, 20.0, 100.0]).double()
    assert lb.region(v, x).tolist() == [0, 0, 1, 2, 3, 4, 5, 5]


def test_debye_polynomials():
    t = 0.37  # U_1 = (3 t - 5 t^3) / 24, U_2 = (81 t^2 - 462 t^4 + 385 t^6) / 1152
    first, second = (t**k * sum(c * t ** (2 * j) for j, c in enumerate(lb.DEBYE_POLYNOMIALS[k])) for k in (1, 2))
    assert math.isclose(first, (3 * t - 5 * t**3) / 24, rel_tol=1e-14)
    assert math.isclose(second, (81 * t**2 - 462 * t**4 + 385 * t**6) / 1152, rel_tol=1e-13)


def test_shapes_broadcast_and_float32_input():
    values = lb.log_iv(torch.ones(3, 1), torch.ones(1, 4))
    assert values.shape == (3, 4) and values.dtype == torch.float64
    assert math.isclose(values[0, 0].item(), math.log(special.iv(1, 1)), rel_tol=1e-14)


def test_density_integrates_to_one_on_the_ordinary_sphere():
    kappa = torch.tensor([0.5, 3.0, 50.0], dtype=torch.float64)
    wanted = torch.log(kappa / (4 * math.pi * torch.sinh(kappa)))
    torch.testing.assert_close(lb.vmf_log_normaliser(3, kappa), wanted, rtol=1e-13, atol=1e-13)


def test_slope_of_the_normaliser_is_the_mean_length():
    kappa = torch.tensor([5.0, 300.0, 4000.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(lb.vmf_log_normaliser(500, kappa).sum(), kappa)
    torch.testing.assert_close(-slope, lb.vmf_mean_length(500, kappa.detach()), rtol=1e-10, atol=0)
    three = torch.tensor([2.0], dtype=torch.float64)
    torch.testing.assert_close(lb.vmf_mean_length(3, three), 1 / torch.tanh(three) - 1 / three)


@pytest.mark.parametrize("dim", [2, 3, 128, 8192, 32768])
def test_fit_inverts_the_mean_length(dim):
    kappa = dim * torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    length = lb.vmf_mean_length(dim, kappa)
    fitted = lb.vmf_fit_kappa(dim, length)
    torch.testing.assert_close(fitted, kappa, rtol=1e-7, atol=0)
    assert (lb.vmf_mean_length(dim, fitted) - length).abs().max() < 1e-10
    start = lb.vmf_fit_kappa(dim, length, steps=0)
    assert 1e-7 < (start / kappa - 1).abs().max() < 0.2  # Banerjee's formula alone is close, not exact


GOOD = torch.ones(2)


@pytest.mark.parametrize("function", [lb.log_iv, lb.log_kv])
@pytest.mark.parametrize(
    ("name", "v", "x"),
    [
        ("v", torch.tensor([math.nan, 1.0]), GOOD),
        ("x", GOOD, torch.tensor([math.inf, 1.0])),
        ("v", -GOOD, GOOD),
        ("x", GOOD, 0 * GOOD),
        ("v", GOOD[:0], GOOD[:0]),
        ("v and x", torch.ones(2), torch.ones(3)),
    ],
)
def test_bad_input_is_named(function, name, v, x):
    with pytest.raises(ValueError, match=f"^{name}"):
        unchecked(function)(v, x)


@pytest.mark.parametrize(
    ("function", "name", "arguments"),
    [
        (lb.vmf_log_normaliser, "dim", (1, GOOD)),
        (lb.vmf_log_normaliser, "kappa", (3, -GOOD)),
        (lb.vmf_log_normaliser, "kappa", (3, GOOD[:0])),
        (lb.vmf_mean_length, "kappa", (3, GOOD * math.nan)),
        (lb.vmf_mean_length, "dim", (1, GOOD)),
        (lb.vmf_fit_kappa, "length", (3, GOOD)),
        (lb.vmf_fit_kappa, "length", (3, GOOD * math.nan)),
        (lb.vmf_fit_kappa, "dim", (1, 0.5 * GOOD)),
    ],
)
def test_bad_fit_input_is_named(function, name, arguments):
    with pytest.raises(ValueError, match=f"^{name}"):
        unchecked(function)(*arguments)
