r"""ConFIG: one update with the same positive angle to the gradient of every loss, shortened where they disagree.

Residual, boundary and initial losses pull the parameters in different directions, and a step along the sum can raise one
of them. ConFIG normalises the gradients, takes the direction whose products with all of them are equal, and gives it the
length of the gradients' summed projections on it. M-ConFIG does the same with one first moment for each loss, of which a
step renews only one: one backward pass a step instead of one for each loss.

Source: Liu, Chu and Thuerey (2024), arXiv:2408.11104, equations 2 to 5 and algorithm 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.pinns.balancing import Losses, Surgery, descend, gradient, gram
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Recipe, Solution, State, default_network, hand_back


def conflict_free(products: Float[Tensor, "seeds losses losses"]) -> Float[Tensor, "seeds losses"]:
    r"""Factors of the gradients in ConFIG's update, from the gradients' products alone.

    With unit gradients as the rows of :math:`M` and their cosines :math:`C=MM^\top`, the direction is
    :math:`g_u=M^+\mathbf 1/\lVert M^+\mathbf 1\rVert` and :math:`M^+\mathbf 1=M^\top C^+\mathbf 1`; the length is
    :math:`\sum_i g_i^\top g_u`.

    Args:
        products: all products :math:`g_i^\top g_j`, float64.

    Returns:
        the factors; all 0 where no direction lowers every loss.

    Raises:
        ValueError: if the products are missing, not finite or not square.
    """
    sizes = shaped("products", products, ("seeds", "losses", "losses"))
    finite(products=products)
    lengths = products.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    cosines = products * inverse[:, :, None] * inverse[:, None, :]
    values, vectors = torch.linalg.eigh(cosines)
    ones = products.new_ones(sizes["losses"])
    # Gradients that are parallel or opposite make C singular; directions that it cannot tell apart are left out.
    kept = torch.where(values > 1e-10, 1 / values, 0.0)
    mix = ((vectors * kept[:, None, :]) @ (vectors.mT @ ones)[..., None])[..., 0]
    onto = (cosines @ mix[..., None])[..., 0]  # product of M^+ 1 with each unit gradient, 1 unless C is singular
    squared = (mix * onto).sum(1, keepdim=True)
    scale = torch.where(squared > 1e-16, (lengths * onto).sum(1, keepdim=True) / squared, 0.0)
    return scale * mix * inverse


def config_update(gradients: Float[Tensor, "losses seeds parameters"]) -> Float[Tensor, "seeds parameters"]:
    """ConFIG's update for every seed.

    Args:
        gradients: one gradient a loss and seed.

    Returns:
        the update, to be used in the place of the summed gradient.

    Raises:
        ValueError: if the gradients are missing, not finite or of another shape.
    """
    shaped("gradients", gradients, ("losses", "seeds", "parameters"))
    finite(gradients=gradients)
    return _combine(gradients)


def _combine(gradients: Tensor) -> Tensor:
    return torch.einsum("sl,lsp->sp", conflict_free(gram(gradients)).to(gradients.dtype), gradients)


class MomentumConFIG:
    r"""M-ConFIG, a rule for :func:`touchstone.pinns.balancing.descend`: one loss a step, in turn.

    The losses' first moments are combined, each corrected for its own number of visits. A pseudo-gradient :math:`g`, the
    one that would have given this combination as the first moment of plain Adam, feeds the second moment:

    .. math::

        \hat g = \operatorname{ConFIG}(\hat m_1, \dots, \hat m_m), \qquad p_t = (1-\beta_1^t)\,\hat g, \qquad
        g = \frac{p_t - \beta_1 p_{t-1}}{1-\beta_1}, \qquad v \leftarrow \beta_2 v + (1-\beta_2)\, g^2

    Args:
        betas: decay of the first and the second moment.
        epsilon: added to the root of the second moment.
    """

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8):
        self.betas, self.epsilon, self.updates = betas, epsilon, 0
        self.visits: list[int] = []

    def direction(
        self, gradient: Float[Tensor, "seeds parameters"], index: int, losses: int
    ) -> Float[Tensor, "seeds parameters"]:
        """Take the gradient of one loss in, and return the direction to subtract times the learning rate.

        Args:
            gradient: of the loss at ``index``.
            index: position of that loss.
            losses: number of losses, the same at every call.

        Returns:
            the direction; zero until every loss has been seen.

        Raises:
            ValueError: if the gradient is empty, not finite or changes its shape, or there is no loss at ``index``.
        """
        if not 0 <= index < losses:
            raise ValueError(f"index is {index}: there are {losses} losses")
        finite(gradient=gradient)
        if not self.visits:
            self.visits = [0] * losses
            self.moments = gradient.new_zeros(losses, *gradient.shape)
            self.second, self.before = torch.zeros_like(gradient), torch.zeros_like(gradient)
        shaped("gradient", gradient, tuple(self.moments.shape[1:]))
        keep_first, keep_second = self.betas
        self.visits[index] += 1
        self.moments[index] = keep_first * self.moments[index] + (1 - keep_first) * gradient
        if not all(self.visits):
            return torch.zeros_like(gradient)
        correction = gradient.new_tensor([1 - keep_first**visits for visits in self.visits])
        combined = _combine(self.moments / correction[:, None, None])
        self.updates += 1
        moment = combined * (1 - keep_first**self.updates)
        pseudo = (moment - keep_first * self.before) / (1 - keep_first)
        self.before = moment
        self.second = keep_second * self.second + (1 - keep_second) * pseudo**2
        return combined / ((self.second / (1 - keep_second**self.updates)).sqrt() + self.epsilon)

    def __call__(self, state: State, losses: Losses) -> Float[Tensor, "seeds parameters"]:
        """One step: evaluate and differentiate the loss whose turn it is, and no other."""
        index = state.step % len(losses)
        name = list(losses)[index]
        return self.direction(gradient(losses[name](), state.network), index, len(losses))


@dataclass(frozen=True)
class WarmCosine(Recipe):
    """The authors' schedule, a cosine after a linear start, at five times their rates: for runs of some thousand steps.

    Attributes:
        warmup: steps of the linear start.
    """

    first_rate: float = 5e-3
    last_rate: float = 5e-4
    decay: str = "cosine"
    initial_weight: float = 1.0
    warmup: int = 100

    def rate(self, progress: float) -> float:
        """Learning rate after the share ``progress`` (0 to 1) of the run."""
        return super().rate(progress) * min(1.0, (progress * self.steps + 1) / self.warmup)


@entrant("pinns", "config")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with ConFIG in front of Adam, and the learning rates of the head-to-head budget."""
    network = default_network(problem, [seed])
    return hand_back(problem, descend(problem, network, [seed], rule=Surgery(conflict_free), budget=budget))
