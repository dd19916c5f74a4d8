r"""Latent field discovery (Aether): equivariant pair interactions plus a neural field of forces that depends on place.

Particles act on each other in the same way wherever they are; an unseen field does not. A neural field :math:`f(p)` of the
absolute position delivers a vector at every particle; a graph network sees these vectors, and all else, only in the frame
:math:`R_i` that moves with particle :math:`i` and points along its velocity,

.. math:: v_{j|i}=R_i^\top[p_j-p_i,\,u_j,\,f(p_j)],\qquad
          h_i=f_v\big[g_v(v_{i|i})+\tfrac1{n-1}\textstyle\sum_jf_e(v_{j|i},v_{i|i})\big],\qquad
          x_i\leftarrow x_i+R_i\,f_o(h_i).

Only :math:`f` knows where a particle is, so training on trajectories alone puts the unseen force there. If the field differs
from scene to scene, a code of the observed frames scales and shifts the hidden layers of :math:`f` (FiLM).

Source: M. Kofinas, E. J. Bekkers, N. S. Nagaraja, E. Gavves, 2023, arXiv:2310.20679; frames: the same authors, arXiv:2110.14961.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from touchstone.checks import finite, shaped
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.nn.egnn import others
from touchstone.nn.networks import generators, glorot

Field = Callable[[Float[Tensor, "seeds *batch 2"]], Float[Tensor, "seeds *batch 2"]]


def headings(velocities: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Unit vectors along velocities; a body at rest has none and gets zero."""
    return nn.functional.normalize(velocities, dim=-1, eps=1e-6)


