"""The systems of :mod:`~touchstone.data.mechanics` by name, with periods, invariants and starts."""

import difflib
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from touchstone.data import mechanics
from touchstone.data.mechanics import Parameter
from touchstone.data.ode import Field, System


@dataclass(frozen=True)
class _Kind:
    """What :func:`system` needs to know; ``lost`` names parameters that end conservation unless they are 0."""

    field: Field
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    period: Callable[..., float]
    invariants: dict[str, Field]
    lost: tuple[str, ...] = ()
    exponent: float | None = 0.0
    transient: float = 0.0


def _turn(square: float) -> float:
    """Period of a harmonic oscillation, from its squared angular frequency."""
    return 2 * math.pi / math.sqrt(abs(square))


# periods: of small oscillations, or of the drive; exponents: 0 for regular motion, None where it depends on the energy
KINDS = {
    "spring-mass": _Kind(
        mechanics.spring_mass,
        (0.0, 0.0),
        (1.0, 1.0),
        lambda mass, stiffness: _turn(stiffness / mass),
        {"energy": mechanics.spring_mass_energy},
    ),
    "pendulum": _Kind(
        mechanics.pendulum,
        (0.0, 0.0),
        (0.8, 0.5),
        lambda length, gravity, damping: _turn(gravity / length),
        {"energy": mechanics.pendulum_energy},
        ("damping",),
    ),
    "driven-pendulum": _Kind(
        mechanics.driven_pendulum,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 0.0),
        lambda damping, amplitude, frequency: 2 * math.pi / frequency,
        {},
        exponent=None,
        transient=300.0,
    ),
    "duffing": _Kind(
        mechanics.duffing,
        (0.0, 0.0),
        (1.2, 0.8),
        lambda damping, linear, cubic: _turn(-2 * linear if linear < 0 else linear or 1.0),
        {"energy": mechanics.duffing_energy},
        ("damping",),
    ),
    "forced-duffing": _Kind(
        mechanics.forced_duffing,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 0.0),
        lambda damping, amplitude, frequency: 2 * math.pi / frequency,
        {},
        exponent=None,
        transient=300.0,
    ),
    "lotka-volterra": _Kind(
        mechanics.lotka_volterra,
        (4.0, 2.0),
        (0.5, 0.3),
        lambda a, b, c, d: _turn(a * c),
        {"invariant": mechanics.lotka_volterra_invariant},
    ),
    "henon-heiles": _Kind(
        mechanics.henon_heiles,
        (0.0,) * 4,
        (0.12,) * 4,
        lambda coupling: 2 * math.pi,
        {"energy": mechanics.henon_heiles_energy},
        exponent=None,
    ),
    "cart-pole": _Kind(
        mechanics.cart_pole,
        (0.0, 0.0, math.pi, 0.0),
        (0.3, 0.3, 0.8, 1.0),
        lambda push, cart, pole, length, gravity: _turn(gravity * (cart + pole) / (cart * length)),
        {"energy": mechanics.cart_pole_energy, "momentum": mechanics.cart_pole_momentum},
        ("push",),
        exponent=None,
    ),
}


def system(name: str, **parameters: Parameter) -> System:
    """A mechanical system, with its invariants.

    Args:
        name: one of ``KINDS``: spring-mass, pendulum, driven-pendulum, duffing, forced-duffing, lotka-volterra,
            henon-heiles, cart-pole.
        **parameters: of its right-hand side; arrays give one value to each run.

    Returns:
        the system. Its period is that of small oscillations or of the drive, with the mean of array parameters.
        Invariants are missing where damping or a push spoils them, and broadcast array parameters as the field does.

    Raises:
        ValueError: if the name or a parameter is unknown; the message names the nearest.
    """
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, 1, 0)
        raise ValueError(f"name is {name!r}: did you mean {near[0]!r}? There are {', '.join(KINDS)}")
    kind = KINDS[name]
    values = _defaults(kind.field)
    for key in parameters:
        if key not in values:
            raise ValueError(f"{name} has no parameter {key!r}: it has {', '.join(values)}")
    values |= parameters
    conserved = not any(np.any(values[key]) for key in kind.lost)
    invariants = {
        key: functools.partial(function, **{k: v for k, v in parameters.items() if k in _defaults(function)})
        for key, function in kind.invariants.items()
        if conserved
    }
    return System(
        name,
        functools.partial(kind.field, **parameters),
        None,
        kind.centre,
        kind.exponent,
        kind.period(**{key: float(np.mean(value)) for key, value in values.items()}),
        invariants,
        kind.spread,
        kind.transient,
    )


def _defaults(function: Callable) -> dict[str, Parameter]:
    """A right-hand side's parameters with their default values."""
    items = list(inspect.signature(function).parameters.values())[1:]
    return {item.name: item.default for item in items}
