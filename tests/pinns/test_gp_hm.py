"""GP-HM: kernels and their derivatives, spectra, the elimination of grid values, and Kronecker against dense algebra."""

import math

import pytest
import torch
from torch import nn

from tests.helpers import unchecked
from touchstone.pinns.gp_hm import JITTER, Mixture, factors, nyquist, plane_objective, solve_line, solve_plane
from touchstone.pinns.gp_hm_baselines import Line, dense_objective, network_errors, spectral_collocation


def mixture(spectrum, seed=0, components=4, **options):
    """A kernel with random weights, widths and frequencies."""
    draw = torch.Generator().manual_seed(seed)
    kernel = Mixture(3.0, components, spectrum, **options)
    with torch.no_grad():
        kernel.log_scales.copy_(torch.randn(components, generator=draw, dtype=torch.float64))
        kernel.frequencies.copy_(3 * torch.rand(components, generator=draw, dtype=torch.float64))
        if not kernel.direct:
            kernel.free_weights.add_(torch.randn(components, generator=draw, dtype=torch.float64))
    return kernel


SPECTRA = pytest.mark.parametrize("spectrum", ["student", "gaussian"])
GRID = torch.linspace(0, 2, 40, dtype=torch.float64)


@SPECTRA
def test_second_derivative_equals_autograd_away_from_zero(spectrum):
    kernel = mixture(spectrum)
    d = torch.linspace(0.01, 3, 50, dtype=torch.float64, requires_grad=True)
    value, second = kernel(d)
    (slope,) = torch.autograd.grad(value.sum(), d, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), d)
    assert (second - bend).abs().max() < 1e-8 * bend.abs().max()


@SPECTRA
def test_derivative_at_zero_is_its_limit_and_negative(spectrum):
    kernel = mixture(spectrum)
    at_zero, near = kernel(torch.tensor([0.0, 1e-7], dtype=torch.float64))[1]
    assert (at_zero - near).abs() < 1e-4 * at_zero.abs()
    # a stationary process has var(u') = -kappa''(0): envelope and cosine both contribute
    scale = kernel.log_scales.exp()
    bend = 5 / 3 * scale**2 if spectrum == "student" else 2 * scale
    expected = -(kernel.weights * (bend + (2 * math.pi * kernel.frequencies) ** 2)).sum()
    assert torch.allclose(at_zero, expected, rtol=1e-10)


def test_one_component_at_frequency_zero_is_the_plain_kernel():
    d = torch.linspace(0, 2, 30, dtype=torch.float64)
    gaussian, student = Mixture(0.0, 1, "gaussian"), Mixture(0.0, 1, "student")
    for kernel in (gaussian, student):
        kernel.log_scales.data.fill_(0.7)
    scale = math.exp(0.7)
    assert torch.equal(gaussian(d)[0], torch.exp(-scale * d**2))
    r = math.sqrt(5) * scale * d
    assert torch.allclose(student(d)[0], (1 + r + 5 / 3 * scale**2 * d**2) * torch.exp(-r), rtol=1e-14, atol=0)


@SPECTRA
def test_density_integrates_to_the_weights_and_transforms_back_to_the_kernel(spectrum):
    kernel = mixture(spectrum)
    frequency = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    density = kernel.density(frequency).detach()
    assert abs(float((torch.trapezoid(density, frequency) - kernel.weights.sum()).detach())) < 1e-4
    assert torch.allclose(kernel(torch.zeros(1, dtype=torch.float64))[0], kernel.weights.sum(), rtol=1e-12, atol=0)
    back = torch.trapezoid(density * torch.cos(2 * math.pi * frequency * 0.37), frequency)
    assert abs(float((back - kernel(torch.tensor([0.37], dtype=torch.float64))[0]).detach())) < 1e-4


