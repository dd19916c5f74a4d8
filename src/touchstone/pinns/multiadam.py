r"""MultiAdam: Adam's normalisation for every loss by itself, parameter by parameter.

The losses of a physics-informed network have different units. Stretch the domain of a second-order equation by
:math:`L` and the squared residual shrinks by :math:`L^4` against the boundary loss, so Adam on the sum follows whichever
loss is larger. MultiAdam keeps a first and a second moment for every group of losses and averages the groups' normalised
directions. A factor in front of a loss then cancels, and there is no weight to choose.

Source: Yao, Su, Hao, Liu, Su and Zhu (2023), arXiv:2306.02816, algorithm 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.pinns.balancing import Losses, descend, gradient
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Solution, State, default_network, hand_back


class MultiAdam:
    r"""The optimiser: gradients of :math:`n` groups of losses in, one direction out.

    .. math::

        m_i \leftarrow \beta_1 m_i + (1-\beta_1)\, g_i, \qquad v_i \leftarrow \beta_2 v_i + (1-\beta_2)\, g_i^2, \qquad
        d = \frac1n \sum_{i=1}^n \frac{\hat m_i}{\sqrt{\hat v_i} + \varepsilon}

    An instance is also a rule for :func:`touchstone.pinns.balancing.descend`; it then puts the residual into one group
    and everything on the edges into the other.

    Args:
        betas: decay of the first and the second moment; the authors found a short memory for both to work.
        epsilon: added to the root of the second moment. It is the one thing that a loss's scale can still hit: keep it far
            below the smallest gradients.

    Raises:
        ValueError: if a decay lies outside [0, 1) or ``epsilon`` is negative.
    """

    def __init__(self, betas: tuple[float, float] = (0.99, 0.99), epsilon: float = 1e-8):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}: both must lie in [0, 1)")
        if epsilon < 0:
            raise ValueError(f"epsilon is {epsilon}: it must not be negative")
        self.betas, self.epsilon, self.steps = betas, epsilon, 0

    def direction(self, gradients: Float[Tensor, "groups *shape"]) -> Float[Tensor, "*shape"]:
        """Take one gradient for each group in, and return the direction to subtract times the learning rate.

        Args:
            gradients: one gradient a group, of any shape that stays the same from step to step.

        Returns:
            the mean of the groups' normalised first moments; a group whose gradient was never other than 0 adds 0.

        Raises:
            ValueError: if the gradients are empty, not finite, or change their shape.
        """
        finite(gradients=gradients)
        if self.steps:
            shaped("gradients", gradients, tuple(self.first.shape))
        return self._direction(gradients)

    def _direction(self, gradients: Tensor) -> Tensor:
        """The update; the training loop checks its result, not its every input."""
        if self.steps == 0:
            self.first, self.second = torch.zeros_like(gradients), torch.zeros_like(gradients)
        self.steps += 1
        keep_first, keep_second = self.betas
        self.first = keep_first * self.first + (1 - keep_first) * gradients
        self.second = keep_second * self.second + (1 - keep_second) * gradients**2
        first = self.first / (1 - keep_first**self.steps)
        root = (self.second / (1 - keep_second**self.steps)).sqrt()
        # Each group has been normalised by its own second moment before the groups meet: splitting only the first
        # moment would leave the largest loss in charge of everyone's step size.
        ratio = first / (root + self.epsilon)
        return torch.where(first == 0, 0.0, ratio).mean(0)

    def __call__(self, state: State, losses: Losses) -> Float[Tensor, "seeds parameters"]:
        """One step of a physics-informed network: the residual's group, then that of all initial and boundary losses."""
        edges = [loss() for name, loss in losses.items() if name != "residual"]
        groups = [losses["residual"](), *([sum(edges)] if edges else [])]
        return self._direction(torch.stack([gradient(group, state.network) for group in groups]))


@entrant("pinns", "multiadam")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with two groups, the residual and the edges, and the learning rates of the head-to-head budget."""
    network = default_network(problem, [seed])
    return hand_back(problem, descend(problem, network, [seed], rule=MultiAdam(), budget=budget))
