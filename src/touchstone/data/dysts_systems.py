"""The collection of chaotic flows of the package dysts, with its annotations; nothing is downloaded.

``dysts`` (W. Gilpin, 2021, arXiv:2110.05266) holds right-hand sides, parameters, a state on each attractor, and estimates
of periods, Lyapunov exponents and dimensions. Here they become :class:`~touchstone.data.ode.System` objects whose field
takes a batch of states.
"""

import contextlib
import difflib
import functools
import inspect
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from touchstone.data.ode import System

EXPLICIT_TIME = ("Torus",)  # its right-hand side reads the time; every other forced system carries a phase as state


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """dysts warns that numba is missing and seeds numpy's global generator: neither should reach the user."""
    state = np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    np.random.set_state(state)  # noqa: NPY002


@functools.cache
def _flows() -> ModuleType:
    try:
        with _quiet():
            import dysts.flows
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: install it with 'pip install dysts==0.95'", name=error.name) from error
    return dysts.flows


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    path = Path(_flows().__file__).parent / "data" / "chaotic_attractors.json"
    return json.loads(path.read_text(encoding="utf-8"))


@functools.cache
def _autonomous() -> tuple[str, ...]:
    kinds = {name: getattr(_flows(), name, None) for name in sorted(_table())}
    return tuple(
        name
        for name, kind in kinds.items()
        if inspect.isclass(kind) and issubclass(kind, _flows().DynSys) and name not in EXPLICIT_TIME
    )


def names() -> list[str]:
    """Every flow that :func:`system` can make, in alphabetical order.

    Returns:
        the names of dysts; equations with a delay and those that read the time are left out (see :func:`model`).

    Raises:
        ModuleNotFoundError: if dysts is not installed; the message says how to install it.
    """
    return list(_autonomous())


def annotations(name: str) -> dict[str, Any]:
    """What dysts knows about a flow, delay equations included.

    Args:
        name: as dysts writes it, such as ``"Lorenz"``.

    Returns:
        citation, parameters, period, maximum_lyapunov_estimated, lyapunov_spectrum_estimated, correlation_dimension,
        kaplan_yorke_dimension, multiscale_entropy and more.

    Raises:
        ValueError: if there is no such flow; the message names the nearest.
        ModuleNotFoundError: if dysts is not installed.
    """
    if name not in _table():
        lower = {known.lower(): known for known in _table()}
        near = difflib.get_close_matches(name.lower(), lower, 1, 0)
        raise ValueError(f"name is {name!r}, which dysts does not have: did you mean {lower[near[0]]!r}?")
    return json.loads(json.dumps(_table()[name]))  # a copy: dysts writes into its own


def model(name: str, **parameters: float) -> Any:
    """The package's own object, for what :func:`system` does not cover: delay equations, rescaling of phases.

    Args:
        name: as dysts writes it.
        **parameters: in place of the annotated ones.

    Returns:
        an instance of ``dysts.flows.<name>``.

    Raises:
        ValueError: if there is no such flow, or it has no such parameter.
        ModuleNotFoundError: if dysts is not installed.
    """
    known = annotations(name)["parameters"]
    for key in parameters:
        if key not in known:
            raise ValueError(f"{name} has no parameter {key!r}: it has {', '.join(known) or 'none'}")
    with _quiet():
        return getattr(_flows(), name)(**parameters)


class Flow:
    """A flow of dysts as a function of a batch of states.

    Many formulas of dysts also work on arrays of states. Whether this one does is tried once, on states near its
    attractor; if not, the formula is called state by state, which is slow for large batches.

    Args:
        name: as dysts writes it.
        **parameters: in place of the annotated ones.

    Raises:
        ValueError: if there is no such flow, it has no such parameter, or it is not an autonomous differential equation.
        ModuleNotFoundError: if dysts is not installed.
    """

    def __init__(self, name: str, **parameters: float) -> None:
        self.model = model(name, **parameters)
        if name not in names():
            raise ValueError(
                f"name is {name!r}, which has a delay or reads the time: use model({name!r}) and dysts' own solver"
            )
        self.source = f"dysts {name} {sorted((k, np.asarray(v).tolist()) for k, v in self.model.params.items())}"
        self.vectorised = True
        self.dim = np.atleast_1d(self.model.ic).size
        shake = np.random.default_rng(0).standard_normal((7, self.dim))
        probe = self.model.ic + 0.1 * np.abs(self.model.ic).mean() * shake
        try:
            with np.errstate(all="ignore"):
                together = self(probe)
        except Exception:  # whatever a formula for one state does with many
            together = np.full(probe.shape, np.nan)
        self.vectorised = False
        self.vectorised = np.allclose(together, self(probe), rtol=1e-12, atol=0, equal_nan=False)

    def __call__(self, state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim"]:
        """Right-hand side.

        Args:
            state: coordinates along the last axis, in dysts' order.

        Returns:
            time derivative.
        """
        flat = state.reshape(-1, self.dim)
        if self.vectorised:
            rate = np.stack([np.broadcast_to(part, len(flat)) for part in self.model.rhs(flat, 0.0)], -1)
        else:
            rate = np.array([self.model.rhs(one, 0.0) for one in flat], dtype=float)
        return rate.reshape(state.shape)


def system(name: str, **parameters: float) -> System:
    """A flow of dysts as a system.

    Forced systems carry phases that grow without bound (``unbounded_indices`` of their annotations). Starts scatter by
    a hundredth of the attractor's size about the annotated state; the transient is ten periods.

    Args:
        name: as dysts writes it.
        **parameters: in place of the annotated ones. The period and the exponent are then unknown.

    Returns:
        the system, with dysts' period and largest exponent and a Jacobian by central differences.

    Raises:
        ValueError: if there is no such flow, it has no such parameter, or it is not an autonomous differential equation.
        ModuleNotFoundError: if dysts is not installed.
    """
    flow, known = Flow(name, **parameters), annotations(name)
    exponent, period = (None, None) if parameters else (known["maximum_lyapunov_estimated"], known["period"])
    centre = np.atleast_1d(flow.model.ic)
    size = np.broadcast_to(np.abs(np.asarray(known.get("std") or np.abs(centre).mean())), centre.shape)
    spread = tuple(0.01 * size)
    transient = 10.0 * known["period"]
    return System(f"dysts-{name}", flow, None, tuple(map(float, centre)), exponent, period, {}, spread, transient)