def test_published_start_and_projected_weights():
    kernel = Mixture(15.0)
    assert torch.allclose(kernel.weights, torch.full((30,), 1 / 30, dtype=torch.float64))
    assert torch.allclose(kernel.frequencies.detach(), torch.linspace(0, 15, 30, dtype=torch.float64))
    assert (kernel.log_scales == 0).all()
    direct = Mixture(15.0, direct=True)
    assert torch.allclose(direct.weights, kernel.weights)
    direct.free_weights.data[0] = -1.0
    direct.project()
    assert direct.free_weights[0].item() == 1e-10


@SPECTRA
def test_factors_give_covariance_and_second_derivative(spectrum):
    kernel = mixture(spectrum)
    lower, second = factors(kernel, GRID)
    value, bend = kernel((GRID[:, None] - GRID).abs())
    covariance = value + JITTER * torch.eye(40, dtype=torch.float64)
    assert torch.allclose(lower @ lower.T, covariance, atol=1e-12)
    u = covariance @ torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = torch.linalg.solve_triangular(lower, u[:, None], upper=False)[:, 0]
    assert torch.allclose(second @ z, bend @ torch.linalg.solve(covariance, u), rtol=1e-6, atol=1e-6)


def test_nyquist_is_half_an_oscillation_a_step():
    assert abs(nyquist(torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)) - 199 / (4 * math.pi)) < 1e-9


def test_eliminated_values_minimise_the_objective_and_its_gradient_is_the_total_one():
    line = Line("sine", 2.0, lambda x: torch.sin(5 * x) + 1)
    grid = line.grid(40)
    kernel = mixture("student")
    fit = solve_line(grid, line.source(grid), line.exact(grid[[0, -1]]), kernel, steps=0)
    source, ends = line.source(grid), line.exact(grid[[0, -1]])

    def objective(u, parameters):
        """The published objective at unit precisions, written with the covariance itself."""
        value, bend = torch.func.functional_call(kernel, parameters, ((grid[:, None] - grid).abs(),))
        covariance = value + JITTER * torch.eye(40, dtype=torch.float64)
        weights = torch.linalg.solve(covariance, u)
        gap, residual = u[[0, -1]] - ends, bend @ weights - source
        return (torch.logdet(covariance) + u @ weights + 200 * gap @ gap + residual @ residual) / 2

    start = {name: p.detach().clone() for name, p in kernel.named_parameters()}
    best = float(objective(fit.values, start))
    for seed in range(5):
        bump = 1e-3 * torch.linalg.cholesky(kernel((grid[:, None] - grid).abs())[0] + JITTER * torch.eye(40)).detach()
        bump = bump @ torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert objective(fit.values + bump, start) > best
        assert objective(fit.values - bump, start) > best

    # one step of Adam moves every parameter by the rate against the sign of the objective's total derivative
    moved = mixture("student")
    solve_line(grid, source, ends, moved, steps=1)
    free = {name: p.clone().requires_grad_() for name, p in start.items()}
    value, bend = torch.func.functional_call(kernel, free, ((grid[:, None] - grid).abs(),))
    covariance = value + JITTER * torch.eye(40, dtype=torch.float64)
    action = torch.linalg.solve(covariance, bend).T  # from values to second derivatives
    edge = torch.eye(40, dtype=torch.float64)[[0, -1]]
    system = torch.linalg.inv(covariance) + 200 * edge.T @ edge + action.T @ action
    u = torch.linalg.solve(system, action.T @ source + 200 * edge.T @ ends)  # differentiable in the kernel
    gradients = torch.autograd.grad(objective(u, free), list(free.values()))
    for (name, after), gradient in zip(moved.named_parameters(), gradients, strict=True):
        change = after.detach() - start[name]
        assert torch.allclose(change, -0.01 * gradient.sign(), atol=2e-4), name


@pytest.mark.parametrize("reaction", [None, lambda u: u * (u**2 - 1)])
def test_solves_a_wave_off_the_grid(reaction):
    line = Line("sine", 2.0, lambda x: torch.sin(20 * x), reaction)
    grid = line.grid(60)
    kernel = Mixture(0.95 * nyquist(grid))
    seen = []
    fit = solve_line(
        grid, line.source(grid), line.exact(grid[[0, -1]]), kernel, 200, reaction, watch=lambda s, m: seen.append(s)
    )
    assert line.error(fit.predict) < 0.1
    assert seen == list(range(200))
    assert torch.allclose(fit.predict(grid), fit.values, atol=1e-3)


