r"""Reference values of modified Bessel functions to forty digits, by methods that share nothing with fast ones.

General-purpose multiple-precision routines take seconds for one :math:`K_v(x)` when the order is several hundred and the argument is
near it. Both functions have representations by positive terms only, which are safe to sum and fast at any order.
"""

import math

from mpmath import mp, mpf

DIGITS = 40


def _checked(v: float, x: float) -> None:
    if not (math.isfinite(v) and v >= 0):
        raise ValueError(f"v must be finite and not negative, got {v}")
    if not (math.isfinite(x) and x > 0):
        raise ValueError(f"x must be finite and positive, got {x}")


def reference_log_iv(v: float, x: float) -> mpf:
    r"""Logarithm of :math:`I_v(x)`: the power series, summed outward from its largest term.

    Args:
        v: order, at least 0.
        x: argument, positive.

    Returns:
        the logarithm, in a 40-digit number.

    Raises:
        ValueError: if an argument is not finite or out of range.
    """
    _checked(v, x)
    with mp.workdps(DIGITS + 5):
        order, argument = mpf(float(v)), mpf(float(x))
        largest = int((mp.sqrt(argument**2 + order**2) - order) / 2)
        quarter, small = argument**2 / 4, mpf(10) ** -(DIGITS + 4)
        total = term = mpf(1)
        k = largest
        while term > small * total:
            k += 1
            term *= quarter / (k * (k + order))
            total += term
        term, k = mpf(1), largest
        while k > 0 and term > small * total:
            term *= k * (k + order) / quarter
            total += term
            k -= 1
        peak = (
            (order + 2 * largest) * mp.log(argument / 2) - mp.loggamma(largest + 1) - mp.loggamma(order + largest + 1)
        )
        return +(peak + mp.log(total))


def reference_log_kv(v: float, x: float, nodes: int = 300) -> mpf:
    r"""Logarithm of :math:`K_v(x)=\frac12\int_{-\infty}^\infty e^{vs-x\cosh s}ds`: the trapezoid rule on the whole line.

    The integrand is analytic and falls doubly exponentially, so that the rule converges geometrically.

    Args:
        v: order, at least 0.
        x: argument, positive.
        nodes: number of nodes between the points where the integrand is :math:`10^{-43}` of its peak.

    Returns:
        the logarithm, in a 40-digit number.

    Raises:
        ValueError: if an argument is not finite or out of range.
    """
    _checked(v, x)
    with mp.workdps(DIGITS + 5):
        order, argument = mpf(float(v)), mpf(float(x))
        root, peak = mp.sqrt(argument**2 + order**2), mp.asinh(order / argument)
        depth = mp.log(10) * (DIGITS + 3)

        def fall(d, rise):  # how far the logarithm of the integrand lies below its peak at distance d; rise is e^d
            return root * ((rise + 1 / rise) / 2 - 1) + order * ((rise - 1 / rise) / 2 - d)

        def end(sign):
            far = mpf(1)
            while fall(sign * far, mp.exp(sign * far)) < depth:
                far *= 2
            near = mpf(0)
            for _ in range(6):  # a window that is a little too wide does no harm
                middle = (near + far) / 2
                inside = fall(sign * middle, mp.exp(sign * middle)) < depth
                near, far = (middle, far) if inside else (near, middle)
            return sign * far

        left, right = end(-1), end(1)
        step = (right - left) / (nodes - 1)
        total, rise, factor = mpf(0), mp.exp(left), mp.exp(step)
        for node in range(nodes):
            total += mp.exp(-fall(left + step * node, rise))
            rise *= factor
        return +(order * peak - root + mp.log(step * total / 2))
