r"""Linear differential equations on the square :math:`[-1,1]^2`, as HyPINO reads them: drawn by the hundred, or six to be judged on.

:math:`\mathcal Lu=c_1u+c_2u_x+c_3u_y+c_4u_{xx}+c_5u_{yy}=f`, with values (Dirichlet) or normal derivatives (Neumann) known on
sides and on the rim of a circular hole. *Manufactured* problems start from a random function, which gives exact data,
labels and derivatives. *Unlabelled* ones have a constant source and linear edge data. Where there is time, it is :math:`y`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet

SECOND, FIRST = (2, 2), (1, 1)
Data = Callable[[Tensor], Jet]


@dataclass(frozen=True)
class Batch:
    """Problems as the hypernetwork reads them (on a grid) and as a loss needs them (at points).

    Attributes:
        coefficients: of u, u_x, u_y, u_xx, u_yy.
        channels: Dirichlet mask, Neumann mask, Dirichlet values, Neumann values, source; zero where they say nothing.
        places: where each grid node's data is taken: the node itself, or the nearest point of a hole's rim.
        inside: 1 where a node belongs to the domain, 0 in a hole.
        normals: outward normals of the nodes with a Neumann value.
        points: collocation points.
        source: f there.
        edge: points on the edge.
        fixed: 1 where a value is known.
        values: those values.
        sloped: 1 where a normal derivative is known.
        slopes: those derivatives.
        edge_normals: outward normals there.
        labels: u, u_x, u_xx, u_y, u_yy at the collocation points; zeros where there are none.
        field: u on the grid; zeros where it is not known.
        labelled: which problems have labels.
    """

    coefficients: Float[Tensor, "batch 5"]
    channels: Float[Tensor, "batch 5 grid grid"]
    places: Float[Tensor, "batch nodes 2"]
    inside: Float[Tensor, "batch grid grid"]
    normals: Float[Tensor, "batch nodes 2"]
    points: Float[Tensor, "batch points 2"]
    source: Float[Tensor, "batch points 1"]
    edge: Float[Tensor, "batch edges 2"]
    fixed: Float[Tensor, "batch edges 1"]
    values: Float[Tensor, "batch edges 1"]
    sloped: Float[Tensor, "batch edges 1"]
    slopes: Float[Tensor, "batch edges 1"]
    edge_normals: Float[Tensor, "batch edges 2"]
    labels: Float[Tensor, "batch 5 points 1"]
    field: Float[Tensor, "batch grid grid"]
    labelled: Bool[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.coefficients)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with a function applied to every tensor."""
        return Batch(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def __getitem__(self, index: slice | Tensor) -> "Batch":
        return self.map(lambda tensor: tensor[index])


def together(batches: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    return Batch(**{f.name: torch.cat([getattr(b, f.name) for b in batches]) for f in fields(Batch)})


def apply_operator(coefficients: Float[Tensor, "batch 5"], jet: Jet) -> Float[Tensor, "batch points 1"]:
    r"""The left-hand side :math:`\mathcal Lu` from a jet that carries second derivatives."""
    c = coefficients[:, :, None, None]
    return c[:, 0] * jet.value + c[:, 1] * jet.d(0) + c[:, 2] * jet.d(1) + c[:, 3] * jet.d(0, 2) + c[:, 4] * jet.d(1, 2)


@dataclass(frozen=True)
class Geometry:
    """What is known where: sides in the order x = -1, x = 1, y = -1, y = 1, then the rim of the hole.

    Attributes:
        fixed: where values are known.
        sloped: where normal derivatives are known.
        centre: of the hole.
        radius: of the hole; 0 for none.
    """

    fixed: Bool[Tensor, "batch 5"]
    sloped: Bool[Tensor, "batch 5"]
    centre: Float[Tensor, "batch 2"]
    radius: Float[Tensor, " batch"]

    def rim(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of points from the hole's centre, and their direction from there."""
        arm = points - self.centre[:, None]
        distance = arm.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        return distance, arm / distance


SIDES = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])  # also their outward normals


def describe(
    geometry: Geometry,
    coefficients: Float[Tensor, "batch 5"],
    data: Data,
    sizes: tuple[int, int, int],
    draw: torch.Generator,
    source: Data | Float[Tensor, " batch"] | None = None,
) -> Batch:
    r"""Write problems down on a grid and at random points.

    Args:
        geometry: what is known where.
        coefficients: :math:`c`.
        data: jet of a function with the values and slopes that are known on the edge; the solution, where it is known.
        sizes: grid nodes a side, collocation points, points on the edge.
        draw: source of the points.
        source: :math:`f` where it is not :math:`\mathcal L` of ``data`` (there are no labels then): a constant for each problem.

    Returns:
        the problems.

    Raises:
        ValueError: if coefficients are not five finite numbers for each problem, or a problem has no condition anywhere.
    """
    shaped("coefficients", coefficients, ("batch", 5))
    finite(coefficients=coefficients)
    if not (geometry.fixed | geometry.sloped).any(1).all():
        raise ValueError("geometry leaves a problem without any condition on its edge")
    grid, count, rims = sizes
    batch, kind = len(coefficients), coefficients.dtype
    node = torch.linspace(-1, 1, grid, dtype=kind)
    nodes = torch.stack(torch.meshgrid(node, node, indexing="ij"), -1).view(1, -1, 2).expand(batch, -1, 2)

    distance, direction = geometry.rim(nodes)
    radius = geometry.radius[:, None, None]
    ring = ((distance - radius).abs() <= 1 / (grid - 1)) & (radius > 0)  # half a spacing to either side
    inside = ((distance > radius) | ring).squeeze(-1)
    places = torch.where(ring, geometry.centre[:, None] + radius * direction, nodes)
    sides = SIDES.to(kind)
    on = torch.cat([(nodes @ sides.T) >= 1 - 1e-6, ring], -1)  # a corner lies on two sides
    fixed = (on & geometry.fixed[:, None]).any(-1)
    sloped_on = on & geometry.sloped[:, None]
    sloped = sloped_on.any(-1)
    outward = torch.cat([sides.expand(*nodes.shape[:2], 4, 2), -direction[:, :, None]], 2)
    first = sloped_on.to(torch.uint8).argmax(-1)  # at a corner of two Neumann sides, the normal of the first
    normals = outward.gather(2, first[..., None, None].expand(-1, -1, 1, 2)).squeeze(2) * sloped[..., None]

    unit = 2 * torch.rand(batch, math.ceil(1.6 * count), 2, generator=draw, dtype=kind) - 1
    kept = (geometry.rim(unit)[0] > radius).squeeze(-1).to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    points = unit.gather(1, kept[:, :count, None].expand(-1, -1, 2))

    lengths = torch.cat([torch.full((batch, 4), 2.0, dtype=kind), 2 * math.pi * geometry.radius[:, None]], 1)
    share = lengths * (geometry.fixed | geometry.sloped)
    piece = torch.multinomial(share, rims, replacement=True, generator=draw)[..., None]
    along = 2 * torch.rand(batch, rims, 1, generator=draw, dtype=kind) - 1
    side = sides[piece.clamp(max=3).squeeze(-1)]
    around = torch.cat([torch.cos(math.pi * along), torch.sin(math.pi * along)], -1)
    hole = piece == 4
    edge = torch.where(hole, geometry.centre[:, None] + radius * around, side + along * side.flip(-1).abs())
    edge_normals = torch.where(hole, -around, side)
    edge_fixed, edge_sloped = (
        known[:, None].expand(-1, rims, 5).gather(2, piece).to(kind) for known in (geometry.fixed, geometry.sloped)
    )

    everywhere = data(torch.cat([places, points, edge], 1))
    at_nodes, at_points, at_edge = (
        Jet(part, SECOND) for part in everywhere.streams.split([grid * grid, count, rims], 2)
    )
    exact = source is None
    if exact:
        on_grid, at_place = apply_operator(coefficients, at_nodes), apply_operator(coefficients, at_points)
    else:
        on_grid, at_place = (source[:, None, None].expand(-1, n, 1) for n in (grid * grid, count))

    def slope(jet, normal):
        return jet.d(0) * normal[..., :1] + jet.d(1) * normal[..., 1:]

    columns = [
        fixed[..., None].to(kind),
        sloped[..., None].to(kind),
        at_nodes.value * fixed[..., None],
        slope(at_nodes, normals),
        on_grid * inside[..., None],
    ]
    return Batch(
        coefficients=coefficients,
        channels=torch.cat(columns, -1).mT.reshape(batch, 5, grid, grid),
        places=places,
        inside=inside.to(kind).view(batch, grid, grid),
        normals=normals,
        points=points,
        source=at_place,
        edge=edge,
        fixed=edge_fixed,
        values=at_edge.value * edge_fixed,
        sloped=edge_sloped,
        slopes=slope(at_edge, edge_normals) * edge_sloped,
        edge_normals=edge_normals,
        labels=at_points.streams if exact else torch.zeros_like(at_points.streams),
        field=(at_nodes.value * inside[..., None]).view(batch, grid, grid) * exact,
        labelled=torch.full((batch,), exact),
    )


def swapped(batch: Batch) -> Batch:
    """The same problems with the roles of x and y exchanged, in coefficients, channels, points and labels alike."""
    turn = torch.tensor([0, 2, 1, 4, 3])
    grid = batch.channels.shape[-1]

    def across(tensor):
        return tensor.unflatten(1, (grid, grid)).transpose(1, 2).flatten(1, 2).flip(-1)

    return replace(
        batch,
        coefficients=batch.coefficients[:, turn],
        channels=batch.channels.mT,
        places=across(batch.places),
        inside=batch.inside.mT,
        normals=across(batch.normals),
        points=batch.points.flip(-1),
        edge=batch.edge.flip(-1),
        edge_normals=batch.edge_normals.flip(-1),
        labels=batch.labels[:, torch.tensor([0, 3, 4, 1, 2])],
        field=batch.field.mT,
    )


# --- random problems ----------------------------------------------------------------------------------------------------------


def _wave(z):
    return [z.sin(), z.cos(), -z.sin()]


def _line(z):
    return [z, torch.ones_like(z), torch.zeros_like(z)]


def _parabola(z):
    return [z * z / 4, z / 2, torch.full_like(z, 0.5)]


def _step(z):
    y = torch.tanh(z)
    return [y, 1 - y * y, -2 * y * (1 - y * y)]


def _bell(z):
    y = torch.exp(-z * z / 2)
    return [y, -z * y, (z * z - 1) * y]


SHAPES = (_wave, _wave, _line, _parabola, _step, _bell)
LONGEST = 5  # terms of a random function, at most
STEEP = 3.0  # largest slope of a term's argument, in radians per unit


class RandomFunctions:
    r"""Random functions :math:`u(x,y)`, built term by term from :math:`\psi\in\{\sin,z,z^2/4,\tanh,e^{-z^2/2}\}` (the sine twice as often).

    A term adds :math:`d\,\psi(ax+by+c)+e` to :math:`u`, multiplies :math:`u` by it, or replaces :math:`u` by :math:`d\,\psi(u)+e`.

    Args:
        count: how many functions.
        draw: source of their numbers.
        dtype: of the values.
    """

    def __init__(self, count: int, draw: torch.Generator, dtype: torch.dtype = torch.float32):
        def uniform(low, high):
            return low + (high - low) * torch.rand(count, LONGEST, generator=draw, dtype=dtype)

        self.terms = 2 + (uniform(0, 1)[:, 0] * (LONGEST - 1)).long()
        self.shape = (uniform(0, 1) * len(SHAPES)).long()
        choice = uniform(0, 1)
        self.rule = (choice > 0.5).long() + (choice > 0.8).long()  # 0 adds, 1 multiplies, 2 composes
        self.rule[:, 0] = 0
        self.a, self.b = (uniform(-STEEP, STEEP) * (uniform(0, 1) > 0.3) for _ in "ab")
        self.c, self.d, self.e = uniform(-math.pi, math.pi), uniform(-2, 2), uniform(-1, 1)

    def pick(self, index: Tensor) -> "RandomFunctions":
        """Some of the functions."""
        some = object.__new__(RandomFunctions)
        some.__dict__ = {name: tensor[index] for name, tensor in self.__dict__.items()}
        return some

    def __call__(self, points: Float[Tensor, "count points 2"]) -> Jet:
        """Value and derivatives to second order."""
        total = torch.zeros(*points.shape[:1], 5, points.shape[1], 1, dtype=points.dtype)

        def wide(tensor):
            return tensor[:, None, None, None]

        for term in range(LONGEST):
            a, b, c, d, e = (getattr(self, name)[:, term] for name in "abcde")
            inner = torch.zeros_like(total)
            inner[:, 0] = a[:, None, None] * points[..., :1] + b[:, None, None] * points[..., 1:] + c[:, None, None]
            inner[:, 1], inner[:, 3] = a[:, None, None], b[:, None, None]
            rule = wide(self.rule[:, term])
            inner = torch.where(rule == 2, total, inner)
            outer = [torch.empty_like(total[:, 0]) for _ in range(3)]
            for number, shape in enumerate(SHAPES):
                chosen = (self.shape[:, term] == number).nonzero().squeeze(1)
                if len(chosen):
                    for kept, value in zip(outer, shape(inner[chosen, 0]), strict=True):
                        kept[chosen] = value
            new = wide(d) * jets.compose(Jet(inner, SECOND), outer).streams
            new[:, 0] += e[:, None, None]
            times = jets.product(Jet(total, SECOND), Jet(new, SECOND)).streams
            new = torch.where(rule == 0, total + new, torch.where(rule == 1, times, new))
            total = torch.where(wide(self.terms) > term, new, total)
        return Jet(total, SECOND)


def random_setting(count: int, draw: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Geometry]:
    """Coefficients and geometry of random problems: elliptic, parabolic, hyperbolic and first-order, in the shares 0.5, 0.2, 0.2, 0.1.

    Elliptic problems know something on every side and may have a hole; the others have a first but no last time.
    """

    def number(*shape):
        return torch.rand(count, *shape, generator=draw, dtype=dtype)

    kind = torch.bucketize(number(), torch.tensor([0.5, 0.7, 0.9], dtype=dtype))[:, None]
    size, lower = 0.2 + 1.8 * number(2), (4 * number(3) - 2) * (number(3) < 0.3)
    flat = torch.zeros(count, 1, dtype=dtype)
    forms = [
        torch.cat([lower, size], 1),
        torch.cat([lower[:, :2], size[:, :1], -size[:, 1:] * number(1), flat], 1),
        torch.cat([lower, -size[:, :1], size[:, 1:]], 1),
        torch.cat([lower[:, :1], 4 * number(1) - 2, size[:, :1], flat, flat], 1),
    ]
    coefficients = sum((kind == k) * form for k, form in enumerate(forms)) * ((number(1) < 0.5) * 2 - 1)
    elliptic = kind == 0
    sloped = number(5) < torch.tensor([0.2, 0.2, 0.2, 0.2, 0.5])
    sloped[:, 2:4] &= elliptic
    sloped[sloped[:, :4].all(1), 2] = False  # a value somewhere
    fixed = ~sloped
    fixed[:, 3:4] &= elliptic
    sloped[:, 2:3] |= kind == 2  # a hyperbolic problem starts with value and velocity
    hole = elliptic[:, 0] & (number() < 0.4)
    fixed[:, 4] &= hole
    sloped[:, 4] &= hole
    return coefficients, Geometry(fixed, sloped, 1.2 * number(2) - 0.6, (0.15 + 0.2 * number()) * hole)


def manufactured(
    count: int, draw: torch.Generator, sizes: tuple[int, int, int], dtype: torch.dtype = torch.float32
) -> Batch:
    r"""Random problems with exact solutions; those with :math:`|u|>10`, standard deviation below 0.1 or :math:`|f|>10^4` are drawn again.

    Args:
        count: how many.
        draw: source of all randomness.
        sizes: grid nodes a side, collocation points, points on the edge.
        dtype: of all numbers.

    Returns:
        the problems, with labels.

    Raises:
        ValueError: if ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}: draw at least 1 problem")
    kept, found = [], 0
    while found < count:
        number = max(8, math.ceil(1.3 * (count - found)))
        functions = RandomFunctions(number, draw, dtype)
        coefficients, geometry = random_setting(number, draw, dtype)
        batch = describe(geometry, coefficients, functions, sizes, draw)
        inner = batch.inside > 0
        spread = torch.stack([field[mask].std() for field, mask in zip(batch.field, inner, strict=True)])
        values = torch.cat([batch.field.flatten(1), batch.labels[:, 0].flatten(1)], 1).abs().amax(1)
        source = torch.cat([batch.channels[:, 4].flatten(1), batch.source.flatten(1)], 1).abs().amax(1)
        good = (spread >= 0.1) & (values <= 10) & (source <= 1e4)
        kept.append(batch[good])
        found += int(good.sum())
    return together(kept)[slice(count)]


def unlabelled(
    count: int, draw: torch.Generator, sizes: tuple[int, int, int], dtype: torch.dtype = torch.float32
) -> Batch:
    """Random problems with a constant source and, on the edge, the data of zero or of a linear function.

    Args:
        count: how many.
        draw: source of all randomness.
        sizes: grid nodes a side, collocation points, points on the edge.
        dtype: of all numbers.

    Returns:
        the problems, without labels.

    Raises:
        ValueError: if ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}: draw at least 1 problem")
    coefficients, geometry = random_setting(count, draw, dtype)
    slope = torch.randn(count, 1, 3, generator=draw, dtype=dtype)
    slope = slope * (torch.rand(count, 1, 1, generator=draw) < 0.5)
    source = 5 * torch.randn(count, generator=draw, dtype=dtype)
    return describe(geometry, coefficients, lambda points: _linear(slope, points), sizes, draw, source)


