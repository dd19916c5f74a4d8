"""Interpretable world model: intervals, the equations, the terms of the loss, films, rivals."""

import math

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.data import mechanics, ode, regular
from touchstone.dynamics import interpretable_world_model as world
from touchstone.dynamics import interpretable_world_model_baselines as rivals
from touchstone.dynamics import interpretable_world_model_systems as systems


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def informed(scene):
    """The equations in float64 with the true constants."""
    physics = scene.physics().double()
    share = torch.tensor(list(scene.constants.values())).double() / physics.guess
    with torch.no_grad():
        physics.raw.copy_((share * math.log(2)).expm1().log())
    return physics


class Told(world.WorldModel):
    """A model whose codes are given, so that each term of the loss can be seen alone."""

    def __init__(self, dynamics, means, spread=None):
        super().__init__(means.shape[-1], dynamics, seed=0, size=8, width=2)
        self.given = means, torch.zeros_like(means) if spread is None else spread
        self.double()

    def encode(self, pairs):
        return self.given


def terms(model, pushes=None, horizon=4, lower=-1.0, upper=1.0):
    """The terms for codes that are given, on black pictures."""
    means = model.given[0]
    pairs = means.new_zeros(*means.shape[:2], 2, 8, 8)
    pushes = means.new_zeros(means.shape[:2]) if pushes is None else pushes
    ends = torch.full_like(means, lower), torch.full_like(means, upper)
    return world.loss_terms(model, pairs, pushes, *ends, horizon, torch.zeros_like(means))


def test_interval_loss_is_zero_inside_with_zero_gradient():
    lower, upper = normal(5, 7, 3), normal(5, 7, 3).abs() + 2.0
    lower = -lower.abs() - 2.0
    means = (lower + (upper - lower) * torch.rand(lower.shape, dtype=torch.float64)).requires_grad_()
    loss = world.interval_loss(means, lower, upper)
    (slope,) = torch.autograd.grad(loss, means)
    assert loss == 0
    assert (slope == 0).all()


def test_interval_loss_pulls_back_from_both_sides():
    means = torch.tensor([[-1.5, 0.0, 3.0]], requires_grad=True)
    loss = world.interval_loss(means, torch.full((1, 3), -1.0), torch.ones(1, 3))
    (slope,) = torch.autograd.grad(loss, means)
    assert loss.item() == pytest.approx(0.25 + 4.0)
    assert slope[0].tolist() == pytest.approx([-1.0, 0.0, 4.0])


def test_intervals_contain_the_truth_at_a_place_that_says_nothing():
    states, spans = normal(400, 50, 2), torch.tensor([5.0, 12.0]).double()
    lower, upper = world.draw_intervals(states, spans, 0.1, seed=3)
    assert (lower <= states).all()
    assert (states <= upper).all()
    torch.testing.assert_close(upper - lower, (0.1 * spans).expand_as(states))
    offset = ((lower + upper) / 2 - states) / (0.1 * spans)
    error = 1 / math.sqrt(12 * offset[..., 0].numel())
    assert (offset.mean((0, 1)).abs() < 3 * error).all()
    assert ((offset * states).mean((0, 1)).abs() < 3 * error).all()
    # the middle of an interval is no label: the truth is spread evenly over it
    assert (offset.std((0, 1)) - 1 / math.sqrt(12)).abs().max() < 0.005


def test_widths_run_from_labels_to_nothing():
    states, spans = normal(40, 6, 2).clamp(-1, 1), torch.tensor([2.0, 2.0]).double()
    for end in world.draw_intervals(states, spans, 0.0, seed=0):
        assert torch.equal(end, states)
    labels = world.interval_loss(states + 0.3, *world.draw_intervals(states, spans, 0.0, seed=0))
    assert labels.item() == pytest.approx(2 * 0.09)  # the squared error of full supervision
    whole = torch.full_like(states, -1.0), torch.full_like(states, 1.0)
    for ends in (whole, world.draw_intervals(states, spans, math.inf, seed=0)):
        codes = states.clone().requires_grad_()
        loss = world.interval_loss(codes, *ends)
        (slope,) = torch.autograd.grad(loss, codes)
        assert loss == 0
        assert (slope == 0).all()


