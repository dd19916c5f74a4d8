r"""LightGCN: a recommender that is nothing but a linear, degree-normalised neighbourhood sum.

When the only input of a graph network is one free vector per user and item, its weight matrices and nonlinearities
have nothing to transform. LightGCN keeps the neighbourhood sum alone and averages the layers:

.. math:: E^{(k+1)} = \tilde A E^{(k)}, \qquad E = \sum_{k=0}^{K} \alpha_k E^{(k)}, \qquad \hat y_{ui} = e_u^\top e_i,

with :math:`\tilde A = D^{-1/2} A D^{-1/2}` the normalised user-item graph of the training interactions. The layer-0
embeddings :math:`E^{(0)}` are the only parameters.

Source: X. He, K. Deng, X. Wang, Y. Li, Y. Zhang, M. Wang, LightGCN: Simplifying and Powering Graph Convolution
Network for Recommendation, SIGIR 2020, arXiv:2002.02126.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.graphs.bipartite import UserItemGraph


def layer_weights(layers: int, kind: str = "mean", restart: float = 0.1) -> Float[Tensor, " terms"]:
    r"""The weights :math:`\alpha_k` of the layers in the final embedding.

    Args:
        layers: number of propagation steps :math:`K`.
        kind: ``mean`` (the paper's :math:`1/(K+1)`), ``last`` (only the last layer, "LightGCN-single") or ``restart``
            (:math:`b(1-b)^k`, last :math:`(1-b)^K`: the personalised PageRank of APPNP).
        restart: the probability :math:`b` of ``restart``.

    Returns:
        non-negative weights that sum to one.

    Raises:
        ValueError: if layers is negative, kind is unknown, or restart is not a probability.
    """
    if layers < 0:
        raise ValueError(f"layers must not be negative, got {layers}")
    steps = torch.arange(layers + 1, dtype=torch.float64)
    if kind == "mean":
        return torch.full_like(steps, 1 / (layers + 1))
    if kind == "last":
        return (steps == layers).double()
    if kind == "restart":
        if not 0 < restart <= 1:
            raise ValueError(f"restart must be a probability above 0, got {restart}")
        weights = restart * (1 - restart) ** steps
        weights[-1] = (1 - restart) ** layers
        return weights
    raise ValueError(f"kind {kind!r} is unknown: choose mean, last or restart")


def propagate(
    graph: UserItemGraph, embedding: Float[Tensor, "nodes dim"], weights: Float[Tensor, " terms"]
) -> Float[Tensor, "nodes dim"]:
    r"""Pass messages and combine the layers, :math:`\sum_k \alpha_k \tilde A^k E^{(0)}` (equations 3, 4 and 8).

    Args:
        graph: the normalised user-item graph.
        embedding: layer-0 embeddings, users first.
        weights: one :math:`\alpha_k` for each layer, layer 0 included.

    Returns:
        the final embeddings, users first.

    Raises:
        ValueError: if the embedding is empty, not finite or not of one row a node, or there is no weight.
    """
    finite(embedding=embedding, weights=weights)
    shaped("embedding", embedding, (graph.users + graph.items, "dim"))
    final = weights[0] * embedding
    for weight in weights[1:]:
        embedding = graph @ embedding
        if weight != 0:
            final = final + weight * embedding
    return final


class LightGCN(nn.Module):
    """Free embeddings, smoothed over the training graph. With ``layers=0`` it is plain matrix factorisation."""

    def __init__(
        self, graph: UserItemGraph, dim: int = 64, layers: int = 3, *, combine: str = "mean", generator: torch.Generator
    ):
        """Draw Xavier-uniform embeddings.

        Args:
            graph: the user-item graph of the training interactions.
            dim: length of an embedding.
            layers: number of propagation steps.
            combine: how the layers are weighted, see :func:`layer_weights`.
            generator: draws the embeddings.
        """
        super().__init__()
        self.graph = graph
        self.weights = layer_weights(layers, combine).float()
        self.embedding = nn.Parameter(torch.empty(graph.users + graph.items, dim))
        nn.init.xavier_uniform_(self.embedding, generator=generator)

    def forward(self) -> tuple[Float[Tensor, "users dim"], Float[Tensor, "items dim"]]:
        """The final embeddings of all users and all items; their products are the scores."""
        users, items = propagate(self.graph, self.embedding, self.weights).split([self.graph.users, self.graph.items])
        return users, items


def smoothness(graph: UserItemGraph, embedding: Float[Tensor, "nodes dim"]) -> Float[Tensor, ""]:
    r"""How much users differ from the users they share items with (section 4.4.3, equations 14 and 17).

    .. math:: S = \sum_{u,v} c_{v \to u} \Big\| \frac{e_u}{\|e_u\|^2} - \frac{e_v}{\|e_v\|^2} \Big\|^2, \qquad
       c_{v \to u} = \frac{1}{\sqrt{|N_u||N_v|}} \sum_{i \in N_u \cap N_v} \frac{1}{|N_i|}.

    The coefficients are the user block of :math:`\tilde A^2`, so two sparse products give the sum.

    Args:
        graph: a user-item graph with the symmetric weight.
        embedding: users first; only the users' rows enter.

    Returns:
        the sum; smaller is smoother.

    Raises:
        ValueError: if the embedding is empty, not finite, or not of one row a node.
    """
    finite(embedding=embedding)
    shaped("embedding", embedding, (graph.users + graph.items, "dim"))
    inverse = embedding / embedding.square().sum(1, keepdim=True)
    inverse = torch.cat([inverse[: graph.users], torch.zeros_like(inverse[graph.users :])])
    indicator = torch.zeros(len(embedding), 1, dtype=embedding.dtype)
    indicator[: graph.users] = 1
    reach = (graph @ (graph @ indicator)).squeeze(1)  # sum of c over v, for every user
    smooth = graph @ (graph @ inverse)
    return 2 * (reach * inverse.square().sum(1)).sum() - 2 * (inverse * smooth).sum()
