r"""The fixed frame: Eulerian networks for transport problems, ways to help them, reference solutions and the loss landscape.

*Hard start*: :math:`u_0+tN`. *Time marching* solves one window of time after the other, each from the end of the last.
*Curriculum* raises the speed in stages (both: Krishnapriyan et al., 2021, arXiv:2109.01050).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import MLP, single
from touchstone.pinns.lagrangian_pinn import (
    PERIOD,
    Misfits,
    Transport,
    _embed,
    convection,
    initial_line,
    train,
)
from touchstone.pinns.references import etdrk4

EULERIAN_WIDTH = 38  # four layers of 38 have 4637 parameters, the two branches of the Lagrangian network 4546


def eulerian_network(seeds: Sequence[int], mean: float = 0.0) -> MLP:
    r"""A stack of perceptrons of :math:`(\cos x,\sin x,t)` with as many parameters as the two Lagrangian branches, started at a mean."""
    network = MLP(3, 1, seeds, EULERIAN_WIDTH, 4, _embed)
    network.biases[-1].data.fill_(mean)
    return network


class HardStart(nn.Module):
    r"""The ansatz :math:`u_0(x)+t\,N(x,t)`, whose initial values are exact.

    Args:
        network: the stack :math:`N`.
        start: :math:`u_0`.
    """

    def __init__(self, network: MLP, start: Callable[[Tensor], Tensor]):
        super().__init__()
        self.network, self.start = network, start

    def forward(self, points: Float[Tensor, "seeds points 2"], orders: Sequence[int]) -> Jet:
        """The jet of the ansatz."""
        clock = Jet(jets.coordinates(points, orders).streams[..., :1], tuple(orders))
        first = jets.by_autograd(lambda p: self.start(p[..., 1:]) + 0 * p[..., :1], points, orders).streams.detach()
        return Jet(first + jets.product(clock, self.network(points, orders)).streams, tuple(orders))


def eulerian_misfits(problem: Transport, line: int = 128, weights: tuple[float, float] = (10.0, 1000.0)) -> Misfits:
    r"""The loss :math:`\gamma_u\lVert u_t+a(u)u_x-\nu u_{xx}\rVert+\gamma_0\lVert u-u_0\rVert`, weighted as its Lagrangian counterpart.

    Args:
        problem: the equation.
        line: points on the initial line, evenly spaced.
        weights: factors of the root mean squares of the residual and of what is known at the start.

    Returns:
        a function from network and points to pairs of a weight and values.
    """

    def terms(network: Callable, points: Tensor) -> Iterator[tuple[float, Tensor]]:
        u = network(points, (1, 2))
        place = initial_line(line, len(points)).to(points.dtype)
        yield weights[0], u.d(0) + problem.velocity(u.value) * u.d(1) - problem.viscosity * u.d(1, 2)
        yield weights[1], network(place, (0, 0)).value - problem.start(place[..., 1:])

    return terms


Predict = Callable[[Tensor, Tensor], Float[np.ndarray, "seeds times places"]]


def values_on_grid(network: nn.Module, times: Tensor, places: Tensor) -> Float[np.ndarray, "seeds times places"]:
    """An Eulerian stack at all pairs of times and places."""
    weight = next(network.parameters())
    grid = torch.cartesian_prod(times.to(weight.dtype), places.to(weight.dtype)).expand(weight.shape[0], -1, -1)
    with torch.no_grad():
        return network(grid, (0, 0)).value[..., 0].unflatten(1, (len(times), -1)).double().numpy()


def march(problem: Transport, seed: int, windows: int, steps: int, polish: int) -> Predict:
    """Solve one window of time after the other; each is the same problem, slowed down to unit time, from the last one's end.

    Args:
        problem: the equation.
        seed: of all networks.
        windows: number of windows, which share steps and iterations.
        steps: of Adam, in all.
        polish: of L-BFGS, in all.

    Returns:
        the solution on a grid of times and places.
    """
    start, parts = problem.start, []
    for _ in range(windows):
        slow = replace(
            problem, velocity=_scaled(problem.velocity, windows), viscosity=problem.viscosity / windows, start=start
        )
        network = eulerian_network([seed])
        train(network, eulerian_misfits(slow), [seed], steps // windows, polish // windows)
        parts.append(network)
        start = _end_of(network)

    def predict(times: Tensor, places: Tensor) -> np.ndarray:
        window = (times * windows).long().clamp(max=windows - 1)
        rows = [
            values_on_grid(parts[number], (time * windows - number)[None], places)
            for number, time in zip(window.tolist(), times, strict=True)
        ]
        return np.concatenate(rows, 1)

    return predict


def _scaled(velocity: Callable[[Tensor], Tensor], windows: int) -> Callable[[Tensor], Tensor]:
    return lambda u: velocity(u) / windows


def _end_of(network: MLP) -> Callable[[Tensor], Tensor]:
    """A network's values at time 1, as initial values."""

    def start(x: Tensor) -> Tensor:
        weight = network.weights[0]
        with torch.no_grad():
            points = torch.cat([torch.ones_like(x), x], -1).to(weight.dtype)
            return network(points, (0, 0)).value.to(x.dtype)

    return start


