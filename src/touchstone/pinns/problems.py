r"""The partial and ordinary differential equations on which the methods of this part are compared.

A :class:`Problem` holds what a physics-informed network needs (the domain, the residual, and what is known on its
edges) and what only the judge may see (a reference solution on test points). Where there is time, it is the first coordinate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.pinns import references
from touchstone.pinns.references import Reference, formula


@dataclass(frozen=True)
class Condition:
    """What is known of the solution on a part of the domain's edge, imposed through a term of the loss.

    Attributes:
        name: of the loss term, ``initial`` or ``boundary``.
        place: ``count`` points of the edge in unit coordinates, ``[count, dims]``.
        misfit: how far a jet of the solution is from what is known, one column a condition.
        orders: highest derivative that the misfit needs along each coordinate.
    """

    name: str
    place: Callable[[int], Tensor]
    misfit: Callable[[Jet, Tensor], Tensor]
    orders: tuple[int, ...]


def initial_values(value: Callable[[Tensor], Tensor], at_rest: bool = False) -> Condition:
    """The solution at the first time, for a problem in :math:`(t, x)`.

    Args:
        value: the solution there, from :math:`x`.
        at_rest: the time derivative is zero there as well.

    Returns:
        the condition ``initial``.
    """

    def misfit(jet: Jet, points: Tensor) -> Tensor:
        gap = jet.value - value(points[..., 1:])
        return torch.cat([gap, jet.d(0)], -1) if at_rest else gap

    def place(count: int) -> Tensor:
        x = (torch.arange(count) + 0.5) / count
        return torch.stack([torch.zeros_like(x), x], -1)

    return Condition("initial", place, misfit, (int(at_rest), 0))


def end_values(value: float = 0.0) -> Condition:
    """One value at both ends of :math:`x` at all times, half the points at either end.

    Args:
        value: the solution there.

    Returns:
        the condition ``boundary``.
    """

    def place(count: int) -> Tensor:
        t = (torch.arange(count // 2) + 0.5) / (count // 2)
        return torch.cat([torch.stack([t, torch.full_like(t, end)], -1) for end in (0.0, 1.0)])

    return Condition("boundary", place, lambda jet, points: jet.value - value, (0, 0))


def wall_values(value: float = 0.0, dims: int = 2) -> Condition:
    """One value on the whole boundary of an interval or a rectangle.

    Args:
        value: the solution there.
        dims: 1 for an interval (its two ends), 2 for a rectangle (as many points on each of the four sides).

    Returns:
        the condition ``boundary``.

    Raises:
        ValueError: for other dimensions.
    """
    if dims not in (1, 2):
        raise ValueError(f"dims is {dims}: walls are made for 1 or 2 dimensions")

    def place(count: int) -> Tensor:
        if dims == 1:
            return torch.tensor([[0.0], [1.0]])
        s = (torch.arange(count // 4) + 0.5) / (count // 4)
        sides = [torch.stack([s, torch.full_like(s, end)], -1) for end in (0.0, 1.0)]
        return torch.cat([*sides, *(side.flip(-1) for side in sides)])

    return Condition("boundary", place, lambda jet, points: jet.value - value, (0,) * dims)


def exact_start(values: Sequence[float]) -> Callable[[Jet, Tensor], Jet]:
    r"""The ansatz :math:`u_0 + t\,N(t)`, whose initial value is exact, for ordinary differential equations from time 0.

    Args:
        values: :math:`u_0`.

    Returns:
        a function from the network's jet and the points to the solution's jet.
    """

    def apply(jet: Jet, points: Tensor) -> Jet:
        clock = Jet(jets.coordinates(points, jet.orders).streams[..., :1], jet.orders)
        streams = jets.product(clock, jet).streams
        return Jet(torch.cat([streams[:, :1] + streams.new_tensor(values), streams[:, 1:]], 1), jet.orders)

    return apply


def zero_on_sphere(jet: Jet, points: Tensor) -> Jet:
    r"""The ansatz :math:`(1-\lVert x\rVert^2)N(x)`, exactly zero on the unit sphere."""
    factor = points.new_zeros(points.shape[0], jet.streams.shape[1], points.shape[1], 1)
    factor[:, 0] = 1 - points.square().sum(-1, keepdim=True)
    for axis, order in enumerate(jet.orders):
        start = 1 + sum(jet.orders[:axis])
        if order >= 1:
            factor[:, start] = -2 * points[..., axis : axis + 1]
        if order >= 2:
            factor[:, start + 1] = -2
    return jets.product(Jet(factor, jet.orders), jet)


def into_ball(unit: Float[Tensor, "*batch points dims"]) -> Float[Tensor, "*batch points dims"]:
    """Carry uniform points of the unit cube to uniform points of the unit ball, one to one: through normal variables and their radius."""
    normal = math.sqrt(2) * torch.erfinv((2 * unit - 1).clamp(-1 + 1e-6, 1 - 1e-6))
    squared = normal.square().sum(-1, keepdim=True)
    dims = unit.shape[-1]
    radius = torch.special.gammainc(torch.full_like(squared, dims / 2), squared / 2).pow(1 / dims)
    return normal * radius / squared.sqrt().clamp(min=1e-12)


@dataclass(frozen=True)
class Problem:
    r"""A differential equation with its data and its reference solution.

    Attributes:
        name: how tables call it.
        low: smallest value of each coordinate, time first.
        high: largest value of each coordinate.
        orders: highest derivative that the residual needs along each coordinate.
        outputs: number of components of the solution.
        equation: the residual from a jet of the solution and the points, ``[seeds, points, equations]``.
        conditions: what is known on the edges and imposed through the loss.
        solve: computes test points and reference values; without it, errors cannot be measured.
        ansatz: builds the solution's jet from the network's, for conditions that shall hold exactly.
        period: period of :math:`x` (the second coordinate), which the features then have exactly; ``None`` where there is none.
        harmonics: number of harmonics in the periodic features.
        ball: the domain is the unit ball.

    Raises:
        ValueError: if coordinates, orders and conditions do not fit together, or nothing at all is known on the edges.
    """

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    orders: tuple[int, ...]
    outputs: int
    equation: Callable[[Jet, Tensor], Tensor]
    conditions: tuple[Condition, ...] = ()
    solve: Callable[[], Reference] | None = None
    ansatz: Callable[[Jet, Tensor], Jet] | None = None
    period: float | None = None
    harmonics: int = 1
    ball: bool = False

    def __post_init__(self):
        if not len(self.low) == len(self.high) == len(self.orders) > 0:
            raise ValueError(
                f"low, high and orders need one entry a coordinate: {self.low}, {self.high}, {self.orders}"
            )
        if not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low {self.low} must lie below high {self.high} in every coordinate")
        if not self.conditions and self.ansatz is None:
            raise ValueError(
                f"problem {self.name!r} has no conditions: without initial or boundary values, or an ansatz that builds "
                "them in, the equation has many solutions"
            )
        for condition in self.conditions:
            if len(condition.orders) != len(self.low):
                raise ValueError(
                    f"condition {condition.name!r} has orders {condition.orders} for {len(self.low)} coordinates"
                )

    @property
    def inputs(self) -> int:
        """Number of features that :meth:`embed` delivers to a network."""
        return len(self.low) if self.period is None else len(self.low) - 1 + 2 * self.harmonics

    def embed(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """The network's input features: the coordinates, each rescaled to [-1, 1], and a periodic :math:`x` replaced by its cosines and sines."""
        if self.period is None:
            return jets.coordinates(points, orders, self.low, self.high)
        return jets.periodic(points, orders, 1, self.period, self.harmonics, self.low, self.high)

    def solution(
        self, network: Callable, points: Float[Tensor, "seeds points dims"], orders: Sequence[int] | None = None
    ) -> Jet:
        """The jet of the approximate solution: the network, behind the ansatz where there is one.

        Args:
            network: maps points and orders to a jet.
            points: coordinates.
            orders: derivatives to carry; those of the residual by default.

        Returns:
            the jet of the approximate solution.

        Raises:
            ValueError: if the network does not have one output for each component of the solution.
        """
        jet = network(points, self.orders if orders is None else tuple(orders))
        if jet.value.shape[-1] != self.outputs:
            raise ValueError(f"network has {jet.value.shape[-1]} outputs, problem {self.name!r} needs {self.outputs}")
        return jet if self.ansatz is None else self.ansatz(jet, points)

    def residual(
        self, network: Callable, points: Float[Tensor, "seeds points dims"]
    ) -> Float[Tensor, "seeds points equations"]:
        """How far the network is from solving the equation at each point.

        Args:
            network: maps points and orders to a jet.
            points: coordinates.

        Returns:
            one column an equation.

        Raises:
            ValueError: if the equation returns another shape.
        """
        residual = self.equation(self.solution(network, points), points)
        if residual.ndim != 3 or residual.shape[:2] != points.shape[:2]:
            raise ValueError(
                f"equation of {self.name!r} returned shape {tuple(residual.shape)}, expected {tuple(points.shape[:2])} and one column an equation"
            )
        return residual

    def scale(self, unit: Float[Tensor, "*batch points dims"]) -> Float[Tensor, "*batch points dims"]:
        """Carry points of the unit cube into the domain, uniform ones to uniform ones."""
        if self.ball:
            return into_ball(unit)
        low, high = unit.new_tensor(self.low), unit.new_tensor(self.high)
        return low + unit * (high - low)

    def check(self, points: Float[Tensor, "*batch points dims"]) -> None:
        """Reject points outside the domain (by more than a millionth of its size).

        Args:
            points: coordinates.

        Raises:
            ValueError: naming the first coordinate that leaves the domain.
        """
        for axis, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            least, most, slack = float(points[..., axis].min()), float(points[..., axis].max()), 1e-6 * (high - low)
            if not (low - slack <= least and most <= high + slack):
                raise ValueError(
                    f"points leave the domain of {self.name!r}: coordinate {axis} runs from {least:g} to {most:g}, not within [{low:g}, {high:g}]"
                )

    def reference(self) -> Reference:
        """Test points and reference solution, from the disk cache where they have been computed before.

        Returns:
            points ``[n, dims]`` with the first coordinate varying slowest, and values ``[n, outputs]``, both float64.

        Raises:
            ValueError: if the problem comes without a reference.
        """
        if self.solve is None:
            raise ValueError(f"problem {self.name!r} has no reference solution: give it solve=...")
        return self.solve()

    def error(self, predict: Callable[[Tensor], Tensor]) -> Float[np.ndarray, " seeds"]:
        """Relative L2 error on the test points.

        Args:
            predict: maps test points ``[points, dims]`` to values ``[seeds, points, outputs]``.

        Returns:
            one error a seed.
        """
        points, truth = self.reference()
        guess = np.asarray(predict(torch.as_tensor(points, dtype=torch.float32)), dtype=np.float64)
        return np.linalg.norm(guess - truth, axis=(1, 2)) / np.linalg.norm(truth)


