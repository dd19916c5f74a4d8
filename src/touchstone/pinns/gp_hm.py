r"""GP-HM: a Gaussian process whose spectrum is a mixture of peaks, as a solver for high-frequency equations.

The solution on a grid is a Gaussian vector; its derivatives follow from those of the covariance, so the equation is a
statement about grid values alone. The covariance is a sum of cosines under an envelope, which is a mixture of peaks
in the spectrum, and the peaks' places, widths and weights are trained. With the *logarithms* of the weights as parameters
the gradient of a weight carries the weight as a factor: peaks that the equation has no use for die out.
On a grid in two dimensions the covariance is a Kronecker product, and only the factors are ever formed.

Grid values are not trained along with the kernel, as published, but eliminated: for a linear equation the best ones
given the kernel solve a linear system, and Adam is left with some ninety numbers. ``joint=True`` is the published form.

Source: Fang, Cooley, Long, Li, Kirby and Zhe (2023), arXiv:2311.04465, sections 3 and 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped

JITTER = 1e-6  # on the diagonal of every covariance


class Mixture(nn.Module):
    r"""The covariance :math:`\kappa(d)=\sum_q w_q\,\gamma_q(d)\cos(2\pi f_qd)` and what is trained in it.

    Args:
        highest: :math:`F`; the frequencies start evenly spaced on [0, F]. Keep it below :func:`nyquist`.
        components: number of peaks :math:`Q`.
        spectrum: ``student`` (Matern-5/2 envelope, heavy-tailed peaks) or ``gaussian`` (squared exponential envelope).
        direct: train the weights themselves, projected to at least 1e-10, in place of their logarithms.

    Raises:
        ValueError: for another spectrum, or numbers out of range.
    """

    def __init__(self, highest: float, components: int = 30, spectrum: str = "student", direct: bool = False):
        super().__init__()
        if spectrum not in ("student", "gaussian"):
            raise ValueError(f"spectrum is {spectrum!r}: choose 'student' or 'gaussian'")
        if not (math.isfinite(highest) and highest >= 0):
            raise ValueError(f"highest is {highest}: give a finite frequency of at least 0")
        if components < 1:
            raise ValueError(f"components is {components}: give at least 1")
        self.spectrum, self.direct = spectrum, direct
        start = torch.full((components,), 1 / components, dtype=torch.float64)
        self.free_weights = nn.Parameter(start if direct else start.log())
        self.log_scales = nn.Parameter(torch.zeros(components, dtype=torch.float64))
        self.frequencies = nn.Parameter(torch.linspace(0, highest, components, dtype=torch.float64))

    @property
    def weights(self) -> Float[Tensor, " components"]:
        r"""The weights :math:`w_q`, all positive."""
        return self.free_weights.clamp(min=1e-10) if self.direct else self.free_weights.exp()

    def forward(self, distance: Float[Tensor, "*batch"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        r"""Covariance and its second derivative, by closed forms that hold at distance 0 as well.

        Args:
            distance: :math:`d=|x-x'|\ge0`.

        Returns:
            :math:`\kappa(d)` and :math:`\kappa''(d)`, which is also :math:`\partial_{xx}\kappa(|x-x'|)`.

        Raises:
            ValueError: if ``distance`` is empty, not finite or negative.
        """
        finite(distance=distance)
        if (distance < 0).any():
            raise ValueError("distance has negative entries: give |x - x'|")
        d, scale = distance[..., None], self.log_scales.exp()
        if self.spectrum == "gaussian":
            envelope = torch.exp(-scale * d**2)
            slope, bend = -2 * scale * d * envelope, (4 * scale**2 * d**2 - 2 * scale) * envelope
        else:
            rate = math.sqrt(5) * scale
            reach, decay = rate * d, torch.exp(-rate * d)
            envelope = (1 + reach + reach**2 / 3) * decay
            slope, bend = -(rate**2) / 3 * d * (1 + reach) * decay, -(rate**2) / 3 * (1 + reach - reach**2) * decay
        angular = 2 * math.pi * self.frequencies
        cosine, sine = torch.cos(angular * d), torch.sin(angular * d)
        second = (bend - angular**2 * envelope) * cosine - 2 * slope * angular * sine
        return (envelope * cosine) @ self.weights, second @ self.weights

    def density(self, frequency: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        r"""Spectral density, the Fourier transform of :math:`\kappa`: peaks at :math:`\pm f_q` of total mass :math:`w_q`."""
        scale = self.log_scales.exp()
        total = 0.0
        for sign in (-1, 1):
            angular = 2 * math.pi * (frequency[..., None] - sign * self.frequencies)
            if self.spectrum == "gaussian":
                peak = torch.sqrt(math.pi / scale) * torch.exp(-(angular**2) / (4 * scale))
            else:
                rate = math.sqrt(5) * scale
                peak = 16 / 3 * rate**5 / (rate**2 + angular**2) ** 3
            total = total + peak @ self.weights / 2
        return total

    def project(self) -> None:
        """Put directly trained weights back into their range."""
        if self.direct:
            self.free_weights.data.clamp_(min=1e-10)


def nyquist(points: Float[Tensor, " n"]) -> float:
    """The highest frequency that a uniform grid can tell apart, in cycles per unit of length: half an oscillation a step."""
    return 1 / (2 * _spacing("points", points))


def _spacing(name: str, points: Tensor) -> float:
    """Step of a uniform grid, which the covariance needs to be a Toeplitz matrix."""
    shaped(name, points, ("n",))
    finite(**{name: points})
    if len(points) < 3:
        raise ValueError(f"{name} has {len(points)} entries: a grid needs at least 3")
    steps = points.diff()
    if not (steps > 0).all() or (steps.max() - steps.min()) > 1e-6 * steps.mean():
        raise ValueError(f"{name} is not an ascending uniform grid")
    return float(steps.mean())


def _toeplitz(values: Tensor) -> Tensor:
    """Symmetric matrix whose entry (i, j) is ``values[|i - j|]``."""
    return torch.cat([values.flip(0), values[1:]]).unfold(0, len(values), 1).flip(1).mT


def factors(mixture: Mixture, points: Float[Tensor, " n"]) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    r"""What the grid values' covariance :math:`K=LL^\top` is needed for.

    Args:
        mixture: the kernel.
        points: ascending uniform grid.

    Returns:
        :math:`L`, and the map :math:`A=\partial_{xx}K\,L^{-\top}` from whitened values :math:`z=L^{-1}u` to :math:`u''`.

    Raises:
        ValueError: if the grid is not uniform, or not finite.
    """
    return _factors(mixture, len(points), _spacing("points", points))


def _factors(mixture: Mixture, n: int, spacing: float) -> tuple[Tensor, Tensor]:
    value, second = mixture(spacing * torch.arange(n, dtype=torch.float64))
    lower = torch.linalg.cholesky(_toeplitz(value) + JITTER * torch.eye(n, dtype=torch.float64))
    return lower, torch.linalg.solve_triangular(lower, _toeplitz(second), upper=False).mT


@dataclass
class Fit:
    """A solved equation.

    Attributes:
        grids: one uniform grid a dimension.
        mixtures: one kernel a dimension, as trained.
        values: solution on the grid, ``[n]`` or ``[n1, n2]``.
        log_precision: the logarithms of the precisions of boundary values and of the equation.
        coefficients: inverse covariance applied to the values.
    """

    grids: tuple[Tensor, ...]
    mixtures: tuple[Mixture, ...]
    values: Tensor
    log_precision: Tensor
    coefficients: Tensor

    def predict(self, *places: Float[Tensor, " _"]) -> Float[Tensor, "..."]:
        """The conditional mean at new places, one argument a dimension; in two dimensions at all pairs of them.

        Raises:
            ValueError: if places are empty, not finite, or not one set a dimension.
        """
        if len(places) != len(self.grids):
            raise ValueError(f"places has {len(places)} entries, the solution has {len(self.grids)} dimensions")
        mean = self.coefficients
        with torch.no_grad():
            for axis, (grid, mixture, place) in enumerate(zip(self.grids, self.mixtures, places, strict=True)):
                shaped("places", place, ("m",))
                finite(places=place)
                cross = mixture((place.double()[:, None] - grid).abs())[0]
                mean = torch.tensordot(cross, mean, ([1], [axis])).movedim(0, axis)
        return mean


def _misfit(log_precision: Tensor, edge: Tensor, equation: Tensor, edge_weight: float) -> Tensor:
    """Negative log likelihood of the boundary values and of the equation, constants left out."""
    (tau, v), (log_tau, log_v) = log_precision.exp(), log_precision
    return (
        edge_weight / 2 * (tau * edge.square().sum() - edge.numel() * log_tau)
        + (v * equation.square().sum() - equation.numel() * log_v) / 2
    )


def solve_line(
    points: Float[Tensor, " n"],
    source: Float[Tensor, " n"],
    ends: Float[Tensor, "2"],
    mixture: Mixture,
    steps: int = 2000,
    reaction: Callable[[Tensor], Tensor] | None = None,
    rate: float = 0.01,
    weight_rate: float | None = None,
    edge_weight: float = 200.0,
    ceiling: float | None = 10.0,
    joint: bool = False,
    watch: Callable[[int, Mixture], None] | None = None,
) -> Fit:
    r"""Solve :math:`u''+\rho(u)=f` with given end values.

    The objective is the log of the joint density of grid values :math:`u=Lz`, end values and equation. Given the
    kernel, the best :math:`z` solves a regularised least-squares problem (for a nonlinear :math:`\rho`, linearised at the
    last values: one Gauss-Newton step); at a minimum over :math:`z`, the objective's gradient in the kernel's
    parameters does not see how :math:`z` depends on them, and Adam takes one step along it.

    Args:
        points: ascending uniform grid.
        source: :math:`f` on the grid.
        ends: values at the two ends.
        mixture: the kernel, trained in place.
        steps: steps of Adam.
        reaction: :math:`\rho`, entry by entry; none for the Poisson equation.
        rate: learning rate of Adam.
        weight_rate: another one for the weights.
        edge_weight: :math:`\lambda_b`, how often the end values are counted.
        ceiling: largest logarithm of the precisions, beyond which rounding wins; None for no limit.
        joint: train the grid values with Adam along with the kernel, from 0, as published.
        watch: called with step and kernel before every step.

    Returns:
        the solution, with the kernel as trained.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape, or the grid is not uniform.
    """
    spacing, n = _spacing("points", points), len(points)
    shaped("source", source, (n,))
    shaped("ends", ends, (2,))
    finite(source=source, ends=ends)
    points, source, ends = points.double(), source.double(), ends.double()
    log_precision = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    values = nn.Parameter(torch.zeros(n, dtype=torch.float64), requires_grad=joint)
    optimiser = _adam(mixture, [log_precision, *([values] if joint else [])], rate, weight_rate)

    def equation(lower: Tensor, second: Tensor, z: Tensor) -> Tensor:
        return second @ z - source + (0 if reaction is None else reaction(lower @ z))

    def best(lower: Tensor, second: Tensor) -> Tensor:
        jacobian, target = second, source
        if reaction is not None:
            with torch.enable_grad():
                now = values.detach().clone().requires_grad_()
                acting = reaction(now)
                (slope,) = torch.autograd.grad(acting.sum(), now)
            jacobian, target = second + slope[:, None] * lower, source - acting.detach() + slope * now.detach()
        # by QR: the normal equations lose their positive definiteness to rounding once the precisions are large
        tau, v = (log_precision / 2).exp() * torch.tensor([math.sqrt(edge_weight), 1.0], dtype=torch.float64)
        rows = torch.cat([v * jacobian, tau * lower[[0, -1]], torch.eye(n, dtype=torch.float64)])
        right = torch.cat([v * target, tau * ends, torch.zeros(n, dtype=torch.float64)])
        return torch.linalg.lstsq(rows, right[:, None], driver="gels").solution[:, 0]

    for step in range(steps):
        if watch is not None:
            watch(step, mixture)
        lower, second = _factors(mixture, n, spacing)
        if joint:
            z = torch.linalg.solve_triangular(lower, values[:, None], upper=False)[:, 0]
        else:
            with torch.no_grad():
                z = best(lower, second)
                values.copy_(lower @ z)
        loss = lower.diagonal().log().sum() + z.square().sum() / 2
        loss = loss + _misfit(log_precision, (lower @ z)[[0, -1]] - ends, equation(lower, second, z), edge_weight)
        _descend(optimiser, loss, log_precision, ceiling, mixture)
    with torch.no_grad():
        lower, second = _factors(mixture, n, spacing)
        if not joint:
            values.copy_(lower @ best(lower, second))
        coefficients = torch.cholesky_solve(values[:, None], lower)[:, 0]
    return Fit((points,), (mixture,), values.detach(), log_precision.detach(), coefficients)


def plane_objective(
    whitened: Float[Tensor, "n1 n2"],
    grids: tuple[Float[Tensor, " n1"], Float[Tensor, " n2"]],
    mixtures: tuple[Mixture, Mixture],
    source: Float[Tensor, "n1 n2"],
    edges: Float[Tensor, "n1 n2"],
    log_precision: Float[Tensor, "2"],
    edge_weight: float = 200.0,
) -> Float[Tensor, ""]:
    r"""Negative log density of :math:`U=L_1ZL_2^\top`, its edge values and :math:`\Delta U=f`, by the two factors alone.

    With :math:`K=K_1\otimes K_2` the log determinant is :math:`N_2\log|K_1|+N_1\log|K_2|` and the quadratic form is
    :math:`\lVert Z\rVert^2`; each costs :math:`O(N^3)` for :math:`N^2` grid points.

    Args:
        whitened: :math:`Z`.
        grids: ascending uniform grids.
        mixtures: one kernel a dimension.
        source: :math:`f` on the grid.
        edges: known values; only those on the four sides are used.
        log_precision: logarithms of the precisions of edge values and equation.
        edge_weight: :math:`\lambda_b`.

    Returns:
        the number that is minimised.
    """
    (one, second_one), (two, second_two) = (factors(m, g) for m, g in zip(mixtures, grids, strict=True))
    right = whitened @ two.mT
    values = one @ right
    equation = second_one @ right + one @ (whitened @ second_two.mT) - source
    n1, n2 = whitened.shape
    prior = n2 * one.diagonal().log().sum() + n1 * two.diagonal().log().sum() + whitened.square().sum() / 2
    return prior + _misfit(log_precision, _sides(values - edges), equation, edge_weight)


def _sides(values: Tensor) -> Tensor:
    """Entries on the four sides of a rectangle, corners twice as in the authors' code."""
    return torch.cat([values[0], values[-1], values[:, 0], values[:, -1]])


