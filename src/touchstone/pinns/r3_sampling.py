r"""Retain-resample-release (R3) sampling of collocation points, and its causal variant.

A physics-informed network learns from the initial and boundary points inwards. Where that propagation stops, the
residual is large in narrow regions that uniform points miss. R3 treats the collocation points as a population: after
every step the points with a residual above the population's mean stay, the others are drawn anew. Points pile up where
the residual is high, and a region that has been solved is let go at once. The residuals are those of the loss, so the
update costs one comparison and one uniform draw.

Causal R3 multiplies residual and fitness by a gate that opens from early to late times as the early residual falls.

Source: Daw, Bu, Wang, Perdikaris and Karpatne (2022), arXiv:2207.02338, algorithm 1 and section 5.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Solution, State, default_network, hand_back, train, uniform_points
from touchstone.pinns.samplers import magnitude


def retain_resample_release(
    points: Float[Tensor, "seeds n dims"], fitness: Float[Tensor, "seeds n"], fresh: Float[Tensor, "seeds n dims"]
) -> Float[Tensor, "seeds n dims"]:
    r"""One R3 update: keep what is worse than average, replace the rest (algorithm 1).

    The threshold is the mean fitness :math:`\tau`, not a quantile: a quantile would always keep the same share, and
    would never let go of a region that has been solved.

    Args:
        points: this step's collocation points.
        fitness: absolute residual at these points.
        fresh: uniform points; only those in the place of a released point are used.

    Returns:
        next step's points; retained ones keep their coordinates bit for bit, and their place.

    Raises:
        ValueError: if an argument is empty, not finite, or of a shape that does not fit the others.
    """
    sizes = shaped("points", points, ("seeds", "n", "dims"))
    shaped("fitness", fitness, (sizes["seeds"], sizes["n"]))
    shaped("fresh", fresh, (sizes["seeds"], sizes["n"], sizes["dims"]))
    finite(points=points, fitness=fitness, fresh=fresh)
    return _update(points, fitness, fresh)


def _update(points: Tensor, fitness: Tensor, fresh: Tensor) -> Tensor:
    """The update itself; the training loop, which stops at a loss that is not finite, needs no second check."""
    # In float64 the mean of equal float32 numbers is that number, so a constant fitness retains nothing.
    threshold = fitness.mean(dim=1, keepdim=True, dtype=torch.float64)
    return torch.where((fitness > threshold)[..., None], points, fresh)


def r3_points(state: State) -> Float[Tensor, "seeds points dims"]:
    """R3 as the ``choose`` hook of the training loop, from the residuals of the loss and no others."""
    fresh = uniform_points(state)
    return fresh if state.points is None else _update(state.points, magnitude(state.residual), fresh)


def time_gate(
    time: Float[Tensor, "seeds n"], opening: Float[Tensor, "seeds"], steepness: float = 5.0
) -> Float[Tensor, "seeds n"]:
    r"""The causal gate (section 5).

    .. math:: g(t) = \tfrac12 \bigl(1 - \tanh(\alpha (t - \gamma))\bigr)

    Args:
        time: times of the points, rescaled to [0, 1].
        opening: the time :math:`\gamma` up to which the gate is open, one a seed.
        steepness: the :math:`\alpha` of the gate's edge.

    Returns:
        factors between 0 (late, closed) and 1 (early, open).

    Raises:
        ValueError: if an argument is empty, not finite, or of a shape that does not fit the other.
    """
    sizes = shaped("time", time, ("seeds", "n"))
    shaped("opening", opening, (sizes["seeds"],))
    finite(time=time, opening=opening)
    return 0.5 * (1 - torch.tanh(steepness * (time - opening[:, None])))


def advance_gate(
    opening: Float[Tensor, "seeds"], gated_loss: Float[Tensor, "seeds"], rate: float = 5e-3, tolerance: float = 20.0
) -> Float[Tensor, "seeds"]:
    r"""Open the gate further, fast where the gated residual is small.

    .. math:: \gamma \leftarrow \gamma + \eta_g \min\bigl(0.1, \exp(-\epsilon\,\overline{(g r)^2})\bigr)

    Args:
        opening: the :math:`\gamma` of every seed.
        gated_loss: mean of the squared gated residual.
        rate: the :math:`\eta_g`; 5e-3 suits several thousand steps, the authors use 1e-3 with 20 times as many.
        tolerance: the :math:`\epsilon`; the larger, the longer the gate waits.

    Returns:
        the new opening, never smaller than the old one.

    Raises:
        ValueError: if an argument is empty, not finite, or of a shape that does not fit the other.
    """
    sizes = shaped("opening", opening, ("seeds",))
    shaped("gated_loss", gated_loss, (sizes["seeds"],))
    finite(opening=opening, gated_loss=gated_loss)
    return opening + rate * torch.exp(-tolerance * gated_loss).clamp(max=0.1)


class CausalR3:
    r"""R3 behind a gate in time: :meth:`choose` and :meth:`weigh` are the two hooks of the training loop.

    Args:
        opening: where every gate starts, before the first time.

    Attributes:
        opening: the :math:`\gamma` of every seed; the starting value until the first step.
    """

    def __init__(self, opening: float = -0.5):
        self.opening = torch.tensor([opening])

    def gate(self, state: State) -> Float[Tensor, "seeds points"]:
        """The gate at the state's points, whose first coordinate is time."""
        first, last = state.problem.low[0], state.problem.high[0]
        seeds = state.points.shape[0]
        return time_gate((state.points[..., 0] - first) / (last - first), self.opening.expand(seeds))

    def weigh(self, state: State) -> Float[Tensor, "seeds points"]:
        """Factors of the squared residuals: the gate squared, since the gate multiplies the residual."""
        return self.gate(state) ** 2

    def choose(self, state: State) -> Float[Tensor, "seeds points dims"]:
        """R3 with the gated residual as fitness; then the gates move on."""
        fresh = uniform_points(state)
        if state.points is None:
            return fresh
        fitness = self.gate(state) * magnitude(state.residual)
        self.opening = advance_gate(self.opening.expand(len(fitness)), fitness.square().mean(dim=1))
        return _update(state.points, fitness, fresh)


@entrant("pinns", "r3-sampling")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with plain R3, which has no parameter to set."""
    return hand_back(problem, train(problem, default_network(problem, [seed]), [seed], budget=budget, choose=r3_points))
