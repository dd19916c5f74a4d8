r"""Message passing on all pairs of a few particles: an ordinary network, and the E(n)-equivariant one.

The equivariant network is that of V. G. Satorras, E. Hoogeboom and M. Welling, "E(n) Equivariant Graph Neural
Networks", 2021, arXiv:2102.09844, in its version with velocities.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def others(values: Float[Tensor, "*batch nodes channels"]) -> Float[Tensor, "*batch nodes others channels"]:
    """For every node the values at all other nodes, in cyclic order: node i sees i+1, i+2, ..., i-1.

    Args:
        values: channels of at least two nodes.

    Returns:
        the same channels once a pair.
    """
    # Rolling, unlike indexing, has a cheap backward pass.
    return torch.stack([values.roll(-shift, -2) for shift in range(1, values.shape[-2])], -2)


def pair_features(
    positions: Float[Tensor, "*batch nodes 3"], charges: Float[Tensor, "*batch nodes"]
) -> Float[Tensor, "*batch nodes others 2"]:
    """Charge product and squared distance of every ordered pair.

    Args:
        positions: of the particles.
        charges: of the particles.

    Returns:
        the two features, invariant to rotations and shifts.
    """
    offsets = positions.unsqueeze(-2) - others(positions)
    products = charges[..., None, None] * others(charges[..., None])
    return torch.cat([products, (offsets**2).sum(-1, keepdim=True)], -1)


class Messages(nn.Module):
    """Two-layer SiLU messages from both ends of a pair and its features.

    Args:
        width: channels of a node.
        features: channels of a pair.
    """

    def __init__(self, width: int, features: int):
        super().__init__()
        self.width = width
        self.first = nn.Linear(2 * width + features, width)
        self.second = nn.Linear(width, width)

    def forward(
        self, nodes: Float[Tensor, "*batch nodes width"], pairs: Float[Tensor, "*#batch nodes others features"]
    ) -> Float[Tensor, "*batch nodes others width"]:
        """Messages to every node from every other.

        Args:
            nodes: node channels.
            pairs: pair channels.

        Returns:
            one message a pair.
        """
        # The first layer is linear in each end, so the ends are mapped once a node and not once a pair.
        to, away, pair = self.first.weight.split([self.width, self.width, pairs.shape[-1]], dim=1)
        received = nodes @ to.T + self.first.bias
        hidden = nn.functional.silu(received.unsqueeze(-2) + others(nodes @ away.T) + pairs @ pair.T)
        return nn.functional.silu(self.second(hidden))


class MessageLayer(nn.Module):
    """A residual message-passing layer that sums over all pairs.

    Args:
        width: channels of a node.
        features: channels of a pair.
    """

    def __init__(self, width: int, features: int = 2):
        super().__init__()
        self.messages = Messages(width, features)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(
        self, nodes: Float[Tensor, "*batch nodes width"], pairs: Float[Tensor, "*#batch nodes others features"]
    ) -> Float[Tensor, "*batch nodes width"]:
        """New node channels.

        Args:
            nodes: node channels.
            pairs: pair channels.

        Returns:
            updated node channels.
        """
        return nodes + self.update(torch.cat([nodes, self.messages(nodes, pairs).sum(-2)], -1))


class GNN(nn.Module):
    """The ordinary network: it sees centred positions and velocities as plain numbers, and knows no rotation.

    Args:
        width: channels of a node.
        layers: message-passing layers.
    """

    def __init__(self, width: int = 60, layers: int = 4):
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.layers = nn.ModuleList(MessageLayer(width) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3))

    def forward(
        self,
        positions: Float[Tensor, "*batch nodes 3"],
        velocities: Float[Tensor, "*batch nodes 3"],
        charges: Float[Tensor, "*batch nodes"],
    ) -> Float[Tensor, "*batch nodes 3"]:
        """Later positions.

        Args:
            positions: now.
            velocities: now.
            charges: of the particles.

        Returns:
            predicted positions.
        """
        centre = positions.mean(-2, keepdim=True)
        pairs = pair_features(positions, charges)
        nodes = self.embed(torch.cat([positions - centre, velocities], -1))
        for layer in self.layers:
            nodes = layer(nodes, pairs)
        return self.head(nodes) + centre


class EGNN(nn.Module):
    r"""E(n)-equivariant network with velocities (equations 3 to 7 of the source).

    .. math:: m_{ij}=\phi_e(h_i,h_j,|x_i-x_j|^2,a_{ij}),\quad
        x_i\leftarrow x_i+\phi_v(h_i)v_i+\tfrac1{n-1}\sum_{j\ne i}(x_i-x_j)\phi_x(m_{ij}),\quad
        h_i\leftarrow h_i+\phi_h(h_i,\textstyle\sum_jm_{ij}).

    Args:
        width: channels of a node; 53 matches the parameter count of :class:`GNN` with 60.
        layers: message-passing layers.
    """

    def __init__(self, width: int = 53, layers: int = 4):
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.messages = nn.ModuleList(Messages(width, 3) for _ in range(layers))
        self.updates = nn.ModuleList(_mlp(2 * width, width, width) for _ in range(layers))
        self.pulls = nn.ModuleList(_mlp(width, width, 1, bias=False) for _ in range(layers))
        self.drifts = nn.ModuleList(_mlp(width, width, 1) for _ in range(layers))
        for pull in self.pulls:  # positions start almost unmoved, which keeps the first steps stable
            nn.init.xavier_uniform_(pull[-1].weight, gain=1e-3)

    def forward(
        self,
        positions: Float[Tensor, "*batch nodes 3"],
        velocities: Float[Tensor, "*batch nodes 3"],
        charges: Float[Tensor, "*batch nodes"],
    ) -> Float[Tensor, "*batch nodes 3"]:
        """Later positions.

        Args:
            positions: now.
            velocities: now.
            charges: of the particles.

        Returns:
            predicted positions, rotating, reflecting and shifting with the input.
        """
        pairs = pair_features(positions, charges)
        nodes = self.embed(velocities.norm(dim=-1, keepdim=True))
        for message, update, pull, drift in zip(self.messages, self.updates, self.pulls, self.drifts, strict=True):
            offsets = positions.unsqueeze(-2) - others(positions)
            messages = message(nodes, torch.cat([pairs, (offsets**2).sum(-1, keepdim=True)], -1))
            positions = positions + drift(nodes) * velocities + (offsets * pull(messages)).mean(-2)
            nodes = nodes + update(torch.cat([nodes, messages.sum(-2)], -1))
        return positions


def _mlp(inputs, hidden, outputs, bias=True):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs, bias=bias))
