r"""Generalized teacher forcing: train a recurrent network on chaotic data with gradients that stay bounded.

In free-running training the gradient over :math:`T` steps is a product of Jacobians, which grows exponentially when the
model is chaotic, as it must be on chaotic data. Generalized teacher forcing pulls the state a little towards the data,

.. math:: \tilde z_t = (1 - \alpha) z_t + \alpha d_t, \qquad z_t = F(\tilde z_{t-1}),
          \qquad \frac{\partial z_T}{\partial \tilde z_0} = (1 - \alpha)^{T-1} J_T J_{T-1} \cdots J_1,

so each Jacobian is multiplied by :math:`1 - \alpha`. With :math:`\tilde\sigma` the largest norm of a Jacobian, the
product is bounded for all :math:`T` when :math:`\alpha \geq \alpha^* = 1 - 1/\tilde\sigma`; a smaller :math:`\alpha`,
estimated from average growth and annealed during training, suffices in practice. The forcing is off when the model is used.

Source: F. Hess, Z. Monfared, M. Brenner, D. Durstewitz, 2023, arXiv:2306.04406.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.dynamics.plrnn import ShallowPLRNN


def jacobian_norms(model: ShallowPLRNN, states: Float[Tensor, "models batch dim"]) -> Float[Tensor, "models batch"]:
    r"""Spectral norms :math:`\|J\|_2` of the map's Jacobian.

    Args:
        model: stack of networks.
        states: points at which the map is linearised.

    Returns:
        the largest singular value at each point.
    """
    matrices = model.jacobian(states)
    return torch.linalg.eigvalsh(matrices.mT @ matrices)[..., -1].clamp(min=0).sqrt()


def critical_alpha(model: ShallowPLRNN, states: Float[Tensor, "models batch dim"]) -> Float[Tensor, "models"]:
    r"""The forcing that bounds gradients for every window length, :math:`\alpha^* = 1 - 1/\max\|J\|_2`.

    Args:
        model: stack of networks.
        states: the data states over which the maximum is taken.

    Returns:
        one strength a model, 0 where no Jacobian expands.

    Raises:
        ValueError: if the states are empty, not finite or of the wrong shape.
    """
    finite(states=states)
    shaped("states", states, (model.A.shape[0], "batch", model.A.shape[1]))
    return (1 - 1 / jacobian_norms(model, states).amax(1)).clamp(min=0)


def estimate_alpha(model: ShallowPLRNN, windows: Float[Tensor, "points models batch dim"]) -> Float[Tensor, "models"]:
    r"""The forcing that cancels the average growth along the window that grows fastest, :math:`1 - 1/n`.

    :math:`n` is the geometric mean over time of :math:`\|J_t\|_2` at the data states, and the maximum over windows.

    Args:
        model: stack of networks.
        windows: data, time first.

    Returns:
        one strength a model, 0 where no window grows.
    """
    points, models, batch, dim = windows.shape
    norms = jacobian_norms(model, windows.transpose(0, 1).reshape(models, -1, dim)).view(models, points, batch)
    growth = norms[:, :-1].log().mean(1).amax(1).exp()  # the last state of a window is not stepped from
    return (1 - 1 / growth).clamp(min=0)


class AdaptiveForcing:
    r"""Annealed strength for :func:`touchstone.dynamics.recurrent.train`: starts at 1 and follows the estimate down.

    Every few updates :math:`\alpha \leftarrow \gamma\alpha + (1 - \gamma)\hat\alpha`, or at once
    :math:`\alpha \leftarrow \hat\alpha` where the estimate is larger.

    Args:
        models: size of the stack.
        decay: :math:`\gamma`.
        every: updates between two estimates.
    """

    def __init__(self, models: int, decay: float = 0.99, every: int = 5):
        if not 0 <= decay < 1 or every < 1:
            raise ValueError(f"decay must lie in [0, 1) and every be at least 1, got {decay} and {every}")
        self.alpha, self.decay, self.every = torch.ones(models), decay, every
        self.history: list[Tensor] = []

    def __call__(
        self, update: int, model: ShallowPLRNN, windows: Float[Tensor, "points models batch dim"]
    ) -> Float[Tensor, "points models"]:
        if update % self.every == 0:
            estimate = estimate_alpha(model, windows)
            annealed = self.decay * self.alpha + (1 - self.decay) * estimate
            self.alpha = torch.maximum(annealed, estimate)
            self.history.append(self.alpha)
        return self.alpha.expand(len(windows), -1)


def initial_gradients(
    model: ShallowPLRNN, windows: Float[Tensor, "points models batch dim"], alpha: Float[Tensor, "models"]
) -> Float[Tensor, "steps models batch dim"]:
    r"""Gradients :math:`\partial L_T / \partial\tilde z_0` for every window length :math:`T`, in one pass forward.

    :math:`L_T = \sum_{t=1}^{T} |z_t - d_t|^2`; the sensitivity :math:`\partial z_t / \partial\tilde z_0` is carried along.

    Args:
        model: stack of networks; float64 for long windows.
        windows: data, time first.
        alpha: forcing strength of each model.

    Returns:
        the gradient for lengths 1 to points - 1.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape.
    """
    finite(windows=windows, alpha=alpha)
    shaped("windows", windows, ("points", model.A.shape[0], "batch", model.A.shape[1]))
    shaped("alpha", alpha, (model.A.shape[0],))
    keep = (1 - alpha)[:, None, None]
    forced = windows[0]
    sensitivity = torch.eye(windows.shape[-1]).to(windows).expand(*windows.shape[1:], -1)
    gradients, total = [], torch.zeros_like(forced)
    for data in windows[1:]:
        sensitivity = model.jacobian(forced) @ sensitivity
        state = model.step(forced)
        total = total + torch.einsum("sbij,sbi->sbj", sensitivity, 2 * (state - data))
        gradients.append(total)
        forced, sensitivity = keep * state + (1 - keep) * data, keep[..., None] * sensitivity
    return torch.stack(gradients)
