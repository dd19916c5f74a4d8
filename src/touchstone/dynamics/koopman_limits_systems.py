r"""Maps of the torus whose Koopman spectrum is known exactly, a pendulum, and Hankel-DMD as the rival without residuals.

The torus is :math:`[0, 1)^2` with points (x, y). The adversarial pair is this project's construction in the spirit of Colbrook,
Mezic and Stepanenko (2024), arXiv:2407.06312: skew products over the rotation by a Liouville number.
"""

import numpy as np
from jaxtyping import Complex, Float, Int

from touchstone.checks import finite
from touchstone.dynamics.koopman_limits import Map

GOLDEN = (5**0.5 - 1) / 2
LIOUVILLE = 0.1 + 0.01 + 1e-6  # sum of 10^(-j!); the next term, 1e-24, is below rounding
PERIODS = (10, 100)  # denominators of its best approximations


def rotation(*shift: float) -> Map:
    """The translation of the torus by a vector; eigenfunctions are the Fourier functions."""
    return lambda points: (points + np.array(shift)) % 1.0


def cat(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """Arnold's map (2x + y, x + y): apart from the constant its spectrum is continuous and fills the unit circle."""
    x, y = points.T
    return np.stack([2 * x + y, x + y], axis=1) % 1.0


def skew(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """The map (x + a, y + x), a the golden mean: eigenfunctions in x, continuous spectrum in all that depends on y."""
    x, y = points.T
    return np.stack([x + GOLDEN, y + x], axis=1) % 1.0


def sample(count: int, seed: int) -> Float[np.ndarray, "points 2"]:
    """Random points of the torus with 40 binary digits, on which the cat map makes no rounding errors."""
    return np.random.default_rng(seed).integers(0, 2**40, (count, 2)) / 2.0**40


def cat_matrix(frequencies: Int[np.ndarray, "functions 2"]) -> Complex[np.ndarray, "functions functions"]:
    """The exact matrix A of the cat map for Fourier functions: frequency k goes to (2k + l, k + l)."""
    images = frequencies @ np.array([[2, 1], [1, 1]])
    return (frequencies[:, None] == images[None]).all(-1).astype(complex)


def longest_chain(largest: int) -> int:
    """How many frequencies, at most, follow each other under the cat map without leaving the box of a given size."""
    axis = np.arange(-largest, largest + 1)
    k, m = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    kept = (k != 0) | (m != 0)
    k, m, length = k[kept], m[kept], 0
    while len(k):
        length += 1
        k, m = 2 * k + m, k + m
        inside = (np.abs(k) <= largest) & (np.abs(m) <= largest)
        k, m = k[inside], m[inside]
    return length


def transfer(x: Float[np.ndarray, "points"], terms: int) -> Float[np.ndarray, "points"]:
    r"""The function :math:`h_k(x) = \sum_{j \le k} \cos 2 \pi q_j x` that solves :math:`\phi_k = h_k - h_k(\cdot + \alpha)`."""
    return sum(np.cos(2 * np.pi * q * x) for q in PERIODS[:terms])


def drift(x: Float[np.ndarray, "points"], terms: int) -> Float[np.ndarray, "points"]:
    r"""The :math:`\phi_k(x) = \sum_{j \le k} \mathrm{Re} [(1 - e^{2 \pi i q_j \alpha}) e^{2 \pi i q_j x}]` of the adversarial pair."""
    factors = [(q, 1 - np.exp(2j * np.pi * ((q * LIOUVILLE) % 1.0))) for q in PERIODS[:terms]]
    return sum((factor * np.exp(2j * np.pi * q * x)).real for q, factor in factors)


def adversary(terms: int) -> Map:
    r"""The map :math:`T_k(x, y) = (x + \alpha, y + \phi_k(x))`.

    Args:
        terms: the k, 1 or 2.

    Raises:
        ValueError: if terms is neither.
    """
    if terms not in (1, 2):
        raise ValueError(f"terms is {terms}: the pair has the members 1 and 2")
    # the steps of y written with two products a term in place of an exponential each: a long orbit takes many
    factors = [(2 * np.pi * q, 1 - np.exp(2j * np.pi * ((q * LIOUVILLE) % 1.0))) for q in PERIODS[:terms]]

    def advance(points: np.ndarray) -> np.ndarray:
        x, y = points.T
        step = sum(abs(factor) * np.cos(w * x + np.angle(factor)) for w, factor in factors)
        return np.stack([(x + LIOUVILLE) % 1.0, y + step], axis=1)

    return advance


def adversary_eigenfunction(points: Float[np.ndarray, "points 2"], terms: int) -> Complex[np.ndarray, "points"]:
    r"""The eigenfunction :math:`e^{2 \pi i (y + h_k(x))}` of :func:`adversary`, with eigenvalue 1."""
    return np.exp(2j * np.pi * (points[:, 1] + transfer(points[:, 0], terms)))


def pendulum(
    states: Float[np.ndarray, "points 2"], time: float = 0.5, steps: int = 40
) -> Float[np.ndarray, "points 2"]:
    """The flow of angle (radians) and momentum under unit gravity and length, by classical Runge-Kutta steps."""

    def rate(z: np.ndarray) -> np.ndarray:
        return np.stack([z[:, 1], -np.sin(z[:, 0])], axis=1)

    h = time / steps
    for _ in range(steps):
        a = rate(states)
        b = rate(states + h / 2 * a)
        c = rate(states + h / 2 * b)
        states = states + h / 6 * (a + 2 * b + 2 * c + rate(states + h * c))
    return states


def pendulum_grid(
    angles: int, momenta: int, largest: float = 8.0
) -> tuple[Float[np.ndarray, "points 2"], Float[np.ndarray, "points"]]:
    """Grid points and weights of the trapezoidal rule for angles in [0, 2 pi) and momenta up to a largest size."""
    angle, momentum = 2 * np.pi * np.arange(angles) / angles, np.linspace(-largest, largest, momenta)
    points = np.stack([a.ravel() for a in np.meshgrid(angle, momentum, indexing="ij")], axis=1)
    return points, np.full(len(points), 2 * np.pi / angles * (momentum[1] - momentum[0]))


def pendulum_dictionary(
    states: Float[np.ndarray, "points 2"], waves: int = 6, hermites: int = 15
) -> Complex[np.ndarray, "points functions"]:
    """Waves in the angle up to a largest number times Hermite functions of the momentum, orthonormal on the phase space.

    Args:
        states: angle and momentum.
        waves: largest wave number.
        hermites: number of Hermite functions.
    """
    angle, p = states.T
    functions = [np.pi**-0.25 * np.exp(-(p**2) / 2)]
    functions.append(2**0.5 * p * functions[0])
    for n in range(2, hermites):
        functions.append((2 / n) ** 0.5 * p * functions[-1] - ((n - 1) / n) ** 0.5 * functions[-2])
    wave = np.exp(1j * angle[:, None] * np.arange(-waves, waves + 1)) / (2 * np.pi) ** 0.5
    return (wave[:, :, None] * np.stack(functions[:hermites], axis=1)[:, None]).reshape(len(states), -1)


def delays(
    series: Complex[np.ndarray, "time"], count: int
) -> tuple[Complex[np.ndarray, "points count"], Complex[np.ndarray, "points count"]]:
    r"""The dictionary :math:`g, g \circ F, \dots` of Hankel-DMD along one orbit, and the same a step later.

    Args:
        series: the observable along an orbit.
        count: number of delays.

    Raises:
        ValueError: if the series is not finite or not longer than the number of delays.
    """
    finite(series=series)
    if not 1 <= count < len(series):
        raise ValueError(f"count is {count}: it must be positive and below the length of the series, {len(series)}")
    windows = np.lib.stride_tricks.sliding_window_view(series, count)
    return windows[:-1].copy(), windows[1:].copy()
