"""What forward invariance is compared with and tried on: clipped states, and a unicycle that drives among discs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from touchstone.checks import finite
from touchstone.dynamics.forward_invariance import Specification
from touchstone.dynamics.odeint import rk4_step
from touchstone.nn.networks import generators, uniform

AHEAD, REACH, RAYS = (
    0.1,
    3.0,
    16,
)  # point in front of the axle, range of the sensor (both in lengths), number of readings
LOW, HIGH = torch.tensor([0.0, -3.0]).double(), torch.tensor([1.5, 3.0]).double()  # speed and turn rate


def clipped(
    states: Float[Tensor, "*batch n"], specification: Specification, rounds: int = 20
) -> Float[Tensor, "*batch n"]:
    """States moved onto the safe set after the fact, by Newton's method along the gradient.

    Args:
        states: of a finished rollout.
        specification: the set.
        rounds: Newton steps.

    Returns:
        the states, unchanged where they are inside.

    Raises:
        ValueError: if a state is not finite.
    """
    finite(states=states)
    outside = specification.value(states) < 0
    for _ in range(rounds):
        slope = specification.slope(states)
        short = -specification.value(states) * outside / slope.square().sum(-1).clamp_min(1e-6)
        states = states + short.unsqueeze(-1) * slope
    return states


def disc(centre: Float[Tensor, "*batch 2"], radius: float | Tensor, gain: float | Tensor) -> Specification:
    """Keep out of a disc, :math:`h=|x-c|^2-r^2`.

    Args:
        centre: c.
        radius: r.
        gain: of the condition.

    Returns:
        the specification.
    """
    return Specification(lambda x: (x - centre).square().sum(-1) - radius**2, lambda x: 2 * (x - centre), gain)


def energy_limit(limit: float, gain: float) -> Specification:
    """Keep a pendulum of unit length and gravity below an energy; states are angle and rate.

    Args:
        limit: largest energy.
        gain: of the condition.

    Returns:
        the specification.
    """
    return Specification(
        lambda x: limit - x[..., 1] ** 2 / 2 - 1 + torch.cos(x[..., 0]),
        lambda x: torch.stack([-torch.sin(x[..., 0]), -x[..., 1]], -1),
        gain,
    )


@dataclass(frozen=True)
class Scenes:
    """Three discs and a goal for each run; lengths are arbitrary units.

    Args:
        centres: of the discs.
        radii: of the discs.
        goals: where to go.
        starts: position and heading (rad).
    """

    centres: Float[Tensor, "*batch 3 2"]
    radii: Float[Tensor, "*batch 3"]
    goals: Float[Tensor, "*batch 2"]
    starts: Float[Tensor, "*batch 3"]


def scenes(seeds: Sequence[int], count: int, stream: int) -> Scenes:
    """Random scenes: drive five lengths to the right past three discs of radius 0.3 to 0.5, which may overlap.

    Args:
        seeds: one set of scenes for each.
        count: scenes of a seed.
        stream: which of a seed's independent streams.

    Returns:
        the scenes, batch (seeds, count).

    Raises:
        ValueError: if ``count`` is below one or there are no seeds.
    """
    if count < 1:
        raise ValueError(f"count is {count}: give at least one scene")
    u = uniform(generators(seeds, stream), count, 13).double()
    centres = torch.stack([1 + 3 * u[..., 0:3], 2 * u[..., 3:6] - 1], -1)
    goals = torch.stack([torch.full_like(u[..., 0], 5.0), 2 * u[..., 9] - 1], -1)
    side, turn = u[..., 10] - 0.5, u[..., 11] - 0.5
    return Scenes(centres, 0.3 + 0.2 * u[..., 6:9], goals, torch.stack([torch.zeros_like(side), side, turn], -1))


def keep_out(scene: Scenes, gain: float) -> list[Specification]:
    """One specification a disc, on a point in front of the axle, so that speed and turn rate both act on it.

    Args:
        scene: the discs.
        gain: of the conditions.

    Returns:
        the specifications; their h is not negative only if the axle is outside the disc.
    """

    def point(state: Tensor, number: int) -> tuple[Tensor, Tensor]:
        along = torch.stack([state[..., 2].cos(), state[..., 2].sin()], -1)
        return state[..., :2] + AHEAD * along - scene.centres[..., number, :], along

    def value(state: Tensor, number: int) -> Tensor:
        return point(state, number)[0].square().sum(-1) - (scene.radii[..., number] + AHEAD) ** 2

    def slope(state: Tensor, number: int) -> Tensor:
        offset, along = point(state, number)
        turning = AHEAD * (offset[..., 1] * along[..., 0] - offset[..., 0] * along[..., 1])
        return 2 * torch.cat([offset, turning.unsqueeze(-1)], -1)

    return [Specification(lambda x, n=n: value(x, n), lambda x, n=n: slope(x, n), gain) for n in range(3)]


def unicycle(state: Float[Tensor, "*batch 3"]) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3 2"]]:
    """Drift (none) and gain of a unicycle whose inputs are speed and turn rate.

    Args:
        state: position and heading.

    Returns:
        drift and gain.
    """
    heading, zero, one = state[..., 2], torch.zeros_like(state[..., 2]), torch.ones_like(state[..., 2])
    columns = [torch.stack([heading.cos(), heading.sin(), zero], -1), torch.stack([zero, zero, one], -1)]
    return torch.zeros_like(state), torch.stack(columns, -1)


def free_way(scene: Scenes, state: Tensor, angles: Tensor, widen: float = 0.0) -> Float[Tensor, "*batch angles"]:
    """Free distance along rays, at most the sensor's range.

    Args:
        scene: the discs.
        state: position and heading.
        angles: of the rays, from the heading (rad).
        widen: is added to every radius.

    Returns:
        distances.
    """
    heading = state[..., 2:3] + angles
    rays = torch.stack([heading.cos(), heading.sin()], -1)
    offset = scene.centres - state[..., None, :2]
    along = (rays.unsqueeze(-2) * offset.unsqueeze(-3)).sum(-1)  # (*batch, rays, discs)
    depth = ((scene.radii + widen) ** 2 - offset.square().sum(-1)).unsqueeze(-2) + along**2
    hit = (along - depth.clamp_min(0).sqrt()).clamp_min(0)
    return torch.where((depth > 0) & (along > 0), hit, REACH).amin(-1).clamp_max(REACH)


def _to_goal(scene: Scenes, state: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the goal and its bearing from the heading."""
    offset = scene.goals - state[..., :2]
    bearing = torch.atan2(offset[..., 1], offset[..., 0]) - state[..., 2]
    return offset.norm(dim=-1), torch.remainder(bearing + math.pi, 2 * math.pi) - math.pi