def _linear(slope: Tensor, points: Tensor) -> Jet:
    streams = torch.zeros(len(points), 5, points.shape[1], 1, dtype=points.dtype)
    streams[:, 0] = (points * slope[..., :2]).sum(-1, keepdim=True) + slope[..., 2:]
    streams[:, 1], streams[:, 3] = slope[..., :1], slope[..., 1:2]
    return Jet(streams, SECOND)


# --- six problems to be judged on ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A problem with a reference solution on a grid of 101 by 101 nodes (those in a hole left out).

    Attributes:
        coefficients: of u, u_x, u_y, u_xx, u_yy.
        fixed: sides (x = -1, x = 1, y = -1, y = 1, rim) where values are known.
        sloped: those where normal derivatives are known.
        solution: the exact solution of x and y in torch, or a function with the right data on the edge.
        source: a constant source; ``None`` for the operator applied to the solution.
        centre: of the hole.
        radius: of the hole; 0 for none.
    """

    coefficients: tuple[float, ...]
    fixed: tuple[int, ...]
    sloped: tuple[int, ...]
    solution: Callable[[Tensor, Tensor], Tensor]
    source: float | None = None
    centre: tuple[float, float] = (0.0, 0.0)
    radius: float = 0.0

    def batch(self, sizes: tuple[int, int, int], seed: int = 0) -> Batch:
        """The problem as a batch of one in float32; labels are struck out, for the solution is the judge's."""
        known = [torch.tensor([[side in sides for side in range(5)]]) for sides in (self.fixed, self.sloped)]
        centre, radius = (torch.tensor([v], dtype=torch.float64) for v in (self.centre, self.radius))

        def data(points):
            return jets.by_autograd(lambda p: self.solution(p[..., :1], p[..., 1:]), points, SECOND)

        source = None if self.source is None else torch.tensor([self.source], dtype=torch.float64)
        full = describe(
            Geometry(*known, centre, radius),
            torch.tensor([self.coefficients], dtype=torch.float64),
            data,
            sizes,
            torch.Generator().manual_seed(90_000 + seed),
            source,
        )
        full = full.map(lambda t: t.detach().float() if t.is_floating_point() else t)
        blank = torch.zeros_like
        return replace(full, labels=blank(full.labels), field=blank(full.field), labelled=blank(full.labelled))

    def reference(self) -> tuple[Float[np.ndarray, "points 2"], Float[np.ndarray, " points"]]:
        """Test points and reference values."""
        axis = np.linspace(-1, 1, 101)
        points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        if self.radius:
            values = _holed(self, 201).reshape(201, 201)[::2, ::2].reshape(-1)
            kept = np.hypot(*(points - self.centre).T) > self.radius
            return points[kept], values[kept]
        x, y = torch.as_tensor(points).split(1, -1)
        return points, self.solution(x, y)[:, 0].numpy()


