r"""Continuous deep equilibrium layers: a neural ODE solved to its steady state, with implicit gradients.

The layer's output is the state at which :math:`\dot z=f_\theta(z,u)-z` comes to rest, :math:`z^*=f_\theta(z^*,u)`. Its
gradient needs no solver's steps: :math:`\partial L/\partial\theta=w^\top\partial f/\partial\theta` with
:math:`w=g+J^\top w`, :math:`g=\partial L/\partial z^*`, :math:`J=\partial f/\partial z`. A first guess of :math:`z^*`, trained
along with the layer, shortens the solve (Skip: a network of its own; Skip-Reg: one evaluation of f from zero).

Source: A. Pal, A. Edelman, C. Rackauckas, Continuous Deep Equilibrium Models, 2022, arXiv:2201.12240.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import shaped
from touchstone.dynamics.odeint import Count
from touchstone.dynamics.steady_state import adams, anderson

GUESSES = ("zero", "network", "layer")


class Cell(nn.Module):
    r""":math:`f(z,u)=\tanh(\mathrm{GroupNorm}(W_zz+u))` with weight-normalised :math:`W_z`.

    Args:
        width: units.
        groups: of the normalisation.
        scale: length of the rows of :math:`W_z` at first.
    """

    def __init__(self, width: int, groups: int = 4, scale: float = 0.3):
        super().__init__()
        self.direction = nn.Parameter(torch.randn(width, width))
        self.length = nn.Parameter(torch.full((width, 1), scale))
        self.norm = nn.GroupNorm(groups, width)

    def forward(
        self, state: Float[Tensor, "batch width"], drive: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch width"]:
        """The value of f."""
        weight = self.length * self.direction / self.direction.norm(dim=1, keepdim=True)
        return torch.tanh(self.norm(torch.addmm(drive, state, weight.T)))


@dataclass
class Equilibrium:
    """Finds the steady state of a layer and differentiates it implicitly.

    Args:
        stop: residual over the size of f at which the state counts as steady, over the whole batch.
        accuracy: tolerance of the solver over ``stop``. With equal ones the residual hovers where the steps become unstable.
        most: accepted steps at most.
        discrete: iterate f with Anderson's acceleration in place of the differential equation.
        backward_stop: relative tolerance of the linear system for w.
        backward_most: vector-Jacobian products at most.
        count: evaluations, added up over the solves.
        solves: number of solves.
        capped: how many of them ended at ``most`` steps.
    """

    stop: float = 1e-2
    accuracy: float = 0.1
    most: int = 32
    discrete: bool = False
    backward_stop: float = 0.1
    backward_most: int = 10
    count: Count = field(default_factory=Count)
    solves: int = 0
    capped: int = 0

    def find(
        self,
        f: Callable[[Tensor, Tensor], Tensor],
        guess: Float[Tensor, "batch width"],
        drive: Float[Tensor, "batch width"],
    ) -> Float[Tensor, "batch width"]:
        """The steady state; nothing is kept for a backward pass.

        Args:
            f: the layer.
            guess: where the solver starts.
            drive: input of the layer.

        Returns:
            the state.
        """
        self.solves += 1
        with torch.no_grad():
            if self.discrete:
                state, calls = anderson(lambda z: f(z, drive), guess, self.stop, self.most)
                self.count.forward += calls
                self.capped += calls == self.most
                return state
            before = self.count.accepted
            state = adams(
                lambda z: f(z, drive) - z,
                guess,
                tolerance=self.accuracy * self.stop,
                steady=lambda z, rate: bool(rate.norm() <= self.stop * (rate + z).norm()),
                most=self.most,
                count=self.count,
            )
            self.capped += self.count.accepted - before == self.most
            return state

    def __call__(
        self,
        f: Callable[[Tensor, Tensor], Tensor],
        guess: Float[Tensor, "batch width"],
        drive: Float[Tensor, "batch width"],
    ) -> Float[Tensor, "batch width"]:
        """The steady state with its implicit gradient for the layer's parameters and its input, none for the guess.

        Args:
            f: the layer.
            guess: where the solver starts.
            drive: input of the layer.

        Returns:
            one more evaluation of f at the steady state, to which the gradient is attached.

        Raises:
            ValueError: if guess and drive differ in shape, or the guess is not finite.
        """
        shaped("guess", guess, drive.shape)
        rest = self.find(f, guess.detach(), drive.detach())
        self.count.forward += 1
        output = f(rest, drive)
        if not output.requires_grad:
            return output
        inner = rest.clone().requires_grad_()
        with torch.enable_grad():
            value = f(inner, drive.detach())  # a graph for the products; its value is the output's, and not counted

        def solve(gradient: Tensor) -> Tensor:
            def once(w: Tensor) -> Tensor:
                return gradient + torch.autograd.grad(value, inner, w, retain_graph=True)[0]

            w, products = anderson(once, gradient, self.backward_stop, self.backward_most)
            self.count.backward += products + 1  # one more takes w to the parameters
            return w

        output.register_hook(solve)
        return output


class Layer(nn.Module):
    r"""An equilibrium layer with its first guess.

    Trained with a loss that adds :func:`distance`, the guess learns where the layer comes to rest, and the layer to rest
    near its guess. The solver passes no gradient to the guess.

    Args:
        width: units.
        guess: ``"zero"``; ``"network"``, a network of two layers of its own (Skip); ``"layer"``, :math:`f_\theta(0,u)`,
            without further parameters (Skip-Reg).
        solver: finds the steady state; a new one with its defaults if not given.

    Raises:
        ValueError: if the guess is none of these.
    """

    def __init__(self, width: int, guess: str = "zero", solver: Equilibrium | None = None):
        super().__init__()
        if guess not in GUESSES:
            raise ValueError(f"guess is {guess!r}: use one of {', '.join(GUESSES)}")
        self.kind, self.cell, self.network = guess, Cell(width), None
        if guess == "network":
            self.network = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.solver = Equilibrium() if solver is None else solver

    def first(self, drive: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """The guess, with its graph.

        Args:
            drive: input of the layer.

        Returns:
            a state.
        """
        if self.kind == "network":
            return self.network(drive)
        start = torch.zeros_like(drive)
        if self.kind == "layer":
            self.solver.count.forward += 1
            self.solver.count.backward += torch.is_grad_enabled()
            return self.cell(start, drive)
        return start

    def forward(
        self, drive: Float[Tensor, "batch width"], unroll: int = 0
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch width"]]:
        """The steady state, and the guess from which it was sought.

        Args:
            drive: input of the layer.
            unroll: apply f so many times to the guess, with ordinary gradients, instead of solving (pretraining).

        Returns:
            state and guess.
        """
        start = state = self.first(drive)
        if not unroll:
            return self.solver(self.cell, start, drive), start
        for _ in range(unroll):
            state = self.cell(state, drive)
        self.solver.count.forward += unroll
        self.solver.count.backward += unroll * torch.is_grad_enabled()
        return state, start


def distance(state: Float[Tensor, "batch width"], start: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    r"""The penalty :math:`\|z_0-z^*\|_1` per unit; its gradient goes to the guess and to the steady state.

    Args:
        state: where the layer came to rest.
        start: the guess.

    Returns:
        mean absolute difference.
    """
    return (start - state).abs().mean()
