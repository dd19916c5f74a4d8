"""Reference solutions against tighter or independent computations, and residuals against the references."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from tests.helpers import unchecked
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.pinns import references
from touchstone.pinns.problems import (
    SUITE,
    Problem,
    ac,
    burgers,
    conv,
    exact_start,
    initial_values,
    into_ball,
    lorenz,
    pois_hd,
    two_body,
    wall_values,
    wave,
)
from touchstone.pinns.references import etdrk4


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(references, "CACHE", tmp_path_factory.getbasetemp() / "references")


def distance(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def jet_of(problem, function, points):
    """The jet of a known function by repeated differentiation."""
    return Jet(jets.by_autograd(function, points, problem.orders).streams.detach(), problem.orders)


@pytest.mark.parametrize("solution", ["korteweg_de_vries_solution", "kuramoto_sivashinsky_solution"])
def test_spectral_references_against_half_the_step_and_more_modes(solution):
    solve = getattr(references, solution)
    _, coarse = solve(512, 5e-4)
    assert distance(coarse, solve(512, 2.5e-4)[1]) < 1e-6
    assert distance(coarse, solve(1024, 5e-4)[1]) < 1e-6
    assert 0.5 < np.abs(coarse).max() < 10


def test_korteweg_de_vries_conserves_mass_and_energy_and_steepens():
    _, values = references.korteweg_de_vries_solution(512, 5e-4)
    u = values.reshape(101, 256)
    assert np.abs(u.mean(1)).max() < 1e-10 and np.allclose((u**2).mean(1), 0.5, atol=1e-6)
    assert np.abs(np.diff(u[-1])).max() > 3 * np.abs(np.diff(u[0])).max()


CLOSED_FORMS = {
    "reac5": lambda t, x: (
        (b := torch.exp(-((x - np.pi) ** 2) / (2 * (np.pi / 4) ** 2))) * (5 * t).exp() / (b * (5 * t).exp() + 1 - b)
    ),
    "heat": lambda t, x: (
        torch.exp(-0.05 * np.pi**2 * t) * torch.sin(np.pi * x)
        + 0.5 * torch.exp(-1.25 * np.pi**2 * t) * torch.sin(5 * np.pi * x)
    ),
    "wave": lambda t, x: (
        torch.sin(np.pi * x) * torch.cos(2 * np.pi * t) + 0.5 * torch.sin(3 * np.pi * x) * torch.cos(6 * np.pi * t)
    ),
    "helm14": lambda x, y: torch.sin(np.pi * x) * torch.sin(4 * np.pi * y),
    "pois2d8": lambda x, y: torch.sin(np.pi * x / 8) * torch.sin(np.pi * y / 8),
    "pois-ms": lambda x: torch.sin(2 * np.pi * x) + 0.1 * torch.sin(50 * np.pi * x),
    "pois-hf10": lambda x: torch.sin(10 * x),
    "conv30": lambda t, x: torch.sin(x - 30 * t),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms_solve_equation_and_conditions_and_are_the_reference(name):
    problem = SUITE[name]()

    def exact(points):
        return CLOSED_FORMS[name](*points.split(1, -1))

    points = problem.scale(torch.rand(1, 40, len(problem.low), dtype=torch.float64))
    jet = jet_of(problem, exact, points)
    size = sum(jet.streams[:, k].abs().max() for k in range(jet.streams.shape[1]))
    residual = problem.equation(jet, points)
    assert residual.shape == (1, 40, 1) and residual.abs().max() < 1e-11 * (1 + size)
    wrong = (
        problem.equation(Jet(1.1 * jet.streams, jet.orders), points) if name not in ("heat", "wave", "conv30") else None
    )
    assert wrong is None or wrong.abs().max() > 1e-3
    for condition in problem.conditions:
        place = problem.scale(condition.place(16).double())[None]
        problem.check(place)
        assert condition.misfit(jets.by_autograd(exact, place, condition.orders), place).abs().max() < 1e-7
        moved = jets.by_autograd(lambda p: exact(p) + 0.1, place, condition.orders)
        assert condition.misfit(moved, place)[..., 0].abs().min() > 0.05
    grid_points, values = problem.reference()
    assert np.allclose(exact(torch.as_tensor(grid_points)), values, atol=1e-12)
    assert problem.error(lambda p: values[None] * 1.25)[0] == pytest.approx(0.25)


def test_at_rest_asks_for_a_vanishing_slope():
    condition = wave().conditions[0]
    place = wave().scale(condition.place(8).double())[None]
    moving = jets.by_autograd(lambda p: torch.sin(np.pi * p[..., 1:]) + p[..., :1], place, condition.orders)
    assert torch.allclose(condition.misfit(moving, place)[..., 1], torch.ones(1, 8, dtype=torch.float64))


def test_walls_lie_on_all_four_sides():
    place = wall_values().place(16)
    assert place.shape == (16, 2)
    on = [(place[:, axis] == end).sum().item() for axis in (0, 1) for end in (0.0, 1.0)]
    assert on == [4, 4, 4, 4]
    assert torch.equal(wall_values(dims=1).place(64), torch.tensor([[0.0], [1.0]]))
    with pytest.raises(ValueError, match="dims is 3"):
        wall_values(dims=3)


@pytest.mark.parametrize("dims", [2, 3, 10])
def test_ball_points_are_uniform(dims):
    points = into_ball(torch.rand(40_000, dims, generator=torch.Generator().manual_seed(0)))
    radius = points.norm(dim=1)
    for level in (0.3, 0.7, 0.95):  # share within r is r^d
        assert abs((radius < level).float().mean().item() - level**dims) < 0.01
    assert radius.max() <= 1 + 1e-6 and points.mean(0).abs().max() < 0.01
    assert abs(((points[:, 0] > 0) & (points[:, 1] > 0)).float().mean().item() - 0.25) < 0.01


@pytest.mark.parametrize("dims", [2, 5])
def test_two_body_laplacian_against_autograd(dims):
    points = 0.5 * torch.randn(1, 6, dims, dtype=torch.float64)
    weights = torch.randn(dims - 1, dtype=torch.float64)
    value, laplacian = two_body(points, weights)
    jet = jets.by_autograd(lambda p: two_body(p, weights)[0], points, (2,) * dims)
    assert torch.allclose(jet.value, value)
    assert torch.allclose(sum(jet.d(axis, 2) for axis in range(dims)), laplacian, atol=1e-10)


def test_ball_problem_has_its_reference_as_solution_and_a_zero_boundary():
    problem = pois_hd(4)
    points, values = problem.reference()
    assert points.shape == (2000, 4) and (np.linalg.norm(points, axis=1) <= 1).all()
    weights = torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = torch.as_tensor(points[:30])[None]
    jet = jets.by_autograd(lambda p: two_body(p, weights)[0], inside, problem.orders)
    assert problem.equation(jet, inside).abs().max() < 1e-9
    assert np.allclose(jet.value[0].detach(), values[:30])
    edge = torch.nn.functional.normalize(torch.randn(1, 9, 4), dim=-1)
    network = Jet(torch.rand(1, 9, 9, 1), problem.orders)
    assert problem.ansatz(network, edge).value.abs().max() < 1e-5
    with pytest.raises(ValueError, match="dims is 1"):
        pois_hd(1)


@pytest.mark.parametrize("make", [lambda: pois_hd(3), lambda: lorenz(1.0)])
def test_ansatz_jets_equal_nested_differentiation(make):
    problem = make()
    dims = len(problem.low)
    mix = torch.rand(dims, problem.outputs, dtype=torch.float64)
    points = 0.4 * torch.rand(1, 5, dims, dtype=torch.float64)
    inner = jets.by_autograd(lambda p: torch.sin(p @ mix), points, problem.orders)

    def whole(p):
        if problem.ball:
            return (1 - p.square().sum(-1, keepdim=True)) * torch.sin(p @ mix)
        return 1 + p * torch.sin(p @ mix)

    built = problem.ansatz(inner, points)
    assert torch.allclose(built.streams, jets.by_autograd(whole, points, problem.orders).streams, atol=1e-12)


def test_features_are_rescaled_and_keep_their_derivatives():
    problem = SUITE["pois2d8"]()
    jet = problem.embed(torch.tensor([[[0.0, 8.0], [4.0, 2.0]]]), (1, 2))
    assert torch.equal(jet.value[0], torch.tensor([[-1.0, 1.0], [0.0, -0.5]]))
    assert torch.equal(jet.d(0)[0, 0], torch.tensor([0.25, 0.0])) and (jet.d(1, 2) == 0).all()
    waves = conv(10.0).embed(torch.tensor([[[1.0, 0.0]]]), (1, 1))
    assert torch.allclose(waves.value[0, 0], torch.tensor([1.0, 1.0, 0.0])) and waves.d(0)[0, 0, 0] == 2


def test_every_problem_of_the_suite_is_ready_for_use():
    for name, make in SUITE.items():
        problem = make()
        points, values = problem.reference()
        assert points.shape == (len(values), len(problem.low)) and values.shape[1] == problem.outputs, name
        problem.check(torch.as_tensor(points))
        assert np.isfinite(values).all() and values.std() > 1e-3


MINIMAL = {"name": "mine", "low": (0.0,), "high": (1.0,), "orders": (1,), "outputs": 1, "equation": lambda u, p: u.d(0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "'mine' has no conditions"),
        ({"ansatz": exact_start([1.0]), "orders": (1, 1)}, "one entry a coordinate"),
        ({"ansatz": exact_start([1.0]), "high": (0.0,)}, "must lie below high"),
        ({"conditions": (initial_values(torch.sin),)}, "for 1 coordinates"),
    ],
)
def test_a_problem_that_does_not_fit_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        unchecked(Problem)(**(MINIMAL | change))


def test_bad_residuals_networks_and_points_are_named():
    def network(points, orders):
        return jets.by_autograd(lambda p: torch.cat([p, p], -1), points, orders)

    points = torch.rand(1, 5, 1)
    problem = Problem(**(MINIMAL | {"ansatz": exact_start([1.0])}))
    with pytest.raises(ValueError, match="network has 2 outputs, problem 'mine' needs 1"):
        problem.residual(network, points)
    wrong = Problem(**(MINIMAL | {"ansatz": exact_start([1.0]), "outputs": 2, "equation": lambda u, p: u.d(0).sum()}))
    with pytest.raises(ValueError, match=r"equation of 'mine' returned shape \(\), expected \(1, 5\)"):
        wrong.residual(network, points)
    with pytest.raises(ValueError, match="coordinate 0 runs from .* to 1.5, not within"):
        problem.check(torch.tensor([[0.5], [1.5]]))
    with pytest.raises(ValueError, match="points leave"):
        problem.check(torch.tensor([[float("nan")]]))
    with pytest.raises(ValueError, match="no reference solution"):
        problem.reference()


def test_allen_cahn_against_half_the_step():
    _, coarse = references.allen_cahn_solution(512, 5e-4)
    _, fine = references.allen_cahn_solution(512, 2.5e-4)
    assert distance(coarse, fine) < 1e-9
    assert np.abs(coarse).max() < 1.01


def test_allen_cahn_against_more_modes():
    points, used = ac().reference()  # the periodic extension of x^2 cos(pi x) has a kink, hence the many modes
    assert points.shape == (101 * 256, 2)
    assert distance(used, references.allen_cahn_solution(4096, 1e-3)[1]) < 2e-6


def test_lorenz_against_a_tighter_tolerance():
    _, loose = references.lorenz_solution(2.0, 1e-11)
    _, tight = references.lorenz_solution(2.0, 1e-13)
    assert distance(loose, tight) < 1e-8
    assert np.array_equal(tight[0], [1, 1, 1])


def test_burgers_against_a_spectral_method():
    modes = 2048
    x, wave = -1 + 2 * np.arange(modes) / modes, np.pi * np.arange(modes // 2 + 1)

    def steepening(state):
        return -0.5j * wave * np.fft.rfft(np.fft.irfft(state, modes) ** 2)

    values = etdrk4(-0.01 / np.pi * wave**2, steepening, -np.sin(np.pi * x), 1e-3, 1000, 10)
    spline = CubicSpline(np.append(x, 1), np.append(values, values[:, :1], 1), axis=1)
    points, truth = burgers().reference()
    assert distance(spline(np.linspace(-1, 1, 256)), truth.reshape(101, 256)) < 1e-6
    assert np.allclose(truth[points[:, 0] == 0, 0], -np.sin(np.pi * np.linspace(-1, 1, 256)))


def test_convection_residual_vanishes_on_the_exact_solution():
    problem, points = conv(10.0), torch.rand(1, 20, 2, dtype=torch.float64)
    points = problem.scale(points)
    exact = jet_of(problem, lambda p: torch.sin(p[..., 1:] - 10 * p[..., :1]), points)
    assert problem.equation(exact, points).abs().max() < 1e-12
    wrong = jet_of(problem, lambda p: torch.sin(p[..., 1:] + 10 * p[..., :1]), points)
    assert problem.equation(wrong, points).abs().max() > 1


@pytest.mark.parametrize("make", [ac, burgers])
def test_residual_vanishes_on_the_reference(make):
    problem = make()
    points, values = problem.reference()
    t, x, u = np.unique(points[:, 0]), points[:256, 1], values.reshape(101, 256)
    early = slice(2, 30)  # before the solution is steep, where splines resolve it
    along = CubicSpline(x, u, axis=1)
    slope = CubicSpline(t, u, axis=0)(t, 1)
    stack = np.stack([u, slope, along(x, 1), along(x, 2)])[:, early, 20:-20].reshape(4, -1, 1)
    residual = problem.equation(Jet(torch.tensor(stack)[None], (1, 2)), torch.zeros(1, stack.shape[1], 2))
    assert residual.abs().max() < 2e-2 * np.abs(slope[early]).max()
    stack[1] *= -1
    assert problem.equation(Jet(torch.tensor(stack)[None], (1, 2)), torch.zeros(1, 1, 2)).abs().max() > 1


def test_lorenz_residual_vanishes_on_the_reference():
    problem = lorenz(1.0)
    points, values = problem.reference()
    slope = CubicSpline(points[:, 0], values)(points[:, 0], 1)
    jet = Jet(torch.tensor(np.stack([values, slope]))[None], (1,))
    assert problem.equation(jet, torch.tensor(points)[None]).abs().max() < 1e-3 * np.abs(slope).max()


def test_initial_values_and_domains():
    for problem in (conv(20.0), ac(), burgers()):
        points, values = problem.reference()
        start = points[:, 0] == 0
        at_start = torch.tensor(points[start])[None]
        known = Jet(torch.tensor(values[start])[None, None], (0, 0))
        assert problem.conditions[0].misfit(known, at_start).abs().max() < 1e-12
        assert points.shape == (101 * 256, 2) and (points >= problem.low).all() and (points <= problem.high).all()
        assert problem.error(lambda p, v=values: v[None])[0] == 0


def test_references_are_read_back_from_disk():
    first = references.lorenz_solution(0.25, 1e-9)
    assert any(references.CACHE.glob("lorenz_solution-*.npz"))
    again = references.lorenz_solution(0.25, 1e-9)
    assert np.array_equal(first[1], again[1]) and not list(references.CACHE.glob("tmp*"))