@cache
def _holed(task: Task, nodes: int) -> np.ndarray:
    """Laplace's operator around a circular hole by finite differences of second order with shortened arms at the rim (Shortley, Weller 1938)."""
    axis = np.linspace(-1, 1, nodes)
    h, inner = axis[1] - axis[0], slice(1, -1)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    exact = task.solution(*(torch.as_tensor(t) for t in (x, y))).numpy()
    gap = np.hypot(x - task.centre[0], y - task.centre[1]) - task.radius
    unknown = np.zeros((nodes, nodes), bool)
    unknown[inner, inner] = gap[inner, inner] > 1e-9
    number = np.full((nodes, nodes), -1)
    number[unknown] = np.arange(unknown.sum())
    i, j = np.nonzero(unknown)
    here = np.stack([x[i, j], y[i, j]], -1)
    arms, ends, known = [], [], []
    for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        to = (i + step[0], j + step[1])
        arm = here - task.centre
        along = arm @ np.array(step)  # the rim is met where |arm + s step| = radius
        root = along**2 - (arm**2).sum(1) + task.radius**2
        cut = gap[to] <= 1e-9
        length = np.where(cut, -along - np.sqrt(np.maximum(root, 0)), h)
        met = here + length[:, None] * np.array(step)
        rim = task.solution(*(torch.as_tensor(t) for t in met.T)).numpy()
        arms.append(length)
        ends.append(np.where(cut, -1, number[to]))
        known.append(np.where(cut, rim, exact[to]))
    weights = [2 / (arms[k] * (arms[k] + arms[k ^ 1])) for k in range(4)]
    rows = np.arange(len(i))
    entries = [(rows, rows, -sum(weights))]
    right = np.full(len(i), float(task.source))
    for weight, end, value in zip(weights, ends, known, strict=True):
        free = end >= 0
        entries.append((rows[free], end[free], weight[free]))
        right[~free] -= (weight * value)[~free]
    r, c, v = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    values = np.where(gap <= 0, 0.0, exact)
    values[unknown] = spsolve(csr_matrix((v, (r, c)), shape=(len(i), len(i))).tocsc(), right)
    return values.reshape(-1)


