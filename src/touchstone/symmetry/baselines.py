"""Baselines that the methods of this part share."""

from jaxtyping import Float
from torch import Tensor, nn


class GIN(nn.Module):
    """Graph isomorphism network on dense adjacency matrices (K. Xu and others, 2018, arXiv:1810.00826).

    Args:
        inputs: channels of a node.
        width: hidden and output channels.
        layers: rounds of message passing.
    """

    def __init__(self, inputs: int = 1, width: int = 32, layers: int = 4):
        super().__init__()
        sizes = [inputs] + [width] * layers
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(a, width), nn.ReLU(), nn.Linear(width, b)) for a, b in zip(sizes, sizes[1:], strict=False)
        )

    def forward(
        self, adjacency: Float[Tensor, "*batch nodes nodes"], nodes: Float[Tensor, "*batch nodes inputs"]
    ) -> Float[Tensor, "*batch width"]:
        """Embedding of each graph, the mean over its nodes.

        Args:
            adjacency: of the graphs.
            nodes: node features; a constant for the ordinary network, random identifiers for its randomised version.

        Returns:
            one embedding a graph.
        """
        for layer in self.layers:
            nodes = layer(nodes + adjacency @ nodes)
        return nodes.mean(-2)
