r"""Three models built on neural ODEs: a classifier, a latent ODE for irregular series, and a continuous flow.

The latent ODE holds several seeds along the first axis of its parameters and trains them side by side; its solver has
fixed steps, so that seeds do not share an error estimate.

Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, 2018, arXiv:1806.07366, sections 3 to 5.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.neural_ode import ODEBlock, odeint_adjoint
from touchstone.dynamics.odeint import RK4, Count, Dopri5, odeint
from touchstone.nn.networks import generators, glorot


class TimedField(nn.Module):
    """A vector field of two layers, tanh in between, with the time as one more input of both.

    Args:
        dim: entries of the state.
        hidden: units.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(dim + 1, hidden), nn.Linear(hidden + 1, dim)

    def forward(self, time: float, state: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Time derivative of the state."""
        clock = torch.full_like(state[..., :1], float(time))
        hidden = torch.tanh(self.inner(torch.cat([state, clock], -1)))
        return self.outer(torch.cat([hidden, clock], -1))


def ode_classifier(
    inputs: int, classes: int, solver: Dopri5 | RK4, width: int = 32, adjoint: bool = True
) -> nn.Sequential:
    """A linear projection, an ODE block of the projected features, and a linear head.

    Args:
        inputs: features of an example.
        classes: logits.
        solver: of the block.
        width: features in the block.
        adjoint: how the block is differentiated.

    Returns:
        the untrained network; the block is its second layer.
    """
    block = ODEBlock(TimedField(width, width), solver, adjoint)
    return nn.Sequential(nn.Linear(inputs, width), block, nn.Linear(width, classes))


class Perceptrons(nn.Module):
    """A tanh network for every seed, stacked.

    Args:
        draws: one generator a seed.
        sizes: features from input to output.
    """

    def __init__(self, draws: Sequence[torch.Generator], sizes: Sequence[int]):
        super().__init__()
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.weights = nn.ParameterList(glorot(draws, *pair) for pair in pairs)
        self.biases = nn.ParameterList(torch.zeros(len(draws), 1, size) for size in sizes[1:])

    def forward(self, features: Float[Tensor, "seeds batch inputs"]) -> Float[Tensor, "seeds batch outputs"]:
        """Outputs, seed by seed."""
        *hidden, (weight, bias) = zip(self.weights, self.biases, strict=True)  # slices of such lists are slow
        for inner, shift in hidden:
            features = torch.tanh(torch.baddbmm(shift, features, inner))
        return torch.baddbmm(bias, features, weight)


class GatedUnits(nn.Module):
    """One gated recurrent layer (GRU) for every seed, stacked.

    Args:
        draws: one generator a seed.
        inputs: features of an input.
        units: recurrent units.
    """

    def __init__(self, draws: Sequence[torch.Generator], inputs: int, units: int):
        super().__init__()
        self.units = units
        self.read = nn.Parameter(glorot(draws, inputs, 3 * units))
        self.recur = nn.Parameter(glorot(draws, units, 3 * units))
        self.read_bias = nn.Parameter(torch.zeros(len(draws), 1, 3 * units))
        self.recur_bias = nn.Parameter(torch.zeros(len(draws), 1, 3 * units))

    def forward(
        self, features: Float[Tensor, "seeds batch inputs"], memory: Float[Tensor, "seeds batch units"]
    ) -> Float[Tensor, "seeds batch units"]:
        """The memory after one more input."""
        seen = torch.baddbmm(self.read_bias, features, self.read)
        kept = torch.baddbmm(self.recur_bias, memory, self.recur)
        gates = torch.sigmoid(seen[..., : 2 * self.units] + kept[..., : 2 * self.units])
        reset, update = gates.split(self.units, -1)
        proposal = torch.tanh(seen[..., 2 * self.units :] + reset * kept[..., 2 * self.units :])
        return torch.lerp(proposal, memory, update)


class Autonomous(nn.Module):
    """A network of the state as a vector field that does not depend on time."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, time: float, state: Tensor) -> Tensor:
        """Time derivative of the state."""
        return self.network(state)


class LatentODE(nn.Module):
    r"""A latent ODE: a GRU reads the observations backwards in time and proposes :math:`q(z_0)`; an ODE does the rest.

    The state :math:`z(t)` is decoded at any time. Observations have Gaussian noise of a fixed size, so that the evidence
    lower bound is, up to constants, a squared error and the divergence of :math:`q` from a standard normal.

    Args:
        seeds: one model each.
        dim: entries of an observation.
        latent: entries of the state.
        hidden: units of the field (two layers) and the decoder (one).
        units: of the encoder.
        noise: standard deviation of an observation in the likelihood.
    """

    def __init__(
        self, seeds: Sequence[int], dim: int = 2, latent: int = 4, hidden: int = 20, units: int = 25, noise: float = 0.3
    ):
        super().__init__()
        draws = generators(seeds)
        self.encoder, self.posterior = GatedUnits(draws, dim + 1, units), Perceptrons(draws, [units, 2 * latent])
        self.field = Autonomous(Perceptrons(draws, [latent, hidden, hidden, latent]))
        self.decoder = Perceptrons(draws, [latent, hidden, dim])
        self.noise = noise
        self.draws = generators(seeds, stream=1)

    def encode(
        self, values: Float[Tensor, "seeds batch seen dim"], when: Float[Tensor, "seeds batch seen"]
    ) -> tuple[Float[Tensor, "seeds batch latent"], Float[Tensor, "seeds batch latent"]]:
        """Mean and logarithm of the standard deviation of the state at time 0.

        Args:
            values: observations.
            when: their times, increasing.

        Returns:
            both, of a normal distribution with independent entries.
        """
        gaps = when.diff(dim=-1, prepend=torch.zeros_like(when[..., :1]))  # what passed since the one before it
        inputs = torch.cat([values, gaps[..., None]], -1)
        memory = values.new_zeros(*values.shape[:2], self.encoder.units)
        for index in range(values.shape[2] - 1, -1, -1):
            memory = self.encoder(inputs[:, :, index], memory)
        mean, log_deviation = self.posterior(memory).chunk(2, -1)
        return mean, log_deviation

    def trajectory(
        self, start: Float[Tensor, "seeds batch latent"], times: Float[Tensor, "times"]
    ) -> Float[Tensor, "seeds batch times dim"]:
        """Decoded states at times from 0 on, one step of RK4 between two of them; one solve for the whole batch.

        Args:
            start: states at time 0.
            times: increasing, the first above 0.

        Returns:
            what would be observed without noise.
        """
        states = odeint(self.field, start, torch.cat([times.new_zeros(1), times]), RK4())[1:]
        decoded = self.decoder(states.permute(1, 0, 2, 3).flatten(1, 2))
        return decoded.unflatten(1, states.shape[:3:2]).transpose(1, 2)

    def loss(
        self,
        values: Float[Tensor, "seeds batch seen dim"],
        index: Int[Tensor, "seeds batch seen"],
        times: Float[Tensor, "times"],
        weight: float,
    ) -> Float[Tensor, "seeds"]:
        """Negative evidence lower bound of a series, without constants, mean over the batch.

        Args:
            values: observations.
            index: which of the times each of them was made at, increasing.
            times: the times common to all series.
            weight: of the divergence, for annealing.

        Returns:
            one loss a seed.

        Raises:
            ValueError: if the observations are empty, not finite or do not fit the index.
        """
        finite(values=values, times=times)
        shaped("index", index, values.shape[:3])
        mean, log_deviation = self.encode(values, times[index])
        noise = torch.stack([torch.randn(mean.shape[1:], generator=draw) for draw in self.draws])
        path = self.trajectory(mean + log_deviation.exp() * noise, times)
        seen = path.gather(2, index[..., None].expand(*index.shape, path.shape[-1]))
        misfit = (seen - values).square().sum((2, 3)) / (2 * self.noise**2)
        divergence = ((2 * log_deviation).exp() + mean.square() - 1 - 2 * log_deviation).sum(-1) / 2
        return (misfit + weight * divergence).mean(-1)

    @torch.no_grad()
    def predict(
        self,
        values: Float[Tensor, "seeds batch seen dim"],
        index: Int[Tensor, "seeds batch seen"],
        times: Float[Tensor, "times"],
    ) -> Float[Tensor, "seeds batch times dim"]:
        """The curve of the mean of :math:`q(z_0)` at all times, those after the last observation included."""
        return self.trajectory(self.encode(values, times[index])[0], times)


class HyperField(nn.Module):
    r"""A field of the plane or of space whose weights are functions of time, with its divergence in closed form.

    .. math:: f(t,z)=\tfrac1M\sum_n\sigma_n(t)\,u_n(t)\tanh(w_n(t)^\top z+b_n(t)), \qquad
       \operatorname{tr}\frac{\partial f}{\partial z}=\tfrac1M\sum_n\sigma_n\,u_n^\top w_n\,(1-\tanh^2) .

    Args:
        seed: of the weights.
        dim: entries of a point.
        units: M.
        hidden: units of the network of time that gives all weights (two layers).
    """

    def __init__(self, seed: int, dim: int = 2, units: int = 64, hidden: int = 32):
        super().__init__()
        self.dim, self.units = dim, units
        self.network = Perceptrons(generators([seed]), [1, hidden, hidden, units * (2 * dim + 2)])
        with torch.no_grad():  # otherwise all weights start near 0 at time 0
            spread = torch.randn(units * (2 * dim + 2), generator=generators([seed], stream=1)[0])
            self.network.biases[-1][0, 0] = spread

    def rates(self, time: float, points: Float[Tensor, "batch dim"]) -> tuple[Tensor, Tensor]:
        """Velocity of points, and its divergence there."""
        weights = self.network(points.new_full((1, 1, 1), float(time)))[0, 0]
        u, w, bias, gate = weights.split([self.units * self.dim, self.units * self.dim, self.units, self.units])
        w = w.view(self.dim, self.units)
        u = u.view(self.units, self.dim) * torch.sigmoid(gate)[:, None] / self.units
        activity = torch.tanh(torch.addmm(bias, points, w))
        return activity @ u, (1 - activity.square()) @ (u * w.T).sum(1)


class DensityField(nn.Module):
    r"""The rates of points and of their log-density together, :math:`d\log p/dt=-\operatorname{tr}\partial f/\partial z`.

    Args:
        field: a module with a method ``rates``, which returns velocity and divergence.
    """

    def __init__(self, field: nn.Module):
        super().__init__()
        self.field = field

    def forward(self, time: float, joint: Float[Tensor, "batch joint"]) -> Float[Tensor, "batch joint"]:
        """Rates of the points and, in the last column, of the log-density."""
        velocity, divergence = self.field.rates(time, joint[:, :-1])
        return torch.cat([velocity, -divergence[:, None]], -1)


class ContinuousFlow(nn.Module):
    """A density: a standard normal at time 0, carried along a vector field to time 1.

    Args:
        field: a module with a method ``rates``, which returns velocity and divergence.
        solver: of both directions and both passes.
    """

    def __init__(self, field: nn.Module, solver: Dopri5 | RK4):
        super().__init__()
        self.field, self.solver, self.count = DensityField(field), solver, Count()

    def transport(
        self, points: Float[Tensor, "batch dim"], begin: float, end: float
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """Carry points along the field.

        Args:
            points: where they are.
            begin: time at which they are there.
            end: time at which they are wanted.

        Returns:
            the points at the end, and the change of their log-density.
        """
        joint = torch.cat([points, torch.zeros_like(points[:, :1])], -1)
        moved = odeint_adjoint(self.field, joint, points.new_tensor([begin, end]), self.solver, count=self.count)[-1]
        return moved[:, :-1], moved[:, -1]

    def log_density(self, points: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        """Logarithm of the density at points, in nats.

        Args:
            points: where it is wanted.

        Returns:
            one number a point.

        Raises:
            ValueError: if the points are empty or not finite.
        """
        finite(points=points)
        origin, change = self.transport(points, 1.0, 0.0)
        return standard_normal(origin) - change

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator, dim: int = 2) -> Float[Tensor, "count dim"]:
        """Independent points of the density."""
        return self.transport(torch.randn(count, dim, generator=generator), 0.0, 1.0)[0]


def standard_normal(points: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
    """Logarithm of the standard normal density, in nats."""
    return -points.square().sum(-1) / 2 - points.shape[-1] / 2 * math.log(2 * math.pi)
