"""Pictures: range, smoothness, mirror symmetry, where the ink is."""

import numpy as np
import pytest

from tests.helpers import unchecked
from touchstone.data.pixels import draw_cart_pole, draw_pendulum


def test_shapes_and_range():
    pictures = draw_pendulum(np.zeros((2, 3)), size=16)
    assert pictures.shape == (2, 3, 16, 16) and pictures.dtype == np.float32
    assert pictures.min() == 0 and pictures.max() == 1
    assert draw_cart_pole(np.zeros(2), np.zeros(2)).shape == (2, 32, 32)


@pytest.mark.parametrize("size", [16, 32])
def test_the_bob_is_where_the_angle_says(size):
    angles = np.linspace(-3, 3, 13)
    pictures = draw_pendulum(angles, size)
    weight = np.where(pictures > 0.55, pictures, 0)
    line = (2 * np.arange(size) + 1) / size - 1
    x = (weight * line).sum((1, 2)) / weight.sum((1, 2))
    y = (weight * -line[:, None]).sum((1, 2)) / weight.sum((1, 2))
    np.testing.assert_allclose(np.arctan2(x, -y), angles, atol=0.12)


def test_mirror_symmetry():
    angle, place = np.array([0.3, 1.4]), np.array([0.5, -1.0])
    np.testing.assert_allclose(draw_pendulum(-angle), draw_pendulum(angle)[..., ::-1], atol=1e-6)
    np.testing.assert_allclose(draw_cart_pole(-place, -angle), draw_cart_pole(place, angle)[..., ::-1], atol=1e-6)


def test_pictures_change_smoothly():
    angle = np.linspace(0, 0.02, 3)
    steps = np.abs(np.diff(draw_pendulum(angle).astype(float), axis=0)).sum((1, 2))
    assert (steps > 0.05).all() and steps[0] == pytest.approx(steps[1], rel=0.2)
    moved = np.abs(np.diff(draw_cart_pole(np.array([0, 0.01]), np.zeros(2)), axis=0)).sum()
    assert 0.1 < moved < 3


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="angle"):
        unchecked(draw_pendulum)(np.array([np.nan]))
    with pytest.raises(ValueError, match="size"):
        draw_pendulum(np.zeros(1), 2)
    with pytest.raises(ValueError, match="angle has shape"):
        unchecked(draw_cart_pole)(np.zeros(2), np.zeros(3))
