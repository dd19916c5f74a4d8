"""What continuous deep equilibria are compared with: neural ODEs of the same field, and the same layer unrolled."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from touchstone.checks import finite
from touchstone.dynamics.continuous_deq import Cell, Equilibrium, Layer
from touchstone.dynamics.neural_ode import augmented, odeint_adjoint
from touchstone.dynamics.odeint import Count, Dopri5
from touchstone.dynamics.steady_state import adams

EXPLICIT = ("neural ODE, dopri5", "neural ODE, Adams", "unrolled")
IMPLICIT = ("continuous DEQ", "Skip", "Skip-Reg", "discrete DEQ")
MODELS = (*IMPLICIT, *EXPLICIT)
TOLERANCE = 1e-3  # of the neural ODEs; that of the solver for steady states at its defaults


class Points(NamedTuple):
    """Points of the plane with their classes, in the order of ``touchstone.data.digits``."""

    train: Float[Tensor, "train 2"]
    train_labels: Int[Tensor, "train"]
    held_out: Float[Tensor, "held_out 2"]
    held_out_labels: Int[Tensor, "held_out"]


class Driven(nn.Module):
    """The field f(z, u) - z as a field of state and drive together, so that the adjoint reaches the drive.

    Args:
        cell: f.
    """

    def __init__(self, cell: Cell):
        super().__init__()
        self.cell = cell

    def forward(self, time: float, joint: Float[Tensor, "batch both"]) -> Float[Tensor, "batch both"]:
        """Rates; the drive stays."""
        state, drive = joint.chunk(2, -1)
        return torch.cat([self.cell(state, drive) - state, torch.zeros_like(drive)], -1)


class AdamsAdjoint(torch.autograd.Function):
    """The state at time 1 by the Adams solver, and its gradient by another such solve."""

    @staticmethod
    def forward(ctx, field, tolerance, count, start, *parameters):
        """Solve, and keep the last state."""
        end = adams(lambda state: field(0.0, state), start, 1.0, tolerance, count=count)
        ctx.save_for_backward(end, *parameters)
        ctx.field, ctx.tolerance, ctx.count = field, tolerance, count
        return end

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        """Solve the augmented equation from time 1 back to 0."""
        end, *parameters = ctx.saved_tensors
        size, weights = end.numel(), [p.numel() for p in parameters]
        rates, cost = augmented(ctx.field, parameters, end.shape), Count()
        joint = torch.cat([end.flatten(), upstream.flatten(), end.new_zeros(sum(weights))])
        blocks = [size, size, sum(weights)]
        joint = adams(lambda y: -rates(0.0, y), joint, 1.0, ctx.tolerance, count=cost, blocks=blocks)
        ctx.count.backward += cost.forward
        gradients = joint[2 * size :].split(weights)
        shaped = [gradient.view_as(p) for gradient, p in zip(gradients, parameters, strict=True)]
        return None, None, None, joint[size : 2 * size].view_as(end), *shaped


class Classifier(nn.Module):
    """An input map, a layer of one of the kinds in ``MODELS``, a linear head.

    Args:
        model: the kind.
        inputs: entries of an example.
        width: units of the layer.
        classes: number of classes.

    Raises:
        ValueError: if the kind is unknown.
    """

    def __init__(self, model: str, inputs: int, width: int, classes: int):
        super().__init__()
        if model not in MODELS:
            raise ValueError(f"model is {model!r}: use one of {', '.join(MODELS)}")
        self.model = model
        self.into, self.head = nn.Linear(inputs, width), nn.Linear(width, classes)
        guess = {"Skip": "network", "Skip-Reg": "layer"}.get(model, "zero")
        self.layer = Layer(width, guess, Equilibrium(discrete=model == "discrete DEQ"))
        self.count = self.layer.solver.count

    def forward(
        self, examples: Float[Tensor, "batch inputs"], unroll: int = 0
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch width"], Float[Tensor, "batch width"]]:
        """Classify.

        Args:
            examples: inputs.
            unroll: apply an implicit layer so many times instead of solving (pretraining).

        Returns:
            logits, state of the layer, and where it started.

        Raises:
            ValueError: if the examples are not finite.
        """
        finite(examples=examples)
        drive = self.into(examples)
        if not self.model.startswith("neural ODE"):
            state, start = self.layer(drive, 10 if self.model == "unrolled" else unroll)
            return self.head(state), state, start
        start, field = torch.zeros_like(drive), Driven(self.layer.cell)
        joint = torch.cat([start, drive], -1)
        if self.model.endswith("Adams"):
            state = AdamsAdjoint.apply(field, TOLERANCE, self.count, joint, *field.parameters())
        else:
            state = odeint_adjoint(field, joint, joint.new_tensor([0.0, 1.0]), Dopri5(TOLERANCE), count=self.count)[-1]
        state = state.chunk(2, -1)[0]
        return self.head(state), state, start


def moons_in_rings(seed: int, count: int = 3000) -> Points:
    """Two moons inside two rings: four classes in the plane, a fifth of the points held out.

    Args:
        seed: of the points.
        count: number of points, a multiple of 20.

    Returns:
        points with their classes.

    Raises:
        ValueError: if ``count`` is not a positive multiple of 20.
    """
    if count < 20 or count % 20:
        raise ValueError(f"count is {count}: give a positive multiple of 20")
    rng = np.random.default_rng([seed, 4])
    moons, labels = make_moons(count // 2, noise=0.1, random_state=seed)
    angle, ring = rng.uniform(0, 2 * np.pi, count // 2), np.arange(count // 2) % 2
    radius = 2.2 + 0.7 * ring + 0.1 * rng.standard_normal(count // 2)
    rings = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    points = np.concatenate([moons - [0.5, 0.25], rings]) / 1.5
    order = rng.permutation(count)
    inputs = torch.tensor(points[order], dtype=torch.float32)
    classes = torch.tensor(np.concatenate([labels, 2 + ring])[order])
    kept = 4 * count // 5
    return Points(inputs[:kept], classes[:kept], inputs[kept:], classes[kept:])
