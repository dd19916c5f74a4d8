"""A small PointNet (C. R. Qi and others, 2016, arXiv:1612.00593): shared per-point layers, one maximum over the cloud."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PointNet(nn.Module):
    """Reads a cloud in any number and order of points; it knows no rotation.

    Args:
        outputs: channels of the answer: 3 for a vector a point, the number of classes for a label a cloud.
        per_point: answer once a point, or once a cloud.
        width: channels of the first layer; the widest has four times as many.
    """

    def __init__(self, outputs: int, per_point: bool, width: int = 32):
        super().__init__()
        self.per_point = per_point
        self.local = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2 * width), nn.ReLU())
        self.wide = nn.Linear(2 * width, 4 * width)
        self.from_global = nn.Linear(4 * width, 2 * width)
        self.from_local = nn.Linear(2 * width, 2 * width, bias=False)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(
        self, points: Float[Tensor, "*batch points 3"]
    ) -> Float[Tensor, "*batch points outputs"] | Float[Tensor, "*batch outputs"]:
        """The answer for every point or for the cloud.

        Args:
            points: coordinates.

        Returns:
            (..., points, outputs) if per point, else (..., outputs).
        """
        local = self.local(points)
        pooled = self.from_global(torch.relu(self.wide(local)).amax(-2))
        if self.per_point:
            return self.head(pooled.unsqueeze(-2) + self.from_local(local))
        return self.head(pooled)
