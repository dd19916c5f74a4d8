r"""Frame averaging: make any network exactly symmetric by averaging it over a few poses that the input itself picks.

Averaging over a whole group :math:`G` makes a network symmetric, but rotations are infinitely many. A frame is a finite
set :math:`\mathcal F(X)\subset G` that moves with the input, :math:`\mathcal F(gX)=g\mathcal F(X)`; the average over
it alone,

.. math:: \langle\phi\rangle(X)=\frac1{|\mathcal F(X)|}\sum_{g\in\mathcal F(X)}\rho_2(g)\,\phi(\rho_1(g)^{-1}X),

is already exactly equivariant, and keeps the expressive power of :math:`\phi`. For rotations the principal axes of the
points give the frame, up to signs; for graphs, the orders that sort the nodes by invariants of the Laplacian.

Source: O. Puny, M. Atzmon, H. Ben-Hamu, I. Misra, A. Grover, E. J. Smith, Y. Lipman, "Frame Averaging for Invariant
and Equivariant Network Design", 2021, arXiv:2110.03336.
"""

from collections.abc import Callable
from itertools import permutations, product

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.nn.egnn import GNN, pair_features


def frames(
    points: Float[Tensor, "*batch points dim"], group: str = "O"
) -> tuple[Float[Tensor, "*batch frames dim dim"], Float[Tensor, "*batch 1 dim"]]:
    r"""Principal-axis frames of point clouds, without gradient (section 3.1 of the source).

    The columns of each frame are :math:`\pm v_1,\dots,\pm v_d`, eigenvectors of the covariance in ascending order.
    For clouds whose eigenvalues coincide the axes are not determined, and the construction does not apply.

    Args:
        points: clouds of points.
        group: ``"O"`` for all :math:`2^d` sign choices, ``"SO"`` for the :math:`2^{d-1}` proper rotations,
            ``"one"`` for one arbitrary choice (not a frame: a baseline to compare with).

    Returns:
        frames R, to be applied as ``(points - centre) @ R``, and the centres t.

    Raises:
        ValueError: if ``points`` is empty or not finite or has fewer than two axes, or ``group`` is unknown.
    """
    finite(points=points)
    if points.ndim < 2:
        raise ValueError(f"points has shape {tuple(points.shape)}, expected (..., points, dim)")
    if group not in ("O", "SO", "one"):
        raise ValueError(f"group is {group!r}, expected 'O', 'SO' or 'one'")
    centre = points.detach().mean(-2, keepdim=True)
    centred = points.detach() - centre
    _, axes = torch.linalg.eigh(centred.mT @ centred)
    dim = points.shape[-1]
    signs = torch.tensor(list(product([1.0, -1.0], repeat=dim)), dtype=points.dtype, device=points.device)
    if group == "one":
        return axes.unsqueeze(-3), centre
    if group == "SO":  # with the last axis turned to make axes proper, an even number of flips keeps them so
        axes = torch.cat([axes[..., :-1], axes[..., -1:] * torch.linalg.det(axes)[..., None, None].sign()], -1)
        signs = signs[signs.prod(1) > 0]
    return axes.unsqueeze(-3) * signs[:, None, :], centre


def frame_average(
    network: Callable[[Tensor], Tensor],
    points: Float[Tensor, "*batch points dim"],
    output: str = "vector",
    group: str = "O",
) -> Float[Tensor, "..."]:
    r"""Average a network over the frames of its input; all frames go through the network in one batch.

    Args:
        network: maps (..., points, dim) to (..., points, dim) or, for invariant outputs, to (..., anything).
        points: clouds of points.
        output: ``"vector"`` (turns with the cloud), ``"position"`` (turns and shifts) or ``"invariant"``.
        group: see :func:`frames`.

    Returns:
        :math:`\langle\phi\rangle(X)`.

    Raises:
        ValueError: if ``points`` is empty or not finite, or ``output`` or ``group`` is unknown.
    """
    if output not in ("vector", "position", "invariant"):
        raise ValueError(f"output is {output!r}, expected 'vector', 'position' or 'invariant'")
    rotations, centre = frames(points, group)
    seen = (points - centre).unsqueeze(-3) @ rotations
    answers = network(seen)
    axis = points.ndim - 2  # the axis of the frames
    if output == "invariant":
        return answers.mean(axis)
    turned_back = (answers @ rotations.mT).mean(axis)
    return turned_back + centre if output == "position" else turned_back


def random_frame(
    points: Float[Tensor, "batch points dim"], generator: torch.Generator
) -> tuple[Float[Tensor, "batch points dim"], Float[Tensor, "batch dim dim"]]:
    """One frame drawn at random for every cloud: the cheap way to train, with all frames in the test.

    Args:
        points: clouds of points.
        generator: source of randomness.

    Returns:
        the clouds seen in their frames, and the frames, so that ``answer @ R.mT`` turns vectors back.

    Raises:
        ValueError: if ``points`` is empty or not finite.
    """
    rotations, centre = frames(points)
    drawn = torch.randint(rotations.shape[-3], (len(points),), generator=generator)
    rotation = rotations[torch.arange(len(points)), drawn]
    return (points - centre) @ rotation, rotation


