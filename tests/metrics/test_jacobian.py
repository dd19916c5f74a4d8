import math

import pytest
import torch

from tests.helpers import unchecked
from touchstone.metrics.jacobian import jacobian_singular_values, share_within


def test_linear_map_and_chain_rule():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 0.5]))[:2]
    points = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    values = jacobian_singular_values(lambda x: matrix @ x, points)
    torch.testing.assert_close(values, torch.tensor([3.0, 2.0]).expand(4, 2))
    slopes = jacobian_singular_values(torch.sin, points)  # elementwise: the Jacobian is diag(cos x)
    torch.testing.assert_close(slopes, points.cos().abs().sort(dim=1, descending=True).values)


def test_share_within():
    values = torch.tensor([[0.05, 0.1, 1.0, 10.0], [20.0, 0.5, 0.0, 11.0]])
    torch.testing.assert_close(share_within(values, 0.1, 10.0), torch.tensor([0.75, 0.25]))


@pytest.mark.parametrize("points", [torch.full((2, 3), math.nan), torch.ones(3), torch.ones(0, 3)])
def test_points_are_checked(points):
    with pytest.raises(ValueError, match="^points"):
        unchecked(jacobian_singular_values)(torch.sin, points)


def test_band_and_values_are_checked():
    with pytest.raises(ValueError, match="^low"):
        share_within(torch.ones(3), 2.0, 1.0)
    with pytest.raises(ValueError, match="^values"):
        unchecked(share_within)(torch.ones(0), 0.1, 1.0)