def test_joint_form_trains_the_grid_values_from_zero_and_the_ceiling_holds():
    line = Line("sine", 2.0, lambda x: torch.sin(3 * x))
    grid = line.grid(20)
    arguments = (grid, line.source(grid), line.exact(grid[[0, -1]]))
    start = solve_line(*arguments, Mixture(2.0, 5), steps=0, joint=True)
    assert (start.values == 0).all()
    moved = solve_line(*arguments, Mixture(2.0, 5), steps=1, joint=True)
    assert torch.allclose(moved.values.abs(), torch.full((20,), 0.01, dtype=torch.float64), atol=1e-3)
    held = solve_line(*arguments, Mixture(2.0, 5), steps=60, ceiling=0.1)
    assert float(held.log_precision.max()) == pytest.approx(0.1)


def plane():
    """Two small grids with kernels, and random values, source and edges."""
    draw = torch.Generator().manual_seed(3)
    grids = (torch.linspace(0, 1, 12, dtype=torch.float64), torch.linspace(0, 2, 10, dtype=torch.float64))
    kernels = (mixture("student", 1), mixture("gaussian", 2))
    values, source, edges = torch.randn(3, 12, 10, generator=draw, dtype=torch.float64)
    return grids, kernels, values, source, edges, torch.tensor([0.3, -0.4], dtype=torch.float64)


def test_kronecker_objective_equals_dense_computation():
    grids, kernels, whitened, source, edges, log_precision = plane()
    (one, _), (two, _) = (factors(k, g) for k, g in zip(kernels, grids, strict=True))
    fast = plane_objective(whitened, grids, kernels, source, edges, log_precision)
    dense = dense_objective(one @ whitened @ two.T, grids, kernels, source, edges, log_precision)
    assert abs((fast - dense).item()) < 1e-8 * abs(dense.item())
    shifted = plane_objective(whitened, grids, kernels, source, edges, log_precision + 1)
    dense = dense_objective(one @ whitened @ two.T, grids, kernels, source, edges, log_precision + 1)
    assert abs(float(shifted - dense)) < 1e-8 * abs(float(dense))


def test_log_determinant_and_quadratic_form_equal_dense_computation():
    grids, kernels, whitened, *_ = plane()
    one, two = (factors(k, g)[0] for k, g in zip(kernels, grids, strict=True))
    pairs = [k((g[:, None] - g).abs())[0] for k, g in zip(kernels, grids, strict=True)]
    covariance = torch.kron(*(k + JITTER * torch.eye(len(k), dtype=torch.float64) for k in pairs))
    values = (one @ whitened @ two.T).reshape(-1)
    expected = (torch.linalg.slogdet(covariance).logabsdet + values @ torch.linalg.solve(covariance, values)) / 2
    # precisions of e^-90 switch the misfits off and leave their logarithms, 44 edge values counted 200 times and 120 equations
    silent, nothing = torch.full((2,), -90.0, dtype=torch.float64), torch.zeros(12, 10, dtype=torch.float64)
    prior = plane_objective(whitened, grids, kernels, nothing, nothing, silent) - 45 * (200 * 44 + 120)
    assert (prior - expected).abs() < 1e-8 * (1 + expected.abs())