def into_frame(vectors: Float[Tensor, "*batch 2"], heading: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*batch 2"]:
    r"""Components :math:`R^\top v` along the heading and to its left."""
    (x, y), (c, s) = vectors.unbind(-1), heading.unbind(-1)
    return torch.stack([c * x + s * y, c * y - s * x], -1)


def out_of_frame(vectors: Float[Tensor, "*batch 2"], heading: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Back to the common axes, :math:`Rv`."""
    (x, y), (c, s) = vectors.unbind(-1), heading.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y], -1)


def each(layer: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Apply a stack of layers along the last axis, whatever lies between seeds and channels."""
    return layer(inputs.flatten(1, -2)).unflatten(1, inputs.shape[1:-1])


def fourier(
    places: Float[Tensor, "seeds *batch 2"], frequencies: Float[Tensor, "seeds 2 features"]
) -> Float[Tensor, "seeds *batch waves"]:
    """Sines and cosines of positions (frequencies in radians per unit of length)."""
    phases = torch.bmm(places.flatten(1, -2), frequencies).unflatten(1, places.shape[1:-1])
    return torch.cat([phases.sin(), phases.cos()], -1)


class NeuralField(nn.Module):
    r"""A vector at every place; with a code :math:`z` hidden layers become :math:`(1+\gamma(z))\odot h+\beta(z)`.

    Args:
        seeds: one field for each.
        width: units of a hidden layer.
        features: number of random frequencies.
        spread: standard deviation of their components (radians per unit of length).
        code: entries of the code; 0 for a field that is the same in all scenes.
    """

    def __init__(self, seeds: Sequence[int], width: int = 64, features: int = 32, spread: float = 1.5, code: int = 0):
        super().__init__()
        draws = generators(seeds, 21)
        waves = torch.stack([torch.randn(2, features, generator=draw) for draw in draws])
        self.register_buffer("frequencies", spread * waves)
        self.layers = Perceptrons(draws, [2 * features, width, width, width, 2], silu)
        self.layers.weights[-1].data *= 0.1  # training starts near the network without a field
        self.films = nn.ModuleList(Perceptrons(draws, [code, width, 2 * width], silu) for _ in range(3 if code else 0))

    def forward(
        self, places: Float[Tensor, "seeds *batch 2"], code: Float[Tensor, "seeds scenes code"] | None = None
    ) -> Float[Tensor, "seeds *batch 2"]:
        """The field's vectors.

        Args:
            places: positions; with a code, scenes along the second axis and bodies along the third.
            code: of each scene; None leaves the layers alone.
        """
        hidden = fourier(places, self.frequencies)
        for number, (weight, bias) in enumerate(zip(self.layers.weights, self.layers.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden.flatten(1, -2), weight).unflatten(1, hidden.shape[1:-1])
            if number == len(self.layers.weights) - 1:
                return hidden
            if code is not None:
                scale, shift = self.films[number](code).unsqueeze(2).chunk(2, -1)
                hidden = (1 + scale) * hidden + shift
            hidden = silu(hidden)


class GraphEncoder(nn.Module):
    """A code of the observed frames: a gated recurrent unit along every body's states, then the mean over bodies.

    Args:
        seeds: one encoder for each.
        width: entries of the code.
    """

    def __init__(self, seeds: Sequence[int], width: int = 64):
        super().__init__()
        draws = generators(seeds, 22)
        self.inlet, self.read = Perceptrons(draws, [5, width, 3 * width], silu), Perceptrons(draws, [width, 3 * width])
        self.outlet = Perceptrons(draws, [width, width])

    def forward(
        self, observed: Float[Tensor, "seeds scenes frames bodies 4"], charges: Float[Tensor, "seeds scenes bodies"]
    ) -> Float[Tensor, "seeds scenes code"]:
        """The codes of the scenes."""
        labels = charges[:, :, None, :, None].expand(*observed.shape[:-1], 1)
        inputs = each(self.inlet, torch.cat([observed, labels], -1))
        memory = inputs.new_zeros(*inputs[:, :, 0].shape[:-1], inputs.shape[-1] // 3)
        for frame in inputs.unbind(2):
            (a, b, c), (d, e, f) = frame.chunk(3, -1), each(self.read, memory).chunk(3, -1)
            keep, candidate = torch.sigmoid(a + d), torch.tanh(c + torch.sigmoid(b + e) * f)
            memory = keep * memory + (1 - keep) * candidate
        return each(self.outlet, memory.mean(2))


class PairNetwork(nn.Module):
    """Message passing on all pairs; geometry enters only through the frames of the receiving bodies.

    Args:
        draws: one generator a member of the stack.
        interval: time between frames; increments are this times what the last layer delivers.
        vectors: further vectors a body, such as a field.
        scalars: further numbers a body, which are not turned.
        width: units of a layer.
        rounds: of messages.
    """

    def __init__(
        self,
        draws: Sequence[torch.Generator],
        interval: float,
        vectors: int = 0,
        scalars: int = 0,
        width: int = 64,
        rounds: int = 2,
    ):
        super().__init__()
        self.interval, own, pair = interval, 3 + 2 * vectors + scalars, 9 + 2 * vectors
        sizes = [(pair, own), *[(width, width)] * (rounds - 1)]
        # what a message is made of is mapped once a body where it belongs to one; the receiver's part carries the bias
        self.edges = nn.ParameterList(glorot(draws, edge, width) for edge, _ in sizes)
        self.senders = nn.ParameterList(glorot(draws, width, width) for _ in sizes[1:])
        self.receivers = nn.ModuleList(Perceptrons(draws, [node, width]) for _, node in sizes)
        self.seconds = nn.ModuleList(Perceptrons(draws, [width, width]) for _ in sizes)
        self.skips = nn.ModuleList(Perceptrons(draws, [node, width]) for _, node in sizes)
        self.updates = nn.ModuleList(Perceptrons(draws, [width, width, width], silu) for _ in sizes)
        self.head = Perceptrons(draws, [width, width, 4], silu)

    def forward(
        self,
        states: Float[Tensor, "seeds scenes bodies 4"],
        charges: Float[Tensor, "seeds scenes bodies"],
        heading: Float[Tensor, "seeds scenes bodies 2"],
        vectors: Sequence[Float[Tensor, "seeds scenes bodies 2"]] = (),
        scalars: Sequence[Float[Tensor, "seeds scenes bodies _"]] = (),
    ) -> Float[Tensor, "seeds scenes bodies 4"]:
        """The states one frame later.

        Args:
            states: position and velocity.
            charges: of the bodies.
            heading: first axis of each body's frame.
            vectors: turned into the frames.
            scalars: taken as they are.
        """
        places, velocities = states.chunk(2, -1)
        label = charges.unsqueeze(-1)
        own = into_frame(torch.stack([velocities, *vectors], -2), heading.unsqueeze(-2)).flatten(-2)
        nodes = torch.cat([own, label, *scalars], -1)
        seen, around = others(torch.cat([places, velocities, headings(velocities), *vectors, label], -1)).split(
            [6 + 2 * len(vectors), 1], -1
        )
        shift = torch.cat([places, torch.zeros_like(seen[..., 0, 2:])], -1).unsqueeze(-2)  # places become offsets
        seen = into_frame((seen - shift).unflatten(-1, (-1, 2)), heading[..., None, None, :]).flatten(-2)
        distance = seen[..., :2].norm(dim=-1, keepdim=True)
        edges = torch.cat([seen, distance, around, around * label.unsqueeze(-2)], -1)
        for k, update in enumerate(self.updates):
            hidden = each(functools.partial(torch.bmm, mat2=self.edges[k]), edges)
            hidden = hidden + each(self.receivers[k], nodes).unsqueeze(-2)
            if k:
                hidden = hidden + others(each(functools.partial(torch.bmm, mat2=self.senders[k - 1]), nodes))
            edges = silu(each(self.seconds[k], silu(hidden)))
            nodes = each(update, each(self.skips[k], nodes) + edges.mean(-2))
        change = each(self.head, nodes).unflatten(-1, (2, 2))
        return states + self.interval * out_of_frame(change, heading.unsqueeze(-2)).flatten(-2)


class Aether(nn.Module):
    """Local frames with a neural field, one model a seed.

    Args:
        seeds: one model for each.
        interval: time between frames.
        width: units of a layer.
        dynamic: the field differs from scene to scene and is read off the observed frames.
        charged: a body feels its charge times the field; False hands over the field itself.

    Raises:
        ValueError: if ``interval`` or ``width`` is not positive.
    """

    def __init__(
        self, seeds: Sequence[int], interval: float, width: int = 64, dynamic: bool = False, charged: bool = True
    ):
        super().__init__()
        if not interval > 0 or width < 1:
            raise ValueError(f"interval is {interval} and width {width}: give positive numbers")
        self.field = NeuralField(seeds, width, code=width if dynamic else 0)
        self.encoder = GraphEncoder(seeds, width) if dynamic else None
        self.charged = charged
        self.network = PairNetwork(generators(seeds, 20), interval, vectors=1, width=width)

    def field_of(
        self, observed: Float[Tensor, "seeds scenes frames bodies 4"], charges: Float[Tensor, "seeds scenes bodies"]
    ) -> Field:
        """The field of the observed scenes: the common one, or the one that the encoder reads off the frames."""
        if self.encoder is None:
            return self.field
        return functools.partial(self.field, code=self.encoder(observed, charges))

    def forward(
        self,
        states: Float[Tensor, "seeds scenes bodies 4"],
        charges: Float[Tensor, "seeds scenes bodies"],
        field: Field | None = None,
    ) -> Float[Tensor, "seeds scenes bodies 4"]:
        """The states one frame later; with ``field`` in place of the learnt field if it is given."""
        places, velocities = states.chunk(2, -1)
        force = (self.field if field is None else field)(places)
        if self.charged:
            force = charges.unsqueeze(-1) * force
        return self.network(states, charges, headings(velocities), [force])


def no_field(places: Float[Tensor, "seeds *batch 2"]) -> Float[Tensor, "seeds *batch 2"]:
    """The field switched off."""
    return torch.zeros_like(places)


def turned(field: Field, rotation: Float[Tensor, "2 2"]) -> Field:
    """The field turned about the origin, :math:`f'(p)=Qf(Q^{T}p)`."""
    return lambda places: field(places @ rotation) @ rotation.T


def forecast(
    model: nn.Module,
    states: Float[Tensor, "seeds scenes bodies 4"],
    charges: Float[Tensor, "seeds scenes bodies"],
    steps: int,
    field: Field | None = None,
) -> Float[Tensor, "seeds scenes steps bodies 4"]:
    """Feed a model its own predictions.

    Args:
        model: :class:`Aether` or a baseline.
        states: at the last observed frame.
        charges: of the bodies.
        steps: frames to predict.
        field: in place of the model's own, where it has one.

    Returns:
        the predicted states.

    Raises:
        ValueError: if states or charges are empty, not finite or do not fit.
    """
    finite(states=states, charges=charges)
    sizes = shaped("states", states, ("seeds", "scenes", "bodies", 4))
    shaped("charges", charges, (sizes["seeds"], sizes["scenes"], sizes["bodies"]))
    path = []
    for _ in range(steps):
        states = model(states, charges, field)
        path.append(states)
    return torch.stack(path, 2)


def train(
    model: nn.Module,
    states: Float[Tensor, "seeds scenes frames bodies 4"],
    charges: Float[Tensor, "seeds scenes bodies"],
    seeds: Sequence[int],
    updates: int,
    rate: float = 2e-3,
    batch: int = 32,
    horizon: int = 5,
    observed: int = 20,
) -> nn.Module:
    """Least squares of short forecasts from observed states: Adam, rate falling to zero as a cosine, clipped gradients.

    Args:
        model: is changed; its ``field_of`` sees the observed frames of a scene.
        states: scenes to learn from.
        charges: of the bodies.
        seeds: of the order of the batches.
        updates: of the parameters.
        rate: the first one.
        batch: scenes an update.
        horizon: frames of a forecast.
        observed: frames of a scene that ``field_of`` sees; forecasts of a field that is read off them start at the last.

    Returns:
        the model.

    Raises:
        ValueError: if scenes are empty, not finite or do not fit the seeds, or have too few frames.
    """
    finite(states=states, charges=charges)
    sizes = shaped("states", states, (len(seeds), "scenes", "frames", "bodies", 4))
    shaped("charges", charges, (len(seeds), sizes["scenes"], sizes["bodies"]))
    first = observed - 1 if getattr(model, "encoder", None) is not None else 0
    if horizon < 1 or sizes["frames"] - horizon <= first:
        raise ValueError(f"states has {sizes['frames']} frames: too few for {horizon} after frame {first + 1}")
    draws, rows = generators(seeds, 1), torch.arange(len(seeds))[:, None]
    optimiser = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / updates))
    for _ in range(updates):
        chosen = torch.stack([torch.randint(sizes["scenes"], (batch,), generator=draw) for draw in draws])
        starts = torch.stack(
            [torch.randint(first, sizes["frames"] - horizon, (batch,), generator=draw) for draw in draws]
        )
        window = states[rows[..., None], chosen[..., None], starts[..., None] + torch.arange(horizon + 1)]
        labels = charges[rows, chosen]
        field = model.field_of(states[rows, chosen, :observed], labels)
        loss = (forecast(model, window[:, :, 0], labels, horizon, field) - window[:, :, 1:]).square().flatten(1).mean(1)
        optimiser.zero_grad()
        loss.sum().backward()
        _clip(model)
        optimiser.step()
        schedule.step()
    return model


def _clip(model: nn.Module, largest: float = 1.0) -> None:
    """Shorten each seed's own gradient to a norm of at most ``largest``."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = sum(gradient.flatten(1).square().sum(1) for gradient in gradients).sqrt()
    factor = (largest / norm.clamp(min=1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))
