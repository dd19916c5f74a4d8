r"""Recommenders that LightGCN and UltraGCN are compared with: NGCF and its ablations, item neighbours, popularity."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from touchstone.data.interactions import Interactions
from touchstone.graphs.bipartite import UserItemGraph


class NGCF(nn.Module):
    r"""Neural graph collaborative filtering (Wang et al., SIGIR 2019, arXiv:1905.08108, equations 3 to 9).

    .. math:: e_u^{(k+1)} = \mathrm{LeakyReLU}\Big(W_1 e_u + \sum_{i \in N(u)} \frac{1}{\sqrt{|N_u||N_i|}}
       \big(W_1 e_i + W_2 (e_i \odot e_u)\big)\Big),

    and likewise for items. The product with :math:`e_u` leaves the sum, so one sparse product a layer is enough.
    """

    def __init__(
        self,
        graph: UserItemGraph,
        dim: int = 64,
        layers: int = 3,
        *,
        transform: bool = True,
        nonlinear: bool = True,
        combine: str = "concat",
        dropout: float = 0.1,
        generator: torch.Generator,
    ):
        """Draw Xavier-uniform embeddings and weights.

        Args:
            graph: symmetric user-item graph of the training interactions.
            dim: length of a layer's embedding.
            layers: number of layers.
            transform: use the weight matrices; without them the model is NGCF-f.
            nonlinear: use LeakyReLU with slope 0.2; without it the model is NGCF-n.
            combine: ``concat`` or ``sum`` of layers 0 to K.
            dropout: share of message entries dropped in training.
            generator: draws the parameters.

        Raises:
            ValueError: if combine is neither ``concat`` nor ``sum``.
        """
        super().__init__()
        if combine not in ("concat", "sum"):
            raise ValueError(f"combine must be concat or sum, got {combine!r}")
        self.graph, self.layers, self.nonlinear, self.combine = graph, layers, nonlinear, combine
        self.dropout = dropout
        self.embedding = nn.Parameter(torch.empty(graph.users + graph.items, dim))
        nn.init.xavier_uniform_(self.embedding, generator=generator)
        self.own, self.paired = nn.ParameterList(), nn.ParameterList()
        for _ in range(layers if transform else 0):
            for group in (self.own, self.paired):
                matrix = nn.Parameter(torch.empty(dim, dim))
                nn.init.xavier_uniform_(matrix, generator=generator)
                group.append(matrix)

    def forward(self) -> tuple[Float[Tensor, "users dim"], Float[Tensor, "items dim"]]:
        """The combined embeddings of all users and all items."""
        hidden, outputs = self.embedding, [self.embedding]
        for layer in range(self.layers):
            received = self.graph @ hidden
            single, product = hidden + received, hidden * received
            if len(self.own):
                single, product = single @ self.own[layer], product @ self.paired[layer]
            hidden = single + product
            if self.nonlinear:
                hidden = functional.leaky_relu(hidden, 0.2)
            if self.training and self.dropout:  # a uniform draw is several times faster here than dropout's own
                hidden = hidden * (torch.rand_like(hidden) >= self.dropout) / (1 - self.dropout)
            outputs.append(hidden)
        final = torch.cat(outputs, 1) if self.combine == "concat" else torch.stack(outputs).sum(0)
        users, items = final.split([self.graph.users, self.graph.items])
        return users, items


def popularity_scores(data: Interactions) -> Float[Tensor, "users items"]:
    """Every user is recommended the items with most training interactions."""
    counts = torch.bincount(data.train[:, 1], minlength=data.items).float()
    return counts.expand(data.users, data.items)


def neighbour_scores(data: Interactions, neighbours: int = 50) -> Float[Tensor, "users items"]:
    """Item-based nearest neighbours: cosine of the items' user lists, summed over the user's training items.

    Args:
        data: its training pairs are used.
        neighbours: how many most similar items each item keeps.

    Returns:
        scores of every user for every item.

    Raises:
        ValueError: if neighbours is below 1.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    met = data.mask("train").float()
    together = (met.T @ met).fill_diagonal_(0)
    norm = met.sum(0).clamp(min=1).sqrt()
    cosine = together / (norm[:, None] * norm)
    kept = cosine.topk(min(neighbours, data.items), dim=1)
    sparse = torch.zeros_like(cosine).scatter_(1, kept.indices, kept.values)
    return met @ sparse.T
