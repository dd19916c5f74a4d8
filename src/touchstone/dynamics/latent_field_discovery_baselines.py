"""Scenes of particles in an unseen field, the networks that know no field, and how a learnt field is scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from touchstone.checks import finite
from touchstone.data import many_body, ode
from touchstone.dynamics.latent_field_discovery import PairNetwork, fourier, headings
from touchstone.nn.networks import generators

INTERVAL = 0.1  # time between frames
SUBSTEPS = 10  # leapfrog steps between frames
FRAMES = 49
SOFTENING = 0.5  # keeps the fastest pair's period at 16 frames
HALF = 5.0  # hidden sources lie within plus or minus this


@dataclass
class Scenes:
    """Recorded scenes, one set a seed.

    Attributes:
        states: position and velocity of the bodies.
        charges: of the bodies; ones where they have masses.
        sources: places of the hidden sources, one row a scene where they differ.
        strengths: charges or masses of the sources.
    """

    states: Float[Tensor, "seeds scenes frames bodies 4"]
    charges: Float[Tensor, "seeds scenes bodies"]
    sources: Float[Tensor, "seeds *scenes sources 2"]
    strengths: Float[Tensor, "seeds *scenes sources"]

    def split(self, count: int) -> tuple["Scenes", "Scenes"]:
        """The first ``count`` scenes of every seed, and the others."""
        parts = (slice(None, count), slice(count, None))
        differ = self.strengths.ndim == 3
        first, rest = (
            Scenes(
                self.states[:, part],
                self.charges[:, part],
                self.sources[:, part] if differ else self.sources,
                self.strengths[:, part] if differ else self.strengths,
            )
            for part in parts
        )
        return first, rest


def leapfrog(
    system: ode.System, start: Float[np.ndarray, "runs dim"], frames: int = FRAMES, substeps: int = SUBSTEPS
) -> Float[np.ndarray, "runs frames bodies 4"]:
    """Kick-drift-kick integration of bodies of unit mass, recorded every ``INTERVAL``.

    Args:
        system: of :mod:`touchstone.data.many_body`.
        start: states at the first frame.
        frames: to record.
        substeps: between two frames.

    Returns:
        positions and velocities of each body.
    """
    bodies, step = system.field, INTERVAL / substeps
    places, velocities = bodies.split(start)

    def force(places: np.ndarray) -> np.ndarray:
        state = np.concatenate([places, np.zeros_like(places)], -2)
        return bodies.split(bodies(state.reshape(len(state), -1)))[1]

    record, pull = [np.concatenate([places, velocities], -1)], force(places)
    for _ in range(frames - 1):
        for _ in range(substeps):
            velocities = velocities + step / 2 * pull
            places = places + step * velocities
            pull = force(places)
            velocities = velocities + step / 2 * pull
        record.append(np.concatenate([places, velocities], -1))
    return np.stack(record, 1)


def charges_in_field(seeds: Sequence[int], count: int, sources: bool = True) -> Scenes:
    """Five particles of charge plus or minus one among twelve fixed charges that all scenes of a seed share.

    Eight of the fixed charges attract positive particles, four repel them.

    Args:
        seeds: each draws its own fixed charges and scenes.
        count: scenes a seed.
        sources: False leaves the fixed charges out.
    """
    drawn = []
    for seed in seeds:
        random = np.random.default_rng([seed, 31068])
        places, strengths = random.uniform(-HALF, HALF, (12, 2)), np.repeat([-1.0, 1.0], [8, 4])
        charges = random.choice([-1.0, 1.0], (count, 5))
        every = (np.broadcast_to(part, (count, *part.shape)) for part in (places, strengths))
        hidden = every if sources else (None, None)
        drawn.append((many_body.charged_particles(charges, *hidden, SOFTENING, size=3.0), charges, places, strengths))
    return _recorded("latent-field-charges", drawn, seeds, count)


def gravity_in_field(seeds: Sequence[int], count: int) -> Scenes:
    """Four unit masses and three hidden masses of 3 that every scene has elsewhere."""
    drawn = []
    for seed in seeds:
        random = np.random.default_rng([seed, 31069])
        places, strengths = random.uniform(-3.0, 3.0, (count, 3, 2)), np.full((count, 3), 3.0)
        masses = np.ones((count, 4))
        bodies = many_body.Bodies(masses, "gravity", None, places, strengths, SOFTENING)
        system = bodies.system("gravity-in-field", _boxed)
        drawn.append((system, masses, places, strengths))
    return _recorded("latent-field-gravity", drawn, seeds, count)


def _boxed(random: np.random.Generator, runs: int) -> np.ndarray:
    return many_body.box_starts(random, runs, 4, size=2.0)


def _recorded(name: str, drawn: list, seeds: Sequence[int], count: int) -> Scenes:
    """Integrate and stack; finished runs are kept on disk."""
    states = []
    for seed, (system, *_) in zip(seeds, drawn, strict=True):
        start = system.draw(count, seed)
        key = (system.field.source, ode.source(leapfrog), start.tobytes(), INTERVAL, SUBSTEPS, FRAMES)
        states.append(ode.remembered(name, key, lambda system=system, start=start: leapfrog(system, start)))
    parts = [np.stack(part) for part in zip(*(row[1:] for row in drawn), strict=True)]
    return Scenes(*(torch.from_numpy(part).float() for part in [np.stack(states), *parts]))


def true_force(
    places: Float[Tensor, "points 2"], sources: Float[Tensor, "sources 2"], strengths: Float[Tensor, "sources"]
) -> Float[Tensor, "points 2"]:
    """Force of fixed charges on a unit charge."""
    apart = places[:, None] - sources
    return (strengths[:, None] * apart * (apart.square().sum(-1, keepdim=True) + SOFTENING**2) ** -1.5).sum(1)


def grid(points: int = 41) -> Float[Tensor, "places 2"]:
    """Centres of square cells that fill the box of the sources."""
    middle = (torch.arange(points) + 0.5) * (2 * HALF / points) - HALF
    return torch.cartesian_prod(middle, middle)


def visited(places: Float[Tensor, "*batch 2"], points: int = 41, least: int = 20) -> Bool[Tensor, "places"]:
    """Cells of :func:`grid` with at least so many of the given positions."""
    cells = ((places.reshape(-1, 2) + HALF) * (points / (2 * HALF))).floor().long()
    cells = cells[((cells >= 0) & (cells < points)).all(1)]
    return torch.bincount(cells[:, 0] * points + cells[:, 1], minlength=points**2) >= least


def score_field(
    learnt: Float[Tensor, "points 2"], truth: Float[Tensor, "points 2"], seed: int = 0
) -> tuple[float, float, Float[Tensor, "2 2"]]:
    """Fit one matrix on a random half of the points, judge on the other half.

    Args:
        learnt: vectors of the neural field.
        truth: true forces at the same points.
        seed: of the halves.

    Returns:
        share of variance explained, mean cosine, and the matrix (learnt times it approximates the truth).

    Raises:
        ValueError: if the vectors are not finite or there are fewer than eight points.
    """
    finite(learnt=learnt, truth=truth)
    if len(learnt) < 8 or learnt.shape != truth.shape:
        raise ValueError(f"learnt has shape {tuple(learnt.shape)}, truth {tuple(truth.shape)}: give 8 points or more")
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    fitted, held = order.chunk(2)
    matrix = torch.linalg.lstsq(learnt[fitted].double(), truth[fitted].double()).solution.to(learnt.dtype)
    mapped, wanted = learnt[held] @ matrix, truth[held]
    unexplained = (mapped - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    return float(1 - unexplained), float(torch.cosine_similarity(mapped, wanted, dim=1).mean()), matrix


class Fieldless(nn.Module):
    """The same network without a neural field.

    Args:
        seeds: one model for each.
        interval: time between frames.
        kind: ``local`` is equivariant (LoCS); ``appended`` adds position and heading to the local frames as plain
            numbers (G-LoCS); ``absolute`` has no frames and knows position and velocity as plain numbers (GNN).
        width: units of a layer.
        features: random frequencies through which positions are seen; 0 for the coordinates themselves.

    Raises:
        ValueError: if the kind is unknown.
    """

    def __init__(self, seeds: Sequence[int], interval: float, kind: str, width: int = 64, features: int = 0):
        super().__init__()
        if kind not in ("local", "appended", "absolute"):
            raise ValueError(f"kind is {kind!r}: give local, appended or absolute")
        draws = generators(seeds, 21)
        waves = torch.stack([torch.randn(2, features, generator=draw) for draw in draws])
        self.register_buffer("frequencies", 1.5 * waves)
        self.kind, self.features = kind, features
        seen = 0 if kind == "local" else 2 * (2 + 2 * features)
        scalars = seen + (2 if kind == "appended" else 0)
        self.network = PairNetwork(generators(seeds, 20), interval, scalars=scalars, width=width)

    def field_of(self, observed: Tensor, charges: Tensor) -> None:
        """There is none."""

    def forward(
        self,
        states: Float[Tensor, "seeds scenes bodies 4"],
        charges: Float[Tensor, "seeds scenes bodies"],
        field: None = None,
    ) -> Float[Tensor, "seeds scenes bodies 4"]:
        """The states one frame later."""
        places, velocities = states.chunk(2, -1)
        heading, scalars = headings(velocities), []
        if self.kind != "local":
            seen = torch.cat([places, *([fourier(places, self.frequencies)] if self.features else [])], -1)
            scalars = [seen, charges.unsqueeze(-1) * seen]  # so that they, too, are handed charge times a field
        if self.kind == "appended":
            scalars.append(heading)
        if self.kind == "absolute":
            heading = torch.stack([torch.ones_like(charges), torch.zeros_like(charges)], -1)
        return self.network(states, charges, heading, scalars=scalars)
