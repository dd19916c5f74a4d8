r"""Particles that act on each other in pairs, and on fixed sources: planets, charges, springs.

With softened distances :math:`\rho_{ij}=\sqrt{|x_i-x_j|^2+\epsilon^2}` the energy is

.. math:: H=\sum_i\tfrac12m_i|v_i|^2+\sum_{i<j}U_{ij}(\rho_{ij})+\sum_{i,s}U_{is}(\rho_{is}),

where :math:`U` is one of ``POTENTIALS`` and :math:`s` counts sources that do not move. A state lists all positions, then
all velocities. Masses, charges and sources may differ from run to run: give them with leading axes.
"""

import difflib
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from touchstone.data.ode import System

# energy and its slope over the distance, each a function of distance, product of masses, product of charges
POTENTIALS: dict[str, tuple[Callable, Callable]] = {
    "gravity": (lambda r, mass, charge: -mass / r, lambda r, mass, charge: mass / r**3),
    "charge": (lambda r, mass, charge: charge / r, lambda r, mass, charge: -charge / r**3),
    "log": (lambda r, mass, charge: mass * np.log(r), lambda r, mass, charge: mass / r**2),
    "spring": (lambda r, mass, charge: (r - 1) ** 2, lambda r, mass, charge: 2 * (r - 1) / r),
}


