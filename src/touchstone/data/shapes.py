r"""Point clouds on ten families of parametric surfaces, with analytic outward normals, and the poses they are shown in.

A cloud is a set of points drawn on a surface of random proportions, centred, scaled into the unit ball and jittered.
Protocols of the part are named by train pose / test pose: ``z/z``, ``z/SO3``, ``SO3/SO3``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

FAMILIES = (
    "sphere", "ellipsoid", "box", "cylinder", "cone", "torus", "tetrahedron", "helix tube", "saddle", "L-beam",
)  # fmt: skip
POSES = ("canonical", "z", "SO3")


@dataclass
class Clouds:
    """A batch of point clouds.

    Attributes:
        points: (clouds, points, 3), centred, inside the unit ball up to the noise.
        normals: (clouds, points, 3), unit length, outward (for the open saddle: towards the side that the stronger
            curvature opens to).
        labels: (clouds,), index into ``FAMILIES``.
    """

    points: Float[Tensor, "clouds points 3"]
    normals: Float[Tensor, "clouds points 3"]
    labels: Int[Tensor, " clouds"]


def random_rotations(count: int, generator: torch.Generator, pose: str = "SO3") -> Float[Tensor, "count 3 3"]:
    """Rotation matrices for row vectors (``points @ rotation``), in float64.

    Args:
        count: how many.
        generator: source of randomness.
        pose: ``"SO3"`` for the uniform (Haar) law, ``"z"`` for a uniform angle about the z axis, ``"canonical"`` for none.

    Returns:
        proper rotations, one a row of the batch.

    Raises:
        ValueError: if ``pose`` is unknown or ``count`` is not positive.
    """
    if pose not in POSES:
        raise ValueError(f"pose is {pose!r}, expected one of {POSES}")
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1")
    identity = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    if pose == "canonical":
        return identity
    if pose == "z":
        angle = 2 * torch.pi * torch.rand(count, generator=generator, dtype=torch.float64)
        identity[:, 0, 0] = identity[:, 1, 1] = angle.cos()
        identity[:, 0, 1], identity[:, 1, 0] = angle.sin(), -angle.sin()
        return identity
    # A uniform unit quaternion is a uniform rotation.
    q = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64), dim=1)
    w, vector = q[:, :1, None], q[:, 1:]
    cross = torch.linalg.cross(vector[:, None], identity, dim=-1)
    return identity * (w**2 - (vector**2).sum(1)[:, None, None]) + 2 * vector[:, :, None] * vector[:, None] + 2 * w * cross


def shape_clouds(per_family: int, points: int = 128, noise: float = 0.01, seed: int = 0) -> Clouds:
    """Draw clouds of every family in its canonical pose (z is the family's own axis).

    Args:
        per_family: clouds per family.
        points: points per cloud.
        noise: standard deviation of the jitter, in units of the cloud's radius.
        seed: of the proportions, the points and the jitter.

    Returns:
        the clouds in float32, families in order.

    Raises:
        ValueError: if ``per_family`` or ``points`` is not positive, or ``noise`` is negative.
    """
    for name, value in {"per_family": per_family, "points": points}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if noise < 0:
        raise ValueError(f"noise is {noise}, expected a standard deviation >= 0")
    generator = torch.Generator().manual_seed(seed)
    builders = (_sphere, _ellipsoid, _box, _cylinder, _cone, _torus, _tetrahedron, _helix, _saddle, _beam)
    drawn = [build(per_family, points, generator) for build in builders]
    surface, normals = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    surface = surface - surface.mean(1, keepdim=True)
    surface = surface / surface.norm(dim=2).amax(1)[:, None, None]
    surface = surface + noise * torch.randn(surface.shape, generator=generator)
    labels = torch.arange(len(FAMILIES)).repeat_interleave(per_family)
    return Clouds(surface, torch.nn.functional.normalize(normals, dim=2), labels)


def _uniform(generator, *shape, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=generator)


def _ellipsoid(count, points, generator, low=0.35):
    direction = torch.nn.functional.normalize(torch.randn(count, points, 3, generator=generator), dim=2)
    axes = _uniform(generator, count, 1, 3, low=low)
    return direction * axes, direction / axes


def _sphere(count, points, generator):
    return _ellipsoid(count, points, generator, low=1.0)


def _patches(origin, first, second, triangle, points, generator):
    """Area-uniform points on parallelograms or triangles; the normal is first x second."""
    normal = torch.linalg.cross(first, second, dim=-1)
    chosen = torch.multinomial(normal.norm(dim=2), points, replacement=True, generator=generator)[..., None].expand(-1, -1, 3)
    s, t = _uniform(generator, 2, len(origin), points, 1)
    if triangle:  # fold the far half of the parallelogram onto the triangle
        s, t = torch.where(s + t > 1, 1 - s, s), torch.where(s + t > 1, 1 - t, t)
    pick = [patch.gather(1, chosen) for patch in (origin, first, second, normal)]
    return pick[0] + s * pick[1] + t * pick[2], pick[3]


def _extruded(corners, caps, height, points, generator):
    """A prism over a counter-clockwise polygon (count, corners, 2), its floor plan tiled by caps (count, tiles, 4)."""
    lift = torch.stack([torch.zeros_like(height), torch.zeros_like(height), height], -1)[:, None]  # (count, 1, 3)
    ring = torch.nn.functional.pad(corners, (0, 1))
    edges = ring.roll(-1, 1) - ring
    corner = torch.nn.functional.pad(caps[..., :2], (0, 1))
    zero = torch.zeros_like(caps[..., 0])
    along_x, along_y = torch.stack([caps[..., 2], zero, zero], -1), torch.stack([zero, caps[..., 3], zero], -1)
    origin = torch.cat([ring, corner, corner + lift], 1)
    first = torch.cat([edges, along_y, along_x], 1)
    second = torch.cat([lift.expand_as(edges), along_x, along_y], 1)
    return _patches(origin, first, second, False, points, generator)


def _box(count, points, generator):
    width, depth, height = _uniform(generator, 3, count, low=0.4)
    zero = torch.zeros_like(width)
    corners = torch.stack([zero, zero, width, zero, width, depth, zero, depth], 1).view(count, 4, 2)
    return _extruded(corners, torch.stack([zero, zero, width, depth], 1)[:, None], height, points, generator)


def _beam(count, points, generator):
    width, depth, height = _uniform(generator, 3, count, low=0.7, high=1.3)
    thick = _uniform(generator, count, low=0.2, high=0.35)
    zero = torch.zeros_like(width)
    ring = [zero, zero, width, zero, width, thick, thick, thick, thick, depth, zero, depth]
    tiles = [zero, zero, width, thick, zero, thick, thick, depth - thick]
    corners, caps = torch.stack(ring, 1).view(count, 6, 2), torch.stack(tiles, 1).view(count, 2, 4)
    return _extruded(corners, caps, height, points, generator)


def _tetrahedron(count, points, generator):
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    corners = corners + 0.25 * torch.randn(count, 4, 3, generator=generator)
    face = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    origin, first, second = corners[:, face[:, 0]], corners[:, face[:, 1]], corners[:, face[:, 2]]
    first, second = first - origin, second - origin
    outward = origin - corners.mean(1, keepdim=True)
    flip = (torch.linalg.cross(first, second, dim=-1) * outward).sum(2, keepdim=True) < 0
    first, second = torch.where(flip, second, first), torch.where(flip, first, second)
    return _patches(origin, first, second, True, points, generator)


def _around(angle, radius, z):
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)


def _cylinder(count, points, generator):
    radius, height = _uniform(generator, count, 1, low=0.3), _uniform(generator, count, 1, low=0.6, high=2.0)
    part, u = _uniform(generator, 2, count, points)
    angle = 2 * torch.pi * _uniform(generator, count, points)
    side, zero = part < height / (height + radius), torch.zeros(count, points)  # side 2 pi r h, caps 2 pi r^2
    sign = torch.where(_uniform(generator, count, points) < 0.5, -1.0, 1.0)
    wall, cap = _around(angle, radius + zero, (u - 0.5) * height), _around(angle, radius * u.sqrt(), sign * height / 2)
    outward, upward = _around(angle, zero + 1, zero), torch.stack([zero, zero, sign], -1)
    return torch.where(side[..., None], wall, cap), torch.where(side[..., None], outward, upward)


def _cone(count, points, generator):
    radius, height = _uniform(generator, count, 1, low=0.4), _uniform(generator, count, 1, low=0.8, high=2.0)
    part, u = _uniform(generator, 2, count, points)
    angle, zero = 2 * torch.pi * _uniform(generator, count, points), torch.zeros(count, points)
    slant = (radius**2 + height**2).sqrt()
    side = part < slant / (slant + radius)  # side pi r s, base pi r^2
    wall, base = _around(angle, radius * u.sqrt(), height * (1 - u.sqrt())), _around(angle, radius * u.sqrt(), zero)
    outward, down = _around(angle, height + zero, radius + zero), torch.stack([zero, zero, zero - 1], -1)
    return torch.where(side[..., None], wall, base), torch.where(side[..., None], outward, down)


def _torus(count, points, generator):
    tube = _uniform(generator, count, 1, low=0.15, high=0.5)
    angle, around = 2 * torch.pi * _uniform(generator, 2, count, points)
    return _around(angle, 1 + tube * around.cos(), tube * around.sin()), _around(angle, around.cos(), around.sin())


def _helix(count, points, generator):
    tube, pitch = _uniform(generator, count, 1, low=0.1, high=0.25), _uniform(generator, count, 1, low=0.15, high=0.35)
    turns = _uniform(generator, count, 1, low=1.0, high=2.0)
    angle = 2 * torch.pi * turns * _uniform(generator, count, points)
    around, zero = 2 * torch.pi * _uniform(generator, count, points), torch.zeros(count, points)
    inward = _around(angle, zero - 1, zero)  # Frenet frame of the axis (cos a, sin a, pitch a)
    tangent = torch.nn.functional.normalize(_around(angle + torch.pi / 2, zero + 1, pitch + zero), dim=2)
    normal = around.cos()[..., None] * inward + around.sin()[..., None] * torch.linalg.cross(tangent, inward, dim=-1)
    return _around(angle, zero + 1, pitch * angle) + tube[..., None] * normal, normal


def _saddle(count, points, generator):
    strong, weak = _uniform(generator, count, 1, low=0.5, high=0.9), _uniform(generator, count, 1, low=0.1, high=0.4)
    x, y = _uniform(generator, 2, count, points, low=-1.0)
    surface = torch.stack([x, y, strong * x**2 - weak * y**2], -1)
    return surface, torch.stack([-2 * strong * x, 2 * weak * y, torch.ones_like(x)], -1)
