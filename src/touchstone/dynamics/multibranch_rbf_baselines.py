"""What branched radial-basis networks are compared with: a multilayer perceptron, ridge regression on quadratic features."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite


class StackedMLP(nn.Module):
    """Multilayer perceptrons with two hidden layers (ReLU), one a seed.

    Args:
        inputs: number of features, all branches together.
        width: units of a hidden layer.
        outputs: coordinates that are predicted.
        seeds: one seed a model.
    """

    def __init__(self, inputs: int, width: int, outputs: int, seeds: Sequence[int]):
        super().__init__()
        drawn = [torch.Generator().manual_seed(seed) for seed in seeds]
        sizes = [inputs, width, width, outputs]
        self.weights = nn.ParameterList(
            torch.stack([rows**-0.5 * (2 * torch.rand(rows, columns, generator=g) - 1) for g in drawn])
            for rows, columns in zip(sizes, sizes[1:], strict=False)
        )
        self.biases = nn.ParameterList(torch.zeros(len(seeds), 1, columns) for columns in sizes[1:])

    def forward(self, features: Float[Tensor, "models batch branches dim"]) -> Float[Tensor, "models batch outputs"]:
        """Predict from measurements.

        Args:
            features: standardised measurements; branches do not matter.

        Returns:
            standardised predictions.
        """
        value = features.flatten(2)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            value = (value @ weight + bias).relu()
        return value @ self.weights[-1] + self.biases[-1]


class QuadraticRidge:
    """Linear regression on all features and their products of two, with a ridge chosen on validation data.

    Args:
        inputs: training features of each model.
        targets: what to predict.
        held_out: features and targets for validation.
        ridges: candidates, relative to the number of samples.

    Raises:
        ValueError: if the data are not finite.
    """

    def __init__(
        self,
        inputs: Float[Tensor, "models samples branches dim"],
        targets: Float[Tensor, "models samples outputs"],
        held_out: tuple[Tensor, Tensor],
        ridges: Sequence[float] = (1e-8, 1e-6, 1e-4, 1e-2),
    ):
        finite(inputs=inputs, targets=targets)
        features = self._expand(inputs)
        gram, right = features.mT @ features / features.shape[1], features.mT @ targets.double() / features.shape[1]
        tried = [torch.linalg.solve(gram + ridge * torch.eye(gram.shape[1]).double(), right) for ridge in ridges]
        seen = self._expand(held_out[0])
        errors = torch.stack([(seen @ weights - held_out[1]).square().mean((1, 2)) for weights in tried])
        choice = errors.argmin(0)
        self.weights = torch.stack([tried[i][model] for model, i in enumerate(choice.tolist())])
        self.ridges = [ridges[i] for i in choice.tolist()]

    @staticmethod
    def _expand(features: Tensor) -> Tensor:
        flat = features.flatten(2).double()
        rows, columns = torch.triu_indices(flat.shape[2], flat.shape[2])
        return torch.cat([torch.ones_like(flat[..., :1]), flat, flat[..., rows] * flat[..., columns]], -1)

    def __call__(self, features: Float[Tensor, "models batch branches dim"]) -> Float[Tensor, "models batch outputs"]:
        """Predict from measurements.

        Args:
            features: standardised measurements; branches do not matter.

        Returns:
            standardised predictions.
        """
        return (self._expand(features) @ self.weights).float()