class FrameAveragedGNN(GNN):
    """An ordinary message-passing network whose every layer is averaged over frames (section 4.2 of the source).

    After each layer the channels are read as vectors, turned back, averaged, and seen again in the frames of these
    latent vectors. With ``group="one"`` it is the same network in one arbitrary principal-axis pose.

    Args:
        width: channels of a node, a multiple of three.
        layers: message-passing layers.
        group: see :func:`frames`.
    """

    def __init__(self, width: int = 60, layers: int = 4, group: str = "O"):
        if width % 3:
            raise ValueError(f"width is {width}, expected a multiple of 3: channels are read as vectors")
        super().__init__(width, layers)
        self.group = group

    def forward(
        self,
        positions: Float[Tensor, "batch nodes 3"],
        velocities: Float[Tensor, "batch nodes 3"],
        charges: Float[Tensor, "batch nodes"],
    ) -> Float[Tensor, "batch nodes 3"]:
        """Later positions.

        Args:
            positions: now.
            velocities: now.
            charges: of the particles.

        Returns:
            predicted positions, rotating, reflecting and shifting with the input.
        """
        pairs = pair_features(positions, charges).unsqueeze(1)  # invariant, hence the same in every frame
        rotations, centre = frames(positions, self.group)
        vectors = rearrange(torch.stack([positions - centre, velocities]), "kind b n xyz -> b (n kind) xyz")
        nodes = positions.shape[1]
        channels = self.embed(_seen(vectors, rotations, nodes))  # (batch, frames, nodes, width)
        for layer in self.layers:
            channels = layer(channels, pairs)
            vectors = (rearrange(channels, "b f n (c xyz) -> b f (n c) xyz", xyz=3) @ rotations.mT).mean(1)
            rotations, _ = frames(vectors, self.group)
            channels = _seen(vectors, rotations, nodes)
        return (self.head(channels) @ rotations.mT).mean(1) + centre


def _seen(vectors, rotations, nodes):
    """All nodes' vectors in all frames, laid out as channels."""
    return rearrange(vectors.unsqueeze(1) @ rotations, "b f (n c) xyz -> b f n (c xyz)", n=nodes)


def graph_frame(
    adjacency: Float[Tensor, "nodes nodes"], samples: int | None = None, generator: torch.Generator | None = None
) -> Int[Tensor, "permutations nodes"]:
    r"""Orders that sort the nodes by the diagonals of the Laplacian's spectral projectors (section 3.3 of the source).

    Node k carries :math:`\big(\sum_{i\in\lambda}u_{ik}^2\big)_\lambda`, one number an eigenspace, which no choice of
    basis changes. Nodes that tie may be ordered either way, and all these orders make up the frame.

    Args:
        adjacency: symmetric matrix of an undirected graph.
        samples: draw that many orders instead of listing all (stochastic frame averaging).
        generator: source of randomness for the draws.

    Returns:
        one order a row, so that the graph seen in it is ``adjacency[order][:, order]``.

    Raises:
        ValueError: if ``adjacency`` is empty, not finite, not square or not symmetric.
    """
    finite(adjacency=adjacency)
    nodes = shaped("adjacency", adjacency, ("nodes", "nodes"))["nodes"]
    if not torch.equal(adjacency, adjacency.T):
        raise ValueError("adjacency is not symmetric: frames are defined for undirected graphs")
    values, vectors = torch.linalg.eigh((torch.diag(adjacency.sum(1)) - adjacency).double())
    space = torch.cat([torch.zeros(1, dtype=torch.long), (values.diff() > 1e-6).long().cumsum(0)])
    invariants = torch.zeros(nodes, int(space[-1]) + 1, dtype=torch.float64).index_add_(1, space, vectors**2)
    # The factor is irrational so that simple fractions, the usual invariants, never fall on a rounding boundary.
    keys = [tuple(row) for row in (invariants * torch.pi * 1e6).round().long().tolist()]
    classes = [[node for node in range(nodes) if keys[node] == key] for key in sorted(set(keys))]
    if samples is None:
        orders = [sum(parts, ()) for parts in product(*(permutations(members) for members in classes))]
        return torch.tensor(orders)
    members = [torch.tensor(tied) for tied in classes]
    drawn = [torch.cat([tied[torch.randperm(len(tied), generator=generator)] for tied in members]) for _ in range(samples)]
    return torch.stack(drawn)


def graph_average(
    network: Callable[[Tensor], Tensor], adjacency: Float[Tensor, "nodes nodes"], orders: Int[Tensor, "orders nodes"]
) -> Float[Tensor, " outputs"]:
    """Average a network over the orders of a graph frame.

    Args:
        network: maps flattened adjacency matrices (orders, nodes * nodes) to (orders, outputs).
        adjacency: of the graph.
        orders: from :func:`graph_frame`.

    Returns:
        an embedding that does not depend on how the nodes are numbered, exactly so for a full frame.

    Raises:
        ValueError: if ``orders`` is empty or does not number the nodes of ``adjacency``.
    """
    finite(adjacency=adjacency, orders=orders)
    shaped("orders", orders, ("orders", adjacency.shape[0]))
    seen = adjacency[orders[:, :, None], orders[:, None, :]]
    return network(seen.flatten(1)).mean(0)