def _stretch(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of x and t in [0, 1], carried to the square."""
    return lambda x, y: function((x + 1) / 2, (y + 1) / 2)


_PI = math.pi
HOLE = ((0.2, -0.1), 0.3)
TASKS: dict[str, Task] = {
    "Poisson": Task(
        (0.0, 0.0, 0.0, 1.0, 1.0), (0, 1, 2, 3), (), lambda x, y: torch.cos(_PI * x / 2) * torch.cos(_PI * y / 2)
    ),
    "Helmholtz": Task(
        (1.0, 0.0, 0.0, 1.0, 1.0), (0, 1, 2, 3), (), lambda x, y: torch.sin(_PI * x) * torch.sin(4 * _PI * y)
    ),
    "heat": Task(
        (0.0, 0.0, 1.0, -0.1, 0.0),
        (0, 1, 2),
        (),
        _stretch(
            lambda x, t: (
                torch.exp(-0.05 * _PI**2 * t) * torch.sin(_PI * x)
                + 0.5 * torch.exp(-1.25 * _PI**2 * t) * torch.sin(5 * _PI * x)
            )
        ),
    ),
    "wave": Task(
        (0.0, 0.0, 0.0, -2.0, 0.5),
        (0, 1, 2),
        (2,),
        _stretch(
            lambda x, t: (
                torch.sin(_PI * x) * torch.cos(2 * _PI * t) + 0.5 * torch.sin(3 * _PI * x) * torch.cos(6 * _PI * t)
            )
        ),
    ),
    "hole": Task(
        (0.0, 0.0, 0.0, 1.0, 1.0),
        (0, 1, 2, 3, 4),
        (),
        lambda x, y: ((x - HOLE[0][0]) ** 2 + (y - HOLE[0][1]) ** 2 < (1.2 * HOLE[1]) ** 2).to(x.dtype) + 0 * x,
        -4.0,
        *HOLE,
    ),
    "Neumann": Task(
        (0.0, 0.0, 0.0, 1.0, 1.0), (2, 3), (0, 1), lambda x, y: torch.sin(_PI * x) * torch.cos(_PI * y / 2) + x / 2
    ),
}
