r"""Context-affine multi-environment learning: one model for many environments, affine in a small vector that tells them apart.

.. math:: f_t(x) = c(x; \theta_0) + w_t^\top v(x; \theta), \qquad w_t \in \mathbb R^r .

Training fits :math:`\theta_0, \theta` and all :math:`w_t` together. A new environment is a least-squares problem for its
:math:`w` with the networks frozen. Where the truth is :math:`c_*(x) + \varphi_t^\top \nu_*(x)` with physical parameters
:math:`\varphi_t`, the vectors of a model that fits enough environments are an affine image of them; an affine map fitted
on environments of known parameters reads them off, and its counterpart predicts from given parameters without data.

Seeds are trained together; the seed is the first dimension of every tensor, the environment ("task") the second.

Source: M. Blanke, M. Lelarge, 2023, arXiv:2312.00477, equations 3.1, 3.2 and proposition 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.nn.networks import generators, glorot

Weights = list[tuple[Tensor, Tensor]]


def perceptron_weights(draws: Sequence[torch.Generator], sizes: Sequence[int]) -> Weights:
    """Glorot weights and zero biases.

    Args:
        draws: one generator a seed.
        sizes: of the layers, inputs first.

    Returns:
        weight ``[seeds, in, out]`` and bias ``[seeds, 1, out]`` of each layer.
    """
    return [
        (glorot(draws, *pair), torch.zeros(len(draws), 1, pair[1])) for pair in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def perceptron(
    weights: Weights, points: Float[Tensor, "seeds tasks points dim"]
) -> Float[Tensor, "seeds tasks points out"]:
    """A perceptron with tanh between its layers.

    Args:
        weights: of all tasks (``[seeds, in, out]``) or one set a task (``[seeds, tasks, in, out]``).
        points: inputs.

    Returns:
        outputs.
    """
    shared = weights[0][0].ndim == 3
    hidden = points.flatten(1, 2) if shared else points
    for number, (weight, bias) in enumerate(weights):
        hidden = (torch.tanh(hidden) if number else hidden) @ weight + bias
    return hidden.unflatten(1, points.shape[1:3]) if shared else hidden


@dataclass
class ContextAffine:
    """A stack of context-affine models.

    Args:
        common: the perceptron c, with m outputs.
        features: the perceptron v, with r times m outputs.
        vectors: one of length r for each training task; with r = 0 all tasks share c.
    """

    common: Weights
    features: Weights
    vectors: Float[Tensor, "seeds tasks rank"]

    def parts(
        self, points: Float[Tensor, "seeds tasks points dim"]
    ) -> tuple[Float[Tensor, "seeds tasks points out"], Float[Tensor, "seeds tasks points rank out"]]:
        """The common part and the features at points."""
        common = perceptron(self.common, points)
        rank = self.vectors.shape[-1]
        if rank == 0:
            return common, common.new_zeros(*common.shape[:-1], 0, common.shape[-1])
        return common, perceptron(self.features, points).unflatten(-1, (rank, common.shape[-1]))

    def predict(
        self, vectors: Float[Tensor, "seeds tasks rank"], points: Float[Tensor, "seeds tasks points dim"]
    ) -> Float[Tensor, "seeds tasks points out"]:
        """Outputs for given task vectors.

        Args:
            vectors: one a task.
            points: inputs.
        """
        common, features = self.parts(points)
        return common + combine(features, vectors)

    @torch.no_grad()
    def adapt(
        self,
        points: Float[Tensor, "seeds tasks points dim"],
        targets: Float[Tensor, "seeds tasks points out"],
        ridge: float = 1e-10,
    ) -> Float[Tensor, "seeds tasks rank"]:
        """Vectors of new tasks from a few of their points, by least squares.

        Args:
            points: inputs; with m outputs, r / m points are needed at least, or the ridge decides.
            targets: outputs there.
            ridge: see :func:`least_squares`.

        Raises:
            ValueError: if arguments are empty, not finite or do not fit each other.
        """
        finite(points=points, targets=targets)
        shaped("targets", targets, (*points.shape[:3], "out"))
        common, features = self.parts(points)
        return least_squares(features, targets - common, ridge)


def combine(
    features: Float[Tensor, "seeds tasks points rank out"], vectors: Float[Tensor, "seeds tasks rank"]
) -> Float[Tensor, "seeds tasks points out"]:
    """The features weighted with the task vectors."""
    return (features * vectors[:, :, None, :, None]).sum(3)


def least_squares(
    features: Float[Tensor, "seeds tasks points rank out"],
    values: Float[Tensor, "seeds tasks points out"],
    ridge: float = 1e-10,
) -> Float[Tensor, "seeds tasks rank"]:
    """Coefficients of the features, in double precision.

    Args:
        features: r at every point and output.
        values: what they should add up to.
        ridge: added to the diagonal of the normal equations, as a share of its mean; decides where points are too few.

    Returns:
        one vector a task.

    Raises:
        ValueError: if the ridge is negative.
    """
    if ridge < 0:
        raise ValueError(f"ridge is {ridge}: give 0 or a small positive number")
    rows = features.movedim(3, -1).flatten(2, 3).double()
    if rows.shape[-1] == 0:
        return features.new_zeros(*features.shape[:2], 0)
    gram = rows.mT @ rows
    lift = ridge * gram.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-300
    gram = gram + torch.diag_embed(lift[..., None].expand(*lift.shape, gram.shape[-1]))
    return torch.linalg.solve(gram, rows.mT @ values.flatten(2, 3).double()[..., None])[..., 0].to(features.dtype)


def init_context_affine(
    seeds: Sequence[int], tasks: int, inputs: int, outputs: int, rank: int, width: int = 64
) -> ContextAffine:
    """Networks with two hidden layers, and vectors drawn from N(0, 1/rank).

    Args:
        seeds: one model for each.
        tasks: number of training tasks.
        inputs: of the networks.
        outputs: m.
        rank: r, the length of the vectors; 0 pools all tasks.
        width: of a hidden layer.

    Raises:
        ValueError: if ``rank`` is negative.
    """
    if rank < 0:
        raise ValueError(f"rank is {rank}: give the number of task parameters, 0 or more")
    common = perceptron_weights(generators(seeds, 1), [inputs, width, width, outputs])
    features = perceptron_weights(generators(seeds, 2), [inputs, width, width, rank * outputs]) if rank else []
    vectors = torch.stack([torch.randn(tasks, rank, generator=draw) for draw in generators(seeds, 3)])
    return ContextAffine(common, features, vectors / max(rank, 1) ** 0.5)


def train(
    points: Float[Tensor, "seeds tasks points dim"],
    targets: Float[Tensor, "seeds tasks points out"],
    seeds: Sequence[int],
    rank: int,
    updates: int = 2000,
    rate: float = 5e-3,
    width: int = 64,
) -> ContextAffine:
    """Fit networks and task vectors together, by Adam on all points with a rate that falls to zero as a cosine.

    Args:
        points: inputs of the training tasks.
        targets: outputs there, of about unit variance.
        seeds: one model for each.
        rank: r.
        updates: of Adam.
        rate: the first one.
        width: of a hidden layer.

    Returns:
        the models.

    Raises:
        ValueError: if arguments are empty, not finite or do not fit each other.
    """
    finite(points=points, targets=targets)
    shaped("points", points, (len(seeds), "tasks", "points", "dim"))
    shaped("targets", targets, (*points.shape[:3], "out"))
    model = init_context_affine(seeds, points.shape[1], points.shape[-1], targets.shape[-1], rank, width)
    weights = [tensor for layer in [*model.common, *model.features] for tensor in layer]
    parameters = [tensor.requires_grad_() for tensor in [*weights, model.vectors]]
    optimiser = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        optimiser.zero_grad()
        errors = model.predict(model.vectors, points) - targets
        errors.square().mean((1, 2, 3)).sum().backward()
        optimiser.step()
        schedule.step()
    for tensor in parameters:
        tensor.requires_grad_(False)
    return model


def affine_fit(
    source: Float[Tensor, "seeds tasks a"], target: Float[Tensor, "seeds tasks b"]
) -> Float[Tensor, "seeds a+1 b"]:
    """The affine map between two descriptions of the same tasks, by least squares.

    From vectors to parameters it reads parameters off; from parameters to vectors it predicts a task without data.

    Args:
        source: one vector a task.
        target: one vector a task.

    Returns:
        matrix whose last row is the constant.

    Raises:
        ValueError: if arguments are empty, not finite or do not fit each other.
    """
    finite(source=source, target=target)
    shaped("target", target, (*source.shape[:2], "b"))
    return torch.linalg.lstsq(_with_one(source).double(), target.double(), driver="gelsd").solution.to(source.dtype)


def affine_map(
    fit: Float[Tensor, "seeds rows b"], source: Float[Tensor, "seeds tasks a"]
) -> Float[Tensor, "seeds tasks b"]:
    """Apply what :func:`affine_fit` found to other tasks."""
    return _with_one(source) @ fit


def _with_one(vectors: Tensor) -> Tensor:
    return torch.cat([vectors, torch.ones_like(vectors[..., :1])], -1)


class RecursiveLeastSquares:
    """Task vectors that are updated with every observation, starting from what the training tasks looked like.

    Args:
        mean: of the vectors before anything is observed.
        covariance: of the vectors before anything is observed.
        noise: variance of what the model cannot explain.

    Raises:
        ValueError: if the noise is not positive, or the covariance does not fit the mean.
    """

    def __init__(
        self,
        mean: Float[Tensor, "seeds tasks rank"],
        covariance: Float[Tensor, "seeds tasks rank rank"],
        noise: Float[Tensor, "seeds"],
    ):
        finite(mean=mean, covariance=covariance, noise=noise)
        shaped("covariance", covariance, (*mean.shape, mean.shape[-1]))
        if (noise <= 0).any():
            raise ValueError(f"noise is {noise.tolist()}: give positive variances")
        self.vectors, self.covariance, self.noise = mean, covariance, noise[:, None, None, None]

    def update(self, features: Float[Tensor, "seeds tasks out rank"], values: Float[Tensor, "seeds tasks out"]) -> None:
        """Take in one observation of every task.

        Args:
            features: v at the observed point.
            values: observed outputs, less the common part.
        """
        spread = features @ self.covariance
        innovation = spread @ features.mT + self.noise * torch.eye(features.shape[2], dtype=features.dtype)
        gain = torch.linalg.solve(innovation, spread).mT
        misses = values - (features @ self.vectors[..., None])[..., 0]
        self.vectors = self.vectors + (gain @ misses[..., None])[..., 0]
        self.covariance = self.covariance - gain @ spread
