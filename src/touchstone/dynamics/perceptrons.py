"""Plain perceptrons side by side: the members of a stack train in one process."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.nn.networks import glorot


class Perceptrons(nn.Module):
    """Perceptrons, one a member of the stack; every member draws its weights from its own generator.

    Args:
        draws: one generator a member.
        sizes: widths from input to output.
        activation: between the layers.
    """

    def __init__(
        self,
        draws: Sequence[torch.Generator],
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] = torch.tanh,
    ):
        super().__init__()
        self.activation = activation
        self.weights = nn.ParameterList(glorot(draws, *pair) for pair in zip(sizes[:-1], sizes[1:], strict=True))
        self.biases = nn.ParameterList(torch.zeros(len(draws), 1, size) for size in sizes[1:])

    def forward(self, inputs: Float[Tensor, "members batch inputs"]) -> Float[Tensor, "members batch outputs"]:
        """The outputs."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs = self.activation(torch.baddbmm(bias, inputs, weight))
        return torch.baddbmm(self.biases[-1], inputs, self.weights[-1])

    def multiplications(self) -> int:
        """Real multiplications for one input."""
        return sum(weight[0].numel() for weight in self.weights)