def curriculum(
    speeds: Sequence[float],
    start: Callable[[Tensor], Tensor],
    viscosity: float,
    seeds: Sequence[int],
    steps: int,
    polish: int,
) -> MLP:
    """Train for one speed after the other, each from the last one's weights, with the steps shared out evenly.

    Args:
        speeds: the last one is the one that counts.
        start: initial values.
        viscosity: of all stages.
        seeds: one network for each.
        steps: of Adam, in all.
        polish: iterations of L-BFGS after the last stage.

    Returns:
        the trained stack.
    """
    network = eulerian_network(seeds)
    for speed in speeds:
        last = polish if speed == speeds[-1] else 0
        train(network, eulerian_misfits(convection(speed, start, viscosity)), seeds, steps // len(speeds), last)
    return network


def convection_reference(
    problem: Transport, speed: float, times: Float[np.ndarray, " times"], places: int
) -> Float[np.ndarray, "times places"]:
    """Convection and diffusion of the initial values, mode by mode, exact for the trigonometric interpolant."""
    x = PERIOD * np.arange(places) / places
    modes = np.arange(places // 2 + 1)
    first = np.fft.rfft(problem.start(torch.as_tensor(x)).numpy())
    moved = np.exp(-np.outer(times, problem.viscosity * modes**2 + 1j * speed * modes))
    return np.fft.irfft(first * moved, places, axis=1)


def burgers_reference(
    problem: Transport, speed: float, steps: int, every: int, places: int
) -> Float[np.ndarray, "times places"]:
    r"""Burgers' equation in the frame that moves with the mean speed (ETDRK4), carried back by a shift of its modes."""
    x, modes = PERIOD * np.arange(places) / places, np.arange(places // 2 + 1)

    def advection(state: np.ndarray) -> np.ndarray:
        return -0.5j * modes * np.fft.rfft(np.fft.irfft(state, places) ** 2)

    first = problem.start(torch.as_tensor(x)).numpy() - speed
    still = etdrk4(-problem.viscosity * modes**2, advection, first, 1 / steps, steps, every)
    times = np.arange(len(still)) * every / steps
    shift = np.exp(-1j * speed * np.outer(times, modes))
    return speed + np.fft.irfft(np.fft.rfft(still, axis=1) * shift, places, axis=1)


def modes_needed(snapshots: Float[np.ndarray, "times places"], energy: float = 0.999) -> int:
    """How many singular vectors hold so much of the sum of squared singular values."""
    squared = np.linalg.svd(snapshots, compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(squared) / squared.sum(), energy) + 1)


def top_eigenvalue(
    network: nn.Module, terms: Misfits, points: Float[Tensor, "seeds points 2"], only: str = ""
) -> list[float]:
    """Largest eigenvalue of the Hessian of the loss with squared norms, seed by seed, by Lanczos on Hessian-vector products.

    Args:
        network: the trained stack.
        terms: weights and values of the loss.
        points: collocation points, each seed its own.
        only: restrict the Hessian to parameters whose names begin so.

    Returns:
        one eigenvalue a seed.
    """
    found = []
    for number, place in enumerate(points.double().split(1)):
        alone = single(network, number).double()
        weights = [weight for name, weight in alone.named_parameters() if name.startswith(only)]
        loss = sum(weight * values.square().mean() for weight, values in terms(alone, place))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, create_graph=True)])

        def product(vector: np.ndarray, gradient=gradient, weights=weights) -> np.ndarray:
            along = torch.as_tensor(vector.ravel())
            parts = torch.autograd.grad(gradient @ along, weights, retain_graph=True)
            return torch.cat([part.flatten() for part in parts]).numpy()

        size, first = gradient.numel(), np.random.default_rng(0).standard_normal(gradient.numel())
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        found.append(float(eigsh(operator, 1, which="LA", tol=1e-3, v0=first, return_eigenvectors=False)[0]))
    return found