def reading(scene: Scenes, state: Float[Tensor, "*batch 3"], noise: Tensor | float = 0.0) -> Float[Tensor, "*batch 19"]:
    """What the network reads: 16 ranges, distance and bearing (cosine, sine) of the goal.

    Args:
        scene: the surroundings.
        state: position and heading.
        noise: relative errors of the ranges.

    Returns:
        readings of order one.
    """
    angles = torch.arange(RAYS).to(state) * (2 * math.pi / RAYS) - math.pi
    ranges = free_way(scene, state, angles) * (1 + noise) / REACH
    distance, bearing = _to_goal(scene, state)
    return torch.cat([ranges, torch.stack([distance.clamp_max(2) / 2, bearing.cos(), bearing.sin()], -1)], -1)


def expert(scene: Scenes, state: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
    """A driver that turns to the free direction nearest to the goal, with 0.3 between itself and the discs.

    Args:
        scene: the surroundings.
        state: position and heading.

    Returns:
        speed and turn rate.
    """
    distance, bearing = _to_goal(scene, state)
    angles = torch.linspace(-2.4, 2.4, 49).to(state)
    away = torch.remainder(angles - bearing.unsqueeze(-1) + math.pi, 2 * math.pi) - math.pi
    blocked = free_way(scene, state, angles, 0.3) < distance.clamp_max(1.5).unsqueeze(-1)
    turn = angles[(away.abs() + 0.3 * angles.abs() + 10 * blocked).argmin(-1)]
    speed = 1.2 * (distance / 0.4).clamp_max(1) * turn.cos().clamp_min(0.1)
    return torch.stack([speed, (3 * turn).clamp(-3, 3)], -1)


def under_way(scene: Scenes, state: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
    """Whether the goal is still farther away than 0.2, where a unicycle stops.

    Args:
        scene: where the goals are.
        state: position and heading.

    Returns:
        truth values.
    """
    return _to_goal(scene, state)[0] > 0.2


def taught(
    scene: Scenes, steps: int, step: float
) -> list[tuple[Float[Tensor, "samples 19"], Float[Tensor, "samples 2"]]]:
    """What the expert saw and did on its way; what is recorded after the stop teaches nothing and is left out.

    Args:
        scene: batch (seeds, runs).
        steps: of each run.
        step: their length in time units.

    Returns:
        readings and inputs, one pair a seed.
    """
    ways = drive(lambda x, errors: expert(scene, x), scene, steps, step)[:-1].transpose(0, 1)
    pairs = []
    for number, states in enumerate(ways):
        own = Scenes(*(part[number] for part in (scene.centres, scene.radii, scene.goals, scene.starts)))
        going = under_way(own, states)
        reads = torch.stack([reading(own, each) for each in states])
        inputs = torch.stack([expert(own, each) for each in states])
        pairs.append((reads[going], inputs[going]))
    return pairs


def drive(
    policy: Callable[[Tensor, Tensor | float], Tensor],
    scene: Scenes,
    steps: int,
    step: float = 0.05,
    noise: float = 0.0,
    draws: Sequence[torch.Generator] = (),
) -> Float[Tensor, "time *batch 3"]:
    """Follow a policy, which is asked at every stage of Runge-Kutta steps; a unicycle stops at its goal.

    Args:
        policy: inputs, from the state and the relative errors of the ranges.
        scene: where.
        steps: number of steps.
        step: their length in time units.
        noise: standard deviation of the relative errors, drawn once a step.
        draws: where they come from, one generator for each entry of the first axis (the seeds).

    Returns:
        states, the start first.
    """
    states = [scene.starts]
    for _ in range(steps):
        state = states[-1]
        errors = 0.0
        if noise:
            errors = noise * torch.stack([torch.randn(state.shape[1], RAYS, generator=draw) for draw in draws]).to(
                state
            )
        going = under_way(scene, state).unsqueeze(-1)

        def rate(_: float, x: Tensor, errors: Tensor | float = errors) -> Tensor:
            return (unicycle(x)[1] @ policy(x, errors).unsqueeze(-1)).squeeze(-1)

        states.append(torch.where(going, rk4_step(rate, 0.0, state, step), state))
    return torch.stack(states)


def judged(scene: Scenes, states: Float[Tensor, "time *batch 3"]) -> tuple[Tensor, Tensor]:
    """Which runs hit a disc, and which reach the goal without.

    Args:
        scene: where.
        states: of :func:`drive`.

    Returns:
        two tensors of truth values, one a run.
    """
    gap = (states[..., None, :2] - scene.centres).norm(dim=-1) - scene.radii
    hit = (gap < 0).any(-1).any(0)
    return hit, ~under_way(scene, states[-1]) & ~hit
