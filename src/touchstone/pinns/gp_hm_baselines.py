r"""What GP-HM is measured against: two-point problems with known solutions, networks, spectral collocation, dense algebra."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite
from touchstone.nn.networks import FourierMLP
from touchstone.pinns.gp_hm import JITTER, Mixture
from touchstone.pinns.problems import Problem, wall_values
from touchstone.pinns.protocol import Recipe, default_network, predictor, train


@dataclass(frozen=True)
class Line:
    r"""The problem :math:`u''+\rho(u)=f` on an interval from 0, made from its solution.

    Attributes:
        name: how tables call it.
        length: of the interval.
        exact: the solution :math:`u`.
        reaction: :math:`\rho`, entry by entry; none for the Poisson equation.
    """

    name: str
    length: float
    exact: Callable[[Tensor], Tensor]
    reaction: Callable[[Tensor], Tensor] | None = None

    def source(self, places: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        r"""The source :math:`f`, from two exact derivatives of the solution in float64."""
        finite(places=places)
        with torch.enable_grad():
            x = places.detach().double().requires_grad_()
            u = self.exact(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(slope.sum(), x)
        second = second if self.reaction is None else second + self.reaction(u.detach())
        return second.to(places.dtype)

    def grid(self, n: int) -> Float[Tensor, " n"]:
        """Uniform grid with both ends."""
        return torch.linspace(0, self.length, n, dtype=torch.float64)

    def error(self, predict: Callable[[Tensor], Tensor]) -> float:
        """Relative L2 error at 300 points, none of them on a grid with an odd number of steps."""
        places = (torch.arange(300, dtype=torch.float64) + 0.5) / 300 * self.length
        truth = self.exact(places)
        return float((predict(places) - truth).norm() / truth.norm())


def network_errors(
    line: Line, seeds: Sequence[int], scale: float | None, steps: int, points: int
) -> Float[np.ndarray, " seeds"]:
    """Train physics-informed networks of the part's default size for several seeds at once.

    The residual is divided by the largest source: undivided, it is some hundred thousand times the boundary term.

    Args:
        line: the problem.
        seeds: one network for each.
        scale: standard deviation of random Fourier frequencies, in radians per unit of length; None for a plain network.
        steps: steps of Adam.
        points: collocation points a step, new ones every time.

    Returns:
        the relative L2 error of every seed.

    Raises:
        ValueError: if the solution is not 0 at both ends, the only end values that the networks are told.
    """
    if line.exact(line.grid(2)).abs().max() > 1e-9:
        raise ValueError(f"line {line.name!r} is not 0 at its ends")
    size = float(line.source(line.grid(2001)).abs().max())

    def equation(u, places):
        acting = u.d(0, 2) if line.reaction is None else u.d(0, 2) + line.reaction(u.value)
        return (acting - line.source(places)) / size

    problem = Problem(line.name, (0.0,), (line.length,), (2,), 1, equation, (wall_values(dims=1),))
    if scale is None:
        network = default_network(problem, seeds)
    else:
        network = FourierMLP(problem.low, problem.high, 1, seeds, scale=scale * line.length / 2)
    train(problem, network, seeds, Recipe(steps=steps, collocation=points, boundary=2))
    predict = predictor(problem, network)
    return np.array([line.error(lambda x, k=k: predict(x[:, None].float())[k, :, 0]) for k in range(len(seeds))])


def spectral_collocation(line: Line, n: int, iterations: int = 12) -> Callable[[Tensor], Tensor]:
    """Chebyshev collocation with ``n`` points, by Newton's method from 0 where the problem is not linear.

    Args:
        line: the problem.
        n: points, as many as coefficients.
        iterations: of Newton's method.

    Returns:
        the interpolating polynomial as a function of places.
    """
    nodes = np.cos(np.pi * np.arange(n) / (n - 1))
    x = torch.as_tensor((nodes + 1) / 2 * line.length)
    chebyshev = np.polynomial.chebyshev
    value = chebyshev.chebvander(nodes, n - 1)
    second = (2 / line.length) ** 2 * chebyshev.chebval(nodes, chebyshev.chebder(np.eye(n), 2)).T
    coefficients, source, exact = np.zeros(n), line.source(x).numpy(), line.exact(x).numpy()
    for _ in range(1 if line.reaction is None else iterations):
        now = torch.as_tensor(value @ coefficients).requires_grad_()
        acting = torch.zeros_like(now) if line.reaction is None else line.reaction(now)
        slope = torch.zeros(n) if line.reaction is None else torch.autograd.grad(acting.sum(), now)[0]
        system = second + slope.numpy()[:, None] * value
        gap = source - second @ coefficients - acting.detach().numpy()
        system[[0, -1]], gap[[0, -1]] = value[[0, -1]], exact[[0, -1]] - value[[0, -1]] @ coefficients
        coefficients = coefficients + np.linalg.solve(system, gap)
    return lambda places: torch.as_tensor(chebyshev.chebval(2 * places.numpy() / line.length - 1, coefficients))


def dense_objective(
    values: Float[Tensor, "n1 n2"],
    grids: tuple[Float[Tensor, " n1"], Float[Tensor, " n2"]],
    mixtures: tuple[Mixture, Mixture],
    source: Float[Tensor, "n1 n2"],
    edges: Float[Tensor, "n1 n2"],
    log_precision: Float[Tensor, "2"],
    edge_weight: float = 200.0,
) -> Float[Tensor, ""]:
    """The objective of :func:`touchstone.pinns.gp_hm.plane_objective` from the full covariance of all grid values.

    Args:
        values: solution on the grid.
        grids: uniform grids.
        mixtures: one kernel a dimension.
        source: the source on the grid.
        edges: known values on the four sides.
        log_precision: logarithms of the precisions of edge values and equation.
        edge_weight: how often the edge values are counted.

    Returns:
        the number that is minimised.
    """
    pairs = [m((g[:, None] - g).abs()) for m, g in zip(mixtures, grids, strict=True)]
    (one, two), (bent_one, bent_two) = zip(*pairs, strict=True)
    one, two = (k + JITTER * torch.eye(len(k), dtype=k.dtype) for k in (one, two))
    lower = torch.linalg.cholesky(torch.kron(one, two))
    flat = values.reshape(-1, 1)
    weights = torch.cholesky_solve(flat, lower)
    acting = (torch.kron(bent_one, two) + torch.kron(one, bent_two)) @ weights
    equation = acting.reshape(values.shape) - source
    gap = values - edges
    edge = torch.cat([gap[0], gap[-1], gap[:, 0], gap[:, -1]])
    (tau, v), (log_tau, log_v) = log_precision.exp(), log_precision
    prior = lower.diagonal().log().sum() + (flat * weights).sum() / 2
    likelihood = edge_weight / 2 * (tau * edge.square().sum() - edge.numel() * log_tau)
    return prior + likelihood + (v * equation.square().sum() - equation.numel() * log_v) / 2
