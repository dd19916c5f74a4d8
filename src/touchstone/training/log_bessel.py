r"""Logarithms of modified Bessel functions, computed in log space throughout.

:math:`I_v(x)` and :math:`K_v(x)` leave the range of floating-point numbers once the order or the argument reaches some
hundreds, while their logarithms stay moderate. Every pair :math:`(v,x)` falls into one of three regions, each with an
expression that is accurate there and never forms a huge or a tiny number: Debye's expansion for large orders, Hankel's
for large arguments, and otherwise the power series (I) or an integral (K), summed in a window around the largest term.

Source: A. Plesner, H. H. B. Sorensen, S. Hauberg (2024), arXiv:2409.08729. The expansions are those of the NIST Digital Library
of Mathematical Functions, sections 10.25, 10.32, 10.40 and 10.41; borders, windows and the integral are chosen here.
"""

import math
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.checks import finite

DEBYE_TERMS = ((500.0, 4), (120.0, 6), (40.0, 9), (15.0, 13))  # smallest order, terms that reach 1e-16 from there on
HANKEL_TERMS, NODES = 24, 64
CHUNK = 8192  # points worked on at a time, so that intermediate arrays stay in the processor's cache


def _debye_polynomials(count: int) -> list[list[float]]:
    r"""Coefficients of :math:`P_k` in :math:`U_k(t)=t^kP_k(t^2)`, lowest first, in exact arithmetic (DLMF 10.41.9)."""
    polynomials = [[Fraction(1)]]
    for _ in range(count):
        new = [Fraction(0)] * (len(polynomials[-1]) + 3)
        for power, c in enumerate(polynomials[-1]):  # t^2 (1 - t^2) U' / 2 and the integral of (1 - 5 s^2) U / 8
            new[power + 1] += c * power / 2 + c / (8 * (power + 1))
            new[power + 3] -= c * power / 2 + 5 * c / (8 * (power + 3))
        polynomials.append(new)
    return [[float(c) for c in u[k : 3 * k + 1 : 2]] for k, u in enumerate(polynomials)]


DEBYE_POLYNOMIALS = _debye_polynomials(DEBYE_TERMS[-1][1])


CONSTANT = {"i": -0.5 * math.log(2 * math.pi), "k": 0.5 * math.log(math.pi / 2)}


def _debye(v: Tensor, x: Tensor, kind: str, terms: int) -> Tensor:
    root = torch.hypot(v, x)  # v sqrt(1 + z^2) with z = x / v
    square = (v / root).square_()  # t^2
    inverse = (1 if kind == "i" else -1) / root  # t^k / v^k = root^-k
    total = torch.zeros_like(v)
    for coefficients in reversed(DEBYE_POLYNOMIALS[1 : terms + 1]):
        value = torch.full_like(v, coefficients[-1])
        for c in coefficients[-2::-1]:
            value.mul_(square).add_(c)
        total.add_(value).mul_(inverse)
    exponent = root + v * torch.log(x / (v + root))  # v eta
    return (exponent if kind == "i" else -exponent) + torch.log1p(total) - 0.5 * torch.log(root) + CONSTANT[kind]


def _hankel(v: Tensor, x: Tensor, kind: str) -> Tensor:
    exponent, sign = (x, -1) if kind == "i" else (-x, 1)
    square, scale = 4 * v * v, sign / (8 * x)
    total, term = torch.ones_like(v), torch.ones_like(v)
    for k in range(1, HANKEL_TERMS + 1):
        term = term * (square - (2 * k - 1) ** 2) * scale / k
        total += term
    return exponent + torch.log(total) - 0.5 * torch.log(x) + CONSTANT[kind]


def _series(v: Tensor, x: Tensor) -> Tensor:
    """Power series of I, each term relative to the largest one, outward from it until nothing more can count."""
    quarter = x * x / 4
    largest = (0.5 * x * x / (torch.hypot(x, v) + v)).floor()  # k* = (sqrt(x^2 + v^2) - v) / 2 without cancellation
    width = 20 + int(9 * (largest * (largest + v) / (2 * largest + v + 1)).sqrt().max())  # of a bell of this deviation
    total, above, below = torch.ones_like(v), torch.ones_like(v), torch.ones_like(v)
    for step in range(1, width):
        k = largest + step
        above = above * quarter / (k * (k + v))
        total += above
    for step in range(min(width, int(largest.max()))):
        k = largest - step
        below = below * (k * (k + v)) / quarter  # 0 from k = 0 on
        total += below
    peak = (v + 2 * largest) * torch.log(x / 2) - torch.lgamma(largest + 1) - torch.lgamma(v + largest + 1)
    return peak + torch.log(total)


