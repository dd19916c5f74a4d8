"""The shared networks of the part: what each is symmetric to, and that they compete at equal size."""

import torch

from touchstone.data.shapes import random_rotations
from touchstone.metrics.equivariance import equivariance_error
from touchstone.nn.egnn import EGNN, GNN, others, pair_features
from touchstone.nn.pointnet import PointNet
from touchstone.symmetry.frame_averaging import FrameAveragedGNN


def particles(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, 32, 5, 3, generator=generator, dtype=torch.float64)
    return x, v, torch.randint(0, 2, (32, 5), generator=generator).double() * 2 - 1


def test_egnn_is_equivariant_and_gnn_is_not():
    x, v, q = particles()
    motions = random_rotations(8, torch.Generator().manual_seed(1)) * -1.0
    act_in = lambda g, s: (s.unflatten(-1, (2, 3)) @ g).flatten(-2)  # noqa: E731
    errors = {}
    for kind in (EGNN, GNN):
        torch.manual_seed(0)
        model = kind(width=12, layers=2).double()
        function = lambda s, model=model: model(s[..., :3], s[..., 3:], q)  # noqa: E731
        errors[kind] = equivariance_error(function, torch.cat([x, v], -1), motions, act_in, lambda g, y: y @ g)
        assert torch.allclose(model(x + 4.0, v, q), model(x, v, q) + 4.0), "shifts are harmless to both"
        order = torch.tensor([2, 0, 1, 4, 3])
        assert torch.allclose(model(x[:, order], v[:, order], q[:, order]), model(x, v, q)[:, order])
    assert errors[EGNN] < 1e-12 < 0.1 < errors[GNN]


def test_compared_models_have_about_equal_size():
    sizes = [sum(p.numel() for p in model.parameters()) for model in (GNN(), FrameAveragedGNN(), EGNN())]
    assert max(sizes) < 1.15 * min(sizes)


def test_egnn_starts_close_to_a_drift():
    x, v, q = particles()
    torch.manual_seed(0)
    model = EGNN(width=12, layers=1).double()
    moved = model(x, v, q) - x
    drift = model.drifts[0](model.embed(v.norm(dim=-1, keepdim=True))) * v
    assert (moved - drift).norm() < 0.01 * x.norm()


def test_others_and_pair_features():
    x, _, q = particles()
    assert torch.equal(others(x)[:, 3, 0], x[:, 4]) and torch.equal(others(x)[:, 3, 1], x[:, 0])
    pairs = pair_features(x, q)
    assert torch.allclose(pairs[:, 3, 1, 0], q[:, 3] * q[:, 0])
    assert torch.allclose(pairs[:, 3, 1, 1], ((x[:, 3] - x[:, 0]) ** 2).sum(1))


def test_pointnet_ignores_the_order_of_points():
    torch.manual_seed(0)
    points, order = torch.randn(2, 9, 3), torch.randperm(9)
    vector, label = PointNet(3, True, 8), PointNet(10, False, 8)
    assert torch.allclose(vector(points)[:, order], vector(points[:, order]), atol=1e-6)
    assert torch.allclose(label(points), label(points[:, order]), atol=1e-6)
    assert vector(points).shape == (2, 9, 3) and label(points).shape == (2, 10)
