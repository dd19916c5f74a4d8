"""Shape families: normals really are normal, poses follow their law."""

import pytest
import torch

from touchstone.data.shapes import FAMILIES, random_rotations, shape_clouds


def test_sizes_labels_and_repeatability():
    one, two, other = shape_clouds(2, seed=3), shape_clouds(2, seed=3), shape_clouds(2, seed=4)
    assert one.points.shape == one.normals.shape == (20, 128, 3)
    assert torch.equal(one.labels, torch.arange(10).repeat_interleave(2))
    assert torch.equal(one.points, two.points) and not torch.equal(one.points, other.points)
    assert one.points.norm(dim=2).max() < 1.1 and one.points.mean(1).abs().max() < 0.01


def test_normals_are_unit_and_outward():
    clouds = shape_clouds(5, points=512, noise=0.0)
    assert torch.allclose(clouds.normals.norm(dim=2), torch.ones(50, 512), atol=1e-5)
    for name in ("sphere", "ellipsoid", "box", "cylinder", "cone", "tetrahedron"):  # convex: centre is inside
        chosen = clouds.labels == FAMILIES.index(name)
        assert ((clouds.points * clouds.normals)[chosen].sum(2) > -0.02).all(), name


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_normals_are_orthogonal_to_close_neighbours(family):
    clouds = shape_clouds(2, points=4000, noise=0.0, seed=1)
    points, normals = clouds.points[2 * family], clouds.normals[2 * family]
    distance = torch.cdist(points, points).fill_diagonal_(torch.inf)
    nearest = distance.argmin(1)
    step = torch.nn.functional.normalize(points[nearest] - points, dim=1)
    assert (step * normals).sum(1).abs().median() < 0.05, FAMILIES[family]
    assert (normals[nearest] * normals).sum(1).median() > 0.9


def test_saddle_normals_point_to_the_strong_side():
    clouds = shape_clouds(5, noise=0.0)
    assert (clouds.normals[clouds.labels == FAMILIES.index("saddle")][..., 2] > 0).all()


def test_rotations_are_proper_and_uniform():
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(4000, generator)
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(rotations @ rotations.mT, identity.expand(4000, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(4000, dtype=torch.float64))
    assert rotations.mean(0).abs().max() < 0.05
    # Under the uniform law the trace has mean 0 and variance 1; a uniform angle would give mean 1.
    trace = rotations.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(trace.mean()) < 0.06 and abs(trace.var() - 1) < 0.06
    about_z = random_rotations(10, generator, "z")
    assert torch.allclose(about_z[:, 2], identity[2].expand(10, 3)) and torch.linalg.det(about_z).min() > 0.999
    assert torch.equal(random_rotations(2, generator, "canonical"), identity.expand(2, 3, 3))


def test_bad_arguments_are_named():
    for arguments, name in (((0,), "per_family"), ((1, 0), "points"), ((1, 8, -1.0), "noise")):
        with pytest.raises(ValueError, match=name):
            shape_clouds(*arguments)
    with pytest.raises(ValueError, match="pose"):
        random_rotations(1, torch.Generator(), "SO2")
    with pytest.raises(ValueError, match="count"):
        random_rotations(0, torch.Generator())