def conv(speed: float) -> Problem:
    r"""Convection :math:`u_t + b\,u_x = 0` of a sine, periodic, :math:`x\in[0,2\pi)`, :math:`t\in[0,1]`."""
    return Problem(
        name=f"conv({speed:g})",
        low=(0.0, 0.0),
        high=(1.0, 2 * np.pi),
        orders=(1, 1),
        outputs=1,
        equation=lambda u, points: u.d(0) + speed * u.d(1),
        conditions=(initial_values(torch.sin),),
        solve=partial(references.convection_solution, float(speed)),
        period=2 * np.pi,
    )


def reac5() -> Problem:
    r"""Reaction :math:`u_t = 5u(1-u)` of a Gaussian bump, periodic, :math:`x\in[0,2\pi]`, :math:`t\in[0,1]`."""
    return Problem(
        name="reac5",
        low=(0.0, 0.0),
        high=(1.0, 2 * np.pi),
        orders=(1, 0),
        outputs=1,
        equation=lambda u, points: u.d(0) - 5 * u.value * (1 - u.value),
        conditions=(initial_values(lambda x: torch.exp(-((x - np.pi) ** 2) / (2 * (np.pi / 4) ** 2))),),
        solve=lambda: formula(
            partial(references.reaction_solution, 5.0), np.linspace(0, 1, 101), np.linspace(0, 2 * np.pi, 256)
        ),
        period=2 * np.pi,
    )


