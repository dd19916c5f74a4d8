"""Forward invariance: the projection against closed forms and a QP solver, and what it keeps along trajectories."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tests.helpers import unchecked
from touchstone.dynamics import forward_invariance as fi
from touchstone.dynamics import forward_invariance_baselines as baselines
from touchstone.dynamics.odeint import RK4, odeint
from touchstone.nn.networks import generators

A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]).double()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_one_constraint_is_met_with_equality_or_left_alone():
    start, a, b = normal(200, 7), normal(200, 1, 7, seed=1), normal(200, 1, seed=2)
    before = (a @ start[..., None])[..., 0] + b
    after = fi.project(start, a, b)
    slack = ((a @ after[..., None])[..., 0] + b)[:, 0]
    held = before[:, 0] >= 0
    assert 0 < held.sum() < 200
    assert torch.equal(after[held], start[held])
    assert slack[~held].abs().max() < 1e-10
    # a constraint that does not depend on what is changed asks for nothing
    assert torch.equal(fi.project(start, 0 * a, b), start)


@pytest.mark.parametrize("constraints", [1, 3])
def test_projection_agrees_with_a_qp_solver(constraints):
    for seed in range(6):
        start, a = normal(4, seed=seed), normal(constraints, 4, seed=10 + seed)
        b = -(a @ normal(4, seed=20 + seed)) + 0.1  # some point meets all of them
        ours = fi.project(start, a, b)
        told = minimize(
            lambda w, s=start: ((w - s.numpy()) ** 2).sum(),
            np.zeros(4),
            jac=lambda w, s=start: 2 * (w - s.numpy()),
            constraints={
                "type": "ineq",
                "fun": lambda w, a=a, b=b: a.numpy() @ w + b.numpy(),
                "jac": lambda w, a=a: a.numpy(),
            },
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 200},
        )
        np.testing.assert_allclose(ours.numpy(), told.x, atol=1e-6)


def test_conflicts_and_parallel_rows_give_the_least_violation():
    # w >= 1 twice, and w >= 0: parallel rows
    found = fi.project(torch.zeros(1).double(), torch.ones(3, 1).double(), torch.tensor([-1.0, -1.0, 0.0]).double())
    torch.testing.assert_close(found, torch.ones(1).double())
    # w >= 1 and w <= -1 conflict: no candidate does better than violating by two
    found = fi.project(torch.zeros(1).double(), torch.tensor([[1.0], [-1.0]]).double(), -torch.ones(2).double())
    assert found.abs().item() <= 1 + 1e-9


def test_projected_weights_give_the_projected_rate_and_the_features_drop_out():
    state = normal(30, 2)
    specs = [baselines.disc(torch.zeros(2).double(), 3.0, 0.5)]
    for known in (0, 1):  # all coordinates, or a known velocity and a learned acceleration
        weight, features = normal(2 - known, 9, seed=3), normal(30, 9, seed=4)
        rest = normal(30, 2, seed=5)
        layers = fi.safe_last_layer(weight, features, rest, state, specs)
        add = torch.nn.functional.pad(features @ weight.T, (known, 0))
        moved = torch.nn.functional.pad((layers @ features[..., None])[..., 0], (known, 0))
        torch.testing.assert_close(rest + moved, fi.safe_rate(rest + add, state, specs, known), atol=1e-10, rtol=0)
    assert (layers != weight).any() and (layers == weight).flatten(1).all(1).any()


def test_h_decays_no_faster_than_its_exponential():
    start, times = torch.tensor([2.0, 0.0]).double(), torch.linspace(0, 3, 101).double()
    bound = baselines.disc(torch.tensor([0.4, 1.7]).double(), 0.4, 3.0)
    free = bound.value(odeint(lambda t, x: x @ A, start, times, RK4(2)))
    kept = bound.value(odeint(lambda t, x: fi.safe_rate(x @ A, x, [bound]), start, times, RK4(20)))
    floor = kept[0] * (-3.0 * times).exp()
    assert (free < floor - 0.1).any()  # the condition is active
    assert (kept - floor).min() > -1e-4
    rates = kept.diff() / times.diff() / (kept[1:] + kept[:-1]) * 2
    assert abs(rates.min() + 3) < 0.01  # and binds: there h falls at its gain


def test_a_large_gain_changes_nothing_inside():
    x = normal(100, 2)
    inside = baselines.disc(torch.zeros(2).double(), 0.2, 1e9)
    x = x[inside.value(x) > 1e-3]
    assert torch.equal(fi.safe_rate(-x, x, [inside]), -x)
    small = baselines.disc(torch.zeros(2).double(), 0.2, 1e-3)
    assert not torch.equal(fi.safe_rate(-x, x, [small]), -x)


def test_gradients_of_the_specifications():
    scene = baselines.scenes([0], 5, 1)
    bounds = [baselines.disc(normal(2), 0.4, 1.0), baselines.energy_limit(1.5, 1.0), *baselines.keep_out(scene, 1.0)]
    for bound, state in zip(bounds, [normal(4, 2)] * 2 + [normal(1, 5, 3)] * 3, strict=True):
        state = state.clone().requires_grad_()
        (told,) = torch.autograd.grad(bound.value(state).sum(), state)
        torch.testing.assert_close(bound.slope(state.detach()), told)


def test_energy_stays_below_its_limit():
    def pumped(time, x):
        return torch.stack([x[..., 1], -torch.sin(x[..., 0]) + 0.3 * x[..., 1]], -1)

    bound, times = baselines.energy_limit(1.5, 8.0), torch.linspace(0, 10, 201).double()
    start = torch.tensor([[0.9, 0.3], [0.2, -1.2]]).double()
    assert bound.value(odeint(pumped, start, times, RK4())).amin(0).max() < -0.5
    kept = odeint(lambda t, x: fi.safe_rate(pumped(t, x), x, [bound], known=1), start, times, RK4(4))
    assert bound.value(kept).min() > -1e-4
    torch.testing.assert_close(fi.safe_rate(pumped(0, start), start, [bound], known=1)[..., 0], start[..., 1])


def test_the_way_back_is_no_kick_where_the_gradient_vanishes():
    def pumped(time, x):
        return torch.stack([x[..., 1], -torch.sin(x[..., 0]) + 0.1 * x[..., 1]], -1)

    bound = baselines.energy_limit(1.5, 8.0)
    # 1e-8 above the limit and all but at rest: the nearest rate that leads back at once would be 80 away
    turning = torch.tensor([[math.acos(-0.5) + 1e-8, 1e-9]]).double()
    assert -1e-7 < bound.value(turning).item() < 0
    safe = fi.safe_rate(pumped(0, turning), turning, [bound], known=1)
    assert (safe - pumped(0, turning)).abs().max() < 1e-3
    times = torch.linspace(0, 2, 41).double()
    kept = odeint(lambda t, x: fi.safe_rate(pumped(t, x), x, [bound], known=1), turning, times, RK4(4))
    assert bound.value(kept).min() > -1e-6
    # where there is a gradient the way back is asked for in full: h' = -gain h
    outside = torch.tensor([[0.5, 1.7]]).double()
    safe = fi.safe_rate(pumped(0, outside), outside, [bound], known=1)
    assert bound.value(outside).item() < -0.05
    torch.testing.assert_close((bound.slope(outside) * safe).sum(-1), -8 * bound.value(outside), rtol=1e-5, atol=0)


def test_a_raised_specification_reaches_positions_and_inner_weights():
    def fall(time, x):
        return torch.stack([x[..., 1], -9.81 + 0 * x[..., 1]], -1)

    floor = fi.Specification(lambda x: x[..., 0] - 0.2, lambda x: torch.tensor([1.0, 0.0]).to(x).expand_as(x), 10.0)
    landing = fi.raised(floor, lambda x: fall(0, x), 10.0)
    start, times = torch.tensor([[1.0, 0.5]]).double(), torch.linspace(0, 2, 81).double()
    states = odeint(lambda t, x: fi.safe_rate(fall(t, x), x, [landing], known=1), start, times, RK4(2))
    assert floor.value(states).min() > -1e-6 and states[-1, 0, 0] < 0.25
    torch.testing.assert_close(landing.slope(start), torch.tensor([[10.0, 1.0]]).double())

    # a field whose inner weight p is inside tanh: x' = -tanh(p x), to be kept above 0.5 by moving p
    def whole(state):
        x, p = state.unbind(-1)
        return torch.stack([-torch.tanh(p * x), 0 * p], -1)

    above = fi.Specification(lambda s: s[..., 0] - 0.5, lambda s: torch.tensor([1.0, 0.0]).to(s).expand_as(s), 4.0)
    moved = fi.raised(above, whole, 4.0)
    begin = torch.tensor([[2.0, 1.0]]).double()
    ran = odeint(
        lambda t, s: fi.safe_rate(whole(s), s, [moved], known=1), begin, torch.linspace(0, 4, 81).double(), RK4(4)
    )
    free = odeint(lambda t, s: whole(s), begin, torch.linspace(0, 4, 81).double(), RK4(4))
    assert above.value(free).min() < -0.1
    assert above.value(ran).min() > -1e-6
    assert (ran[..., 1] != 1).any()


def test_training_passes_through_the_projection():
    state = torch.tensor([[0.5, 0.0]]).double()
    raw = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor([[-4.0, 1.0]]).double().requires_grad_()
    out = fi.safe_rate(rate, state, [baselines.disc(torch.zeros(2).double(), 0.4, torch.nn.functional.softplus(raw))])
    # active: the normal part is -gain h / |grad h|, the tangential part is free
    gain = math.log1p(math.exp(0.3))
    assert abs(out[0, 0].item() + gain * 0.09) < 1e-9 and out[0, 1].item() == 1
    out.sum().backward()
    torch.testing.assert_close(rate.grad, torch.tensor([[0.0, 1.0]]).double())
    assert raw.grad < 0


def test_inputs_keep_their_limits_and_the_discs():
    scene = baselines.scenes([3], 12, 1)
    bounds = baselines.keep_out(scene, 3.0)

    def policy(x, errors):  # full speed to the goal, blind
        wanted = torch.stack([torch.full_like(x[..., 0], 9.0), 3 * baselines._to_goal(scene, x)[1]], -1)
        return fi.safe_input(wanted, *baselines.unicycle(x), x, bounds, baselines.LOW, baselines.HIGH)

    first = policy(scene.starts, 0.0)
    assert (first >= baselines.LOW - 1e-9).all() and (first <= baselines.HIGH + 1e-9).all()
    states = baselines.drive(policy, scene, 60, 0.06)
    assert min(bound.value(states).min() for bound in bounds) > -1e-3
    assert not baselines.judged(scene, states)[0].any()
    blind = baselines.drive(lambda x, errors: torch.tensor([1.5, 0.0]).expand(1, 12, 2).double(), scene, 25, 0.1)
    assert baselines.judged(scene, blind)[0].any()


def test_ranges_and_expert():
    scene = baselines.Scenes(
        torch.tensor([[[2.0, 0.0], [0.0, 9.0], [9.0, 9.0]]]).double(),
        torch.full((1, 3), 0.5).double(),
        torch.tensor([[5.0, 0.0]]).double(),
        torch.zeros(1, 3).double(),
    )
    ways = baselines.free_way(scene, scene.starts, torch.tensor([0.0, math.asin(0.26), math.pi]).double())
    torch.testing.assert_close(ways, torch.tensor([[1.5, 3.0, 3.0]]).double())
    read = baselines.reading(scene, scene.starts)
    assert read.shape == (1, 19) and abs(read[0, 8] - 0.5) < 1e-12  # the ray straight ahead
    driven = baselines.scenes([0, 1], 3, 2)
    states = baselines.drive(lambda x, errors: baselines.expert(driven, x), driven, 60, 0.12)
    hit, reached = baselines.judged(driven, states)
    assert not hit.any() and reached.all()
    noise = [
        baselines.drive(lambda x, e: x[..., :2] * 0 + e[..., :2], driven, 2, 0.1, 0.2, generators([0, 1])) for _ in "ab"
    ]
    torch.testing.assert_close(noise[0], noise[1])


def test_lessons_end_where_the_driver_stops():
    scene = baselines.scenes([0, 1], 3, 2)
    states = baselines.drive(lambda x, errors: baselines.expert(scene, x), scene, 70, 0.12)
    going = baselines.under_way(scene, states)
    assert going[0].all() and not going[-1].any()
    assert torch.equal(states[-1], states[-2])  # it stands still from there on
    pairs = baselines.taught(scene, 70, 0.12)
    assert [len(answers) for _, answers in pairs] == going.sum((0, 2)).tolist()
    for number, (shown, answers) in enumerate(pairs):
        assert len(shown.unique(dim=0)) == len(shown)
        first = baselines.reading(scene, scene.starts)[number], baselines.expert(scene, scene.starts)[number]
        torch.testing.assert_close((shown[:3], answers[:3]), first)


def test_clipping_moves_onto_the_border_only_what_is_outside():
    bound = baselines.disc(torch.zeros(2).double(), 1.0, 1.0)
    states = torch.tensor([[0.3, 0.4], [3.0, 0.0]]).double()
    torch.testing.assert_close(baselines.clipped(states, bound), torch.tensor([[0.6, 0.8], [3.0, 0.0]]).double())


def test_bad_input_is_named():
    project, one = unchecked(fi.project), torch.ones(2).double()
    for args, message in (
        ((one * torch.nan, one[None], one[:1]), "start holds"),
        ((one, one[None], one), "offsets has shape"),
        ((one, torch.ones(1, 3).double(), one[:1]), "normals has shape"),
        ((one, torch.ones(9, 2).double(), torch.ones(9).double()), "give 1 to 8 rows"),
        ((one, one[None], one[:0]), "offsets is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            project(*args)
    with pytest.raises(ValueError, match="specifications is empty"):
        unchecked(fi.safe_rate)(one, one, [])
    spec = baselines.disc(0 * one, 0.1, 1.0)
    safe = unchecked(fi.safe_input)
    with pytest.raises(ValueError, match="low is"):
        safe(one, one, torch.eye(2).double(), one, [spec], one, 0 * one)
    with pytest.raises(ValueError, match="are 9 constraints"):
        safe(one, one, torch.eye(2).double(), one, [spec] * 5, 0 * one, one)
    with pytest.raises(ValueError, match="states holds"):
        unchecked(baselines.clipped)(one * torch.inf, spec)
    with pytest.raises(ValueError, match="count is 0"):
        unchecked(baselines.scenes)([0], 0, 1)
