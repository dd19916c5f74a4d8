r"""Conserved quantities from contrast between trajectories, and vector fields projected onto their level sets.

Step 1. Points of one trajectory share the values of all invariants. With :math:`h_i=H(x_i)`, :math:`d_{ij}=|h_i-h_j|^2` and
the ordered pairs :math:`P` of different points on the same trajectory, the network :math:`H` minimises

.. math:: L = \frac1{|P|}\sum_{(i,j)\in P}\frac{d_{ij}}{\sum_{k\ne i}d_{ik}} .

Step 2. With H frozen and the rows of its Jacobian orthonormalised to :math:`q_1,\dots,q_m`, a network :math:`f` is fitted through
:math:`\hat f=f-\sum_i(q_i^\top f)\,q_i`, so that :math:`\nabla H_i\cdot\hat f=0` wherever it is evaluated.

Networks are stacked: the first dimension of every tensor counts members, a seed of a system each.

Source: W. Zhang, T.-W. Weng, S. Das, A. Megretski, L. Daniel, L. M. Nguyen, 2023, arXiv:2302.05783.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.dynamics.odeint import RK4, odeint
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.nn.networks import generators

Loss = Callable[[Tensor], Tensor]
TRAJECTORIES, POINTS = 10, 20  # of a batch
PARALLEL = 1e-6  # share of a row that must stick out of the rows before it


def ratio_loss(values: Float[Tensor, "members trajectories points outputs"]) -> Float[Tensor, "members"]:
    r"""The square-ratio loss; unchanged under :math:`h\mapsto ah+b`.

    No pair is formed: :math:`\sum_j|h_i-h_j|^2=n|h_i-\bar h|^2+\sum_j|h_j-\bar h|^2` for any set of n values.

    Args:
        values: H at points of several trajectories.

    Returns:
        0 if H is constant on each trajectory, 1 / (points - 1) at most; NaN if it is the same constant on all.

    Raises:
        ValueError: if there are fewer than two trajectories or points.
    """
    count, size = values.shape[1:3]
    if min(count, size) < 2:
        raise ValueError(f"values has shape {tuple(values.shape)}: give two or more trajectories and points of each")
    near = (values - values.mean(2, keepdim=True)).square().sum(-1)
    far = (values - values.mean((1, 2), keepdim=True)).square().sum(-1)
    same = size * near + near.sum(2, keepdim=True)
    every = count * size * far + far.sum((1, 2), keepdim=True)
    return (same / every).mean((1, 2)) / (size - 1)


def orthonormal(rows: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
    """Gram-Schmidt; a row that is zero or depends on those before it becomes zero.

    Args:
        rows: gradients of the invariants.

    Returns:
        rows of length 1 or 0, orthogonal to each other.
    """
    found: list[Tensor] = []
    for row in rows.unbind(-2):
        length = row.norm(dim=-1, keepdim=True)
        rest = row / torch.where(length > 0, length, 1.0)
        for _ in range(2):  # the second pass removes what rounding left of nearly parallel rows
            for other in found:
                rest = rest - (rest * other).sum(-1, keepdim=True) * other
        size = rest.norm(dim=-1, keepdim=True)
        found.append(torch.where(size > PARALLEL, rest / torch.where(size > PARALLEL, size, 1.0), 0.0))
    return torch.stack(found, -2)


def project(field: Float[Tensor, "*batch n"], normals: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch n"]:
    """Remove from a vector its parts along orthonormal rows."""
    return field - torch.einsum("...mn,...n,...mk->...k", normals, field, normals)


def gradient(
    network: Callable[[Tensor], Tensor], points: Float[Tensor, "members batch n"], graph: bool = False
) -> Float[Tensor, "members batch m n"]:
    """Gradients of a network's outputs by its inputs.

    Args:
        network: from points to m outputs.
        points: where.
        graph: keep what is needed to differentiate once more.
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        outputs = network(points).unbind(-1)
        rows = [torch.autograd.grad(o.sum(), points, retain_graph=True, create_graph=graph)[0] for o in outputs]
    return torch.stack(rows, -2)


