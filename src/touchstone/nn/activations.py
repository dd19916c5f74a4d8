"""Feed-forward layers of a transformer, plain and gated, and the activations they are compared with."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SquaredReLU(nn.Module):
    r"""The activation :math:`\max(x, 0)^2` (So et al., 2021, arXiv 2109.08668)."""

    def forward(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Apply it to every entry."""
        return torch.relu(x).square()


class FeedForward(nn.Module):
    r"""The plain feed-forward layer without biases, :math:`W_2\,\rho(W_1 x)`.

    Args:
        width: features of a token.
        hidden: hidden features; four times the width is usual.
        activation: the module :math:`\rho`.
    """

    def __init__(self, width: int, hidden: int, activation: nn.Module):
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.activation = activation
        self.down = nn.Linear(hidden, width, bias=False)

    def hidden(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch hidden"]:
        """The hidden activations of every token."""
        return self.activation(self.up(x))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Apply the layer to every token."""
        return self.down(self.hidden(x))


class SwiGLU(nn.Module):
    r"""The gated feed-forward layer :math:`W_2\,(\mathrm{SiLU}(W_1 x)\odot W_3 x)` (Shazeer, 2020, arXiv 2002.05202).

    Args:
        width: features of a token.
        hidden: hidden features; the three matrices hold as many parameters as the plain layer with
            :math:`4\,\mathrm{width}` hidden features when this is :math:`\tfrac83\,\mathrm{width}`.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def hidden(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch hidden"]:
        """The hidden activations of every token, after the gate."""
        return F.silu(self.gate(x)) * self.up(x)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Apply the layer to every token."""
        return self.down(self.hidden(x))
