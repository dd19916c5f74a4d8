import math

import pytest
import torch
from scipy.integrate import solve_ivp

from tests.helpers import unchecked
from touchstone.data.hierarchy import binary_tree
from touchstone.nn.orthogonal import haar_orthogonal
from touchstone.theory import deep_linear_dynamics as dld

DOUBLE = torch.float64
S = torch.tensor([2.0, 1.0, 0.3], dtype=DOUBLE)
START = torch.tensor([1e-3, 2e-3, 1e-2], dtype=DOUBLE)


def tree():
    inputs, features = binary_tree(3, DOUBLE)
    return dld.correlation_modes(inputs, features)


def test_sigmoid_solves_its_equation():
    step = 1e-4
    time = torch.linspace(0.5, 10, 60, dtype=DOUBLE)
    before, here, after = (dld.sigmoid_mode(time + shift, S, START, tau=1.3) for shift in (-step, 0.0, step))
    slope = (after - before) / (2 * step)
    wanted = 2 * here * (S - here) / 1.3
    assert ((slope - wanted).abs() / (wanted.abs() + 1e-3)).max() < 1e-6


def test_sigmoid_starts_at_start_and_ends_at_s():
    ends = dld.sigmoid_mode(torch.tensor([0.0, 1e4], dtype=DOUBLE), S, START)
    torch.testing.assert_close(ends[0], START, rtol=1e-12, atol=0)
    torch.testing.assert_close(ends[1], S, rtol=1e-12, atol=0)


def test_rise_time_inverts_the_sigmoid():
    end = 0.5 * S
    time = dld.rise_time(S, START, end, tau=0.7)
    torch.testing.assert_close(dld.sigmoid_mode(time, S, START, tau=0.7).diagonal(), end, rtol=1e-12, atol=0)


def test_one_matrix_is_an_exponential():
    time = torch.linspace(0, 8, 30, dtype=DOUBLE)
    exact = S - (S - START) * torch.exp(-time[:, None] / 1.7)
    torch.testing.assert_close(dld.deep_mode(time, S, START, depth=1, tau=1.7), exact, rtol=0, atol=1e-8)


def test_two_matrices_are_a_sigmoid():
    time = torch.linspace(0, 20, 30, dtype=DOUBLE)
    torch.testing.assert_close(
        dld.deep_mode(time, S, START, depth=2, tau=1.7), dld.sigmoid_mode(time, S, START, tau=1.7), rtol=0, atol=1e-8
    )


def test_gradients_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 4), (6, 5), (3, 6)]
    weights = [torch.randn(2, *shape, generator=generator, dtype=DOUBLE).requires_grad_() for shape in shapes]
    target = torch.randn(2, 3, 4, generator=generator, dtype=DOUBLE)
    loss = 0.5 * (target - weights[2] @ weights[1] @ weights[0]).square().sum()
    slopes, product = dld.gradients(weights, target)
    torch.testing.assert_close(product, weights[2] @ weights[1] @ weights[0])
    for slope, wanted in zip(slopes, torch.autograd.grad(loss, weights), strict=True):
        torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("depth", [2, 4])
def test_gradient_flow_keeps_the_layers_balanced(depth):
    sizes = [4] + [6] * (depth - 1) + [4]
    generator = torch.Generator().manual_seed(1)
    ends = [haar_orthogonal(4, 4, generator=generator, dtype=DOUBLE) for _ in range(2)]
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    inner = [torch.eye(a, 4, dtype=DOUBLE) @ torch.eye(4, b, dtype=DOUBLE) for a, b in pairs]
    # orthogonal ends around identities on the first four units: W_{l+1}^T W_{l+1} = W_l W_l^T holds at the start
    weights = [0.6 * weight for weight in inner]
    weights[0], weights[-1] = weights[0] @ ends[0], ends[1] @ weights[-1]
    target = torch.randn(4, 4, generator=generator, dtype=DOUBLE)

    def unpack(flat):
        flat = torch.as_tensor(flat)
        parts = flat.split([weight.numel() for weight in weights])
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]

    def flow(_, flat):
        return -torch.cat([slope.flatten() for slope in dld.gradients(unpack(flat), target)[0]]).numpy()

    def imbalance(now):
        return max((up.mT @ up - low @ low.mT).abs().max() for up, low in zip(now[1:], now[:-1], strict=True))

    start = torch.cat([weight.flatten() for weight in weights])
    assert imbalance(weights) < 1e-12
    end = unpack(solve_ivp(flow, (0, 5), start.numpy(), method="RK45", rtol=1e-11, atol=1e-12).y[:, -1].copy())
    assert max((now - was).abs().max() for now, was in zip(end, weights, strict=True)) > 0.1  # something was learned
    assert imbalance(end) < 1e-8