def test_equations_agree_with_the_simulator_s():
    state, push = normal(20, 4).numpy(), normal(20, seed=1).numpy()
    both = torch.from_numpy(state), torch.from_numpy(push)
    constants = torch.tensor([1.3, 0.2, 0.7]).double().unbind()
    expected = mechanics.cart_pole(state, push, cart=1.3, pole=0.2, length=0.7)
    torch.testing.assert_close(systems.cart_pole(constants, *both), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
    expected = mechanics.pendulum(state[:, :2], gravity=1.3, damping=0.2)
    torch.testing.assert_close(
        systems.pendulum(constants, both[0][:, :2], both[1]), torch.from_numpy(expected), rtol=1e-6, atol=1e-6
    )


def test_simulation_agrees_with_an_adaptive_solver():
    scene, start = systems.SCENES["pendulum"], np.array([[2.4, 0.1], [0.3, -1.0]])
    states = systems.simulate(scene, start, np.zeros((2, 60)))
    system = regular.system("pendulum", gravity=9.8, damping=0.1)
    assert np.abs(states - ode.integrate(system, start, 0.05 * np.arange(60))).max() < 1e-3


@pytest.mark.parametrize("name", list(systems.SCENES))
def test_true_states_and_constants_have_no_dynamics_loss(name):
    scene = systems.SCENES[name]
    film = systems.record(scene, 5, seed=1, time=12, size=8)
    latents, pushes = scene.latents(film.states.double()), film.pushes.double()
    exact = terms(Told(informed(scene), latents), pushes, horizon=10)["dynamics"]
    assert exact < 1e-8
    assert terms(Told(scene.physics(), latents), pushes, horizon=10)["dynamics"] > 1e-3  # the first guess
    if scene.push:
        assert terms(Told(informed(scene), latents), pushes.roll(1, 1), horizon=10)["dynamics"] > 1e-5


def test_predicted_latents_follow_the_encoded_ones_only_as_targets():
    scene = systems.SCENES["pendulum"]
    means = (0.3 * normal(2, 6, 2)).requires_grad_()
    (slope,) = torch.autograd.grad(terms(Told(scene.physics(), means), horizon=5)["dynamics"], means)
    assert (slope[:, 1:] == 0).all()
    assert (slope[:, 0] != 0).all()


def test_divergence_and_picture_terms_have_their_closed_forms():
    physics = systems.SCENES["pendulum"].physics()
    assert terms(Told(physics, torch.zeros(2, 6, 2).double()))["kl"] == 0
    moved = Told(physics, torch.ones(2, 6, 2).double(), torch.full((2, 6, 2), 0.4).double())
    assert terms(moved)["kl"].item() == pytest.approx(2 * 0.5 * (1 + math.exp(0.4) - 1 - 0.4))
    still = Told(physics, torch.zeros(2, 6, 2).double())  # the pendulum at rest stays there
    found, drawn = terms(still), still.decode(torch.zeros(1, 2).double()).square().sum()
    torch.testing.assert_close(found["reconstruction"], drawn)
    torch.testing.assert_close(found["pictures"], drawn)


def test_constants_start_at_the_guess_and_stay_positive():
    physics = systems.SCENES["cart-pole"].physics()
    torch.testing.assert_close(physics.constants, physics.guess)
    with torch.no_grad():
        physics.raw.fill_(-5.0)
    assert (physics.constants > 0).all()
    for scene in systems.SCENES.values():
        shares = np.array(list(scene.constants.values())) / scene.guess
        assert set(np.round(shares, 9)) <= {0.5, 2.0}


def test_a_pair_belongs_to_its_later_frame_and_shows_velocity():
    scene = systems.SCENES["pendulum"]
    film = systems.record(scene, 2, seed=0, time=5)
    pairs = world.pairs_of(film.frames)
    assert pairs.shape == (2, 4, 2, 16, 16)
    assert torch.equal(pairs[:, 2, 1], film.frames[:, 3])
    assert torch.equal(pairs[:, 2, 0], film.frames[:, 2])
    assert not torch.equal(pairs[:, 2, 0], pairs[:, 2, 1])


@pytest.mark.parametrize("name", list(systems.SCENES))
def test_films_stay_in_range_and_repeat(name):
    scene = systems.SCENES[name]
    film = systems.record(scene, 6, seed=2, time=40)
    assert (scene.latents(film.states).abs() <= 1 + 1e-6).all()
    assert torch.equal(film.frames, systems.record(scene, 6, seed=2, time=40).frames)
    assert bool((film.pushes == 0).all()) == (scene.push == 0)


def test_recurrent_network_remembers():
    network = rivals.Recurrent(2, seed=0)
    latents, push = normal(3, 2).float(), torch.zeros(3)
    first, memory = network(latents, push)
    assert first.shape == latents.shape
    assert not torch.allclose(network(latents, push, memory)[0], first)
    assert not torch.allclose(network(latents, push + 1)[0], first)


@pytest.mark.parametrize("kind", list(rivals.MODELS))
def test_every_model_trains_and_repeats(kind):
    scene = systems.SCENES["pendulum"]
    film = systems.record(scene, 4, seed=0, time=14)
    runs = [rivals.fit(scene, film, kind, seed=5, updates=3, batch=2, horizon=4) for _ in range(2)]
    (model, history), (again, _) = runs
    assert history.shape == (3, 0 if "LSTM" in kind else 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    found = rivals.judge(model, scene, film, steps=8)
    assert len(found["own"]) == 2
    assert len(found["ahead"]) == len(found["psnr"]) == 8
    assert all(a <= b + 0.05 for a, b in zip(found["mapped"], found["own"], strict=True))


def test_affine_map_undoes_an_affine_map():
    truth = normal(6, 5, 3)
    codes = truth @ normal(3, 3, seed=1) + 2.0
    torch.testing.assert_close(rivals.affine(codes, truth)(codes), truth)
    assert rivals.affine(codes / 0, truth)(codes).isnan().all()


def test_bad_input_is_named():
    states, spans = normal(4, 3, 2), torch.ones(2).double()
    draw = unchecked(world.draw_intervals)
    with pytest.raises(ValueError, match="states"):
        draw(states * math.nan, spans, 0.1, 0)
    with pytest.raises(ValueError, match="spans"):
        draw(states, spans[:1], 0.1, 0)
    with pytest.raises(ValueError, match="width"):
        draw(states, spans, -0.1, 0)
    with pytest.raises(ValueError, match="guess"):
        world.Physics(systems.pendulum, (0.0, 1.0), (0.0, 0.0), (1.0, 1.0), 0.05)
    with pytest.raises(ValueError, match="size"):
        world.WorldModel(2, systems.SCENES["pendulum"].physics(), 0, size=12)
    scene = systems.SCENES["pendulum"]
    with pytest.raises(ValueError, match="horizon"):
        terms(Told(scene.physics(), states), horizon=3)
    with pytest.raises(ValueError, match="episodes"):
        systems.record(scene, 0, seed=0)
    film = systems.record(scene, 3, seed=0, time=8)
    with pytest.raises(ValueError, match="kind"):
        rivals.fit(scene, film, "physic", seed=0)
    train, ends = unchecked(world.train), scene.latents(film.states)
    model = world.WorldModel(2, scene.physics(), 0)
    with pytest.raises(ValueError, match="frames"):
        train(model, film.frames, film.pushes, ends, ends, 0, horizon=10)
    with pytest.raises(ValueError, match="frames"):
        train(model, film.frames * math.nan, film.pushes, ends, ends, 0)
    with pytest.raises(ValueError, match="pushes"):
        train(model, film.frames, film.pushes[:, 1:], ends, ends, 0)
    with pytest.raises(ValueError, match="upper"):
        train(model, film.frames, film.pushes, ends, ends[..., :1], 0)
