r"""Multi-stage networks: fit what the last network left over, at its own size and its own frequency, stage after stage.

The error of a trained network is small and oscillates fast; a second network of the same kind sees neither. So the
residue :math:`e_n` of stage :math:`n` is divided by its size :math:`\varepsilon_n=\mathrm{rms}(e_n)`, and the first layer of
the next network, :math:`\sin(\kappa_n(Wx+b))`, starts at its dominant frequency, :math:`\kappa_n=2\pi f_n`. The answer is
:math:`u=\sum_n\varepsilon_nu_n`. Where only an equation is known, its residue :math:`r_n` has the same frequency as the error,
and the size follows from the leading term :math:`\beta\,d^m/dx^m`,

.. math:: \varepsilon_{n+1}=\frac{\mathrm{rms}(r_n)}{|\beta|(2\pi f_n)^m}.

Everything is in float64, on inputs in [-1, 1].

Source: Wang and Lai (2023), arXiv:2307.08934, sections 2 to 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.nn.networks import generators, glorot


class Stage(nn.Module):
    r"""One network of one variable: a first layer that may be tuned to a frequency, then tanh layers.

    Args:
        seed: draws the initial weights.
        kappa: the :math:`\kappa` of a first layer :math:`\sin(\kappa(Wx+b))`; without it the first layer is tanh too.
        width: units of a hidden layer.
        depth: number of hidden layers.
    """

    def __init__(self, seed: int, kappa: float | None = None, width: int = 20, depth: int = 3):
        super().__init__()
        self.kappa = kappa
        sizes, draws = [1, *[width] * depth, 1], generators([seed], stream=11)
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.weights = nn.ParameterList(glorot(draws, *pair)[0].double() for pair in pairs)
        self.biases = nn.ParameterList(torch.zeros(size, dtype=torch.float64) for size in sizes[1:])
        if kappa is not None:  # frequencies up to kappa, and phases of all sizes, or every first feature would be odd
            rates, phases = 2 * torch.rand(2, width, generator=draws[0], dtype=torch.float64) - 1
            self.weights[0].data.copy_(rates[None])
            self.biases[0].data.copy_(math.pi / kappa * phases)

    def forward(self, x: Float[Tensor, " points"], order: int = 0) -> Float[Tensor, "rows points"]:
        """The network and its derivatives up to ``order`` (2 at most), one row each."""
        rows = [x[:, None], torch.ones_like(x)[:, None], torch.zeros_like(x)[:, None]][: order + 1]
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tuned = number == 0 and self.kappa is not None
            if tuned:
                weight, bias = self.kappa * weight, self.kappa * bias
            rows = [torch.addmm(bias, rows[0], weight), *(row @ weight for row in rows[1:])]
            if number < len(self.weights) - 1:
                rows = _bend(rows, sine=tuned)
        return torch.cat(rows, 1).T


def _bend(rows: list[Tensor], sine: bool) -> list[Tensor]:
    """A nonlinearity applied to values and derivatives by the chain rule."""
    value = torch.sin(rows[0]) if sine else torch.tanh(rows[0])
    if len(rows) == 1:
        return [value]
    first = torch.cos(rows[0]) if sine else 1 - value * value
    bent = [value, first * rows[1]]
    if len(rows) == 3:
        second = -value if sine else -2 * value * first
        bent.append(first * rows[2] + second * rows[1] * rows[1])
    return bent


class Sum:
    r"""The answer so far, :math:`\sum_n\varepsilon_nu_n`, as a list ``stages`` of pairs of size and network."""

    def __init__(self):
        self.stages: list[tuple[float, Stage]] = []

    def __call__(self, x: Float[Tensor, " points"], order: int = 0) -> Float[Tensor, "rows points"]:
        """The sum and its derivatives up to ``order``, one row each, without gradient."""
        total = x.new_zeros(order + 1, len(x))
        with torch.no_grad():
            for size, stage in self.stages:
                total += size * stage(x, order)
        return total


@dataclass(frozen=True)
class Report:
    """What a stage was given, and how its training went.

    Attributes:
        residue: root mean square of the residue that the stage was to remove (of the equation, where there is one).
        size: the size by which its network is multiplied.
        frequency: dominant frequency of that residue, in cycles per unit of length.
        points: number of training points.
        losses: loss at every evaluation.
    """

    residue: float
    size: float
    frequency: float
    points: int
    losses: list[float]


def rms(values: Float[Tensor, "*shape"]) -> float:
    """Root mean square."""
    return float(values.detach().square().mean().sqrt())


def dominant_frequency(values: Float[Tensor, " points"], length: float) -> float:
    r"""Frequency of a function from its zero crossings, :math:`f=\#/(2\ell)`; at least one half period.

    Args:
        values: evenly spaced samples, in order.
        length: the length :math:`\ell` that the samples span.

    Returns:
        cycles per unit of length.

    Raises:
        ValueError: if ``values`` is empty, not a vector or not finite, or ``length`` is not positive.
    """
    shaped("values", values, ("points",))
    finite(values=values)
    if not length > 0:
        raise ValueError(f"length is {length}: it must be positive")
    positive = values > 0
    crossings = int((positive[1:] != positive[:-1]).sum())
    return max(crossings, 1) / (2 * length)


def peak_frequency(values: Float[Tensor, " points"], length: float) -> float:
    """Frequency of the highest peak of the spectrum, behind a Hann window; at least one half period.

    Zero crossings count the fast ripple on a slow wave as if it were the wave; this does not.

    Args:
        values: evenly spaced samples, in order.
        length: the length that the samples span.

    Returns:
        cycles per unit of length.

    Raises:
        ValueError: if ``values`` is empty, not a vector or not finite, or ``length`` is not positive.
    """
    shaped("values", values, ("points",))
    finite(values=values)
    if not length > 0:
        raise ValueError(f"length is {length}: it must be positive")
    window = torch.hann_window(len(values), periodic=False, dtype=values.dtype)
    return max(int(torch.fft.rfft(window * values).abs().argmax()), 0.5) / length


def amplitude(residue: Float[Tensor, " points"], frequency: float, leading: float, order: int) -> float:
    r"""Size of the error from the residue of the equation, :math:`\mathrm{rms}(r)/(|\beta|(2\pi f)^m)`.

    Args:
        residue: residue :math:`r` of the equation.
        frequency: its dominant frequency :math:`f`.
        leading: factor :math:`\beta` of the highest derivative.
        order: order :math:`m` of that derivative.

    Returns:
        the estimated root mean square of the error.

    Raises:
        ValueError: if ``residue`` is empty, not a vector or not finite, or ``frequency`` or ``leading`` is zero.
    """
    shaped("residue", residue, ("points",))
    finite(residue=residue)
    if not frequency > 0 or leading == 0:
        raise ValueError(f"frequency is {frequency}, leading is {leading}: neither may be zero")
    return rms(residue) / (abs(leading) * (2 * math.pi * frequency) ** order)


def optimise(stage: nn.Module, loss: Callable[[], Tensor], adam: int, lbfgs: int, rate: float = 1e-3) -> list[float]:
    """Adam, then L-BFGS with a strong Wolfe line search until its iterations are used up or it stagnates.

    Args:
        stage: what is trained, in float64.
        loss: the loss at the present parameters.
        adam: steps of Adam.
        lbfgs: iterations of L-BFGS.
        rate: learning rate of Adam.

    Returns:
        the loss at every evaluation.
    """
    parameters, history = list(stage.parameters()), []
    optimiser = torch.optim.Adam(parameters, lr=rate)
    for _ in range(adam):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        history.append(value.item())

    stretch = 1e8  # PyTorch forgets curvature whose product y.s is below 1e-10, so a small loss would stall
    memory = torch.optim.LBFGS(
        parameters,
        max_iter=lbfgs,
        max_eval=2 * lbfgs,
        history_size=50,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> Tensor:
        memory.zero_grad()
        value = loss()
        (stretch * value).backward()
        history.append(value.item())
        return stretch * value.detach()

    memory.step(evaluate)
    return history


def fit(
    target: Callable[[Tensor], Tensor],
    seed: int,
    stages: int = 4,
    adam: int = 1500,
    lbfgs: int = 1500,
    scaled: bool = True,
    normalised: bool = True,
    width: int = 20,
    fewest: int = 300,
    most: int = 3000,
    margin: float = 0.05,
) -> tuple[Sum, list[Report]]:
    r"""Multi-stage regression of a function of one variable on [-1, 1].

    Args:
        target: the function, defined a little beyond the ends.
        seed: draws the initial weights.
        stages: number of networks.
        adam: steps of Adam a stage.
        lbfgs: iterations of L-BFGS a stage.
        scaled: false sets :math:`\kappa=1` in every stage.
        normalised: false trains every stage on the residue as it is.
        width: units of a hidden layer.
        fewest: training points of the first stage; the next ones get as many more, and at least 6 pi a period.
        most: training points that no stage exceeds.
        margin: how far the training points reach beyond the ends, which are the weak spot of a fit.

    Returns:
        the sum of the networks, and one report a stage.

    Raises:
        ValueError: if the target is not finite, or there is no stage.
    """
    if stages < 1:
        raise ValueError(f"stages is {stages}: give at least 1")
    end, answer, reports = 1 + margin, Sum(), []
    dense = torch.linspace(-end, end, 4 * most, dtype=torch.float64)
    finite(target=target(dense))
    for number in range(stages):
        left = target(dense) - answer(dense)[0]
        frequency = dominant_frequency(left, 2 * end)
        kappa = None if number == 0 else (2 * math.pi * frequency if scaled else 1.0)
        size = rms(left) if normalised else 1.0
        count = min(most, max(fewest * (number + 1), math.ceil(6 * math.pi * frequency * 2 * end)))
        x = torch.linspace(-end, end, count, dtype=torch.float64)
        wanted = (target(x) - answer(x)[0]) / size
        stage = Stage(1000 * seed + number, kappa, width)
        losses = optimise(stage, lambda: (stage(x)[0] - wanted).square().mean(), adam, lbfgs)  # noqa: B023
        answer.stages.append((size, stage))
        reports.append(Report(rms(left), size, frequency, count, losses))
    return answer, reports


@dataclass(frozen=True)
class Equation:
    r"""A differential equation :math:`\mathcal N[u]=0` on [-1, 1] with known values at some points.

    Attributes:
        residual: from the solution and its derivatives ``[rows, points]`` and the points to the residue.
        order: order of the highest derivative, 1 or 2.
        leading: its factor.
        places: points where the solution is known.
        values: the solution there.
        exact: the solution, for tests only.
    """

    residual: Callable[[Tensor, Tensor], Tensor]
    order: int
    leading: float
    places: tuple[float, ...]
    values: tuple[float, ...]
    exact: Callable[[Tensor], Tensor]


def solve(
    equation: Equation,
    seed: int,
    stages: int = 3,
    adam: int = 1500,
    lbfgs: int = 1500,
    width: int = 20,
    fewest: int = 300,
) -> tuple[Sum, list[Report]]:
    """Multi-stage solution of a differential equation; sizes and frequencies come from its residue alone.

    The first stage is tuned too where zero leaves a residue, because a forcing shows its frequency before any training.

    Args:
        equation: what is solved.
        seed: draws the initial weights.
        stages: number of networks.
        adam: steps of Adam a stage.
        lbfgs: iterations of L-BFGS a stage.
        width: units of a hidden layer.
        fewest: training points of the first stage; the next ones get as many more, and at least 6 pi a period.

    Returns:
        the sum of the networks, and one report a stage.

    Raises:
        ValueError: if there is no stage.
    """
    if stages < 1:
        raise ValueError(f"stages is {stages}: give at least 1")
    answer, reports = Sum(), []
    dense = torch.linspace(-1, 1, 6000, dtype=torch.float64)
    places, values = (torch.tensor(known, dtype=torch.float64) for known in (equation.places, equation.values))
    for number in range(stages):
        left = equation.residual(answer(dense, equation.order), dense)
        residue, frequency = rms(left), peak_frequency(left, 2.0)
        size = amplitude(left, frequency, equation.leading, equation.order)
        kappa = 2 * math.pi * frequency
        if residue == 0:  # zero solves the equation, which then says nothing about the size of its solution
            residue, size, kappa = 1.0, 1.0, None
        count = max(fewest * (number + 1), math.ceil(6 * math.pi * frequency * 2))
        x = torch.linspace(-1, 1, count, dtype=torch.float64)
        before, missing = answer(x, equation.order), (values - answer(places)[0]) / size
        stage = Stage(1000 * seed + number, kappa, width)

        def loss(x=x, stage=stage, size=size, residue=residue, before=before, missing=missing) -> Tensor:
            inside = equation.residual(before + size * stage(x, equation.order), x) / residue
            return inside.square().mean() + (stage(places)[0] - missing).square().mean()

        losses = optimise(stage, loss, adam, lbfgs)
        answer.stages.append((size, stage))
        reports.append(Report(rms(left), size, frequency, count, losses))
    return answer, reports
