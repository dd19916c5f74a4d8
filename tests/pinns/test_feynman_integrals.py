"""Feynman integrals: exact values against their equations, the coupling of orders, the forward derivative, the ensemble."""

from dataclasses import replace
from math import factorial

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns.feynman_families import (
    BOX,
    BUBBLE_ABOVE,
    BUBBLE_BELOW,
    CANONICAL_BOX,
    FAMILIES,
    Family,
    box_function,
    bubble_values,
    from_canonical,
)
from touchstone.pinns.feynman_integrals import Replicas, couple, estimate, train


def derivative(exact, x, radius):
    """Derivative at ``x``: slope of the Chebyshev interpolant around each point."""
    node = np.cos(np.pi * (np.arange(17) + 0.5) / 17)
    values = np.stack([exact(x + radius * n) for n in node])
    series = np.polynomial.chebyshev.chebfit(node, values.reshape(17, -1), 16)
    slope = np.polynomial.chebyshev.chebval(0.0, np.polynomial.chebyshev.chebder(series))
    return slope.reshape(values.shape[1:]) / radius


def misfit(family, x, radius):
    """Largest residual of the cleared equations at the exact values."""
    values, slopes = family.exact(x), derivative(family.exact, x, radius)
    points, worst = torch.as_tensor(x), 0.0
    for part, slope in ((values.real, slopes.real), (values.imag, slopes.imag)):
        left = family.clear(points)[:, None, None] * torch.as_tensor(slope.copy())
        right = couple(family.matrices(points), torch.as_tensor(part.copy()))
        worst = max(worst, float((left - right).abs().max()))
    return worst


@pytest.mark.parametrize("family", [BOX, CANONICAL_BOX], ids=["plain", "canonical"])
def test_the_box_satisfies_its_equations(family):
    # d/dx by formula, so that nothing is lost in a difference: every coefficient is a polynomial in these functions
    x = np.linspace(0.1, 5, 50)
    log, one = np.log(x), np.ones_like(x)
    g = box_function(x)
    third = (log**2 + np.pi**2) / (x * (1 + x))  # the derivatives of the polylogarithms cancel the rest
    slopes_g = np.stack([0 * one, -2 / x, 0 * one, third], -1)
    power = np.stack([-((-log) ** (w - 1)) / factorial(w - 1) / x if w else 0 * one for w in range(4)], -1)
    slopes = np.stack([power, 0 * g, slopes_g], 1)
    if family is BOX:
        slopes = from_canonical(slopes, x)
        slopes[:, 2] -= g / x[:, None] ** 2
    points = torch.as_tensor(x)
    right = couple(family.matrices(points), torch.as_tensor(family.exact(x)))
    off = (family.clear(points)[:, None, None] * torch.as_tensor(slopes) - right).abs()
    assert (off / (1 + right.abs())).max() < 1e-12


def test_box_crossing_symmetry():
    # g(x) = x^(-epsilon) g(1/x), as a Cauchy product of series in epsilon
    x = np.geomspace(0.05, 20, 50)
    here, there = box_function(x), box_function(1 / x)
    power = np.stack([(-np.log(x)) ** w / factorial(w) for w in range(4)], -1)
    product = np.stack([sum(power[:, w - k] * there[:, k] for k in range(w + 1)) for w in range(4)], -1)
    assert np.abs(here - product).max() < 1e-12 * max(1, np.abs(there).max())


@pytest.mark.parametrize("family, low, high", [(BUBBLE_BELOW, -10, 3.4), (BUBBLE_ABOVE, 4.5, 20)])
def test_the_bubble_satisfies_its_equation(family, low, high):
    assert misfit(family, np.linspace(low, high, 30) + 0.003, 0.1) < 1e-8