def ac() -> Problem:
    r"""Allen-Cahn :math:`u_t = 10^{-4}u_{xx} - 5u^3 + 5u` on the periodic [-1, 1], :math:`u_0 = x^2\cos\pi x`."""
    return Problem(
        name="ac",
        low=(0.0, -1.0),
        high=(1.0, 1.0),
        orders=(1, 2),
        outputs=1,
        equation=lambda u, points: u.d(0) - 1e-4 * u.d(1, 2) + 5 * u.value**3 - 5 * u.value,
        conditions=(initial_values(lambda x: x**2 * torch.cos(np.pi * x)),),
        solve=partial(references.allen_cahn_solution, 2048, 5e-4),
        period=2.0,
        harmonics=5,
    )


def burgers() -> Problem:
    r"""Burgers :math:`u_t + u\,u_x = (0.01/\pi)u_{xx}` on [-1, 1], 0 at both ends, :math:`u_0 = -\sin\pi x`."""
    return Problem(
        name="burgers",
        low=(0.0, -1.0),
        high=(1.0, 1.0),
        orders=(1, 2),
        outputs=1,
        equation=lambda u, points: u.d(0) + u.value * u.d(1) - 0.01 / np.pi * u.d(1, 2),
        conditions=(initial_values(lambda x: -torch.sin(np.pi * x)), end_values()),
        solve=partial(references.burgers_solution, 0.01 / np.pi, 256),
    )


