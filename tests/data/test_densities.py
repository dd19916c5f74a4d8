import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.densities import DENSITIES, draw


@pytest.mark.parametrize("name", DENSITIES)
def test_moments_and_repeatability(name):
    points = draw(name, 40_000, 0)
    assert points.shape == (40_000, 2)
    assert points.mean(0).abs().max() < 0.03
    assert 0.69 < points.std(0).min() and points.std(0).max() < 1.45
    assert torch.equal(points, draw(name, 40_000, 0)) and not torch.equal(points, draw(name, 40_000, 1))


@pytest.mark.parametrize("name", ["two-moons", "swiss-roll", "checkerboard"])
def test_standardised(name):
    assert (draw(name, 100_000, 1).std(0) - 1).abs().max() < 0.01


def test_eight_gaussians_sit_on_their_circle():
    points = draw("eight-gaussians", 8000, 0)
    angle = torch.atan2(points[:, 1], points[:, 0])
    assert torch.unique((angle / (torch.pi / 4)).round() % 8, return_counts=True)[1].min() > 800
    assert points.square().sum(-1).mean() == pytest.approx(4 + 2 * 0.15**2, abs=0.03)


def test_checkerboard_fills_squares_of_one_colour():
    square = (draw("checkerboard", 5000, 0) * (4 / 3) ** 0.5 + 2).floor().long()
    assert square.min() == 0 and square.max() == 3
    assert (square.sum(-1) % 2 == 0).all()
    assert len(torch.unique(square, dim=0)) == 8


def test_moons_are_two_arcs_apart():
    """Undo the standardisation: every point is near one of the two half circles, and both are used."""
    scale = torch.tensor([0.75 + 0.08**2, 0.5625 - 1 / torch.pi + 0.08**2]).sqrt()
    points = draw("two-moons", 4000, 0) * scale + torch.tensor([0.5, 0.25])
    upper = (points.norm(dim=-1) - 1).abs() < 0.3
    lower = ((points - torch.tensor([1.0, 0.5])).norm(dim=-1) - 1).abs() < 0.3
    assert (upper | lower).float().mean() > 0.99
    assert 0.4 < (points[:, 1] > 0.25).float().mean() < 0.65


def test_ring_and_grid():
    assert (draw("unit-ring", 100, 0).norm(dim=-1) - 1).abs().max() < 1e-6
    grid = draw("grid-25", 5000, 0)
    assert len(torch.unique(grid.round(), dim=0)) == 25
    assert (grid - grid.round()).std() == pytest.approx(0.05, abs=0.003)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="name"):
        unchecked(draw)("nine-gaussians", 10, 0)
    with pytest.raises(ValueError, match="count"):
        unchecked(draw)("grid-25", 0, 0)