def solve_plane(
    grids: tuple[Float[Tensor, " n1"], Float[Tensor, " n2"]],
    source: Float[Tensor, "n1 n2"],
    edges: Float[Tensor, "n1 n2"],
    mixtures: tuple[Mixture, Mixture],
    steps: int = 2000,
    rate: float = 0.01,
    edge_weight: float = 200.0,
    ceiling: float | None = 10.0,
) -> Fit:
    r"""Solve :math:`\Delta u=f` on a rectangle with given edge values: Adam on the whitened values and both kernels.

    Args:
        grids: ascending uniform grids.
        source: :math:`f` on the grid.
        edges: known values; only those on the four sides are used.
        mixtures: one kernel a dimension, trained in place.
        steps: steps of Adam.
        rate: learning rate of Adam.
        edge_weight: :math:`\lambda_b`.
        ceiling: largest logarithm of the precisions; None for no limit.

    Returns:
        the solution, with the kernels as trained.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape, or a grid is not uniform.
    """
    shape = tuple(len(grid) for grid in grids)
    for grid in grids:
        _spacing("grids", grid)
    shaped("source", source, shape)
    shaped("edges", edges, shape)
    finite(source=source, edges=edges)
    grids = tuple(grid.double() for grid in grids)
    whitened = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    log_precision = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimiser = torch.optim.Adam([whitened, log_precision, *mixtures[0].parameters(), *mixtures[1].parameters()], rate)
    for _ in range(steps):
        loss = plane_objective(whitened, grids, mixtures, source, edges, log_precision, edge_weight)
        _descend(optimiser, loss, log_precision, ceiling, *mixtures)
    with torch.no_grad():
        one, two = (factors(m, g)[0] for m, g in zip(mixtures, grids, strict=True))
        half = torch.linalg.solve_triangular(one.mT, whitened, upper=True)
        coefficients = torch.linalg.solve_triangular(two.mT, half.mT, upper=True).mT
        values = one @ whitened @ two.mT
    return Fit(grids, mixtures, values, log_precision.detach(), coefficients)


def _adam(mixture: Mixture, others: list[Tensor], rate: float, weight_rate: float | None) -> torch.optim.Adam:
    rest = [p for p in mixture.parameters() if p is not mixture.free_weights]
    return torch.optim.Adam(
        [{"params": [*rest, *others]}, {"params": [mixture.free_weights], "lr": weight_rate or rate}], lr=rate
    )


def _descend(
    optimiser: torch.optim.Adam, loss: Tensor, log_precision: Tensor, ceiling: float | None, *mixtures
) -> None:
    """One step of Adam, back into the permitted range."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if ceiling is not None:
        log_precision.data.clamp_(max=ceiling)
    for mixture in mixtures:
        mixture.project()