def _integral(v: Tensor, x: Tensor) -> Tensor:
    r"""Trapezoid sum of :math:`K_v(x)=\int_0^\infty e^{-x\cosh s}\cosh(vs)\,ds` around the largest term at ``s = peak``.

    With ``d = s - peak`` the logarithm of the integrand falls by
    :math:`g(d)=r(\cosh d-1)+v(\sinh d-d),\ r=\sqrt{v^2+x^2}`; the window ends where it has fallen by 45.
    """
    root, peak = torch.hypot(v, x), torch.asinh(v / x)

    def fall(d: Tensor) -> tuple[Tensor, Tensor]:  # g and its slope; g is convex, so Newton's steps stay outside
        cosh, sinh = torch.cosh(d), torch.sinh(d)
        return root * (cosh - 1) + v * (sinh - d), root * sinh + v * (cosh - 1)

    right, left = torch.acosh(1 + 45 / root), -peak
    for _ in range(4):
        value, slope = fall(right)
        right = right - (value - 45) / slope
        value, slope = fall(left)
        left = torch.where(value > 45, left - (value - 45) / slope, left)
    step = (right - left) / (NODES - 1)
    d = left[:, None] + step[:, None] * torch.arange(NODES, dtype=v.dtype)
    rise = torch.exp(d)
    fallen = ((root + v) / 2)[:, None] * rise + ((root - v) / 2)[:, None] / rise - root[:, None] - v[:, None] * d
    terms = torch.exp(-fallen) * (1 + torch.exp(-2 * v[:, None] * (d + peak[:, None])))  # both halves of 2 cosh(v s)
    total = terms.sum(1) - 0.5 * (terms[:, 0] + terms[:, -1])
    return v * peak - root + torch.log(total * step / 2)


def region(v: Float[Tensor, "points"], x: Float[Tensor, "points"]) -> Int[Tensor, "points"]:
    """Which expression is used at each point.

    Args:
        v: orders, at least 0.
        x: arguments, positive.

    Returns:
        0 to 3 for Debye's expansion with 4, 6, 9 or 13 terms, 4 for Hankel's, 5 for the series or the integral.
    """
    small = torch.where(x > 30 + v * v / 2, len(DEBYE_TERMS), len(DEBYE_TERMS) + 1)
    bounds = torch.tensor([bound for bound, _ in reversed(DEBYE_TERMS)], dtype=v.dtype)
    return torch.where(v >= bounds[0], len(DEBYE_TERMS) - torch.bucketize(v, bounds, right=True), small)


def _evaluate(v: Tensor, x: Tensor, kind: str) -> Tensor:
    result, regions = torch.empty_like(x), region(v, x)
    for number in range(len(DEBYE_TERMS) + 2):
        points, size = (regions == number).nonzero().squeeze(1), CHUNK
        if len(points) == 0:
            continue
        if number > len(DEBYE_TERMS):
            points, size = points[x[points].argsort()], CHUNK // 16  # similar windows together
        for part in points.split(size):
            order, argument = v[part], x[part]
            if number < len(DEBYE_TERMS):
                result[part] = _debye(order, argument, kind, DEBYE_TERMS[number][1])
            elif number == len(DEBYE_TERMS):
                result[part] = _hankel(order, argument, kind)
            else:
                result[part] = _series(order, argument) if kind == "i" else _integral(order, argument)
    return result


class _LogBessel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v, x, kind):
        result = _evaluate(v, x, kind)
        ctx.save_for_backward(v, x, result)
        ctx.kind = kind
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        v, x, result = ctx.saved_tensors
        ratio = torch.exp(_evaluate(v + 1, x, ctx.kind) - result)
        return None, grad * (v / x + (ratio if ctx.kind == "i" else -ratio)), None


def _log_bessel(v: Tensor, x: Tensor, kind: str) -> Tensor:
    finite(v=v, x=x)
    if (v < 0).any():
        raise ValueError("v must not be negative")
    if (x <= 0).any():
        raise ValueError("x must be positive")
    try:
        v, x = torch.broadcast_tensors(v.double(), x.double())
    except RuntimeError as error:
        raise ValueError(
            f"v and x have shapes {tuple(v.shape)} and {tuple(x.shape)}, which do not broadcast"
        ) from error
    return _LogBessel.apply(v.reshape(-1).contiguous(), x.reshape(-1).contiguous(), kind).view(x.shape)