def test_descent_from_the_aligned_start_follows_the_sigmoids():
    u, s, v = tree()
    weights = dld.aligned_weights(u, v, torch.full((8,), 1e-3, dtype=DOUBLE), 16, torch.Generator().manual_seed(0))
    rate = torch.tensor([0.02 / s[0]], dtype=DOUBLE)
    maps = dld.gradient_descent([w[None] for w in weights], ((u * s) @ v.mT)[None], rate, 1500)
    strengths = torch.stack([dld.mode_strengths(product, u, v)[0] for product in maps])
    theory = dld.sigmoid_mode(rate * torch.arange(1500), s, torch.full((8,), 1e-3, dtype=DOUBLE))
    assert ((strengths - theory).abs() / s).max() < 0.03
    assert strengths[0].max() < 0.01 and (strengths[-1, :2] / s[:2]).min() > 0.99


def test_aligned_weights_multiply_to_the_modes():
    u, s, v = tree()
    first, last = dld.aligned_weights(u, v, s, 16, torch.Generator().manual_seed(3))
    torch.testing.assert_close(last @ first, (u * s) @ v.mT)
    torch.testing.assert_close(last.mT @ last, first @ first.mT)


def test_tree_modes_are_the_known_ones():
    u, s, v = tree()
    wanted = torch.tensor([15, 7, 3, 3, 1, 1, 1, 1], dtype=DOUBLE).div(8).sqrt()
    torch.testing.assert_close(s, wanted)
    assert v[:, 0].abs().std() < 1e-12  # the strongest mode is common to all items
    assert v[:4, 1].sign().unique().numel() == 1 and v[0, 1] * v[4, 1] < 0  # the next one splits them into halves


def test_fewer_modes_than_outputs_start_slower_with_depth():
    time = torch.linspace(0, 3, 10, dtype=DOUBLE)
    small = torch.tensor([1e-2], dtype=DOUBLE)
    one = torch.ones(1, dtype=DOUBLE)
    heights = [dld.deep_mode(time, one, small, depth)[-1].item() for depth in (1, 2, 8)]
    assert heights[0] > heights[1] > heights[2] > small.item()


BAD = [
    (dld.correlation_modes, "inputs", (torch.full((4, 4), math.nan), torch.ones(4, 2))),
    (dld.correlation_modes, "inputs", (torch.ones(4), torch.ones(4, 2))),
    (dld.correlation_modes, "targets", (2 * torch.eye(4), torch.ones(3, 2))),
    (dld.correlation_modes, "targets", (2 * torch.eye(4), torch.ones(4, 0))),
    (dld.correlation_modes, "inputs", (torch.eye(4), torch.ones(4, 2))),
    (dld.sigmoid_mode, "time", (torch.tensor([math.nan]), S, START)),
    (dld.sigmoid_mode, "start", (torch.ones(1), S, 0 * START)),
    (dld.rise_time, "end", (S, START, S)),
    (dld.rise_time, "s", (S[:0], START, S)),
    (dld.deep_mode, "depth", (torch.ones(2), S, START, 0)),
    (dld.deep_mode, "s", (torch.ones(2), S[:0], START, 2)),
    (dld.aligned_weights, "hidden", (torch.eye(4), torch.eye(4), torch.ones(4), 3)),
    (dld.aligned_weights, "start", (torch.eye(4), torch.eye(4), torch.ones(3), 8)),
    (dld.aligned_weights, "u", (torch.full((4, 4), math.nan), torch.eye(4), torch.ones(4), 8)),
]


@pytest.mark.parametrize(("function", "name", "arguments"), BAD)
def test_bad_input_is_named(function, name, arguments):
    with pytest.raises(ValueError, match=rf"^{name}"):
        unchecked(function)(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("weights", ([], torch.ones(1, 2, 2), torch.ones(1))),
        ("target", ([torch.ones(1, 2, 2)], torch.ones(2, 2), torch.ones(1))),
        ("rate", ([torch.ones(1, 2, 2)], torch.ones(1, 2, 2), torch.ones(2))),
        (r"weights\[0\]", ([torch.full((1, 2, 2), math.nan)], torch.ones(1, 2, 2), torch.ones(1))),
    ],
)
def test_descent_names_bad_input(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}"):
        next(unchecked(dld.gradient_descent)(*arguments, 3))