def heat() -> Problem:
    r"""Heat :math:`u_t = 0.05u_{xx}` on [0, 1], 0 at both ends, :math:`u_0 = \sin\pi x + \tfrac12\sin5\pi x`."""
    return Problem(
        name="heat",
        low=(0.0, 0.0),
        high=(1.0, 1.0),
        orders=(1, 2),
        outputs=1,
        equation=lambda u, points: u.d(0) - 0.05 * u.d(1, 2),
        conditions=(
            initial_values(lambda x: torch.sin(np.pi * x) + 0.5 * torch.sin(5 * np.pi * x)),
            end_values(),
        ),
        solve=lambda: formula(references.heat_solution, np.linspace(0, 1, 101), np.linspace(0, 1, 256)),
    )


def wave() -> Problem:
    r"""Wave :math:`u_{tt} = 4u_{xx}` on [0, 1], 0 at both ends, at rest in :math:`\sin\pi x + \tfrac12\sin3\pi x`."""
    return Problem(
        name="wave",
        low=(0.0, 0.0),
        high=(1.0, 1.0),
        orders=(2, 2),
        outputs=1,
        equation=lambda u, points: u.d(0, 2) - 4 * u.d(1, 2),
        conditions=(
            initial_values(lambda x: torch.sin(np.pi * x) + 0.5 * torch.sin(3 * np.pi * x), at_rest=True),
            end_values(),
        ),
        solve=lambda: formula(references.wave_solution, np.linspace(0, 1, 101), np.linspace(0, 1, 256)),
    )


def kdv() -> Problem:
    r"""Korteweg-de Vries :math:`u_t + uu_x + 0.0025u_{xxx} = 0` on the periodic [-1, 1], :math:`u_0 = \cos\pi x`."""
    return Problem(
        name="kdv",
        low=(0.0, -1.0),
        high=(1.0, 1.0),
        orders=(1, 3),
        outputs=1,
        equation=lambda u, points: u.d(0) + u.value * u.d(1) + 0.0025 * u.d(1, 3),
        conditions=(initial_values(lambda x: torch.cos(np.pi * x)),),
        solve=partial(references.korteweg_de_vries_solution, 512, 5e-4),
        period=2.0,
    )


