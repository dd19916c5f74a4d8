"""Other integrators of the cubic Schroedinger equation: splitting of second and fourth order, and finite differences."""

import math

import numpy as np
import torch
from jaxtyping import Complex
from numpy import ndarray
from torch import Tensor

from touchstone.checks import finite
from touchstone.dynamics.nlse import Grid

OUTER = 1 / (2 - 2 ** (1 / 3))  # Yoshida's triple jump: three second-order steps make one of fourth order


def split_step(
    psi: Complex[Tensor, "*batch points"], length: float, time: float, steps: int, order: int = 2
) -> Complex[Tensor, "*batch points"]:
    r"""Alternate the exact flows of :math:`i|\psi|^2\psi` and :math:`\tfrac i2\psi_{xx}`; batched and differentiable.

    The first flow only turns phases, so that the halves of neighbouring steps are taken together: a step of second order
    costs two Fourier transforms, one of fourth order six.

    Args:
        psi: waves on a periodic grid.
        length: of the interval.
        time: how long to integrate, may be negative.
        steps: number of equal steps.
        order: 2 (Strang) or 4 (Yoshida).

    Returns:
        the waves at the end.

    Raises:
        ValueError: if the waves are not finite, the length or number of steps is not positive, or the order is another.
    """
    finite(psi=psi)
    if steps < 1 or not length > 0:
        raise ValueError(f"steps and length must be positive, got {steps} and {length}")
    if order not in (2, 4):
        raise ValueError(f"order is {order}: use 2 or 4")
    shares = [1.0] if order == 2 else [OUTER, 1 - 2 * OUTER, OUTER]
    step, points = time / steps, psi.shape[-1]
    k = 2 * math.pi * torch.fft.fftfreq(points, length / points, dtype=psi.real.dtype, device=psi.device)
    turns = [torch.exp(-0.5j * share * step * k**2) for share in shares]

    def rotate(psi: Tensor, duration: float) -> Tensor:
        return psi * torch.exp(1j * duration * (psi.real**2 + psi.imag**2))

    psi = rotate(psi, shares[0] * step / 2)
    for number in range(steps):
        for i, (share, turn) in enumerate(zip(shares, turns, strict=True)):
            psi = torch.fft.ifft(turn * torch.fft.fft(psi))
            last = number == steps - 1 and i == len(shares) - 1
            following = 0.0 if last else shares[(i + 1) % len(shares)]
            psi = rotate(psi, (share + following) * step / 2)
    return psi


def finite_differences(
    psi: Complex[ndarray, "points"], grid: Grid, time: float, steps: int
) -> Complex[ndarray, "points"]:
    r"""Central differences of second order in space, the classical Runge-Kutta method in time.

    Args:
        psi: the wave at the start.
        grid: its points.
        time: how long to integrate.
        steps: number of equal steps; below :math:`0.71\, t / \Delta x^2` the method is unstable.

    Returns:
        the wave at the end (infinite or NaN where the method was unstable).

    Raises:
        ValueError: if the wave is not finite or the number of steps is not positive.
    """
    finite(psi=psi)
    if steps < 1:
        raise ValueError(f"steps is {steps}: it must be positive")
    step, square = time / steps, grid.spacing**2

    def rate(psi: ndarray) -> ndarray:
        bend = (np.roll(psi, 1) - 2 * psi + np.roll(psi, -1)) / square
        return 1j * (bend / 2 + (psi.real**2 + psi.imag**2) * psi)

    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            a = rate(psi)
            b = rate(psi + step / 2 * a)
            c = rate(psi + step / 2 * b)
            psi = psi + step / 6 * (a + 2 * b + 2 * c + rate(psi + step * c))
    return psi