def test_kronecker_prediction_equals_dense_computation():
    grids, kernels, *_ = plane()
    exact = lambda x, y: torch.sin(3 * x)[:, None] * torch.cos(y)  # noqa: E731
    u = exact(*grids)
    fit = solve_plane(grids, -10 * u, u, kernels, steps=60)
    places = (torch.linspace(0.03, 0.9, 7, dtype=torch.float64), torch.linspace(0.1, 1.9, 5, dtype=torch.float64))
    pairs = [k((g[:, None] - g).abs())[0] for k, g in zip(kernels, grids, strict=True)]
    covariance = torch.kron(*(k + JITTER * torch.eye(len(k), dtype=torch.float64) for k in pairs))
    cross = torch.kron(*(k((p[:, None] - g).abs())[0] for k, g, p in zip(kernels, grids, places, strict=True)))
    dense = (cross @ torch.linalg.solve(covariance, fit.values.reshape(-1))).reshape(7, 5)
    assert (fit.predict(*places) - dense).abs().max() < 1e-8
    assert fit.values.abs().max() > 1e-3


def test_plane_solver_learns():
    line = torch.linspace(0, 2, 24, dtype=torch.float64)
    u = torch.sin(4 * line)[:, None] * torch.cos(3 * line)
    kernels = tuple(Mixture(0.95 * nyquist(line), 10) for _ in "xy")
    fit = solve_plane((line, line), -25 * u, u, kernels, steps=300)
    assert (fit.values - u).norm() < 0.2 * u.norm()


def test_baselines():
    line = Line("mix", 3.0, lambda x: 0.5 * torch.sin(7 * x) + 0.1 * x, lambda u: u * (u**2 - 1))
    x = line.grid(11)
    u = line.exact(x)
    assert torch.allclose(line.source(x), -24.5 * torch.sin(7 * x) + u * (u**2 - 1))
    assert line.error(spectral_collocation(line, 60)) < 1e-9
    with pytest.raises(ValueError, match="line 'mix' is not 0 at its ends"):
        network_errors(line, [0], None, 1, 8)
    easy = Line("arc", math.pi, lambda x: torch.sin(x))
    for scale, steps, most in ((None, 20, 1.1), (2.0, 150, 0.2)):
        errors = network_errors(easy, [0, 1], scale, steps, points=32)
        assert errors.shape == (2,) and (errors < most).all() and errors[0] != errors[1]
    together, alone = (network_errors(easy, seeds, 2.0, steps=50, points=32)[-1] for seeds in ([0, 4], [4]))
    assert abs(together - alone) <= 1e-5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"points": GRID**2}, "points is not an ascending uniform grid"),
        ({"points": GRID[:2]}, "points has 2 entries"),
        ({"points": GRID * torch.nan}, "points holds 40 NaN"),
        ({"source": torch.zeros(7)}, "source has shape"),
        ({"source": torch.full((40,), torch.nan)}, "source holds 40 NaN"),
        ({"ends": torch.zeros(3)}, "ends has shape"),
    ],
)
def test_bad_line_arguments_are_named(change, message):
    arguments = {"points": GRID, "source": torch.zeros(40), "ends": torch.zeros(2), "mixture": Mixture(2.0, 3)} | change
    with pytest.raises(ValueError, match=message):
        unchecked(solve_line)(**arguments, steps=1)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="spectrum is 'boxcar'"):
        Mixture(2.0, spectrum="boxcar")
    with pytest.raises(ValueError, match="highest is nan"):
        Mixture(float("nan"))
    with pytest.raises(ValueError, match="components is 0"):
        Mixture(2.0, components=0)
    with pytest.raises(ValueError, match="distance has negative"):
        Mixture(2.0)(torch.tensor([-1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="distance is empty"):
        Mixture(2.0)(torch.zeros(0, dtype=torch.float64))
    with pytest.raises(ValueError, match="edges has shape"):
        unchecked(solve_plane)((GRID, GRID), torch.zeros(40, 40), torch.zeros(40), (Mixture(2.0), Mixture(2.0)))
    fit = solve_line(GRID, torch.zeros(40), torch.zeros(2), Mixture(2.0, 3), steps=1)
    with pytest.raises(ValueError, match="places has 2 entries"):
        fit.predict(GRID, GRID)
    with pytest.raises(ValueError, match="places holds 1 NaN"):
        unchecked(type(fit).predict)(fit, torch.tensor([torch.nan]))
    assert isinstance(fit.mixtures[0], nn.Module)