def ks() -> Problem:
    r"""Kuramoto-Sivashinsky :math:`u_t + 5uu_x + \tfrac12u_{xx} + 0.005u_{xxxx} = 0` on the periodic [-1, 1], :math:`u_0 = -\sin\pi x`."""
    return Problem(
        name="ks",
        low=(0.0, -1.0),
        high=(1.0, 1.0),
        orders=(1, 4),
        outputs=1,
        equation=lambda u, points: u.d(0) + 5 * u.value * u.d(1) + 0.5 * u.d(1, 2) + 0.005 * u.d(1, 4),
        conditions=(initial_values(lambda x: -torch.sin(np.pi * x)),),
        solve=partial(references.kuramoto_sivashinsky_solution, 512, 5e-4),
        period=2.0,
    )


def lorenz(horizon: float) -> Problem:
    r"""Lorenz-63 with :math:`\sigma=10, \rho=28, \beta=8/3` from (1, 1, 1), up to time ``horizon``."""

    def equation(u: Jet, points: Tensor) -> Tensor:
        x, y, z = u.value.unbind(-1)
        field = torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)
        return u.d(0) - field

    return Problem(
        name=f"lorenz({horizon:g})",
        low=(0.0,),
        high=(float(horizon),),
        orders=(1,),
        outputs=3,
        equation=equation,
        solve=partial(references.lorenz_solution, float(horizon), 1e-11),
        ansatz=exact_start((1.0, 1.0, 1.0)),
    )


def helm14() -> Problem:
    r"""Helmholtz :math:`u_{xx} + u_{yy} + u = q` on [-1, 1] squared, 0 on the walls, :math:`u = \sin\pi x\sin4\pi y`."""

    def source(points: Tensor) -> Tensor:
        x, y = points[..., :1], points[..., 1:]
        return (1 - 17 * np.pi**2) * torch.sin(np.pi * x) * torch.sin(4 * np.pi * y)

    axis = np.linspace(-1, 1, 101)
    return Problem(
        name="helm14",
        low=(-1.0, -1.0),
        high=(1.0, 1.0),
        orders=(2, 2),
        outputs=1,
        equation=lambda u, points: u.d(0, 2) + u.d(1, 2) + u.value - source(points),
        conditions=(wall_values(),),
        solve=lambda: formula(lambda x, y: np.sin(np.pi * x) * np.sin(4 * np.pi * y), axis, axis),
    )


def pois2d(size: float) -> Problem:
    r"""Poisson :math:`\Delta u = f` on [0, L] squared, 0 on the walls, :math:`u = \sin(\pi x/L)\sin(\pi y/L)`."""
    wave = np.pi / size

    def source(points: Tensor) -> Tensor:
        return -2 * wave**2 * torch.sin(wave * points[..., :1]) * torch.sin(wave * points[..., 1:])

    axis = np.linspace(0, size, 101)
    return Problem(
        name=f"pois2d({size:g})",
        low=(0.0, 0.0),
        high=(float(size), float(size)),
        orders=(2, 2),
        outputs=1,
        equation=lambda u, points: u.d(0, 2) + u.d(1, 2) - source(points),
        conditions=(wall_values(),),
        solve=lambda: formula(lambda x, y: np.sin(wave * x) * np.sin(wave * y), axis, axis),
    )


def _poisson_line(name: str, length: float, waves: Sequence[tuple[float, float]]) -> Problem:
    """:math:`u'' = f` for a sum of sines, given as pairs of amplitude and angular frequency."""

    def source(points: Tensor) -> Tensor:
        return sum(-size * rate**2 * torch.sin(rate * points) for size, rate in waves)

    return Problem(
        name=name,
        low=(0.0,),
        high=(length,),
        orders=(2,),
        outputs=1,
        equation=lambda u, points: u.d(0, 2) - source(points),
        conditions=(wall_values(dims=1),),
        solve=lambda: formula(
            lambda x: sum(size * np.sin(rate * x) for size, rate in waves), np.linspace(0, length, 2001)
        ),
    )