class Bodies:
    r"""Right-hand side and invariants of a set of particles.

    Args:
        masses: of the particles.
        potential: gravity :math:`-m_im_j/\rho`, charge :math:`q_iq_j/\rho`, log :math:`m_im_j\ln\rho` or spring
            :math:`(\rho-1)^2`.
        charges: of the particles; 1 each if None.
        sources: positions of fixed sources, or None.
        strengths: their masses (gravity, log) or charges; 1 each if None.
        softening: :math:`\epsilon`.
        dimension: of space.

    Raises:
        ValueError: if the potential is unknown, a mass or the softening out of range, or a shape does not fit.
    """

    def __init__(
        self,
        masses: Float[np.ndarray, "*#batch bodies"],
        potential: str = "gravity",
        charges: Float[np.ndarray, "*#batch bodies"] | None = None,
        sources: Float[np.ndarray, "*#batch sources space"] | None = None,
        strengths: Float[np.ndarray, "*#batch sources"] | None = None,
        softening: float = 0.0,
        dimension: int = 2,
    ) -> None:
        if potential not in POTENTIALS:
            near = difflib.get_close_matches(potential, POTENTIALS, 1, 0)
            raise ValueError(f"potential is {potential!r}: did you mean {near[0]!r}? There are {', '.join(POTENTIALS)}")
        if not (masses > 0).all() or masses.size == 0 or softening < 0:
            raise ValueError(f"masses must be positive and softening at least 0, got {masses} and {softening}")
        charges = np.ones_like(masses) if charges is None else charges
        if charges.shape[-1] != masses.shape[-1]:
            raise ValueError(f"charges has shape {charges.shape}, masses {masses.shape}: give one of each a body")
        if sources is not None and sources.shape[-1] != dimension:
            raise ValueError(f"sources has shape {sources.shape}, expected {dimension} coordinates along the last axis")
        self.masses, self.charges, self.potential = masses, charges, potential
        self.sources, self.softening, self.dimension = sources, softening, dimension
        self.strengths = np.ones(sources.shape[:-1]) if sources is not None and strengths is None else strengths
        self.count = masses.shape[-1]

    @property
    def source(self) -> str:
        """What trajectories depend on."""
        values = [self.masses, self.charges, self.sources, self.strengths]
        plain = [None if value is None else value.tolist() for value in values]
        return f"Bodies{(self.potential, self.softening, self.dimension, plain)}"

    def split(
        self, state: Float[np.ndarray, "*batch dim"]
    ) -> tuple[Float[np.ndarray, "*batch bodies space"], Float[np.ndarray, "*batch bodies space"]]:
        """Positions and velocities of a state.

        Args:
            state: all positions, then all velocities, along the last axis.

        Returns:
            positions and velocities.
        """
        parts = state.reshape(*state.shape[:-1], 2, self.count, self.dimension)
        return parts[..., 0, :, :], parts[..., 1, :, :]

    def _pairs(self, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Separations, softened distances and products, among the particles and with the sources."""
        m, q = self.masses[..., :, None], self.charges[..., :, None]
        others = [(x, m.swapaxes(-1, -2), q.swapaxes(-1, -2), np.eye(self.count))]
        if self.sources is not None:
            strength = self.strengths[..., None, :]
            others.append((self.sources, strength, strength, 0.0))
        found = []
        for place, mass, charge, itself in others:
            apart = x[..., :, None, :] - place[..., None, :, :]
            # a particle's distance from itself is set to 1: no division by 0, and its part is left out below
            distance = np.sqrt((apart**2).sum(-1) + self.softening**2 + itself)
            found.append((apart, distance, m * mass * (1 - itself), q * charge * (1 - itself)))
        return found

    def __call__(self, state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim"]:
        """Right-hand side.

        Args:
            state: all positions, then all velocities, along the last axis.

        Returns:
            time derivative.
        """
        x, v = self.split(state)
        slope = POTENTIALS[self.potential][1]
        force = np.zeros_like(x)
        for apart, distance, mass, charge in self._pairs(x):
            # the separation of a particle from itself is 0, and so is that force
            force = force - (slope(distance, mass, charge)[..., None] * apart).sum(-2)
        return np.stack([v, force / self.masses[..., None]], -3).reshape(state.shape)

    def energy(self, state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch"] | np.floating:
        """Kinetic and potential energy.

        Args:
            state: all positions, then all velocities, along the last axis.

        Returns:
            total energy.
        """
        x, v = self.split(state)
        total = 0.5 * (self.masses * (v**2).sum(-1)).sum(-1)
        for share, (_, distance, mass, charge) in zip([0.5, 1.0], self._pairs(x), strict=False):
            pair = POTENTIALS[self.potential][0](distance, mass, charge)
            if share == 0.5:
                pair = pair * (1 - np.eye(self.count))
            total = total + share * pair.sum((-2, -1))
        return total

    def momentum(
        self, state: Float[np.ndarray, "*batch dim"], axis: int = 0
    ) -> Float[np.ndarray, "*batch"] | np.floating:
        """Momentum along one axis, constant without sources.

        Args:
            state: all positions, then all velocities, along the last axis.
            axis: of space.

        Returns:
            total momentum.
        """
        return (self.masses * self.split(state)[1][..., axis]).sum(-1)

    def angular_momentum(self, state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch"] | np.floating:
        """Angular momentum in the plane of the first two axes, constant without sources.

        Args:
            state: all positions, then all velocities, along the last axis.

        Returns:
            total angular momentum about the origin.
        """
        x, v = self.split(state)
        return (self.masses * (x[..., 0] * v[..., 1] - x[..., 1] * v[..., 0])).sum(-1)

    def system(
        self,
        name: str,
        starts: Callable[[np.random.Generator, int], np.ndarray],
        period: float | None = None,
        exponent: float | None = None,
    ) -> System:
        """These particles as a system.

        Args:
            name: under which trajectories are cached.
            starts: draws states from a generator and a number of runs.
            period: dominant period, if it is known.
            exponent: largest Lyapunov exponent, if it is known.

        Returns:
            the system, with every invariant it has.
        """
        invariants = {"energy": self.energy}
        if self.sources is None:
            invariants |= {f"momentum {i}": functools.partial(self.momentum, axis=i) for i in range(self.dimension)}
            invariants |= {"angular momentum": self.angular_momentum}
        centre = (0.0,) * (2 * self.count * self.dimension)
        return System(name, self, None, centre, exponent, period, invariants, transient=0.0, starts=starts)


def box_starts(
    random: np.random.Generator, runs: int, count: int, dimension: int = 2, size: float = 1.0, speed: float = 0.5
) -> Float[np.ndarray, "runs dim"]:
    """Bodies anywhere in a box, with normal velocities.

    Args:
        random: generator.
        runs: number of states.
        count: bodies.
        dimension: of space.
        size: half the edge of the box.
        speed: standard deviation of each velocity component.

    Returns:
        states.
    """
    half = count * dimension
    return np.concatenate([random.uniform(-size, size, (runs, half)), speed * random.standard_normal((runs, half))], 1)


def charged_particles(
    charges: Float[np.ndarray, "*runs bodies"],
    sources: Float[np.ndarray, "*runs sources 2"] | None = None,
    strengths: Float[np.ndarray, "*runs sources"] | None = None,
    softening: float = 0.1,
    size: float = 2.0,
) -> System:
    """Charges of unit mass in the plane, with or without a hidden field of fixed charges.

    Args:
        charges: plus or minus one, usually; one row a run where they differ.
        sources: positions of the fixed charges.
        strengths: the fixed charges.
        softening: length below which the Coulomb force is smoothed.
        size: half the edge of the box in which the particles start.

    Returns:
        the system.
    """
    count = charges.shape[-1]
    bodies = Bodies(np.ones(count), "charge", charges, sources, strengths, softening)
    return bodies.system("charged-particles", functools.partial(box_starts, count=count, size=size))


def springs(count: int = 4, softening: float = 0.01) -> System:
    """Unit masses in the plane, every pair joined by a spring of rest length 1.

    Args:
        count: number of masses.
        softening: length below which the force is smoothed.

    Returns:
        the system.
    """
    bodies = Bodies(np.ones(count), "spring", softening=softening)
    return bodies.system("springs", functools.partial(box_starts, count=count))
