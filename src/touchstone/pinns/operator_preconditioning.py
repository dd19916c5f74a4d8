r"""Why physics-informed training is slow: the condition number of the operator seen through the model, and its cure.

Near its start a model is linear in its parameters, :math:`u \approx u_0 + \sum_i (\theta - \theta_0)_i \phi_i` with the
tangent functions :math:`\phi_i = \partial_{\theta_i} u`. Gradient descent on the physics-informed loss

.. math:: \tfrac12 \|\mathcal D u - f\|^2_{L^2(D)} + \tfrac\lambda2 \|u - g\|^2_{L^2(\partial D)}

then moves at the condition number of :math:`A_{ij} = \langle \mathcal D\phi_i, \mathcal D\phi_j\rangle + \lambda \langle \phi_i,
\phi_j\rangle_{\partial D}`: a differential operator squares its symbol in A, whatever the data are. A linear change of
parameters :math:`P` replaces A by :math:`P^T A P`. This file assembles A for any model, linear or network, by automatic
differentiation, follows the descent in its eigenbasis, and holds the two linear models with known cures: Fourier series
for Poisson's equation, and waves times polynomials in time for advection.

Source: De Ryck, Bonnet, Mishra and de Bezenac (2023), arXiv:2310.05801. The moving frame for advection is this project's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from touchstone.checks import finite, shaped

NULL = 1e-12  # eigenvalues below this share of the largest one count as zero
Function = Callable[[Tensor], Tensor]  # points [n, dims] to values [n]
Model = Callable[[Tensor, Tensor], Tensor]  # parameters [p] and points [n, dims] to values [n]


def derivative(function: Function, axis: int) -> Function:
    """The partial derivative of a function that acts on every point for itself, as such a function."""

    def slope(points: Tensor) -> Tensor:
        direction = torch.eye(points.shape[-1], dtype=points.dtype)[axis].expand_as(points)
        return torch.func.jvp(function, (points,), (direction,))[1]

    return slope


@dataclass(frozen=True)
class Problem:
    r"""A linear problem with a known solution; source and boundary values follow from it.

    Attributes:
        operator: turns a function into :math:`\mathcal D u`, built from :func:`derivative`.
        solution: the exact solution.
        points: quadrature points inside.
        weights: their weights.
        edge: quadrature points of the boundary (or of the initial line).
        edge_weights: their weights.
    """

    operator: Callable[[Function], Function]
    solution: Function
    points: Float[Tensor, "points dims"]
    weights: Float[Tensor, "points"]
    edge: Float[Tensor, "edge dims"]
    edge_weights: Float[Tensor, "edge"]

    def residuals(self, function: Function) -> tuple[Float[Tensor, "points"], Float[Tensor, "edge"]]:
        """Residuals inside and on the boundary, times the roots of the weights: their squares sum to the integrals."""
        inside = self.operator(function)(self.points) - self.operator(self.solution)(self.points)
        edge = function(self.edge) - self.solution(self.edge)
        return inside * self.weights.sqrt(), edge * self.edge_weights.sqrt()


@dataclass(frozen=True)
class Tangents:
    """A linear model at the quadrature points, or a network's linearisation at given parameters.

    Attributes:
        inside: the operator applied to every tangent function, times the roots of the weights.
        edge: every tangent function on the boundary, likewise.
        residual: the residual inside at the given parameters.
        edge_residual: the residual on the boundary.
    """

    inside: Float[Tensor, "points parameters"]
    edge: Float[Tensor, "edge parameters"]
    residual: Float[Tensor, "points"]
    edge_residual: Float[Tensor, "edge"]

    def features(self, weight: float) -> Float[Tensor, "rows parameters"]:
        r"""The matrix F with :math:`A = F^T F`."""
        return torch.cat([self.inside, weight**0.5 * self.edge])

    def matrix(self, weight: float) -> Float[Tensor, "parameters parameters"]:
        """The matrix A: the Hessian of the loss for a linear model, the Gauss-Newton matrix for a network."""
        return self.features(weight).T @ self.features(weight)

    def gradient(self, weight: float) -> Float[Tensor, "parameters"]:
        """The gradient of the loss."""
        return self.inside.T @ self.residual + weight * self.edge.T @ self.edge_residual

    def changed(self, change: Float[Tensor, "parameters new"]) -> "Tangents":
        """The same model with parameters that a linear map turns into the present ones: preconditioning."""
        return Tangents(self.inside @ change, self.edge @ change, self.residual, self.edge_residual)


def tangents(model: Model, parameters: Float[Tensor, "parameters"], problem: Problem) -> Tangents:
    """Tangent functions of a model, by automatic differentiation of its residuals.

    Args:
        model: parameters and points to values.
        parameters: where to linearise; linear models have the same tangents everywhere.
        problem: the operator, the quadrature and the data.

    Raises:
        ValueError: if the parameters are empty, not finite, or not a vector.
    """
    shaped("parameters", parameters, ("parameters",))
    finite(parameters=parameters)

    def residuals(values: Tensor) -> Tensor:
        return torch.cat(problem.residuals(lambda points: model(values, points)))

    if len(parameters) <= len(problem.points):  # one forward pass a parameter, or one backward pass a point
        push = torch.func.vmap(lambda one: torch.func.jvp(residuals, (parameters,), (one,))[1], chunk_size=64)
        jacobian = push(torch.eye(len(parameters), dtype=parameters.dtype)).T
    else:
        jacobian = torch.func.jacrev(residuals, chunk_size=256)(parameters)
    count, now = len(problem.points), residuals(parameters).detach()
    return Tangents(jacobian[:count].detach(), jacobian[count:].detach(), now[:count], now[count:])


def spectrum(features: Float[Tensor, "rows parameters"]) -> Float[Tensor, "values"]:
    r"""Eigenvalues of :math:`F^T F` on its numerical range, largest first.

    They are squares of singular values; forming the product first would lose half of the digits.

    Args:
        features: the matrix F.

    Returns:
        all eigenvalues above 1e-12 times the largest.

    Raises:
        ValueError: if features is empty, not finite, not a matrix, or zero.
    """
    shaped("features", features, ("rows", "parameters"))
    finite(features=features)
    values = torch.linalg.svdvals(features) ** 2
    if values[0] == 0:
        raise ValueError("features is zero: the model does not react to its parameters")
    return values[values > NULL * values[0]]


def condition_number(features: Float[Tensor, "rows parameters"]) -> float:
    r"""The condition number :math:`\kappa(F^T F)` on the numerical range; see :func:`spectrum` for errors."""
    values = spectrum(features)
    return (values[0] / values[-1]).item()


def best_weight(model: Tangents, low: float = 1e-4, high: float = 1e8) -> tuple[float, float]:
    r"""The boundary weight :math:`\lambda^* = \arg\min \kappa(A(\lambda))`, by line search over its logarithm.

    Args:
        model: the tangents.
        low: smallest weight to try.
        high: largest one.

    Returns:
        the weight and its condition number.

    Raises:
        ValueError: if not 0 < low < high.
    """
    if not 0 < low < high:
        raise ValueError(f"low is {low} and high is {high}: weights must be positive and in order")
    ends = [torch.tensor(end).log10().item() for end in (low, high)]
    found = minimize_scalar(lambda log: condition_number(model.features(10**log)), bounds=ends, method="bounded")
    return 10**found.x, found.fun


class Descent:
    r"""Gradient descent on a quadratic loss from parameters zero, followed in the eigenbasis of A.

    .. math:: \theta_k = \theta_\infty + V (I - \eta S)^k V^T (\theta_0 - \theta_\infty), \qquad \eta = 2 / (s_{max} + s_{min})

    Any number of steps costs the same, so that a million steps can be counted without taking them.

    Args:
        model: the tangents of a linear model at zero, or of a network at its start.
        weight: the :math:`\lambda` of the loss.
        step: the :math:`\eta`; None for the best fixed step.

    Attributes:
        condition: the condition number on the range.
    """

    def __init__(self, model: Tangents, weight: float = 1.0, step: float | None = None):
        left, singular, self.basis = torch.linalg.svd(model.features(weight), full_matrices=False)
        kept = singular**2 > NULL * singular[0] ** 2
        self.values, self.basis = singular[kept] ** 2, self.basis[kept].T
        self.condition = (self.values[0] / self.values[-1]).item()
        self.step = 2 / (self.values[0] + self.values[-1]).item() if step is None else step
        residual = torch.cat([model.residual, weight**0.5 * model.edge_residual])
        self._goal = -(left[:, kept].T @ residual) / singular[kept]
        self._floor = residual.square().sum().item() - (left[:, kept].T @ residual).square().sum().item()

    def parameters(self, steps: int | float) -> Float[Tensor, "parameters"]:
        """The change of the parameters after a number of steps."""
        return self.basis @ (self._goal * (1 - self._shrunk(steps)))

    def loss(self, steps: int | float) -> float:
        """The loss after a number of steps."""
        return (self._floor + (self.values * (self._goal * self._shrunk(steps)).square()).sum().item()) / 2

    def _shrunk(self, steps: int | float) -> Tensor:
        factor = 1 - self.step * self.values
        return (factor.sign() if steps % 2 == 1 else 1.0) * factor.abs() ** steps

    def steps_to(self, error: Callable[[Tensor], float], target: float, limit: int = 10**12) -> float:
        """The number of steps until an error is small enough, exact if the error falls steadily.

        Args:
            error: parameters to error.
            target: the error to reach.
            limit: the number of steps at which to give up.

        Returns:
            the number of steps, infinite if the limit does not suffice.
        """
        high = 1
        while error(self.parameters(high)) > target:
            high *= 2
            if high > limit:
                return float("inf")
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if error(self.parameters(middle)) > target else (low, middle)
        return float(high)


def fourier(points: Float[Tensor, "points"], largest: int) -> Float[Tensor, "points functions"]:
    r"""The functions :math:`1, \cos kx, \sin kx` for :math:`k` up to ``largest``, cosines before sines."""
    angles = points[:, None] * torch.arange(1, largest + 1, dtype=points.dtype)
    return torch.cat([torch.ones_like(angles[:, :1]), angles.cos(), angles.sin()], dim=1)


def fourier_model(largest: int, rescaled: bool = False, constant: float = 1.0) -> tuple[Model, int]:
    r"""A Fourier series in one dimension, plain or preconditioned for Poisson's equation.

    Args:
        largest: the largest frequency :math:`K`.
        rescaled: divide the functions with frequency k by :math:`k^2`, so that their second derivatives have equal norms.
        constant: the :math:`\gamma` that scales the constant when rescaled.

    Returns:
        the model and its number of parameters, 2 K + 1.

    Raises:
        ValueError: if largest is not positive.
    """
    if largest < 1:
        raise ValueError(f"largest is {largest}: a Fourier series needs at least the frequency 1")
    order = torch.arange(1, largest + 1, dtype=torch.float64)
    scale = torch.cat([torch.tensor([constant], dtype=torch.float64), order**-2, order**-2])
    scale = scale if rescaled else torch.ones_like(scale)
    return lambda parameters, points: fourier(points[:, 0], largest) @ (scale * parameters), 2 * largest + 1


def legendre(time: Float[Tensor, "points"], count: int) -> Float[Tensor, "points functions"]:
    """Legendre polynomials on [0, 1], not normalised: 1 at time 1."""
    z, values = 2 * time - 1, [torch.ones_like(time), 2 * time - 1]
    for m in range(1, count - 1):
        values.append(((2 * m + 1) * z * values[m] - m * values[m - 1]) / (m + 1))
    return torch.stack(values[:count], dim=1)


def advection_model(speed: float, largest: int, modes: int, preconditioner: str = "none") -> tuple[Model, int]:
    r"""Waves in x times polynomials in t on [0, 1], for :math:`u_t + \beta u_x = f` with period :math:`2\pi`.

    Args:
        speed: the :math:`\beta`.
        largest: the largest frequency in x.
        modes: the number of polynomials.
        preconditioner: ``none``; ``diagonal``, which divides the wave number k by :math:`1 + \beta |k|`; or ``frame``, which
            uses :math:`\xi = x - \beta t` in place of x and :math:`1, \int_0^t p_m` in place of the orthonormal
            Legendre polynomials, whose images under the operator are orthonormal.

    Returns:
        the model of points (t, x) and its number of parameters.

    Raises:
        ValueError: if the preconditioner is none of these, or a number is not positive.
    """
    if preconditioner not in ("none", "diagonal", "frame"):
        raise ValueError(f"preconditioner is {preconditioner!r}: use 'none', 'diagonal' or 'frame'")
    if largest < 1 or modes < 2:
        raise ValueError(f"largest is {largest} and modes is {modes}: at least 1 and 2 are needed")
    order = torch.arange(1, largest + 1, dtype=torch.float64)
    wave = torch.cat([torch.zeros(1, dtype=torch.float64), order, order])
    norm = ((1 + (wave == 0)) * torch.pi).to(wave.dtype) ** -0.5
    degree = 2 * torch.arange(modes + 1, dtype=torch.float64) + 1

    def model(parameters: Tensor, points: Tensor) -> Tensor:
        time, place = points[:, 0], points[:, 1]
        if preconditioner == "frame":
            place, rising = place - speed * time, legendre(time, modes + 1)
            integral = (rising[:, 2:] - rising[:, :-2]) / (2 * degree[1:-1].sqrt())  # from 0 to t, degrees 1 and up
            steps = torch.cat([torch.ones_like(time)[:, None], time[:, None], integral[:, : modes - 2]], dim=1)
        else:
            steps = legendre(time, modes) * degree[:-1].sqrt()
        scale = norm / (1 + abs(speed) * wave) if preconditioner == "diagonal" else norm
        waves = fourier(place, largest) * scale
        return torch.einsum("nw,nm,wm->n", waves, steps, parameters.view(len(wave), modes))

    return model, len(wave) * modes
