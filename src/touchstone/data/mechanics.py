r"""Regular and forced systems of one to three degrees of freedom, with their invariants.

Every right-hand side takes its parameters as arguments, numbers or arrays that broadcast against the leading axes of the
state, so that a family of systems is integrated as one batch. :func:`touchstone.data.regular.system` makes a
:class:`~touchstone.data.ode.System` of any of them by name.
"""

import numpy as np
from jaxtyping import Float

Parameter = float | int | np.ndarray


def spring_mass(
    state: Float[np.ndarray, "*batch 2"], mass: Parameter = 1.0, stiffness: Parameter = 1.0
) -> Float[np.ndarray, "*batch 2"]:
    """A mass on a spring.

    Args:
        state: position and momentum.
        mass: of the body.
        stiffness: force per length.

    Returns:
        time derivative.
    """
    return np.stack([state[..., 1] / mass, -stiffness * state[..., 0]], -1)


def spring_mass_energy(
    state: Float[np.ndarray, "*batch 2"], mass: Parameter = 1.0, stiffness: Parameter = 1.0
) -> Float[np.ndarray, "*batch"] | np.floating:
    """Energy of :func:`spring_mass`; same arguments.

    Args:
        state: position and momentum.
        mass: of the body.
        stiffness: force per length.

    Returns:
        energy.
    """
    return 0.5 * state[..., 1] ** 2 / mass + 0.5 * stiffness * state[..., 0] ** 2


def pendulum(
    state: Float[np.ndarray, "*batch 2"], length: Parameter = 1.0, gravity: Parameter = 1.0, damping: Parameter = 0.0
) -> Float[np.ndarray, "*batch 2"]:
    r"""The pendulum :math:`\ddot\theta=-(g/l)\sin\theta-\gamma\dot\theta`.

    Args:
        state: angle from the lower rest (rad) and its rate.
        length: l.
        gravity: g.
        damping: :math:`\gamma`, per unit time.

    Returns:
        time derivative.
    """
    angle, rate = state[..., 0], state[..., 1]
    return np.stack([rate, -gravity / length * np.sin(angle) - damping * rate], -1)


def pendulum_energy(
    state: Float[np.ndarray, "*batch 2"], length: Parameter = 1.0, gravity: Parameter = 1.0
) -> Float[np.ndarray, "*batch"] | np.floating:
    """Energy of :func:`pendulum` per mass and squared length, 0 at the lower rest.

    Args:
        state: angle from the lower rest (rad) and its rate.
        length: of the rod.
        gravity: acceleration.

    Returns:
        energy, constant without damping.
    """
    return 0.5 * state[..., 1] ** 2 + gravity / length * (1 - np.cos(state[..., 0]))


def driven_pendulum(
    state: Float[np.ndarray, "*batch 3"],
    damping: Parameter = 0.5,
    amplitude: Parameter = 1.5,
    frequency: Parameter = 2 / 3,
) -> Float[np.ndarray, "*batch 3"]:
    r"""The damped driven pendulum :math:`\ddot\theta=-\sin\theta-\gamma\dot\theta+A\cos\phi,\ \dot\phi=\omega`.

    Args:
        state: angle (rad), its rate, phase of the drive (rad).
        damping: :math:`\gamma`; at the defaults the motion is chaotic.
        amplitude: A.
        frequency: :math:`\omega` (rad per unit time).

    Returns:
        time derivative.
    """
    angle, rate, phase = state[..., 0], state[..., 1], state[..., 2]
    return np.stack([rate, amplitude * np.cos(phase) - np.sin(angle) - damping * rate, frequency + 0 * phase], -1)


def duffing(
    state: Float[np.ndarray, "*batch 2"], damping: Parameter = 0.2, linear: Parameter = -1.0, cubic: Parameter = 1.0
) -> Float[np.ndarray, "*batch 2"]:
    r"""The free Duffing oscillator :math:`\ddot x=-\gamma\dot x-\alpha x-\beta x^3`, by default with two wells.

    Args:
        state: position and velocity.
        damping: :math:`\gamma`.
        linear: :math:`\alpha`.
        cubic: :math:`\beta`.

    Returns:
        time derivative.
    """
    x, v = state[..., 0], state[..., 1]
    return np.stack([v, -damping * v - linear * x - cubic * x**3], -1)


def duffing_energy(
    state: Float[np.ndarray, "*batch 2"], linear: Parameter = -1.0, cubic: Parameter = 1.0
) -> Float[np.ndarray, "*batch"] | np.floating:
    """Energy of :func:`duffing`.

    Args:
        state: position and velocity.
        linear: coefficient of the linear force.
        cubic: coefficient of the cubic force.

    Returns:
        energy, constant without damping.
    """
    x, v = state[..., 0], state[..., 1]
    return 0.5 * v**2 + 0.5 * linear * x**2 + 0.25 * cubic * x**4


def forced_duffing(
    state: Float[np.ndarray, "*batch 3"],
    damping: Parameter = 0.3,
    amplitude: Parameter = 0.5,
    frequency: Parameter = 1.2,
) -> Float[np.ndarray, "*batch 3"]:
    r"""The forced two-well Duffing oscillator, :math:`\ddot x=-\gamma\dot x+x-x^3+A\cos\phi,\ \dot\phi=\omega`.

    Args:
        state: position, velocity, phase of the force (rad).
        damping: :math:`\gamma`; at the defaults the motion is chaotic.
        amplitude: A.
        frequency: :math:`\omega` (rad per unit time).

    Returns:
        time derivative.
    """
    x, v, phase = state[..., 0], state[..., 1], state[..., 2]
    return np.stack([v, amplitude * np.cos(phase) - damping * v + x - x**3, frequency + 0 * phase], -1)