def batches(
    seeds: Sequence[int], trajectories: int, points: int, updates: int, stream: int
) -> Iterator[Int[Tensor, "members batch"]]:
    """Numbers of the points of each update: 20 random points (with repetition) of each of 10 different trajectories.

    Args:
        seeds: one a member.
        trajectories: how many there are.
        points: of each.
        updates: how many batches.
        stream: of the seeds' random numbers.
    """
    draws = generators(seeds, stream)
    for _ in range(updates):
        rows = torch.stack([torch.randperm(trajectories, generator=draw)[:TRAJECTORIES] for draw in draws])
        columns = torch.stack([torch.randint(points, (rows.shape[1], POINTS), generator=draw) for draw in draws])
        yield (rows[..., None] * points + columns).flatten(1)


def fit(network: torch.nn.Module, picks: Iterator[Tensor], objective: Callable, updates: int, rate: float) -> None:
    """Adam with a rate that falls to zero as a cosine; the network is frozen afterwards.

    Args:
        network: what is trained.
        picks: one batch an update.
        objective: loss of each member from a batch.
        updates: how many.
        rate: the first one.
    """
    optimiser = torch.optim.Adam(network.parameters(), rate)
    for number, pick in enumerate(picks):
        optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * number / updates)) / 2
        optimiser.zero_grad()
        objective(pick).sum().backward()
        optimiser.step()
    network.requires_grad_(False)


def learn_invariants(
    states: Float[Tensor, "members trajectories points dim"],
    seeds: Sequence[int],
    outputs: int = 1,
    updates: int = 3000,
    rate: float = 1e-3,
    width: int = 100,
    loss: Loss = ratio_loss,
) -> Perceptrons:
    """Step 1: a network that is nearly constant on each trajectory and differs between trajectories.

    Args:
        states: standardised; trajectories whose invariants differ.
        seeds: one a member.
        outputs: m, the number of invariants looked for.
        updates: of Adam.
        rate: the first one.
        width: of the two hidden layers.
        loss: of each member from the values at a batch.

    Returns:
        the networks H, frozen.

    Raises:
        ValueError: if the states are empty, not finite or do not fit the seeds.
    """
    finite(states=states)
    shaped("states", states, (len(seeds), "trajectories", "points", "dim"))
    network = Perceptrons(generators(seeds, 1), [states.shape[-1], width, width, outputs])
    every, member = states.flatten(1, 2), torch.arange(len(seeds))[:, None]

    def objective(pick: Tensor) -> Tensor:
        values = network(every[member, pick]).unflatten(1, (-1, POINTS))
        return pick.shape[1] * loss(values)  # of order one, as Adam's constant 1e-8 expects

    fit(network, batches(seeds, *states.shape[1:3], updates, 2), objective, updates, rate)
    return network


@dataclass
class ProjectedField:
    """A vector field without its part across the level sets.

    Args:
        network: the field f.
        slopes: gradients of the invariants at points; None for a plain field.
    """

    network: Callable[[Tensor], Tensor]
    slopes: Callable[[Tensor], Tensor] | None = None

    def __call__(self, points: Float[Tensor, "members batch n"]) -> Float[Tensor, "members batch n"]:
        """Time derivative."""
        field = self.network(points)
        return field if self.slopes is None else project(field, orthonormal(self.slopes(points)))