def pois_ms() -> Problem:
    r"""Poisson :math:`u'' = f` on [0, 1], 0 at both ends, two scales: :math:`u = \sin2\pi x + 0.1\sin50\pi x`."""
    return _poisson_line("pois-ms", 1.0, [(1.0, 2 * np.pi), (0.1, 50 * np.pi)])


def pois_hf(rate: int) -> Problem:
    r"""Poisson :math:`u'' = f` on :math:`[0, 2\pi]`, 0 at both ends, one high frequency: :math:`u = \sin wx`."""
    return _poisson_line(f"pois-hf({rate:g})", 2 * np.pi, [(1.0, float(rate))])


def two_body(points: Float[Tensor, "*batch dims"], weights: Float[Tensor, "terms"]) -> tuple[Tensor, Tensor]:
    r"""The inseparable function :math:`(1-\lVert x\rVert^2)\sum_ic_i\sin(x_i+\cos x_{i+1}+x_{i+1}\cos x_i)` and its Laplacian.

    Args:
        points: coordinates.
        weights: :math:`c_i`, one fewer than coordinates.

    Returns:
        value and Laplacian, each of shape ``[*batch, 1]``.
    """
    here, after = points[..., :-1], points[..., 1:]
    angle = here + after.cos() + after * here.cos()
    first, second = 1 - after * here.sin(), here.cos() - after.sin()
    bend = -after * here.cos() - after.cos()  # sum of the angle's two second derivatives
    wave, slope = weights * angle.sin(), weights * angle.cos()
    total = wave.sum(-1, keepdim=True)
    radial = (slope * (here * first + after * second)).sum(-1, keepdim=True)
    laplacian = (slope * bend - wave * (first.square() + second.square())).sum(-1, keepdim=True)
    inside = 1 - points.square().sum(-1, keepdim=True)
    return inside * total, inside * laplacian - 4 * radial - 2 * points.shape[-1] * total


def pois_hd(dims: int, draw: int = 0) -> Problem:
    r"""Poisson :math:`\Delta u = f` in the unit ball of :math:`\mathbb R^d` with the solution of :func:`two_body`, zero on the sphere by its ansatz.

    Args:
        dims: :math:`d`, at least 2.
        draw: seed of the coefficients :math:`c_i\sim\mathcal N(0,1)`.

    Returns:
        the problem; its test points are 2000 uniform points of the ball.

    Raises:
        ValueError: if ``dims`` is below 2.
    """
    if dims < 2:
        raise ValueError(f"dims is {dims}: the solution couples neighbouring coordinates, give at least 2")
    weights = torch.randn(dims - 1, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)

    def solve() -> Reference:
        unit = torch.rand(2000, dims, generator=torch.Generator().manual_seed(987654321), dtype=torch.float64)
        points = into_ball(unit)
        return points.numpy(), two_body(points, weights)[0].numpy()

    def equation(u: Jet, points: Tensor) -> Tensor:
        laplacian = sum(u.d(axis, 2) for axis in range(dims))
        return laplacian - two_body(points, weights.to(points.dtype))[1]

    return Problem(
        name=f"pois-hd({dims})",
        low=(-1.0,) * dims,
        high=(1.0,) * dims,
        orders=(2,) * dims,
        outputs=1,
        equation=equation,
        solve=solve,
        ansatz=zero_on_sphere,
        ball=True,
    )


SUITE: dict[str, Callable[[], Problem]] = {
    "conv10": partial(conv, 10.0),
    "conv30": partial(conv, 30.0),
    "reac5": reac5,
    "ac": ac,
    "burgers": burgers,
    "heat": heat,
    "wave": wave,
    "kdv": kdv,
    "ks": ks,
    "lorenz1": partial(lorenz, 1.0),
    "helm14": helm14,
    "pois-ms": pois_ms,
    "pois-hf10": partial(pois_hf, 10),
    "pois-hf40": partial(pois_hf, 40),
    "pois2d1": partial(pois2d, 1.0),
    "pois2d8": partial(pois2d, 8.0),
    "pois-hd10": partial(pois_hd, 10),
}
