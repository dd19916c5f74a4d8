"""Interface conditions on exact solutions, mixed derivatives, the Gaussian process, the choice of arms and the batched optimiser."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from tests.helpers import unchecked
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.pinns.metalic import (
    ARMS,
    CONDITIONS,
    Metalic,
    Plays,
    RewardProcess,
    interface_losses,
    play,
)
from touchstone.pinns.metalic_baselines import FIXED, OneDomain, solve_fixed, subset
from touchstone.pinns.metalic_families import (
    DIRECTIONS,
    THIRD,
    Family,
    burgers,
    burgers_solution,
    features,
    mixed,
    poisson,
    poisson_solution,
)
from touchstone.pinns.metalic_training import minimise

FAMILIES = [poisson, burgers]
BETA = {"Poisson": 8.0, "Burgers": 0.02}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def jet_of(function, points):
    """Three derivatives along four directions, by nested differentiation along each."""
    streams = [function(points)]
    for direction in DIRECTIONS:
        s = torch.zeros(*points.shape[:-1], 1, dtype=points.dtype, requires_grad=True)
        value = function(points + s * points.new_tensor(direction))
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), s, create_graph=True)
            streams.append(value)
    return Jet(torch.stack(streams, 1).detach(), THIRD)


def wavy(points):
    x, y = points[..., :1], points[..., 1:]
    return torch.sin(1.3 * x + 0.4 * y * y) + torch.exp(0.5 * x * y) - x**3 * y


def in_double(family, plays):
    plays.network.double()
    for name in ("inside", "edge", "interface", "beta", "all_beta"):
        setattr(plays, name, getattr(plays, name).double())
    with torch.no_grad():
        for bias in plays.network.biases:
            bias += 0.3 * numbers(*bias.shape)
    return plays


def test_mixed_derivatives_equal_autograd():
    points = numbers(2, 5, 2).requires_grad_()
    slope = lambda value, axis: torch.autograd.grad(value.sum(), points, create_graph=True)[0][..., axis : axis + 1]  # noqa: E731
    u_x = slope(wavy(points), 0)
    u_xy = slope(u_x, 1)
    for found, expected in zip(mixed(jet_of(wavy, points)), (u_xy, slope(u_xy, 0), slope(u_xy, 1)), strict=True):
        assert (found - expected).abs().max() < 1e-9
    with pytest.raises(ValueError, match="jet has orders"):
        mixed(Jet(torch.zeros(1, 5, 3, 1), (2, 2)))


@pytest.mark.parametrize("make", FAMILIES)
def test_network_carries_the_derivatives_of_its_own_values(make):
    family = make()
    plays = in_double(family, Plays(family, [BETA[family.name]] * 2, [0, 1], points=20, edge=8, interface=6))
    points = plays.interface.repeat(2, 1, 1)
    jet, expected = plays.network(points, THIRD), jet_of(lambda p: plays.network(p, (0, 0)).value, points)
    assert (jet.streams - expected.streams).abs().max() < 1e-9 * expected.streams.abs().max()
    low = plays.network(points, (2, 2))
    assert (low.d(1, 2) - jet.d(1, 2)).abs().max() < 1e-9 * jet.d(1, 2).abs().max()


@pytest.mark.parametrize("make", FAMILIES)
def test_residual_slopes_are_the_gradient_of_the_residual(make):
    family, step = make(), 1e-5
    beta, points = torch.tensor(BETA[family.name], dtype=torch.float64).view(1, 1, 1), 0.3 + 0.1 * numbers(1, 6, 2)
    for axis, slope in enumerate(family.slopes(jet_of(wavy, points), points, beta)):
        shift = step * torch.eye(2, dtype=torch.float64)[axis]
        ends = [family.residual(jets.by_autograd(wavy, p, (2, 2)), p, beta) for p in (points + shift, points - shift)]
        assert ((ends[0] - ends[1]) / (2 * step) - slope).abs().max() < 1e-6


def test_exact_solutions_meet_all_nine_conditions():
    # harmonic: both sides of a Poisson family without source; u = x / (1 + t): both sides of Burgers' for every viscosity
    exact = {
        "Poisson": lambda p: (
            p[..., :1] ** 3 - 3 * p[..., :1] * p[..., 1:] ** 2 + torch.sin(p[..., :1]) * torch.exp(p[..., 1:])
        ),
        "Burgers": lambda p: p[..., :1] / (1 + p[..., 1:]),
    }
    for make in FAMILIES:
        family = make()
        if family.name == "Poisson":
            vars_ = {k: getattr(family, k) for k in family.__dataclass_fields__}
            vars_ |= {
                "residual": lambda u, points, beta: u.d(0, 2) + u.d(1, 2),
                "slopes": lambda u, points, beta: (u.d(0, 3) + mixed(u)[2], mixed(u)[1] + u.d(1, 3)),
            }
            family = Family(**vars_)
        points = family.interface(12).double()[None]
        beta = torch.full((1, 1, 1), BETA[family.name], dtype=torch.float64)
        jet = jet_of(exact[family.name], points)
        losses = interface_losses(jet, jet, points, beta, family)
        assert losses.shape == (1, 9) and losses.abs().max() < 1e-9
        # each condition notices a disturbance that it is made for
        other = jet_of(lambda p: exact[family.name](p) + 0.1 * wavy(p), points)  # noqa: B023
        assert (interface_losses(jet, other, points, beta, family) > 1e-5).all()


def test_conditions_are_what_their_names_say():
    family, points = poisson(), poisson().interface(5).double()[None]
    beta = torch.full((1, 1, 1), 8.0, dtype=torch.float64)
    zero = jet_of(lambda p: 0 * p[..., :1] + 0 * p[..., 1:] ** 3 + 0 * p[..., :1] ** 3, points)
    shapes = {
        "constant": (lambda p: 2.0 + 0 * p.prod(-1, keepdim=True) ** 3, {"value": 4.0, "average": 2.0}),
        "in y": (lambda p: (p[..., 1:] - 0.5) + 0 * p.prod(-1, keepdim=True) ** 3, {"flux": 1.0}),
        "in yy": (
            lambda p: (p[..., 1:] - 0.5) ** 2 + 0 * p.prod(-1, keepdim=True) ** 3,
            {"residual jump": 4.0, "second 2": 4.0},
        ),
    }
    source = family.residual(zero, points, beta)
    for function, expected in shapes.values():
        losses = dict(
            zip(
                CONDITIONS,
                interface_losses(zero, jet_of(function, points), points, beta, family)[0].tolist(),
                strict=True,
            )
        )
        for name in set(CONDITIONS) - {"residual", "residual slopes"}:
            assert losses[name] == pytest.approx(expected.get(name, 0.0), abs=1e-10), name
    constant = interface_losses(zero, jet_of(shapes["constant"][0], points), points, beta, family)[0, 2]
    assert constant == pytest.approx(2 * source.square().mean().item())


@pytest.mark.parametrize("make", FAMILIES)
def test_loss_weighs_edges_twentyfold_and_conditions_fivefold(make):
    family = make()
    plays = in_double(family, Plays(family, [BETA[family.name]] * 2, [0, 1], points=20, edge=8, interface=6))
    arms = ARMS[[37, 500]]
    known, joined = plays.losses()
    expected = known + 5 * (torch.as_tensor(arms) * joined).sum(1)
    assert torch.allclose(plays.objective(arms)(), expected)
    by_side = torch.zeros(2, dtype=torch.float64)
    for net in range(4):  # two networks of each of two plays, one after the other
        number, beta = net % 2, plays.beta[:1]
        points = plays.inside[net : net + 1]
        u = jets.by_autograd(lambda p: plays.network(p.expand(4, -1, -1), (0, 0)).value[net : net + 1], points, (2, 2))  # noqa: B023
        gap = plays.network(plays.edge[net : net + 1].expand(4, -1, -1), (0, 0)).value[net] - family.edge_value(
            plays.edge[net], beta
        )
        by_side[number] += 20 * gap.square().mean() + family.residual(u, points, beta).square().mean()
    assert torch.allclose(known, by_side.to(known), rtol=1e-6)


def test_without_conditions_the_networks_are_decoupled():
    family = poisson()
    for arm, coupled in ((np.zeros((1, 9)), False), (subset("value")[None], True)):
        plays = Plays(family, [5.0], [3], points=20, edge=8, interface=6)

        def gradient(plays=plays, arm=arm):
            plays.network.zero_grad()
            plays.objective(arm)().sum().backward()
            return plays.network.weights[0].grad[0].clone()

        before = gradient()
        with torch.no_grad():
            for weight in plays.network.parameters():
                weight[1] += 0.1  # the network of side 1
        assert torch.equal(before, gradient()) is not coupled


def test_a_play_is_the_same_alone_and_in_company():
    family = burgers()
    arms = ARMS[[3, 300, 511]]
    together = Plays(family, [0.01, 0.02, 0.03], [4, 5, 6], points=40, edge=8, interface=6)
    alone = Plays(family, [0.02], [5], points=40, edge=8, interface=6)
    for plays, own in ((together, arms), (alone, arms[1:2])):
        plays.adam(own, 5)
        plays.lbfgs(own, 6)
    assert together.errors()[1] == pytest.approx(alone.errors()[0], rel=1e-3)
    assert np.allclose(together.rewards(), -np.log10(together.errors()))


def test_optimiser_solves_quadratics_each_at_its_own_pace():
    scales = torch.tensor([[1.0, 2.0, 3.0], [1.0, 30.0, 300.0]], dtype=torch.float64)
    weights = [torch.nn.Parameter(numbers(4, 3))]  # two networks of two problems
    start = weights[0].detach().clone()

    def loss():
        both = weights[0].view(2, 2, 3)
        return (scales * (both - 1) ** 2).sum((0, 2))

    minimise(weights, loss, nets=2, count=2, evaluations=60)
    assert (weights[0] - 1).abs().max() < 1e-5
    other = [torch.nn.Parameter(start[1::2].clone())]
    minimise(other, lambda: (scales[1] * (other[0].view(2, 1, 3) - 1) ** 2).sum((0, 2)), nets=2, count=1, evaluations=7)
    weights[0].data.copy_(start)
    minimise(weights, loss, nets=2, count=2, evaluations=7)
    assert torch.allclose(weights[0][1::2], other[0], rtol=1e-9)


def test_optimiser_never_ends_above_its_start():
    weights = [torch.nn.Parameter(torch.tensor([[-1.2, 1.0]], dtype=torch.float64))]

    def rosenbrock():
        x, y = weights[0].unbind(1)
        return 100 * (y - x * x) ** 2 + (1 - x) ** 2

    values = []
    for evaluations in (4, 10, 80):
        weights[0].data.copy_(torch.tensor([[-1.2, 1.0]]))
        minimise(weights, rosenbrock, 1, 1, evaluations)
        values.append(rosenbrock().item())
    assert 24.19 > values[0] > values[1] > values[2] < 1e-6


def data(n, seed=0):
    draw = np.random.default_rng(seed)
    beta, arms = draw.normal(size=(n, 1)), ARMS[draw.integers(512, size=n)]
    return [beta, arms], np.sin(beta[:, 0]) + 0.3 * arms[:, 0] - 0.2 * arms[:, 4] + 0.05 * draw.normal(size=n)


def process(kinds=("distance", "overlap"), **theta):
    model = RewardProcess(kinds)
    model.theta = np.log(theta.get("values", [0.7, 1.9, 0.01]))
    return model


def test_kernel_is_symmetric_and_positive_semidefinite():
    inputs, _ = data(40)
    matrix = process().kernel(inputs, inputs)
    assert np.abs(matrix - matrix.T).max() < 1e-12 and np.linalg.eigvalsh(matrix).min() > -1e-9
    assert np.allclose(np.diag(matrix), np.exp(1.9))
    far = [inputs[0], 1 - inputs[1]]  # the opposite subset at the same place agrees on nothing
    assert np.allclose(np.diag(process().kernel(inputs, far)), 1.0)


def test_posterior_equals_the_dense_closed_form_and_interpolates():
    inputs, rewards = data(25)
    new, _ = data(7, seed=1)
    model = process()
    model.fit(inputs, rewards, tune=False)
    mean, variance = model.posterior(new)
    dense = np.linalg.inv(model.kernel(inputs, inputs) + 0.01 * np.eye(25))
    cross = model.kernel(new, inputs)
    assert np.abs(mean - rewards.mean() - cross @ dense @ (rewards - rewards.mean())).max() < 1e-5
    assert np.abs(variance - np.diag(model.kernel(new, new) - cross @ dense @ cross.T)).max() < 1e-5
    clean = process(values=[0.7, 1.9, 1e-12])
    clean.fit(inputs, rewards, tune=False)
    mean, variance = clean.posterior(inputs)
    assert np.abs(mean - rewards).max() < 1e-6 and variance.max() < 1e-6


def test_posterior_equals_scikit_learn_without_arms():
    (beta, _), rewards = data(20)
    model = process(("distance",), values=[2.0, 0.05])
    model.fit([beta], rewards, tune=False)
    other = GaussianProcessRegressor(ConstantKernel(1.0) * RBF(1.0), alpha=0.05 + 1e-8, optimizer=None)  # exp(-d^2 / 2)
    other.fit(beta, rewards - rewards.mean())
    grid = np.linspace(-2, 2, 9)[:, None]
    mean, spread = other.predict(grid, return_std=True)
    found, variance = model.posterior([grid])
    assert np.abs(found - rewards.mean() - mean).max() < 1e-9
    assert np.abs(np.sqrt(variance) - spread).max() < 1e-7
    assert model.likelihood(model.theta)[0] == pytest.approx(-other.log_marginal_likelihood_value_, rel=1e-9)


def test_likelihood_gradient_and_tuning():
    inputs, rewards = data(30)
    model = process(("distance", "overlap"))
    model.fit(inputs, rewards, tune=False)
    theta, gradient = model.theta.copy(), model.likelihood(model.theta)[1]
    for k in range(3):
        step = np.zeros(3)
        step[k] = 1e-5
        difference = (model.likelihood(theta + step)[0] - model.likelihood(theta - step)[0]) / 2e-5
        assert difference == pytest.approx(gradient[k], rel=1e-5, abs=1e-7)
    before = model.likelihood(theta)[0]
    model.fit(inputs, rewards)
    assert model.likelihood(model.theta)[0] < before


def taught(sequential=False, context=True):
    learner = Metalic(0, sequential, context)
    inputs, rewards = data(20)
    for beta, arm, reward in zip(inputs[0][:, 0], inputs[1], rewards, strict=True):
        next_arm = 1 - arm if sequential else arm
        learner.learn(float(beta), arm, float(reward) - 0.3, next_arm, float(reward))
    return learner


def test_zero_width_takes_the_posterior_mean_and_width_explores():
    learner = taught()
    inputs = [np.full((512, 1), 0.2), ARMS]
    mean, variance = learner.first.posterior(inputs)
    assert np.array_equal(learner.pick(0.2, c=0.0), ARMS[mean.argmax()])
    assert np.array_equal(learner.pick(0.2, c=1e6), ARMS[variance.argmax()])
    assert np.array_equal(learner.pick(0.2), learner.pick(0.2, c=1.0))


def test_warm_up_is_random_and_the_same_for_all_learners_of_a_seed():
    one, two, other = Metalic(3), Metalic(3, context=False), Metalic(4)
    picks = [[learner.pick(0.0).tolist() for _ in range(5)] for learner in (one, two, other)]
    assert picks[0] == picks[1] != picks[2]


def test_first_stage_is_credited_for_what_it_prepares():
    learner = taught(sequential=True)
    rewards = np.array([row[4] for row in learner.history])
    assert np.allclose(learner.first.targets + learner.first.mean, (rewards - 0.3 + 0.9 * rewards) / 2)
    assert np.allclose(learner.second.targets + learner.second.mean, rewards)
    assert learner.second.kinds == ("distance", "distance", "overlap")
    assert np.array_equal(learner.second.inputs[2], np.array([row[3] for row in learner.history]))
    single = taught()
    assert np.allclose(single.first.targets + single.first.mean, rewards)
    assert np.array_equal(single.pick_next(0.0, ARMS[5], 1.0), ARMS[5])


def test_without_context_every_parameter_gets_the_same_arm():
    learner = taught(context=False)
    assert learner.first.kinds == ("overlap",)
    assert np.array_equal(learner.pick(-3.0), learner.pick(3.0))


def test_play_learns_and_training_helps():
    family = poisson()
    learners = [Metalic(0, warm_up=1), Metalic(0, True, warm_up=1)]
    for number in range(2):
        plays = Plays(family, [3.0 + number] * 2, [number] * 2, points=60, edge=16, interface=10)
        start = plays.errors()
        row = play(learners, plays, [family.standardise(3.0 + number)] * 2, 30, 20)
    assert row["first"].shape == (2, 9) and np.isfinite(row["reward"]).all()
    assert (10 ** -row["reward"] < start).all()
    assert [len(learner.history) for learner in learners] == [2, 2]
    play(learners, plays, [0.0] * 2, 1, 2, c=0.0, learn=False)
    assert [len(learner.history) for learner in learners] == [2, 2]


def test_one_domain_has_the_same_points_and_as_many_parameters():
    two, one = Plays(burgers(), [0.01], [1]), OneDomain(burgers(), [0.01], [1])
    size = lambda plays: sum(weight.numel() for weight in plays.network.parameters())  # noqa: E731
    assert (size(two), size(one)) == (1002, 987)
    assert torch.equal(two.inside.reshape(1, -1, 2), one.inside)
    assert torch.equal(two.edge.reshape(1, -1, 2), one.edge)
    errors = solve_fixed(
        burgers(), [0.02] * 3, [0, 1, 2], np.stack([FIXED["cPINN"]] * 3), 2, 2, together=2, kind=OneDomain
    )
    assert errors.shape == (3,) and (errors > 0).all()


@pytest.mark.parametrize("make", FAMILIES)
def test_points_lie_on_their_sides(make):
    family = make()
    unit = torch.rand(1, 200, 2, generator=torch.Generator().manual_seed(0))
    for side in (0, 1):
        points = family.sides[side](unit)
        assert (family.side_one(points) == bool(side)).all()
        low, high = torch.tensor(family.low[side]), torch.tensor(family.high[side])
        for place in (points, family.edges[side](40)):
            assert (place >= low - 1e-6).all() and (place <= high + 1e-6).all()
        assert family.edges[side](40).shape == (40, 2)
    contexts = family.contexts(0, 50)
    assert len(set(contexts)) == 50 and not set(contexts) & set(family.contexts(0, 50, stream=1))
    assert family.standardise(sum(family.range) / 2) == pytest.approx(0.0)


def test_references():
    for sharpness in (1.0, 50.0):
        coarse, fine = poisson_solution(sharpness)[1], poisson_solution(sharpness, 512)[1]
        assert np.linalg.norm(coarse - fine) < 3e-5 * np.linalg.norm(fine)
        assert fine.max() < 0  # the source is positive
    for viscosity in (0.001, 0.05):
        points, values = burgers_solution(viscosity)
        assert np.abs(values - burgers_solution(viscosity, 0.05)[1]).max() < 1e-10
        start = points[:, 1] == 0
        assert np.abs(values[start, 0] + np.sin(np.pi * points[start, 0])).max() < 1e-12
        assert np.abs(values[np.abs(points[:, 0]) == 1]).max() < 1e-10


def test_burgers_reference_solves_the_equation():
    points, values = burgers_solution(0.05)
    u, x, t = values.reshape(128, 41), points[::41, 0], points[:41, 1]
    u_t, u_x = np.gradient(u, t, axis=1), np.gradient(u, x, axis=0)
    residual = u_t + u * u_x - 0.05 * np.gradient(u_x, x, axis=0)
    assert np.abs(residual[4:-4, 4:-4]).mean() < 0.02 * np.abs(u_t).mean()


def test_subsets():
    assert ARMS.shape == (512, 9) and len(np.unique(ARMS, axis=0)) == 512
    assert FIXED["all nine"].sum() == 9 and FIXED["cPINN"].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 0]
    assert FIXED["XPINN"].tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0]


def test_bad_arguments_are_named():
    family, (inputs, rewards) = poisson(), data(6)
    with pytest.raises(ValueError, match="seeds has 1 entries"):
        Plays(family, [1.0, 2.0], [0])
    with pytest.raises(ValueError, match="parameters holds 1 NaN"):
        Plays(family, [np.nan], [0])
    with pytest.raises(ValueError, match="arms has shape"):
        unchecked(Plays.objective)(Plays(family, [1.0], [0], 20, 8, 6), np.zeros((1, 8)))
    with pytest.raises(ValueError, match="kinds is"):
        RewardProcess(["linear"])
    with pytest.raises(ValueError, match="inputs has 1 groups"):
        RewardProcess(["distance", "overlap"]).fit(inputs[:1], rewards)
    with pytest.raises(ValueError, match="rewards holds 6 NaN"):
        RewardProcess(["distance", "overlap"]).fit(inputs, rewards * np.nan)
    with pytest.raises(ValueError, match="reward holds 1 NaN"):
        Metalic(0).learn(0.0, ARMS[0], np.nan, ARMS[0], 1.0)
    with pytest.raises(ValueError, match="names holds flow"):
        subset("flow")
    with pytest.raises(ValueError, match="together is 0"):
        solve_fixed(family, [1.0], [0], ARMS[:1], 1, 2, together=0)
    with pytest.raises(ValueError, match="range is"):
        Family(**{k: getattr(family, k) for k in family.__dataclass_fields__} | {"range": (2.0, 1.0)})
    with pytest.raises(ValueError, match="orders"):
        features(torch.zeros(1, 1, 2), torch.ones(1, 1, 2))(torch.zeros(1, 3, 2), (5, 5))
