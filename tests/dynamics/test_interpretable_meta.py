"""Context-affine models: exact adaptation, invariance, orthogonality, pooling; rivals; task families; the controller."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.dynamics import interpretable_meta as meta
from touchstone.dynamics import interpretable_meta_baselines as rivals
from touchstone.dynamics import interpretable_meta_control as control
from touchstone.dynamics import interpretable_meta_tasks as families

SEEDS = [0, 1]


def double(model):
    """The model in double precision."""
    up = [[tuple(t.double() for t in layer) for layer in part] for part in (model.common, model.features)]
    return meta.ContextAffine(*up, model.vectors.double())


def random_model(rank=3, outputs=2, tasks=4):
    return double(meta.init_context_affine(SEEDS, tasks, 3, outputs, rank, width=16))


def random_points(tasks=4, points=12, dim=3):
    return torch.randn(2, tasks, points, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_least_squares_recovers_the_vectors_that_made_the_data():
    model, points = random_model(), random_points()
    found = model.adapt(points, model.predict(model.vectors, points))
    torch.testing.assert_close(found, model.vectors, rtol=0, atol=1e-8)


def test_residuals_are_orthogonal_to_the_features():
    model, points = random_model(), random_points()
    targets = torch.sin(3 * points[..., :2])
    vectors = model.adapt(points, targets)
    residuals = model.predict(vectors, points) - targets
    _, features = model.parts(points)
    assert residuals.abs().max() > 0.1
    assert torch.einsum("stnrm,stnm->str", features, residuals).abs().max() < 1e-8


def test_mixed_features_leave_predictions_and_read_outs_unchanged():
    model, points = random_model(), random_points()
    mixing = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (hidden, last), weights = (model.features[:-1], model.features[-1]), []
    for tensor in last:  # rows of the last layer are features times outputs
        parts = tensor.unflatten(-1, (3, 2))
        weights.append(torch.einsum("sqr,sirm->siqm", mixing, parts).flatten(2))
    vectors = torch.einsum("sqr,stq->str", torch.linalg.inv(mixing), model.vectors)  # M^{-T} w
    mixed = meta.ContextAffine(model.common, [*hidden, tuple(weights)], vectors)
    torch.testing.assert_close(
        mixed.predict(mixed.vectors, points), model.predict(model.vectors, points), rtol=0, atol=1e-10
    )
    parameters, targets = torch.randn(2, 4, 2).double(), torch.cos(points[..., :2])
    read = [
        meta.affine_map(meta.affine_fit(m.vectors, parameters), m.adapt(points, targets, ridge=0.0))
        for m in (model, mixed)
    ]
    torch.testing.assert_close(*read, rtol=0, atol=1e-7)


def test_no_vector_pools_all_tasks():
    points = random_points().float()
    targets = points[..., :1].sin()
    model = meta.train(points, targets, SEEDS, rank=0, updates=2, width=8)
    vectors = model.adapt(points, targets)
    assert vectors.shape == (2, 4, 0)
    same = points[:, :1].expand(-1, 4, -1, -1)
    outputs = model.predict(vectors, same)
    torch.testing.assert_close(outputs, outputs[:, :1].expand_as(outputs), rtol=0, atol=0)


def test_training_lowers_the_loss_and_a_seed_in_a_stack_is_that_seed_alone():
    problem = families.problem("charges", SEEDS, train=5, test=2, points=30, test_points=20)
    points, targets = problem.train.points, problem.train.targets
    losses = []
    for updates in (1, 40):
        model = meta.train(points, targets, SEEDS, rank=3, updates=updates, width=16)
        losses.append((model.predict(model.vectors, points) - targets).square().mean((1, 2, 3)))
    assert (losses[1] < 0.7 * losses[0]).all()
    alone = meta.train(points[1:], targets[1:], SEEDS[1:], rank=3, updates=40, width=16)
    torch.testing.assert_close(alone.vectors[0], model.vectors[1], rtol=1e-3, atol=1e-4)


def test_affine_fit_inverts_an_affine_map():
    parameters = torch.randn(2, 6, 3).double()
    matrix, shift = torch.randn(2, 3, 3).double(), torch.randn(2, 1, 3).double()
    vectors = parameters @ matrix + shift
    new = torch.randn(2, 4, 3).double()
    read = meta.affine_map(meta.affine_fit(vectors, parameters), new @ matrix + shift)
    torch.testing.assert_close(read, new, rtol=0, atol=1e-8)


def test_recursive_least_squares_is_regularised_least_squares():
    rng = torch.Generator().manual_seed(3)
    features = torch.randn(2, 4, 9, 3, 2, generator=rng).double()
    values = torch.randn(2, 4, 9, 2, generator=rng).double()
    mean, root = torch.randn(2, 4, 3, generator=rng).double(), torch.randn(2, 4, 3, 3, generator=rng).double()
    prior, noise = root @ root.mT, torch.tensor([0.1, 0.3]).double()
    learner = meta.RecursiveLeastSquares(mean, prior, noise)
    for k in range(9):
        learner.update(features[:, :, k].mT, values[:, :, k])
    rows = features.movedim(3, -1).flatten(2, 3)
    precision = torch.linalg.inv(prior)
    left = precision + rows.mT @ rows / noise[:, None, None, None]
    right = (precision @ mean[..., None]) + rows.mT @ values.flatten(2, 3)[..., None] / noise[:, None, None, None]
    torch.testing.assert_close(learner.vectors, torch.linalg.solve(left, right)[..., 0], rtol=0, atol=1e-8)


def test_anil_steps_end_at_least_squares_and_maml_descends():
    model = random_model(tasks=1)
    points = random_points()
    targets = torch.sin(points[..., :2])
    anil = rivals.ANIL(model, rate=0.5)
    errors = [
        (model.predict(vectors, points) - targets).square().mean()
        for vectors in [anil.adapt(points, targets, steps=k) for k in (0, 10, 2000)] + [model.adapt(points, targets)]
    ]
    assert errors[3] <= errors[2] < errors[1] < errors[0]
    assert errors[2] < 1.05 * errors[3]
    maml = rivals.MAML(meta.perceptron_weights(meta.generators(SEEDS), [3, 8, 2]), rate=0.1)
    x, y = points.float(), targets.float()
    errors = [(maml.predict(maml.adapt(x, y, steps=k), x) - y).square().mean() for k in (0, 5, 50)]
    assert errors[2] < errors[1] < errors[0]


def test_maml_gradient_goes_through_the_inner_steps():
    """Against finite differences in double precision: a first-order gradient would miss the curvature."""
    draws = meta.generators([0])
    weights = [tuple(t.double() for t in layer) for layer in meta.perceptron_weights(draws, [3, 5, 1])]
    points, targets = random_points()[:1], random_points()[:1, :, :, :1].cos()
    maml = rivals.MAML(weights, rate=0.2)

    def loss():
        state = maml.adapt(points[:, :, :6], targets[:, :, :6], steps=3, graph=True)
        return (maml.predict(state, points[:, :, 6:]) - targets[:, :, 6:]).square().mean()

    target, *_ = [tensor.requires_grad_() for tensor in maml.parameters()]
    (slope,) = torch.autograd.grad(loss(), target)
    with torch.no_grad():
        target[0, 1, 2] += 1e-5
    up = loss()
    with torch.no_grad():
        target[0, 1, 2] -= 2e-5
    down = loss()
    assert abs((up - down).item() / 2e-5 - slope[0, 1, 2].item()) < 1e-7 * max(1, abs(slope[0, 1, 2].item())) + 1e-8


def test_coda_is_affine_in_the_context_of_its_weights():
    points = random_points().float()
    model = rivals.train_coda(points, points[..., :1].sin(), SEEDS, rank=2, updates=1, width=8)
    zero = model.predict(torch.zeros(2, 4, 2), points)
    torch.testing.assert_close(zero, meta.perceptron(model.centre, points))
    assert not torch.allclose(model.predict(torch.ones(2, 4, 2), points), zero)
    found = model.adapt(points, points[..., :1].sin(), steps=30)
    better = model.loss(found, points, points[..., :1].sin())
    assert (better < model.loss(torch.zeros(2, 4, 2), points, points[..., :1].sin())).all()


@pytest.mark.parametrize("family", ["charges", "pendulum", "arm"])
def test_linear_families_are_linear_in_their_features(family):
    problem = families.problem(family, SEEDS, train=3, test=2, points=20, test_points=15)
    test = problem.test
    known = meta.least_squares(test.features.double(), (test.targets + problem.shift).double())
    torch.testing.assert_close(known, test.parameters.double(), rtol=2e-3, atol=2e-3)
    assert problem.train.targets.std() == pytest.approx(1, abs=0.05)
    assert not torch.equal(problem.train.parameters[0, 0], test.parameters[0, 0])


def test_arm_torques_change_the_energy_at_their_power():
    rng = np.random.default_rng(0)
    angles, rates, accelerations = rng.normal(size=(3, 7, 2))
    parameters = np.array([2.1, 0.5, 0.4, 14.0, 5.0])

    def energy(q, v):
        total, couple, second, heavy, light = parameters
        bend = couple * np.cos(q[:, 1])
        kinetic = (total / 2 + bend) * v[:, 0] ** 2 + (second + bend) * v[:, 0] * v[:, 1] + second / 2 * v[:, 1] ** 2
        return kinetic - heavy * np.cos(q[:, 0]) - light * np.cos(q.sum(1))

    h = 1e-6
    late = energy(angles + h * rates, rates + h * accelerations)
    rate = (late - energy(angles - h * rates, rates - h * accelerations)) / (2 * h)
    torque = np.einsum("npm,p->nm", families.arm_features(angles, rates, accelerations), parameters)
    np.testing.assert_allclose((torque * rates).sum(1), rate, atol=1e-6)


def test_capacitor_solves_laplace_between_the_plates():
    u = families.capacitor_potential(10)
    middle = families.CELLS // 2
    np.testing.assert_allclose(u, -u[::-1], atol=1e-12)
    assert u[middle + 10, middle] == 0.5 and np.abs(u).max() == 0.5
    laplacian = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1]
    off = np.ones_like(laplacian, dtype=bool)
    off[[middle - 11, middle + 9]] = False
    assert np.abs(laplacian[off]).max() < 1e-12
    assert np.abs(laplacian[middle + 9]).max() > 0.01
    assert (u[0] == 0).all() and (u[:, -1] == 0).all()


def test_swing_keeps_energy_and_answers_a_torque():
    parameters = np.array([[1.2, 0.0, 9.0]])
    state = np.array([[0.7, 0.3]])

    def energy(s):
        return 0.6 * s[0, 1] ** 2 - 9.0 * np.cos(s[0, 0])

    end = state
    for _ in range(200):
        end = families.swing(end, np.zeros(1), parameters, 0.01)
    assert abs(energy(end) - energy(state)) < 1e-6
    pushed = families.swing(state, np.full(1, 5.0), parameters, 1e-4)
    expected = (5.0 - 9.0 * np.sin(0.7)) / 1.2
    assert abs((pushed[0, 1] - 0.3) / 1e-4 - expected) < 1e-2
    h, (_, rate, acceleration) = 1e-4, families.reference(1.3)
    ahead, behind = families.reference(1.3 + h), families.reference(1.3 - h)
    assert abs((ahead[0] - behind[0]) / (2 * h) - rate) < 1e-6
    assert abs((ahead[1] - behind[1]) / (2 * h) - acceleration) < 1e-6


def test_true_parameters_track_and_learned_ones_beat_a_wrong_guess():
    parameters = np.array([[[0.6, 0.25, 5.9], [1.9, 0.25, 18.6]]])
    true = control.track(control.Fixed(parameters), parameters, seconds=1.5)
    wrong = control.track(control.Fixed(np.array([1.25, 0.25, 12.5])), parameters, seconds=1.5)
    assert np.abs(true).max() < 0.03 < np.abs(wrong).max()
    problem = families.problem("pendulum", [0], train=8, test=2)
    model = meta.train(problem.train.points, problem.train.targets, [0], rank=3, updates=100, width=32)
    learned = control.track(control.Adaptive(model, problem, runs=2), parameters, seconds=1.5)
    assert learned.shape == (150, 1, 2)
    assert np.sqrt((learned[75:] ** 2).mean()) < 0.7 * np.sqrt((wrong[75:150] ** 2).mean())


def test_bad_input_is_named():
    points = random_points().float()
    targets = points[..., :1]
    train, fit = unchecked(meta.train), unchecked(meta.affine_fit)
    with pytest.raises(ValueError, match="points has shape"):
        train(points, targets, [0], rank=2)
    with pytest.raises(ValueError, match="targets has shape"):
        train(points, targets[:, :2], SEEDS, rank=2)
    with pytest.raises(ValueError, match="targets holds"):
        train(points, targets / 0, SEEDS, rank=2)
    with pytest.raises(ValueError, match="rank is -1"):
        train(points, targets, SEEDS, rank=-1)
    with pytest.raises(ValueError, match="ridge"):
        unchecked(meta.least_squares)(points[..., None], targets, -1.0)
    with pytest.raises(ValueError, match="target has shape"):
        fit(points[:, :, 0], points[:, :2, 0])
    with pytest.raises(ValueError, match="noise"):
        meta.RecursiveLeastSquares(points[:, :, 0], points[:, :, :3].double(), torch.zeros(2))
    with pytest.raises(ValueError, match="support"):
        unchecked(rivals.train_by_descent)("MAML", points, targets, SEEDS, 0.1, support=12)
    with pytest.raises(ValueError, match="kind"):
        unchecked(rivals.train_by_descent)("Reptile", points, targets, SEEDS, 0.1, support=5)
    with pytest.raises(ValueError, match="family"):
        unchecked(families.problem)("spring", [0])
    with pytest.raises(ValueError, match="train is 0"):
        unchecked(families.problem)("charges", [0], train=0)
    with pytest.raises(ValueError, match="half_gap"):
        families.capacitor_potential(30)
    with pytest.raises(ValueError, match="dt"):
        unchecked(control.track)(control.Fixed(np.ones(3)), np.ones((1, 1, 3)), dt=0.0)