def lotka_volterra(
    state: Float[np.ndarray, "*batch 2"],
    a: Parameter = 1.5,
    b: Parameter = 1.0,
    c: Parameter = 3.0,
    d: Parameter = 1.0,
) -> Float[np.ndarray, "*batch 2"]:
    r"""Prey and predator, :math:`\dot x=ax-bxy,\ \dot y=dxy-cy`.

    Args:
        state: numbers of prey and predators, positive.
        a: growth of the prey.
        b: loss of prey to predators.
        c: decay of the predators.
        d: gain of predators from prey.

    Returns:
        time derivative.
    """
    x, y = state[..., 0], state[..., 1]
    return np.stack([a * x - b * x * y, d * x * y - c * y], -1)


def lotka_volterra_invariant(
    state: Float[np.ndarray, "*batch 2"],
    a: Parameter = 1.5,
    b: Parameter = 1.0,
    c: Parameter = 3.0,
    d: Parameter = 1.0,
) -> Float[np.ndarray, "*batch"] | np.floating:
    r"""The invariant :math:`dx-c\ln x+by-a\ln y` of :func:`lotka_volterra`; same arguments.

    Args:
        state: numbers of prey and predators, positive.
        a: growth of the prey.
        b: loss of prey to predators.
        c: decay of the predators.
        d: gain of predators from prey.

    Returns:
        the invariant.
    """
    x, y = state[..., 0], state[..., 1]
    return d * x - c * np.log(x) + b * y - a * np.log(y)


def henon_heiles(state: Float[np.ndarray, "*batch 4"], coupling: Parameter = 1.0) -> Float[np.ndarray, "*batch 4"]:
    r"""A star's orbit in the potential :math:`\tfrac12(x^2+y^2)+\lambda(x^2y-\tfrac13y^3)`.

    Args:
        state: x, y and their momenta; bounded below the energy :math:`1/(6\lambda^2)`.
        coupling: :math:`\lambda`.

    Returns:
        time derivative.
    """
    x, y, px, py = np.moveaxis(state, -1, 0)
    return np.stack([px, py, -x - 2 * coupling * x * y, -y - coupling * (x**2 - y**2)], -1)


def henon_heiles_energy(
    state: Float[np.ndarray, "*batch 4"], coupling: Parameter = 1.0
) -> Float[np.ndarray, "*batch"] | np.floating:
    """Energy of :func:`henon_heiles`; same arguments.

    Args:
        state: x, y and their momenta.
        coupling: of the cubic terms.

    Returns:
        energy.
    """
    x, y, px, py = np.moveaxis(state, -1, 0)
    return 0.5 * (px**2 + py**2 + x**2 + y**2) + coupling * (x**2 * y - y**3 / 3)


def cart_pole(
    state: Float[np.ndarray, "*batch 4"],
    push: Parameter = 0.0,
    cart: Parameter = 1.0,
    pole: Parameter = 0.1,
    length: Parameter = 0.5,
    gravity: Parameter = 9.8,
) -> Float[np.ndarray, "*batch 4"]:
    """A point mass on a massless pole, hinged on a cart without friction.

    Args:
        state: position of the cart (m) and its rate, angle of the pole from upright (rad) and its rate.
        push: horizontal force on the cart (N).
        cart: mass of the cart (kg).
        pole: mass at the tip (kg).
        length: of the pole (m).
        gravity: acceleration (m/s²).

    Returns:
        time derivative.
    """
    _, speed, angle, rate = np.moveaxis(state, -1, 0)
    sine, cosine = np.sin(angle), np.cos(angle)
    pull = push + pole * sine * (length * rate**2 - gravity * cosine)
    acceleration = pull / (cart + pole * sine**2)
    return np.stack([speed, acceleration, rate, (gravity * sine - acceleration * cosine) / length], -1)


def cart_pole_energy(
    state: Float[np.ndarray, "*batch 4"],
    cart: Parameter = 1.0,
    pole: Parameter = 0.1,
    length: Parameter = 0.5,
    gravity: Parameter = 9.8,
) -> Float[np.ndarray, "*batch"] | np.floating:
    """Energy of :func:`cart_pole`, constant without a push.

    Args:
        state: as there.
        cart: mass of the cart (kg).
        pole: mass at the tip (kg).
        length: of the pole (m).
        gravity: acceleration (m/s²).

    Returns:
        energy (J).
    """
    _, speed, angle, rate = np.moveaxis(state, -1, 0)
    cross = pole * length * speed * rate * np.cos(angle)
    return (
        0.5 * (cart + pole) * speed**2
        + cross
        + 0.5 * pole * length**2 * rate**2
        + pole * gravity * length * np.cos(angle)
    )


def cart_pole_momentum(
    state: Float[np.ndarray, "*batch 4"], cart: Parameter = 1.0, pole: Parameter = 0.1, length: Parameter = 0.5
) -> Float[np.ndarray, "*batch"] | np.floating:
    """Horizontal momentum of :func:`cart_pole`, constant without a push.

    Args:
        state: as there.
        cart: mass of the cart (kg).
        pole: mass at the tip (kg).
        length: of the pole (m).

    Returns:
        momentum (kg m/s).
    """
    return (cart + pole) * state[..., 1] + pole * length * np.cos(state[..., 2]) * state[..., 3]
