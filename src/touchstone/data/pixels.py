"""Small anti-aliased pictures of a pendulum and of a cart with a pole.

A shape is drawn by the signed distance from its edge: a pixel whose centre lies half a pixel inside is white, half a pixel
outside black, and grey between, so that a picture changes smoothly with the state.
"""

import numpy as np
from jaxtyping import Float

from touchstone.checks import finite


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in [-1, 1], x to the right and y upwards, rows from the top."""
    if size < 4:
        raise ValueError(f"size is {size}: expected at least 4 pixels")
    line = (2 * np.arange(size) + 1) / size - 1
    return np.meshgrid(line, -line)


def _stroke(
    x: np.ndarray, y: np.ndarray, start: tuple[np.ndarray, np.ndarray], end: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Distance of the pixels from segments; ends have shape (pictures,)."""
    (ax, ay), (bx, by) = ([part[:, None, None] for part in point] for point in (start, end))
    dx, dy = bx - ax, by - ay
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / np.maximum(dx**2 + dy**2, 1e-12), 0, 1)
    return np.hypot(x - ax - along * dx, y - ay - along * dy)


def _ink(distance: np.ndarray, size: int) -> np.ndarray:
    """Coverage of pixels at a signed distance from an edge, inside negative."""
    return np.clip(0.5 - distance * size / 2, 0, 1)


def draw_pendulum(
    angle: Float[np.ndarray, "*batch"], size: int = 32, length: Float[np.ndarray, "*batch"] | float = 0.7
) -> Float[np.ndarray, "*batch size size"]:
    """Pictures of a pendulum hung at the middle.

    Args:
        angle: from the lower rest, to the right positive (rad).
        size: pixels along an edge.
        length: of the rod, in half edges of the picture; at most 0.8 keeps the bob inside.

    Returns:
        brightness from 0 to 1 in float32, rows from the top.

    Raises:
        ValueError: if the angle is empty or not finite, or the picture smaller than 4 pixels.
    """
    finite(angle=angle)
    x, y = _grid(size)
    flat = angle.ravel()
    reach = np.broadcast_to(length, angle.shape).ravel()
    bob = reach * np.sin(flat), -reach * np.cos(flat)
    pivot = np.zeros_like(flat), np.zeros_like(flat)
    rod = _ink(_stroke(x, y, pivot, bob) - 0.06, size)
    disc = _ink(np.hypot(x - bob[0][:, None, None], y - bob[1][:, None, None]) - 0.18, size)
    return np.maximum(0.5 * rod, disc).reshape(*angle.shape, size, size).astype(np.float32)


def draw_cart_pole(
    position: Float[np.ndarray, "*batch"], angle: Float[np.ndarray, "*batch"], size: int = 32, half_width: float = 2.4
) -> Float[np.ndarray, "*batch size size"]:
    """Pictures of a cart on a track with a pole on it.

    Args:
        position: of the cart (m).
        angle: of the pole from upright, to the right positive (rad).
        size: pixels along an edge.
        half_width: position at the right edge of the picture (m).

    Returns:
        brightness from 0 to 1 in float32, rows from the top.

    Raises:
        ValueError: if an argument is empty or not finite, their shapes differ, or the picture is smaller than 4 pixels.
    """
    finite(position=position, angle=angle)
    if position.shape != angle.shape:
        raise ValueError(f"angle has shape {angle.shape}, position {position.shape}: they must agree")
    x, y = _grid(size)
    place, flat = position.ravel() / half_width, angle.ravel()
    base = np.full_like(flat, -0.3)
    box = np.maximum(np.abs(x - place[:, None, None]) - 0.22, np.abs(y + 0.4) - 0.1)
    pole = _stroke(x, y, (place, base), (place + 0.6 * np.sin(flat), base + 0.6 * np.cos(flat))) - 0.07
    picture = np.maximum(0.5 * _ink(box, size), _ink(pole, size))
    return picture.reshape(*angle.shape, size, size).astype(np.float32)
