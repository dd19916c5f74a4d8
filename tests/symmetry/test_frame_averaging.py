"""Frames that move with their input, and averages over them that are exactly symmetric."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.shapes import random_rotations, shape_clouds
from touchstone.data.wl_pairs import relabel, wl_pairs
from touchstone.metrics.equivariance import equivariance_error
from touchstone.nn.pointnet import PointNet
from touchstone.symmetry.baselines import GIN
from touchstone.symmetry.frame_averaging import (
    FrameAveragedGNN,
    frame_average,
    frames,
    graph_average,
    graph_frame,
    random_frame,
)


def orthogonal(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(count)[:count, None, None]
    return random_rotations(count, generator) * signs


def clouds(count=6, dtype=torch.float64, seed=0):
    return torch.randn(count, 9, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def network(dtype=torch.float64, per_point=True, seed=0):
    torch.manual_seed(seed)
    return PointNet(3, per_point, width=8).to(dtype)


def test_eight_orthogonal_and_four_proper_frames():
    for group, size, determinants in (("O", 8, 4), ("SO", 4, 4)):
        rotations, _ = frames(clouds(), group)
        assert rotations.shape == (6, size, 3, 3)
        assert torch.allclose(
            rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand_as(rotations), atol=1e-12
        )
        assert ((torch.linalg.det(rotations) > 0).sum(1) == determinants).all()
        gaps = (rotations[:, :, None] - rotations[:, None]).abs().amax((-1, -2))
        assert (gaps + torch.eye(size)).min() > 0.1, "frames must be distinct"


def test_proper_frames_in_the_plane():
    rotations, _ = frames(clouds()[..., :2], "SO")
    assert rotations.shape == (6, 2, 2, 2)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(6, 2, dtype=torch.float64))


@pytest.mark.parametrize("group", ["O", "SO"])
def test_frames_move_with_the_cloud(group):
    points = clouds()
    motion, shift = (orthogonal(6) if group == "O" else random_rotations(6, torch.Generator().manual_seed(1))), 2.5
    before, centre = frames(points, group)
    after, moved_centre = frames(points @ motion + shift, group)
    assert torch.allclose(moved_centre, centre @ motion + shift)
    expected = motion.mT[:, None] @ before  # for row vectors x -> x g, frames go R -> g^T R
    distance = (after[:, :, None] - expected[:, None]).abs().amax((-1, -2))
    assert distance.amin(2).max() < 1e-9 and distance.amin(1).max() < 1e-9


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_averaged_network_is_exactly_equivariant(dtype, bound):
    backbone, points = network(dtype), clouds(32, dtype)
    act = lambda g, x: x @ g.to(dtype)  # noqa: E731
    averaged = lambda x: frame_average(backbone, x)  # noqa: E731
    assert equivariance_error(averaged, points, orthogonal(16), act, act) < bound
    assert equivariance_error(backbone, points, orthogonal(16), act, act) > 0.1, "the backbone alone must not be"
    one = lambda x: frame_average(backbone, x, group="one")  # noqa: E731
    assert equivariance_error(one, points, orthogonal(16), act, act) > 0.1, "one arbitrary frame is not enough"


def test_averaged_network_is_exactly_invariant_and_ignores_shifts():
    backbone, points = network(per_point=False), clouds(32)
    averaged = lambda x: frame_average(backbone, x, "invariant")  # noqa: E731
    assert equivariance_error(averaged, points, orthogonal(16), lambda g, x: x @ g + 3.0) < 1e-8
    placed = frame_average(network(), points + 3.0, "position") - frame_average(network(), points, "position")
    assert torch.allclose(placed, torch.full_like(placed, 3.0))


def test_special_orthogonal_average_sees_handedness():
    backbone, points = network(per_point=False), clouds(16)
    averaged = lambda x: frame_average(backbone, x, "invariant", "SO")  # noqa: E731
    assert (
        equivariance_error(averaged, points, random_rotations(8, torch.Generator().manual_seed(0)), lambda g, x: x @ g)
        < 1e-8
    )
    assert (averaged(points) - averaged(-points)).abs().max() > 1e-3


def test_averaging_an_equivariant_network_changes_nothing():
    def equivariant(x):
        radius = x.norm(dim=-1, keepdim=True)
        return x * torch.sin(3 * radius) + x.roll(1, -2) * radius**2

    points = clouds()
    points = points - points.mean(1, keepdim=True)
    assert torch.allclose(frame_average(equivariant, points), equivariant(points), atol=1e-6)


def test_averaging_twice_equals_averaging_once():
    backbone, points = network(), clouds()
    once = frame_average(backbone, points)
    twice = frame_average(lambda x: frame_average(backbone, x.flatten(0, 1)).view_as(x), points)
    assert torch.allclose(once, twice, atol=1e-10)


def test_the_average_is_the_mean_of_single_frames():
    backbone, points = network(), clouds(1)
    rotations, centre = frames(points)
    by_hand = sum(backbone((points[0] - centre[0]) @ R) @ R.T for R in rotations[0]) / 8
    assert torch.allclose(frame_average(backbone, points)[0], by_hand)


def test_frames_carry_no_gradient_but_the_cloud_does():
    points = clouds().requires_grad_()
    rotations, centre = frames(points)
    assert not rotations.requires_grad and not centre.requires_grad
    frame_average(network(), points).sum().backward()
    assert points.grad.abs().max() > 0


def test_random_frame_is_one_of_the_frames():
    points = clouds()
    seen, rotation = random_frame(points, torch.Generator().manual_seed(0))
    rotations, centre = frames(points)
    assert ((rotations - rotation[:, None]).abs().amax((-1, -2)).amin(1) == 0).all()
    assert torch.allclose(seen @ rotation.mT + centre, points)


def test_analytic_normals_of_a_sphere_survive_the_average():
    shapes = shape_clouds(1, noise=0.0)
    sphere = shapes.points[0] - shapes.points[0].mean(0)
    assert torch.allclose(frame_average(lambda x: x, sphere), sphere, atol=1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_particle_network_is_exactly_equivariant(dtype, bound):
    torch.manual_seed(0)
    model = FrameAveragedGNN(width=12, layers=3).to(dtype)
    state = clouds(32, dtype)[:, :5].repeat(1, 1, 2) * torch.tensor([1, 1, 1, 0.5, -1, 0.7], dtype=dtype)
    state[..., 3:] = clouds(32, dtype, seed=1)[:, :5]
    charges = torch.tensor([1, -1, 1, 1, -1], dtype=dtype).expand(32, 5)
    function = lambda s: model(s[..., :3], s[..., 3:], charges)  # noqa: E731
    act_in = lambda g, s: (s.unflatten(-1, (2, 3)) @ g.to(dtype)).flatten(-2)  # noqa: E731
    act_out = lambda g, x: x @ g.to(dtype)  # noqa: E731
    assert equivariance_error(function, state, orthogonal(16), act_in, act_out) < bound
    model.group = "one"
    assert equivariance_error(function, state, orthogonal(16), act_in, act_out) > 1e-3
    model.group = "O"
    moved = function(state + torch.tensor([2.0, 2, 2, 0, 0, 0], dtype=dtype))
    assert torch.allclose(moved, function(state) + 2.0, atol=1e-9 if dtype == torch.float64 else 1e-4)


def test_particle_network_is_permutation_equivariant():
    model = FrameAveragedGNN(width=12, layers=2).double()
    x, v, q = clouds(4)[:, :5], clouds(4, seed=2)[:, :5], torch.sign(clouds(4, seed=3)[:, :5, 0])
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(model(x, v, q)[:, order], model(x[:, order], v[:, order], q[:, order]), atol=1e-9)


def test_graph_frames_have_the_known_sizes():
    pairs = wl_pairs(0)
    for name, sizes in {"C6 / 2 C3": (720, 720), "C7 / C3+C4": (5040, 144), "K33 / prism": (720, 720)}.items():
        for adjacency, size in zip(pairs[name], sizes, strict=True):
            orders = graph_frame(adjacency)
            assert len(orders) == size == len(set(map(tuple, orders.tolist())))


def test_graph_frame_moves_with_the_numbering():
    adjacency = wl_pairs(0)["C7 / C3+C4"][1]
    seen = {tuple(adjacency[order][:, order].flatten().tolist()) for order in graph_frame(adjacency)}
    for copy in relabel(adjacency, 3, torch.Generator().manual_seed(0)):
        assert seen == {tuple(copy[order][:, order].flatten().tolist()) for order in graph_frame(copy)}


def test_permutation_average_separates_what_message_passing_confuses():
    torch.manual_seed(0)
    one, two = wl_pairs(0)["C6 / 2 C3"]
    mlp = torch.nn.Sequential(torch.nn.Linear(36, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).double()
    embed = lambda a: graph_average(mlp, a, graph_frame(a)).detach()  # noqa: E731
    assert (embed(one) - embed(two)).norm() > 1e-4
    for copy in relabel(one, 5, torch.Generator().manual_seed(0)):
        assert (embed(one) - embed(copy)).norm() < 1e-8
    gin, ones = GIN().double(), torch.ones(6, 1, dtype=torch.float64)
    assert (gin(one, ones) - gin(two, ones)).norm() < 1e-8
    path = torch.diag(torch.ones(5, dtype=torch.float64), 1)
    assert (gin(one, ones) - gin(path + path.T, ones)).norm() > 1e-3


def test_sampled_orders_sort_the_nodes_and_approach_the_average():
    adjacency = wl_pairs(0)["C7 / C3+C4"][1]
    orders = graph_frame(adjacency, 400, torch.Generator().manual_seed(0))
    every = set(map(tuple, graph_frame(adjacency).tolist()))
    assert orders.shape == (400, 7) and set(map(tuple, orders.tolist())) <= every
    torch.manual_seed(0)
    mlp = torch.nn.Linear(49, 4).double()
    exact = graph_average(mlp, adjacency, graph_frame(adjacency))
    assert (graph_average(mlp, adjacency, orders) - exact).abs().max() < 5 / math.sqrt(400)


@pytest.mark.parametrize(
    "function", [frames, lambda x: frame_average(lambda y: y, x), lambda x: random_frame(x, torch.Generator())]
)
def test_bad_points_are_named(function):
    nan = clouds()
    nan[0, 0, 0] = np.nan
    for bad in (nan, clouds()[:0]):
        with pytest.raises(ValueError, match="points"):
            function(bad)


def test_wrong_shape_and_options_are_named():
    with pytest.raises(ValueError, match="points"):
        unchecked(frames)(torch.ones(3))
    with pytest.raises(ValueError, match="group"):
        frames(clouds(), "U")
    with pytest.raises(ValueError, match="output"):
        frame_average(lambda x: x, clouds(), "tensor")
    with pytest.raises(ValueError, match="width"):
        FrameAveragedGNN(width=10)
    with pytest.raises(ValueError, match="adjacency"):
        unchecked(graph_frame)(torch.ones(2, 3))
    with pytest.raises(ValueError, match="adjacency"):
        graph_frame(torch.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="adjacency"):
        graph_frame(torch.ones(0, 0))
    with pytest.raises(ValueError, match="symmetric"):
        graph_frame(torch.tensor([[0.0, 1], [0, 0]]))
    with pytest.raises(ValueError, match="orders"):
        unchecked(graph_average)(lambda x: x, torch.zeros(2, 2), torch.zeros(1, 3, dtype=torch.long))
