import math

import mpmath
import pytest

from tests.helpers import unchecked
from touchstone.training.bessel_reference import reference_log_iv, reference_log_kv


@pytest.mark.parametrize(("v", "x"), [(0.0, 1e-3), (0.5, 2.0), (3.7, 40.0), (30.0, 5.0), (60.0, 200.0)])
def test_agrees_with_mpmath_at_moderate_orders(v, x):
    with mpmath.workdps(60):
        assert abs(reference_log_iv(v, x) - mpmath.log(mpmath.besseli(v, x))) < mpmath.mpf(10) ** -36
        assert abs(reference_log_kv(v, x) - mpmath.log(mpmath.besselk(v, x))) < mpmath.mpf(10) ** -36


@pytest.mark.parametrize(("v", "x"), [(700.0, 690.0), (1e4, 1e-3), (1e4, 3e3), (0.0, 1e4)])
def test_wronskian_where_mpmath_is_slow(v, x):
    with mpmath.workdps(45):
        i, i_next = reference_log_iv(v, x), reference_log_iv(v + 1, x)
        k, k_next = reference_log_kv(v, x), reference_log_kv(v + 1, x)
        assert abs((mpmath.exp(i + k_next) + mpmath.exp(i_next + k)) * mpmath.mpf(x) - 1) < mpmath.mpf(10) ** -33


@pytest.mark.parametrize("function", [reference_log_iv, reference_log_kv])
@pytest.mark.parametrize(
    ("name", "v", "x"), [("v", -1.0, 1.0), ("x", 1.0, 0.0), ("v", math.nan, 1.0), ("x", 1.0, math.inf)]
)
def test_bad_input_is_named(function, name, v, x):
    with pytest.raises(ValueError, match=f"^{name}"):
        unchecked(function)(v, x)