def test_bubble_known_values():
    s = np.linspace(4.2, 20, 40)
    above = bubble_values(s)
    assert np.abs(above[:, 1, 1].imag - np.pi * np.sqrt(1 - 4 / s)).max() < 1e-8
    assert (above[:, 0] == [1, 0, 0]).all()
    below = bubble_values(np.array([0.0, -5.0]))
    assert np.allclose(below[0, 1], [1, 0, 0], atol=1e-14)  # at s = 0 the bubble is the tadpole
    root = np.sqrt(1 + 4 / 5)
    assert np.isclose(below[1, 1, 1], 2 - root * np.log((root + 1) / (root - 1)), atol=1e-12)
    root = np.sqrt(1 - 4 / s)
    assert np.allclose(above[:, 1, 1].real, 2 - root * np.log((1 + root) / (1 - root)), atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_coupled_orders_are_the_matrix_at_small_epsilon(family):
    epsilon, x = 0.01, np.linspace(family.low, family.high, 9) + 1e-3
    matrices = family.matrices(torch.as_tensor(x))
    values = torch.as_tensor(family.exact(x).real.copy())
    powers = epsilon ** torch.arange(family.orders, dtype=torch.float64)
    direct = torch.einsum("pkmn,k,pn->pm", matrices, powers[: matrices.shape[1]], (values * powers).sum(-1))
    dropped = matrices.abs().max() * values.abs().max() * family.masters
    assert ((couple(matrices, values) * powers).sum(-1) - direct).abs().max() < dropped * epsilon**family.orders


def test_coupling_by_hand():
    matrices = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[0.0, 0.0], [5.0, 0.0]]])
    coefficients = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    assert torch.equal(couple(matrices, coefficients), torch.tensor([[201.0, 2010.0], [300.0, 3005.0]]))


def test_canonical_basis_is_the_same_family():
    x = np.linspace(0.1, 5, 7)
    plain = from_canonical(CANONICAL_BOX.exact(x), x)
    epsilon, powers = 1e-3, 1e-3 ** np.arange(4)
    bubble = -(x**-epsilon) / (epsilon * (1 - 2 * epsilon))
    assert np.allclose((plain[:, 0] * powers).sum(-1) / epsilon**2, bubble, rtol=1e-7)
    assert (CANONICAL_BOX.matrices(torch.as_tensor(x))[:, 0] == 0).all()
    assert np.allclose(plain, BOX.exact(x))


def test_forward_derivative_is_the_derivative():
    network = Replicas(BUBBLE_BELOW, range(3), torch.ones(1, 2, 3)).double()
    for bias in network.biases:
        torch.nn.init.normal_(bias, std=0.3)
    x = torch.linspace(-9, 3, 20, dtype=torch.float64).expand(3, -1)
    slope = network(x)[1]
    numerical = (network(x + 1e-5)[0] - network(x - 1e-5)[0]) / 2e-5
    assert (slope - numerical).abs().max() < 1e-8
    assert not torch.allclose(network(x)[0][0], network(x)[0][1])  # replicas differ


def test_residual_is_in_units_of_the_scale():
    scale = torch.rand(1, 3, 4, dtype=torch.float64) + 0.5
    network = Replicas(BOX, [0], scale).double()
    x = torch.tensor([[0.4, 2.0]], dtype=torch.float64)
    value, slope = network(x)
    by_hand = x[..., None, None] * slope * scale - couple(BOX.matrices(x), value * scale)
    assert torch.allclose(network.residual(x) * scale, by_hand)


def test_a_replica_in_a_stack_is_the_replica_alone():
    known = BOX.exact(np.array(BOX.places))
    x = np.array([0.5, 1.0])
    together = estimate(train(BOX, known, [0, 1, 2], steps=20, batch=16), x)
    alone = estimate(train(BOX, known, [1], steps=20, batch=16), x)
    assert np.allclose(together.replicas[1], alone.replicas[0], atol=1e-4)
    assert np.allclose(together.mean, together.replicas.mean(0))
    assert np.allclose(together.spread, together.replicas.std(0, ddof=1))
    assert (alone.spread == 0).all()


