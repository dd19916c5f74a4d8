r"""Explicit solvers of :math:`\dot z=f(t,z)` in PyTorch: adaptive Dormand-Prince 5(4), and Runge-Kutta 4 with fixed steps.

Autograd passes through the steps, so that a loss of the returned states can be differentiated as it stands (direct
back-propagation; the graph of every step is kept). The step size is a number and not part of the graph. A state is one
tensor of any shape; one step size serves all of it.

Sources: J. R. Dormand, P. J. Prince, J. Comput. Appl. Math. 6, 1980; interpolation between steps: L. F. Shampine, Math.
Comp. 46, 1986; step control and first step: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations
I, II.4, 1993.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite

Field = Callable[[float, Tensor], Tensor]

# Dormand-Prince: nodes, stages (the last row is the solution of order 5, whose stage is the next step's first), error of the
# embedded solution of order 4, and quartic interpolation in powers of the elapsed share of the step
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
INTERPOLATION = (
    (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
    (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
    (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
    (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
    (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
)


@dataclass
class Count:
    """What a solve cost; pass one to several solves and they add up.

    Attributes:
        forward: evaluations of the vector field.
        backward: evaluations in the backward pass of an adjoint, each with one vector-Jacobian product.
        accepted: steps of an adaptive solver.
        rejected: steps that it had to repeat.
    """

    forward: int = 0
    backward: int = 0
    accepted: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class RK4:
    """The classical Runge-Kutta method of order 4.

    Args:
        steps: equal steps between two requested times.
    """

    steps: int = 1


@dataclass(frozen=True)
class Dopri5:
    r"""Dormand-Prince 5(4) with local error control.

    A step is accepted when the rms over all entries of :math:`e/(a+r\max(|z_n|,|z_{n+1}|))` is at most 1, where
    :math:`e` is the difference to the embedded solution of order 4. The next step is :math:`0.9\,\text{rms}^{-1/5}` times
    the present one, the factor held within 0.2 and 10.

    Args:
        rtol: relative tolerance of a step, r.
        atol: absolute tolerance of a step, a; that of ``rtol`` by default.
        blocks: sizes of consecutive parts of a flat state; the largest rms of a part counts, so that a large part does
            not hide a small one. One part by default.
        most: steps after which a solve is given up.
    """

    rtol: float = 1e-3
    atol: float | None = None
    blocks: Sequence[int] | None = None
    most: int = 10_000

    def rms(self, error: Tensor, size: Tensor) -> float:
        """The error in units of the tolerance."""
        scaled = error.detach() / ((self.rtol if self.atol is None else self.atol) + self.rtol * size.detach())
        parts = [scaled] if self.blocks is None else scaled.split(list(self.blocks))
        return max(part.square().mean().sqrt().item() for part in parts)


def odeint(
    field: Field,
    start: Float[Tensor, "*state"],
    times: Float[Tensor, "times"],
    solver: Dopri5 | RK4 = Dopri5(),
    count: Count | None = None,
) -> Float[Tensor, "times *state"]:
    """States at requested times.

    Args:
        field: time derivative, from the time (a float) and the state.
        start: state at the first of the times.
        times: increasing or decreasing; no gradient is passed to them.
        solver: which method, with its tolerances or steps. Between the steps of :class:`Dopri5` the state is interpolated,
            and the last step ends on the last time.
        count: is increased by what the solve costs.

    Returns:
        the states, the first of which is ``start``.

    Raises:
        ValueError: if an argument is empty or not finite, the times are not monotone, a number of steps or a tolerance is
            not positive, or a tolerance below 1e-5 meets a state that is not float64 (its rounding would stall the solver).
        FloatingPointError: if the step size underflows, or too many steps are needed.
    """
    finite(start=start, times=times)
    clock = [float(time) for time in times]
    direction = math.copysign(1.0, clock[-1] - clock[0])
    if times.ndim != 1 or any((b - a) * direction <= 0 for a, b in pairwise(clock)):
        raise ValueError("times must be one axis of strictly increasing, or strictly decreasing, numbers")
    count = Count() if count is None else count
    if isinstance(solver, RK4):
        if solver.steps < 1:
            raise ValueError(f"steps is {solver.steps}: RK4 needs one or more between two times")
        return torch.stack(_fixed(field, start, clock, solver.steps, count))
    atol = solver.rtol if solver.atol is None else solver.atol
    if not min(solver.rtol, atol) > 0:
        raise ValueError(f"rtol and atol must be positive, got {solver.rtol} and {atol}")
    if min(solver.rtol, atol) < 1e-5 and start.dtype != torch.float64:
        raise ValueError(
            f"start is {start.dtype}: tolerances below 1e-5 need torch.float64, got {solver.rtol} and {atol}"
        )
    return torch.stack(_adaptive(field, start, clock, direction, solver, count))


def rk4_step(field: Field, time: float, state: Tensor, step: float) -> Tensor:
    """One step of the classical Runge-Kutta method.

    Args:
        field: time derivative.
        time: where the step starts.
        state: the state there.
        step: its length.

    Returns:
        the state at its end.
    """
    a = field(time, state)
    b = field(time + step / 2, torch.add(state, a, alpha=step / 2))
    c = field(time + step / 2, torch.add(state, b, alpha=step / 2))
    d = field(time + step, torch.add(state, c, alpha=step))
    return torch.add(state, torch.add(a + d, b + c, alpha=2), alpha=step / 6)


def _fixed(field: Field, state: Tensor, clock: list[float], steps: int, count: Count) -> list[Tensor]:
    """States at the times, by equal steps in between."""
    states = [state]
    for before, after in pairwise(clock):
        step = (after - before) / steps
        for number in range(steps):
            state = rk4_step(field, before + number * step, state, step)
        states.append(state)
    count.forward += 4 * steps * (len(clock) - 1)
    return states


def _combined(state: Tensor, step: float, weights: Sequence[float], rates: Sequence[Tensor]) -> Tensor:
    """The state plus a weighted sum of rates times the step; linear, so autograd keeps nothing for it."""
    for weight, rate in zip(weights, rates, strict=True):
        if weight:
            state = torch.add(state, rate, alpha=step * weight)
    return state


def _first_step(field: Field, time: float, state: Tensor, rate: Tensor, direction: float, solver: Dopri5) -> float:
    """A length for which the first step should be about right, from the size of two derivatives (Hairer's rule)."""
    with torch.no_grad():
        size = state.abs()
        speed = solver.rms(rate, size)
        guess = 0.01 * solver.rms(state, size) / speed if speed > 1e-5 else 1e-6
        guess = max(guess, 1e-6)
        ahead = field(time + direction * guess, torch.add(state, rate, alpha=direction * guess))
        bend = max(speed, solver.rms(ahead - rate, size) / guess)
    return min(100 * guess, (0.01 / bend) ** 0.2 if bend > 1e-15 else max(1e-6, 1e-3 * guess))


def _adaptive(
    field: Field, state: Tensor, clock: list[float], direction: float, solver: Dopri5, count: Count
) -> list[Tensor]:
    """States at the times, by steps whose local error is held at the tolerance."""
    time, waiting, states = clock[0], 1, [state]
    if len(clock) == 1:
        return states
    rate = field(time, state)
    length = _first_step(field, time, state, rate, direction, solver)
    count.forward += 2
    for _ in range(solver.most):
        left = abs(clock[-1] - time)
        last = length >= left * (1 - 1e-10)
        step = direction * min(length, left)
        if abs(step) <= 1e-14 * max(abs(time), abs(clock[-1])):
            raise FloatingPointError(f"step size underflows at time {time:.6g}: the field is too stiff or not finite")
        rates = [rate]
        for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
            new = _combined(state, step, weights, rates)
            rates.append(field(time + node * step, new))
        count.forward += 6
        with torch.no_grad():
            error = _combined(torch.zeros_like(state), step, ERROR, rates)
            ratio = solver.rms(error, torch.maximum(state.abs(), new.abs()))
        factor = min(10.0, max(0.2, 0.9 * ratio**-0.2)) if ratio > 0 else 10.0
        if not ratio <= 1:  # too large, or not a number
            length = abs(step) * (factor if math.isfinite(ratio) else 0.2)
            count.rejected += 1
            continue
        count.accepted += 1
        end = clock[-1] if last else time + step
        while waiting < len(clock) and (end - clock[waiting]) * direction > 0:
            share = (clock[waiting] - time) / step
            powers = [sum(c * share ** (k + 1) for k, c in enumerate(row)) for row in INTERPOLATION]
            states.append(_combined(state, step, powers, rates))
            waiting += 1
        if waiting < len(clock) and end == clock[waiting]:
            states.append(new)
            waiting += 1
        if last:
            return states
        time, state, rate, length = end, new, rates[-1], abs(step) * factor
    raise FloatingPointError(f"{solver.most} steps reach only time {time:.6g} of {clock[-1]:.6g}")