def log_iv(v: Float[Tensor, "*#points"], x: Float[Tensor, "*#points"]) -> Float[Tensor, "..."]:
    r"""Logarithm of the modified Bessel function of the first kind, :math:`\ln I_v(x)`.

    Args:
        v: orders, at least 0.
        x: arguments, positive; broadcast against ``v``. The result is differentiable in ``x``.

    Returns:
        float64, of the common shape.

    Raises:
        ValueError: if an argument is empty, not finite or out of range.
    """
    return _log_bessel(v, x, "i")


def log_kv(v: Float[Tensor, "*#points"], x: Float[Tensor, "*#points"]) -> Float[Tensor, "..."]:
    r"""Logarithm of the modified Bessel function of the second kind, :math:`\ln K_v(x)`.

    Args:
        v: orders, at least 0.
        x: arguments, positive; broadcast against ``v``. The result is differentiable in ``x``.

    Returns:
        float64, of the common shape.

    Raises:
        ValueError: if an argument is empty, not finite or out of range.
    """
    return _log_bessel(v, x, "k")


def _check_concentration(dim: int, kappa: Tensor) -> None:
    if dim < 2:
        raise ValueError(f"dim must be at least 2, got {dim}")
    finite(kappa=kappa)
    if (kappa <= 0).any():
        raise ValueError("kappa must be positive")


def vmf_log_normaliser(dim: int, kappa: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Logarithm of the von Mises-Fisher density's constant, :math:`\ln C_p(\kappa)`, on the sphere in ``dim`` dimensions.

    The log density of a unit vector :math:`y` around the mean direction :math:`\mu` is
    :math:`\ln C_p(\kappa)+\kappa\mu^Ty` with
    :math:`\ln C_p=(\frac p2-1)\ln\kappa-\frac p2\ln2\pi-\ln I_{p/2-1}(\kappa)`.

    Args:
        dim: dimension :math:`p` of the space, at least 2.
        kappa: concentrations, positive.

    Returns:
        one value a concentration, differentiable in ``kappa``.

    Raises:
        ValueError: if ``dim`` is below 2 or ``kappa`` is empty, not finite or not positive.
    """
    _check_concentration(dim, kappa)
    order = torch.tensor(dim / 2 - 1, dtype=torch.float64)
    return order * torch.log(kappa) - dim / 2 * math.log(2 * math.pi) - log_iv(order.expand(kappa.shape), kappa)


def vmf_mean_length(dim: int, kappa: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Length :math:`A_p(\kappa)=I_{p/2}(\kappa)/I_{p/2-1}(\kappa)` of the mean of a von Mises-Fisher distribution.

    Args:
        dim: dimension :math:`p` of the space, at least 2.
        kappa: concentrations, positive.

    Returns:
        one length a concentration, between 0 and 1.

    Raises:
        ValueError: if ``dim`` is below 2 or ``kappa`` is empty, not finite or not positive.
    """
    _check_concentration(dim, kappa)
    order = torch.full_like(kappa, dim / 2, dtype=torch.float64)
    return torch.exp(log_iv(order, kappa) - log_iv(order - 1, kappa))


def vmf_fit_kappa(dim: int, length: Float[Tensor, "*batch"], steps: int = 20) -> Float[Tensor, "*batch"]:
    r"""Maximum-likelihood concentration: the solution of :math:`A_p(\kappa)=\bar R` by Newton's method.

    Args:
        dim: dimension :math:`p` of the space, at least 2.
        length: length :math:`\bar R` of the mean of the unit vectors, strictly between 0 and 1.
        steps: Newton steps from Banerjee's closed-form start :math:`\bar R(p-\bar R^2)/(1-\bar R^2)`; 0 returns the start.

    Returns:
        one concentration a mean length.

    Raises:
        ValueError: if ``dim`` is below 2 or ``length`` is empty, not finite or not between 0 and 1.
    """
    if dim < 2:
        raise ValueError(f"dim must be at least 2, got {dim}")
    finite(length=length)
    if ((length <= 0) | (length >= 1)).any():
        raise ValueError("length must lie strictly between 0 and 1")
    length = length.double()
    kappa = length * (dim - length**2) / (1 - length**2)
    for _ in range(steps):
        a = vmf_mean_length(dim, kappa)
        kappa = kappa - (a - length) / (1 - a**2 - (dim - 1) * a / kappa)
    return kappa