def test_fifty_steps_of_a_replica_do_not_depend_on_the_stack():
    known, x = BUBBLE_ABOVE.exact(np.array(BUBBLE_ABOVE.places)), np.array([4.5, 7.0, 12.0])
    many, one = (
        estimate(train(BUBBLE_ABOVE, known, seeds, steps=50, batch=16), x).replicas[-1] for seeds in ([0, 4], [4])
    )
    assert np.linalg.norm(many - one) <= 1e-5 * np.linalg.norm(one)


POWER = Family(
    name="power",
    masters=1,
    orders=3,
    low=0.5,
    high=4.0,
    edge=0.0,
    places=(1.0,),
    clear=lambda x: x,
    matrices=lambda x: torch.tensor([[[0.0]], [[-1.0]]]).expand(*x.shape, 2, 1, 1),
    exact=lambda x: np.stack([np.ones_like(x), -np.log(x), np.log(x) ** 2 / 2], -1)[:, None],
)


def test_equations_and_one_value_give_the_integral_and_one_value_alone_does_not():
    known, x = POWER.exact(np.array(POWER.places)), np.linspace(0.5, 4, 30)
    off = [
        np.abs(estimate(train(POWER, known, range(2), steps=150, batch=32, equations=e), x).mean - POWER.exact(x)).max()
        for e in (True, False)
    ]
    assert off[0] < 0.1 < 0.2 < off[1]


def test_a_loss_that_is_not_finite_ends_the_training():
    broken = replace(POWER, matrices=lambda x: POWER.matrices(x) * torch.nan)
    with pytest.raises(FloatingPointError, match="NaN or infinite by step 1: lower"):
        train(broken, POWER.exact(np.array(POWER.places)), [0], steps=10, batch=4)


def test_complex_values_train_one_network_a_part():
    known = BUBBLE_ABOVE.exact(np.array(BUBBLE_ABOVE.places))
    network = train(BUBBLE_ABOVE, known, [0, 1], steps=5, batch=16)
    answer = estimate(network, np.array([5.0, 6.0, 7.0]))
    assert network.parts == 2
    assert answer.replicas.shape == (2, 3, 2, 3)
    assert np.iscomplexobj(answer.mean) and np.abs(answer.mean.imag).max() > 0
    assert np.allclose(answer.spread.imag, answer.replicas.imag.std(0, ddof=1))


KNOWN = BOX.exact(np.array(BOX.places))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: unchecked(train)(BOX, KNOWN[:1], [0]), "values has shape"),
        (lambda: unchecked(train)(BOX, KNOWN * np.nan, [0]), "values holds 24 NaN"),
        (lambda: unchecked(train)(BOX, KNOWN, []), "seeds is empty"),
        (lambda: unchecked(train)(BOX, KNOWN, [0], steps=0), "steps is 0"),
        (lambda: unchecked(couple)(torch.zeros(2, 3, 3), torch.zeros(2, 4)), "matrices has shape"),
        (lambda: unchecked(estimate)(Replicas(BOX, [0], torch.ones(1, 3, 4)), np.array([np.nan])), "x holds 1 NaN"),
        (lambda: unchecked(estimate)(Replicas(BOX, [0], torch.ones(1, 3, 4)), np.zeros(0)), "x is empty"),
        (lambda: unchecked(box_function)(np.array([-1.0])), "x has the entry -1.0"),
        (lambda: unchecked(bubble_values)(np.array([3.0, 5.0])), "keep to one side of the threshold"),
        (lambda: unchecked(bubble_values)(np.array([[5.0]])), "s has shape"),
        (lambda: replace(BOX, places=(9.0,)), "places are"),
        (lambda: replace(BOX, low=6.0), "the interval is empty"),
        (lambda: replace(BOX, edge=1.0), "edge is 1.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
