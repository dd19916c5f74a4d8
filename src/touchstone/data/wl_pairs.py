"""Pairs of non-isomorphic graphs that colour refinement cannot tell apart, and two that its 2-folklore version cannot.

Every pair is two adjacency matrices with the same number of nodes; :func:`relabel` makes isomorphic copies.
"""

import networkx as nx
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped

Pair = tuple[Tensor, Tensor]


def wl_pairs(regular: int = 3, seed: int = 0) -> dict[str, Pair]:
    """Pairs that colour refinement (1-WL) confuses.

    Args:
        regular: number of random pairs of 3-regular graphs on 10 to 14 nodes.
        seed: of the random pairs.

    Returns:
        name of the pair to its two adjacency matrices, float64.

    Raises:
        ValueError: if ``regular`` is negative.
    """
    if regular < 0:
        raise ValueError(f"regular is {regular}, expected a number of pairs >= 0")
    cycle = nx.cycle_graph
    decalin = nx.compose(cycle(10), nx.Graph([(0, 5)]))  # two six-rings that share an edge
    bicyclopentyl = nx.disjoint_union(cycle(5), cycle(5))  # two five-rings joined by an edge
    bicyclopentyl.add_edge(0, 5)
    graphs = {
        "C6 / 2 C3": (cycle(6), nx.disjoint_union(cycle(3), cycle(3))),
        "C7 / C3+C4": (cycle(7), nx.disjoint_union(cycle(3), cycle(4))),
        "K33 / prism": (nx.complete_bipartite_graph(3, 3), nx.circular_ladder_graph(3)),
        "decalin / bicyclopentyl": (decalin, bicyclopentyl),
        "CSL(41,2) / CSL(41,3)": (nx.circulant_graph(41, [1, 2]), nx.circulant_graph(41, [1, 3])),
    }
    draw = seed
    for index in range(regular):
        nodes = 10 + 2 * (index % 3)
        one = two = nx.random_regular_graph(3, nodes, seed=draw)
        while nx.is_isomorphic(one, two):
            draw += 1
            two = nx.random_regular_graph(3, nodes, seed=draw)
        graphs[f"3-regular {nodes}, draw {index}"] = (one, two)
    return {name: (_adjacency(one), _adjacency(two)) for name, (one, two) in graphs.items()}


def folklore_pairs() -> dict[str, Pair]:
    """The pair of strongly regular graphs SRG(16,6,2,2) that 2-FWL confuses.

    Returns:
        name of the pair to its two adjacency matrices, float64.
    """
    rook = nx.line_graph(nx.complete_bipartite_graph(4, 4))
    steps = [(0, 1), (1, 0), (1, 1)]  # Shrikhande: the torus Z4 x Z4 with these steps and their inverses
    nodes = [(i, j) for i in range(4) for j in range(4)]
    shrikhande = nx.Graph([((i, j), ((i + a) % 4, (j + b) % 4)) for i, j in nodes for a, b in steps])
    return {"4x4 rook / Shrikhande": (_adjacency(rook), _adjacency(shrikhande))}


def relabel(
    adjacency: Float[Tensor, "nodes nodes"], copies: int, generator: torch.Generator
) -> Float[Tensor, "copies nodes nodes"]:
    """Isomorphic copies of a graph under random permutations of its nodes.

    Args:
        adjacency: of the graph.
        copies: how many.
        generator: source of randomness.

    Returns:
        the permuted adjacency matrices.

    Raises:
        ValueError: if ``adjacency`` is empty, not finite or not square, or ``copies`` is not positive.
    """
    finite(adjacency=adjacency)
    nodes = shaped("adjacency", adjacency, ("nodes", "nodes"))["nodes"]
    if copies < 1:
        raise ValueError(f"copies is {copies}, expected at least 1")
    orders = [torch.randperm(nodes, generator=generator) for _ in range(copies)]
    return torch.stack([adjacency[order][:, order] for order in orders])


def _adjacency(graph: nx.Graph) -> Tensor:
    return torch.from_numpy(nx.to_numpy_array(graph))
