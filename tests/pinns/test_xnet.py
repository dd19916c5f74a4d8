"""The Cauchy unit, its closed-form derivatives, its origin in Cauchy's formula, and what it is compared with."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import linregress

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.pinns.plain import adam_lbfgs_pinn
from touchstone.pinns.problems import heat, pois2d, pois_hd, pois_hf
from touchstone.pinns.protocol import Recipe, predictor, relative_error, train
from touchstone.pinns.ring import PROBLEMS
from touchstone.pinns.xnet import FLOOR, CauchyUnits, XNet, cauchy_derivatives, cauchy_sum, solve
from touchstone.pinns.xnet_baselines import (
    MODELS,
    TARGETS,
    Classifier,
    Probes,
    Siren,
    SplineKAN,
    build,
    count,
    fixed_pole_error,
    regression,
)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("squared", [2.0, 1.0, 0.04, FLOOR])
def test_derivatives_equal_autograd(squared):
    x = (numbers(200) * max(squared, 0.01) ** 0.5).requires_grad_()
    odd, even, squared = numbers(200, seed=1), numbers(200, seed=2), torch.full((200,), squared, dtype=torch.float64)
    found = cauchy_derivatives(x, odd, even, squared, 4)
    expected = (odd * x + even) / (x**2 + squared)
    for derivative in found:
        assert (derivative - expected).abs().max() <= 1e-10 * expected.abs().max()
        (expected,) = torch.autograd.grad(expected.sum(), x, create_graph=True)


def test_first_and_second_derivative_equal_the_formulas_by_hand():
    x, a, b, q = numbers(50), 0.7, -1.3, 0.5
    _, first, second = cauchy_derivatives(x, torch.tensor(a), torch.tensor(b), torch.tensor(q), 2)
    bottom = x**2 + q
    assert torch.allclose(first, (a * (q - x**2) - 2 * b * x) / bottom**2, rtol=1e-6)
    assert torch.allclose(second, 2 * (a * x * (x**2 - 3 * q) + b * (3 * x**2 - q)) / bottom**3, rtol=1e-6, atol=1e-7)


def test_the_unit_is_the_real_part_of_a_pole():
    x, odd, even = numbers(100), numbers(100, seed=1), numbers(100, seed=2)
    d = 0.05 + numbers(100, seed=3).abs()
    (unit,) = cauchy_derivatives(x, odd, even, d**2)
    pole = (torch.complex(odd, -even / d) / torch.complex(x, -d)).real
    assert ((unit - pole).abs() / (1 + pole.abs())).max() < 1e-12


def test_the_unit_decays_and_its_tail_is_lambda_1():
    far = torch.tensor([-1e8, 1e8], dtype=torch.float64)
    odd, even, squared = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 5.0, 2.0))
    (unit,) = cauchy_derivatives(far, odd, even, squared)
    assert unit.abs().max() < 1e-8
    assert (far * unit - 0.3).abs().max() < 1e-6


@pytest.mark.parametrize("n", [8, 13])
def test_trapezoidal_sum_has_the_known_geometric_error(n):
    radius, j = 1.5, torch.arange(n, dtype=torch.float64)
    nodes = torch.polar(torch.full_like(j, radius), 2 * math.pi * j / n)
    z = torch.complex(numbers(30), numbers(30, seed=1)) / 4
    for m in range(n):
        assert (cauchy_sum(z, nodes, nodes**m) - z**m / (1 - (z / radius) ** n)).abs().max() < 1e-12


def test_fixed_poles_converge_geometrically():
    points = np.cos(np.pi * np.random.default_rng(0).uniform(size=800))
    nodes = np.arange(20, 161, 28)
    errors = [fixed_pole_error(int(n), points) for n in nodes]
    line = linregress(nodes, np.log(errors))
    assert line.rvalue**2 > 0.98 and errors[-1] < 1e-8
    assert abs(line.slope + math.log(1.15)) < 0.02  # the distance of the contour sets the rate


def test_network_is_the_sum_of_its_units_with_all_derivatives():
    network = XNet(2, 3, [0, 1], units=5).double()
    with torch.no_grad():
        for number, parameter in enumerate(network.activation.parameters()):
            parameter += 0.3 * numbers(*parameter.shape, seed=number)
    points = numbers(2, 7, 2)

    def by_hand(p):
        x, units = torch.bmm(p, network.weight) + network.bias, network.activation
        values = (units.odd * x + units.even) / (x**2 + units.squared)
        return values.unflatten(-1, (3, 5)).sum(-1)

    jet, expected = network(points, (1, 2)), jets.by_autograd(by_hand, points, (1, 2))
    assert (jet.streams - expected.streams).abs().max() < 1e-10
    assert count(XNet(2, 1, [0, 1], units=100)) == 600


@pytest.mark.parametrize("name", PROBLEMS)
def test_derivatives_equal_nested_differentiation_on_every_problem(name):
    problem = PROBLEMS[name]()
    network = XNet(problem.inputs, problem.outputs, [0, 1], 6, problem.embed).double()
    points = problem.scale(torch.rand(2, 4, len(problem.low), generator=torch.Generator().manual_seed(0)).double())
    found = problem.solution(network, points, problem.orders).streams
    nested = jets.by_autograd(lambda p: problem.solution(network, p, (0,) * p.shape[-1]).value, points, problem.orders)
    size = nested.streams.abs().amax((0, 2, 3), keepdim=True)
    assert ((found - nested.streams).abs() <= 1e-5 * size).all() and size.min() > 0


def test_a_seed_in_a_stack_trains_as_it_does_alone():
    problem, answers = heat(), []
    x = problem.scale(torch.rand(50, 2, generator=torch.Generator().manual_seed(0)))
    for seeds in ([3, 5], [5]):
        network = XNet(2, 1, seeds, 10, problem.embed)
        train(problem, network, seeds, Recipe(steps=50, collocation=32, initial=16, boundary=16))
        answers.append(predictor(problem, network)(x)[-1])
    assert (answers[0] - answers[1]).norm() <= 1e-5 * answers[1].norm() + 1e-6


def test_poles_start_at_distance_one_and_stay_above_the_floor():
    units = CauchyUnits(1, 4)
    assert (units.squared - 1).abs().max() < 1e-6
    with torch.no_grad():
        units.raw -= 1e4
    assert (units.squared - FLOOR).abs().max() < 1e-9


def test_units_find_a_function_that_is_one_unit():
    problem = regression("pole", lambda x: (0.2 * x + 1) / ((x - 0.3) ** 2 + 0.5), 1, 101)
    network = XNet(1, 1, [0], units=2)
    adam_lbfgs_pinn(problem, [0], Recipe(steps=60, collocation=32, first_rate=1e-2), iterations=120, network=network)
    assert relative_error(problem, network).max() < 1e-2


def test_solving_lowers_the_error_and_repeats_bit_for_bit():
    problem, errors = pois2d(1.0), []
    for _ in range(2):
        network = XNet(2, 1, [0, 1], 10, problem.embed)
        adam_lbfgs_pinn(
            problem, [0, 1], Recipe(steps=60, collocation=64, first_rate=1e-2), iterations=40, network=network
        )
        errors.append(relative_error(problem, network))
    assert np.array_equal(*errors) and errors[0].max() < 0.5, errors


def test_models_match_in_parameters_and_deliver_jets():
    target = TARGETS["exp(sin(pi x) + y^2)"]()
    for name in MODELS:
        network = build(name, target, [0, 1], 192)
        assert abs(count(network) / 192 - 1) < 0.15, (name, count(network))
        jet = network(torch.rand(2, 5, 2), (0, 0))
        assert jet.value.shape == (2, 5, 1)
    for name in list(MODELS)[:4]:
        assert abs(count(build(name, heat(), [0], 600)) / 600 - 1) < 0.02
    with pytest.raises(ValueError, match="model is 'cosine'"):
        build("cosine", target, [0], 100)


def test_splines_sum_to_one_and_sines_start_at_full_size():
    kan = SplineKAN(1, 1, [0], 6).double()
    x = torch.linspace(-0.99, 0.99, 9, dtype=torch.float64)[None, :, None]
    assert (kan._splines(x).sum(-1) - 1).abs().max() < 1e-12
    assert kan._splines(x).shape == (1, 9, 9) and (kan._splines(x) >= 0).all()
    siren = Siren(2, 1, [0], 64)
    assert 4.5 < siren.weights[0].abs().max() <= 5 and siren.weights[1].abs().max() <= math.sqrt(6 / 64)


def test_probed_laplacian_is_right_on_average_and_for_the_whole_ansatz():
    probes, exact = Probes(4, directions=4000), pois_hd(4)
    points = exact.scale(torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))).double()
    network = build("tanh, 1 layer", probes.problem, [0], 60, probes.embed).double()
    plain = build("tanh, 1 layer", exact, [0], 60).double()
    estimate, truth = probes.problem.residual(network, points), exact.residual(plain, points)
    assert (estimate - truth).abs().max() < 0.05
    values = probes.problem.solution(network, points, (0,) * 4).value
    assert (values - exact.solution(plain, points, (0,) * 4).value).abs().max() < 1e-12


def test_classifiers_have_one_activation_each():
    images = torch.rand(2, 5, 64)
    logits = {name: Classifier([0, 1], 6, name)(images) for name in ("Cauchy", "ReLU", "GELU", "tanh")}
    assert all(value.shape == (2, 5, 10) for value in logits.values())
    hidden = torch.bmm(images, Classifier([0, 1], 6, "Cauchy").weights[0])
    unit = CauchyUnits(2, 6, start=1.0)(Jet(hidden[:, None], ())).value
    assert torch.allclose(unit, (hidden + 1) / (hidden**2 + 1), atol=1e-6)


def test_solver_enters_the_ring():
    # The first optimiser of a process loads modules for a second, which would use up a small budget.
    adam_lbfgs_pinn(pois_hf(10), [0], Recipe(steps=1, collocation=8), iterations=1)
    solution = solve(pois_hf(10), Budget(0.6), 0)
    assert solution.steps > 0 and math.isfinite(solution.rel_l2)
    assert solution.predict(torch.rand(5, 1)).shape == (5, 1)


def test_bad_arguments_are_named():
    one = torch.ones(3)
    with pytest.raises(ValueError, match="x holds 1 NaN"):
        unchecked(cauchy_derivatives)(torch.tensor([1.0, torch.nan]), one[:2], one[:2], one[:2])
    with pytest.raises(ValueError, match="x is empty"):
        unchecked(cauchy_derivatives)(one[:0], one, one, one)
    with pytest.raises(ValueError, match="squared is 0"):
        unchecked(cauchy_derivatives)(one, one, one, 0 * one)
    with pytest.raises(ValueError, match="highest is -1"):
        unchecked(cauchy_derivatives)(one, one, one, one, -1)
    with pytest.raises(ValueError, match="values has shape"):
        unchecked(cauchy_sum)(one * 0j, one + 0j, one[:2] + 0j)
    with pytest.raises(ValueError, match="z reaches"):
        unchecked(cauchy_sum)(2 * one + 0j, one + 0j, one + 0j)
    with pytest.raises(ValueError, match="nodes is 3"):
        fixed_pole_error(3, np.linspace(-1, 1, 9))
    with pytest.raises(ValueError, match="points is empty"):
        unchecked(fixed_pole_error)(4, np.zeros(0))