def learn_field(
    states: Float[Tensor, "members trajectories points dim"],
    rates: Float[Tensor, "members trajectories points dim"],
    seeds: Sequence[int],
    slopes: Callable[[Tensor], Tensor] | None = None,
    updates: int = 3000,
    rate: float = 1e-3,
    width: int = 100,
) -> ProjectedField:
    """Step 2: a network fitted to time derivatives through the projection.

    The invariants are frozen and the points are fixed, so the normals are computed once, before training.

    Args:
        states: standardised.
        rates: their time derivatives, of order one.
        seeds: one a member.
        slopes: gradients of the invariants at points; None for a plain network.
        updates: of Adam.
        rate: the first one.
        width: of the two hidden layers.

    Raises:
        ValueError: if arguments are empty, not finite or do not fit each other.
    """
    finite(states=states, rates=rates)
    shaped("states", states, (len(seeds), "trajectories", "points", "dim"))
    shaped("rates", rates, states.shape)
    dim = states.shape[-1]
    network = Perceptrons(generators(seeds, 3), [dim, width, width, dim])
    every, targets, member = states.flatten(1, 2), rates.flatten(1, 2), torch.arange(len(seeds))[:, None]
    normals = None if slopes is None else orthonormal(slopes(every))

    def objective(pick: Tensor) -> Tensor:
        field = network(every[member, pick])
        field = field if normals is None else project(field, normals[member, pick])
        return (field - targets[member, pick]).square().mean((1, 2))

    fit(network, batches(seeds, *states.shape[1:3], updates, 4), objective, updates, rate)
    return ProjectedField(network, slopes)


@torch.no_grad()
def rollout(
    field: Callable[[Tensor], Tensor],
    start: Float[Tensor, "members runs dim"],
    step: float,
    samples: int,
    inner: int = 1,
) -> Float[Tensor, "members runs samples dim"]:
    """Free runs by Runge-Kutta 4.

    Args:
        field: time derivative.
        start: the first samples.
        step: time between samples.
        samples: how many.
        inner: Runge-Kutta steps between samples.

    Raises:
        ValueError: if the start is empty or not finite, or a number is not positive.
    """
    if samples < 1 or not step > 0:
        raise ValueError(f"samples and step must be positive, got {samples} and {step}")
    times = step * torch.arange(samples, dtype=torch.float64)
    return odeint(lambda _, state: field(state), start, times, RK4(inner)).movedim(0, 2)


def learn_autoencoder(
    fields: Float[Tensor, "members trajectories points nodes"],
    seeds: Sequence[int],
    latent: int = 9,
    updates: int = 3000,
    rate: float = 1e-3,
    width: int = 100,
) -> tuple[Perceptrons, Perceptrons]:
    """Step 0 where states are high-dimensional: a short code for them, by mean squared error of what it gives back.

    Args:
        fields: of about unit variance.
        seeds: one a member.
        latent: length of the code.
        updates: of Adam.
        rate: the first one.
        width: of the one hidden layer on either side.

    Returns:
        encoder and decoder, frozen.

    Raises:
        ValueError: if the fields are empty, not finite or do not fit the seeds.
    """
    finite(fields=fields)
    shaped("fields", fields, (len(seeds), "trajectories", "points", "nodes"))
    nodes = fields.shape[-1]
    encoder = Perceptrons(generators(seeds, 5), [nodes, width, latent])
    decoder = Perceptrons(generators(seeds, 6), [latent, width, nodes])
    every, member = fields.flatten(1, 2), torch.arange(len(seeds))[:, None]

    def objective(pick: Tensor) -> Tensor:
        given = every[member, pick]
        return (decoder(encoder(given)) - given).square().mean((1, 2))

    both = torch.nn.ModuleList([encoder, decoder])
    fit(both, batches(seeds, *fields.shape[1:3], updates, 7), objective, updates, rate)
    return encoder, decoder


def latent_rates(
    encoder: Perceptrons, fields: Float[Tensor, "members batch nodes"], rates: Float[Tensor, "members batch nodes"]
) -> Float[Tensor, "members batch latent"]:
    r"""Time derivatives of the code, :math:`\dot z=\partial z/\partial x\,\dot x`."""
    return torch.func.jvp(encoder, (fields,), (rates,))[1]
