r"""Twelve chaotic flows with known exponents and periods, eleven of them quadratic with their terms at hand.

A quadratic flow :math:`\dot x_i=\sum_{j\le k}c_{ijk}\,s_js_k` with :math:`s=(1,x)` is written as its list of terms: the truth
that equation discovery is judged by, and from which the right-hand side and the Jacobian follow.

Sources: the systems as collected by W. Gilpin, 2021, arXiv:2110.05266, and J. C. Sprott, Elegant Chaos, 2010.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from touchstone.data.ode import LORENZ63, LORENZ96_5, System

Terms = tuple[dict[str, float | int], ...]


@dataclass(frozen=True)
class Quadratic:
    """A right-hand side with constant, linear and quadratic terms.

    Args:
        terms: for each coordinate, the coefficients of its monomials: ``""`` is the constant, ``"xz"`` the product of x and z.
        coordinates: one letter a coordinate, in order.

    Raises:
        ValueError: if there are not as many right-hand sides as coordinates, or a monomial is not one of theirs.
    """

    terms: Terms
    coordinates: str = "xyz"

    def __post_init__(self) -> None:
        if len(self.terms) != len(self.coordinates):
            raise ValueError(f"terms has {len(self.terms)} right-hand sides for {len(self.coordinates)} coordinates")
        for monomial in (m for rate in self.terms for m in rate):
            if len(monomial) > 2 or set(monomial) - set(self.coordinates):
                raise ValueError(f"terms holds {monomial!r}: expected at most two letters of {self.coordinates!r}")

    @cached_property
    def tensor(self) -> Float[np.ndarray, "dim extended extended"]:
        """Symmetric matrices Q with rate i equal to s Q_i s, where s is the state with a 1 put first."""
        size = len(self.coordinates)
        tensor = np.zeros((size, size + 1, size + 1))
        for i, rate in enumerate(self.terms):
            for monomial, coefficient in rate.items():
                j, k = sorted([0, 0, *(1 + self.coordinates.index(letter) for letter in monomial)])[-2:]
                tensor[i, j, k] += coefficient / 2
                tensor[i, k, j] += coefficient / 2
        return tensor

    @property
    def source(self) -> str:
        """What trajectories depend on."""
        return f"Quadratic{self.terms}{self.coordinates}"

    def _products(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The state with a 1 put first, and its product with each matrix."""
        extended = np.concatenate([np.ones_like(state[..., :1]), state], -1)
        flat = extended @ self.tensor.transpose(1, 0, 2).reshape(extended.shape[-1], -1)
        return extended, flat.reshape(*state.shape, -1)

    def __call__(self, state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim"]:
        """Right-hand side.

        Args:
            state: coordinates along the last axis.

        Returns:
            time derivative.
        """
        extended, products = self._products(state)
        return (products @ extended[..., None])[..., 0]

    def jacobian(self, state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim dim"]:
        """Derivative of the rate (rows) by the state (columns).

        Args:
            state: coordinates along the last axis.

        Returns:
            one matrix a state.
        """
        return 2 * self._products(state)[1][..., 1:]


def thomas(state: Float[np.ndarray, "*batch 3"], damping: float = 0.18) -> Float[np.ndarray, "*batch 3"]:
    r"""Right-hand side of Thomas' cyclic flow, :math:`\dot x=\sin y-bx` and so on around.

    Args:
        state: x, y, z along the last axis.
        damping: b.

    Returns:
        time derivative.
    """
    return np.sin(np.roll(state, -1, -1)) - damping * state


def thomas_jacobian(state: Float[np.ndarray, "*batch 3"], damping: float = 0.18) -> Float[np.ndarray, "*batch 3 3"]:
    """Jacobian of :func:`thomas`; same arguments.

    Args:
        state: x, y, z along the last axis.
        damping: b.

    Returns:
        derivative of the rate (rows) by the state (columns).
    """
    site = np.arange(3)
    matrix = np.zeros((*state.shape, 3))
    matrix[..., site, site] = -damping
    matrix[..., site, (site + 1) % 3] = np.cos(np.roll(state, -1, -1))
    return matrix


def _ring(letters: str = "vwxyz", forcing: float = 8.0) -> Terms:
    """The terms of Lorenz' ring of 1996."""
    n = len(letters)
    return tuple(
        {
            "": forcing,
            letters[i]: -1.0,
            letters[(i + 1) % n] + letters[i - 1]: 1.0,
            letters[i - 2] + letters[i - 1]: -1.0,
        }
        for i in range(n)
    )


QUADRATIC: dict[str, Quadratic] = {
    "lorenz-63": Quadratic(({"y": 10, "x": -10}, {"x": 28, "xz": -1, "y": -1}, {"xy": 1, "z": -8 / 3})),
    "roessler": Quadratic(({"y": -1, "z": -1}, {"x": 1, "y": 0.2}, {"": 0.2, "xz": 1, "z": -5.7})),
    "chen": Quadratic(({"y": 35, "x": -35}, {"x": -7, "xz": -1, "y": 28}, {"xy": 1, "z": -3})),
    "halvorsen": Quadratic(
        (
            {"x": -1.4, "y": -4, "z": -4, "yy": -1},
            {"y": -1.4, "z": -4, "x": -4, "zz": -1},
            {"z": -1.4, "x": -4, "y": -4, "xx": -1},
        )
    ),
    "sprott-b": Quadratic(({"yz": 1}, {"x": 1, "y": -1}, {"": 1, "xy": -1})),
    "sprott-c": Quadratic(({"yz": 1}, {"x": 1, "y": -1}, {"": 1, "xx": -1})),
    "rucklidge": Quadratic(({"x": -2, "y": 6.7, "yz": -1}, {"x": 1}, {"z": -1, "yy": 1})),
    "hadley": Quadratic(
        (
            {"yy": -1, "zz": -1, "x": -0.2, "": 0.2 * 9},
            {"xy": 1, "xz": -4, "y": -1, "": 1},
            {"xy": 4, "xz": 1, "z": -1},
        )
    ),
    "rikitake": Quadratic(({"x": -1, "yz": 1}, {"y": -1, "xz": 1, "x": -1}, {"": 1, "xy": -1})),
    "dadras": Quadratic(({"y": 1, "x": -3, "yz": 2.7}, {"y": 1.7, "xz": -1, "z": 1}, {"xy": 2, "z": -9})),
    "lorenz-96-5": Quadratic(_ring(), "vwxyz"),
}


def _system(name: str, centre: tuple[float, ...], exponent: float, period: float, spread: float = 0.5) -> System:
    flow = QUADRATIC[name]
    return System(name, flow, flow.jacobian, centre, exponent, period, spread=spread, transient=300.0)


# centres lie in the basin, periods are those of trajectory.dominant_period with 64 runs, exponents are known to 1-3 %
CHAOS12: dict[str, System] = {
    system.name: system
    for system in [
        LORENZ63,
        _system("roessler", (0.0, -5.0, 0.0), 0.072, 5.858),
        _system("chen", (0.0, 0.0, 20.0), 2.03, 0.6),
        System("thomas", thomas, thomas_jacobian, (1.0, 0.0, 0.0), 0.035, 45.5, spread=0.5, transient=300.0),
        _system("halvorsen", (-5.0, 0.0, 0.0), 0.69, 1.488),
        _system("sprott-b", (0.0, 0.0, 0.0), 0.21, 8.4),
        _system("sprott-c", (0.0, 0.0, 0.0), 0.16, 4.77),
        _system("rucklidge", (0.0, 0.0, 5.0), 0.19, 3.46),
        _system("hadley", (1.0, 0.0, 0.0), 0.21, 1.44),
        _system("rikitake", (0.0, 0.0, 1.0), 0.13, 5.12),
        _system("dadras", (1.0, 1.0, 1.0), 0.38, 3.6),
        LORENZ96_5,
    ]
}
