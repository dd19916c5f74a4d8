"""Examples from the simulator, and what the residual network is measured against besides networks without skips."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite
from touchstone.dynamics.rigid_body_resnet import Examples
from touchstone.dynamics.rigid_body_simulator import HALF, LARGEST, Scenarios, draw_scenarios, simulate

#: divisors of position, velocity, quaternion, angular velocity, mass, radius and flag
SCALES = np.array([HALF] * 3 + [3.0] * 3 + [0.5] * 4 + [5.0] * 3 + [1.0, 0.5, 1.0])


def targets_of(
    first: Float[np.ndarray, "scenarios slots 13"], last: Float[np.ndarray, "scenarios slots 13"]
) -> Float[np.ndarray, "scenarios slots 7"]:
    """Displacement (m) and last quaternion, the sign nearest to the first one."""
    start, end = first[..., 6:10], last[..., 6:10]
    sign = np.where((start * end).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    return np.concatenate([last[..., :3] - first[..., :3], sign * end], -1)


def inputs_of(scenarios: Scenarios, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """A network's inputs: bodies ``[scenarios, slots, 16]`` and world ``[scenarios, 5]``, scaled to order one."""
    extra = np.stack([scenarios.mass, scenarios.radius, np.ones_like(scenarios.mass)], -1)
    bodies = np.concatenate([scenarios.states, extra], -1) / SCALES * scenarios.present[..., None]
    duration = np.full((len(bodies), 1), seconds)
    return bodies, np.concatenate([scenarios.world / LARGEST, duration], -1)


def make_examples(
    seeds: Sequence[int], count: int, stream: int, speed: float = 3.0, seconds: float = 0.5
) -> tuple[Examples, Float[np.ndarray, "seeds scenarios"], list[Scenarios]]:
    """Simulated examples, the number of contacts in each scenario, and the scenarios.

    Args:
        seeds: each draws its own scenarios.
        count: scenarios a seed.
        stream: which of a seed's independent sets.
        speed: largest speed at the start (m/s).
        seconds: duration.
    """
    drawn = [draw_scenarios(np.random.default_rng([seed, stream, 18798]), count, speed) for seed in seeds]
    parts = []
    for scenarios in drawn:
        last, contacts = simulate(scenarios, seconds)
        targets = targets_of(scenarios.states, last)
        parts.append((*inputs_of(scenarios, seconds), targets, scenarios.present, contacts))
    *fields, contacts = (np.stack(part) for part in zip(*parts, strict=True))
    examples = Examples(*(torch.from_numpy(field.astype(np.float32)) for field in fields))
    return examples, contacts.astype(float), drawn


def free_flight(drawn: Sequence[Scenarios], seconds: float = 0.5) -> Float[Tensor, "seeds scenarios slots 7"]:
    """What the simulator predicts without contacts.

    Args:
        drawn: scenarios of each seed.
        seconds: duration.
    """
    ends = [simulate(scenarios, seconds, contacts=False)[0] for scenarios in drawn]
    flights = [targets_of(scenarios.states, end) for scenarios, end in zip(drawn, ends, strict=True)]
    return torch.from_numpy(np.stack(flights).astype(np.float32))


def stay(examples: Examples, displacement: Float[Tensor, "seeds 3"]) -> Float[Tensor, "seeds scenarios slots 7"]:
    """The mean displacement and the first orientation for every body."""
    first = examples.bodies[..., 6:10] * 0.5
    return torch.cat([displacement[:, None, None].expand(*first.shape[:3], 3), first], -1)


def mean_displacement(examples: Examples) -> Float[Tensor, "seeds 3"]:
    """Mean over all bodies (m)."""
    present = examples.present[..., None]
    return (examples.targets[..., :3] * present).sum((1, 2)) / present.sum((1, 2))


def ridge(train: Examples, test: Examples, penalty: float = 1e-3) -> Float[Tensor, "seeds scenarios slots 7"]:
    """Linear regression of every slot's targets on all inputs, in all cyclic orders of the slots.

    Args:
        train: examples to fit.
        test: examples to predict.
        penalty: added to the diagonal, as a share of the number of examples.

    Raises:
        ValueError: if the penalty is negative, or examples are not finite.
    """
    if penalty < 0:
        raise ValueError(f"penalty is {penalty}: give 0 or a positive number")
    finite(bodies=train.bodies, targets=train.targets)

    def rows(examples: Examples, shift: int) -> Tensor:
        bodies = examples.bodies.roll(-shift, 2).flatten(2)
        return torch.cat([bodies, examples.world, torch.ones_like(examples.world[..., :1])], -1).double()

    gram, moment = 0.0, 0.0
    slots = train.bodies.shape[2]
    for shift in range(slots):  # the body to be predicted comes first
        x = rows(train, shift)
        weighted = x * train.present[:, :, shift, None]
        gram = gram + weighted.mT @ x
        moment = moment + weighted.mT @ train.targets[:, :, shift].double()
    lift = penalty * train.present.sum((1, 2))[:, None, None].double() * torch.eye(gram.shape[-1], dtype=gram.dtype)
    weights = torch.linalg.solve(gram + lift, moment)
    found = torch.stack([rows(test, shift) @ weights for shift in range(slots)], 2).float()
    return torch.cat([found[..., :3], torch.nn.functional.normalize(found[..., 3:], dim=-1)], -1)
