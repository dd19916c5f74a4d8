"""A computed torque makes a pendulum follow a reference; its inverse dynamics is given, or learned while it swings."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from touchstone.checks import finite, shaped
from touchstone.dynamics.interpretable_meta import ContextAffine, RecursiveLeastSquares
from touchstone.dynamics.interpretable_meta_tasks import Problem, pendulum_inputs, reference, swing


@runtime_checkable
class InverseDynamics(Protocol):
    """From a motion to the torque that causes it; may learn from what it sees."""

    def torque(self, angle: np.ndarray, rate: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
        """The torque (N m) for a motion."""
        ...

    def observe(self, angle: np.ndarray, rate: np.ndarray, acceleration: np.ndarray, torque: np.ndarray) -> None:
        """A motion and the torque that went with it."""
        ...


class Fixed:
    """The pendulum's equation with given parameters.

    Args:
        parameters: inertia (kg m²), friction (N m s) and weight (N m).
    """

    def __init__(self, parameters: Float[np.ndarray, "*batch 3"]):
        self.parameters = parameters

    def torque(self, angle: np.ndarray, rate: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
        """The torque (N m) for a motion."""
        inertia, friction, weight = np.moveaxis(self.parameters, -1, 0)
        return inertia * acceleration + friction * rate + weight * np.sin(angle)

    def observe(self, angle: np.ndarray, rate: np.ndarray, acceleration: np.ndarray, torque: np.ndarray) -> None:
        """Learns nothing."""


class Adaptive:
    """A context-affine model whose task vector follows the observations by recursive least squares.

    Args:
        model: trained on the pendulum's training tasks.
        problem: with these tasks; they give the first guess, its covariance and the noise.
        runs: pendulums for each seed.
    """

    def __init__(self, model: ContextAffine, problem: Problem, runs: int):
        self.model, self.problem = model, problem
        train = problem.train
        vectors = model.adapt(train.points, train.targets)
        misses = model.predict(vectors, train.points) - train.targets
        away = (vectors - vectors.mean(1, keepdim=True)).double()
        spread = away.mT @ away / (vectors.shape[1] - 1)
        self.learner = RecursiveLeastSquares(
            vectors.mean(1, keepdim=True).double().expand(-1, runs, -1),
            spread[:, None].expand(-1, runs, -1, -1),
            misses.double().square().mean((1, 2, 3)).clamp(min=1e-8),
        )

    def _parts(self, angle: np.ndarray, rate: np.ndarray, acceleration: np.ndarray):
        inputs = torch.from_numpy(pendulum_inputs(angle, rate, acceleration)).float()
        common, features = self.model.parts(inputs[:, :, None])
        return common[:, :, 0].double(), features[:, :, 0].mT.double()

    def torque(self, angle: np.ndarray, rate: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
        """The torque (N m) for a motion, with the present task vectors."""
        common, features = self._parts(angle, rate, acceleration)
        scaled = common + (features @ self.learner.vectors[..., None])[..., 0]
        return ((scaled + self.problem.shift[:, 0]) * self.problem.scale[:, 0])[..., 0].numpy()

    def observe(self, angle: np.ndarray, rate: np.ndarray, acceleration: np.ndarray, torque: np.ndarray) -> None:
        """Update the task vectors."""
        common, features = self._parts(angle, rate, acceleration)
        values = torch.from_numpy(torque)[..., None] / self.problem.scale[:, 0] - self.problem.shift[:, 0]
        self.learner.update(features, values - common)


def track(
    dynamics: InverseDynamics,
    parameters: Float[np.ndarray, "seeds runs 3"],
    seconds: float = 10.0,
    dt: float = 0.01,
    gains: tuple[float, float] = (16.0, 8.0),
) -> Float[np.ndarray, "steps seeds runs"]:
    """Follow the reference, starting on it.

    The torque is held for a step. The motion that goes with it is measured halfway: mean angle and rate, difference of the rates.

    Args:
        dynamics: what the controller believes.
        parameters: what the pendulums are: inertia, friction, weight.
        seconds: length of the run.
        dt: step (s).
        gains: on the errors of angle (1/s²) and rate (1/s).

    Returns:
        error of the angle (rad) at every step.

    Raises:
        ValueError: if the parameters are not finite or of another shape, or times are not positive.
    """
    shaped("parameters", parameters, ("seeds", "runs", 3))
    finite(parameters=parameters)
    for name, value in {"seconds": seconds, "dt": dt}.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}: give a positive time in seconds")
    state = np.broadcast_to(np.array(reference(0.0)[:2]), (*parameters.shape[:2], 2)).copy()
    errors = []
    for step in range(round(seconds / dt)):
        angle, rate, acceleration = reference(step * dt)
        wanted = acceleration + gains[0] * (angle - state[..., 0]) + gains[1] * (rate - state[..., 1])
        torque = dynamics.torque(state[..., 0], state[..., 1], wanted)
        after = swing(state, torque, parameters, dt)
        middle = (state + after) / 2
        dynamics.observe(middle[..., 0], middle[..., 1], (after[..., 1] - state[..., 1]) / dt, torque)
        state = after
        errors.append(state[..., 0] - reference((step + 1) * dt)[0])
    return np.stack(errors)
