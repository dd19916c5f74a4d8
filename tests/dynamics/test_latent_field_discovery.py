"""Latent field discovery: what is equivariant and what is not, FiLM, the scenes, the score of a field, training of a stack."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.data import many_body
from touchstone.dynamics import latent_field_discovery as aether
from touchstone.dynamics import latent_field_discovery_baselines as rivals

SEEDS = [0, 1]
ANGLE = torch.tensor(0.7, dtype=torch.float64)
Q = torch.stack([torch.stack([ANGLE.cos(), -ANGLE.sin()]), torch.stack([ANGLE.sin(), ANGLE.cos()])])
SHIFT = torch.tensor([1.3, -2.1, 0.0, 0.0], dtype=torch.float64)


def rough(model):
    """Every parameter away from its start, so that no part is silent; float64."""
    draw = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)
    return model.double().requires_grad_(False)


def aether_model(**options):
    return rough(aether.Aether(SEEDS, 0.5, width=12, **options))


def scene(scenes=3, bodies=4):
    draw = torch.Generator().manual_seed(2)
    states = torch.randn(2, scenes, bodies, 4, generator=draw, dtype=torch.float64)
    charges = torch.randint(0, 2, (2, scenes, bodies), generator=draw).double() * 2 - 1
    return states, charges


def turn(states):
    return (states.unflatten(-1, (2, 2)) @ Q.T).flatten(-2)


def test_without_field_rotations_and_shifts_commute_with_the_model():
    states, charges = scene()
    plain = rough(rivals.Fieldless(SEEDS, 0.5, "local", width=12))
    for model, field in ((aether_model(), aether.no_field), (plain, None)):
        before = aether.forecast(model, states, charges, 3, field)
        after = aether.forecast(model, turn(states) + SHIFT, charges, 3, field)
        assert (after - turn(before) - SHIFT).abs().max() < 1e-9
        assert (before - states.unsqueeze(2)).abs().max() > 0.1


def test_with_the_field_turned_along_the_model_is_equivariant_and_otherwise_not():
    states, charges = scene()
    model = aether_model()
    before = aether.forecast(model, states, charges, 3)
    along = aether.forecast(model, turn(states), charges, 3, aether.turned(model.field, Q))
    assert (along - turn(before)).abs().max() < 1e-9
    for wrong in (model.field, aether.turned(model.field, Q.T)):
        assert (aether.forecast(model, turn(states), charges, 3, wrong) - turn(before)).abs().max() > 1e-2
    shifted = aether.forecast(model, states + SHIFT, charges, 3, lambda places: model.field(places - SHIFT[:2]))
    assert (shifted - before - SHIFT).abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["appended", "absolute"])
def test_rivals_that_know_coordinates_are_not_equivariant(kind):
    states, charges = scene()
    model = rough(rivals.Fieldless(SEEDS, 0.5, kind, width=12, features=3))
    assert (model(turn(states), charges) - turn(model(states, charges))).abs().max() > 1e-2
    assert (model(states + SHIFT, charges) - model(states, charges) - SHIFT).abs().max() > 1e-2


def test_permuting_particles_permutes_predictions():
    states, charges = scene()
    order = torch.tensor([2, 0, 3, 1])
    absolute = rough(rivals.Fieldless(SEEDS, 0.5, "absolute", width=12))
    for model in (aether_model(), absolute):
        mixed = aether.forecast(model, states[:, :, order], charges[:, :, order], 2)
        assert (mixed - aether.forecast(model, states, charges, 2)[..., order, :]).abs().max() < 1e-9


def test_frames():
    vectors = torch.randn(7, 2, dtype=torch.float64)
    heading = aether.headings(vectors)
    lengths = vectors.norm(dim=1)
    along = aether.into_frame(vectors, heading)
    torch.testing.assert_close(along, torch.stack([lengths, torch.zeros_like(lengths)], 1))
    left = torch.stack([-heading[:, 1], heading[:, 0]], 1)
    torch.testing.assert_close(aether.into_frame(left, heading), torch.tensor([[0.0, 1.0]]).double().expand(7, 2))
    other = torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(aether.out_of_frame(aether.into_frame(other, heading), heading), other)
    assert torch.equal(aether.headings(torch.zeros(1, 2)), torch.zeros(1, 2))


def test_film_with_scale_one_and_shift_zero_is_the_static_field():
    field = rough(aether.NeuralField(SEEDS, width=12, code=6))
    places, code = torch.randn(2, 3, 5, 2, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    assert (field(places, code) - field(places)).abs().max() > 1e-2
    static = aether.NeuralField(SEEDS, width=12).double()
    static.load_state_dict({k: v for k, v in field.state_dict().items() if not k.startswith("films")})
    for film in field.films:
        film.weights[-1].zero_(), film.biases[-1].zero_()
    assert torch.equal(field(places, code), static(places))


def test_code_sees_every_frame_but_not_the_order_of_the_bodies():
    encoder = rough(aether.GraphEncoder(SEEDS, width=6))
    observed, charges = torch.randn(2, 3, 4, 5, 4, dtype=torch.float64), torch.ones(2, 3, 5, dtype=torch.float64)
    code = encoder(observed, charges)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(encoder(observed[:, :, :, order], charges), code)
    for frame in range(4):
        changed = observed.clone()
        changed[:, 1, frame] += 1.0
        moved = (encoder(changed, charges) - code).abs().amax(-1)
        assert (moved[:, 1] > 1e-4).all() and (moved[:, [0, 2]] == 0).all()


def test_force_is_what_moves_a_lone_unit_charge():
    scenes = rivals.charges_in_field([3], 2)
    sources, strengths = scenes.sources[0].double(), scenes.strengths[0].double()
    assert (strengths < 0).sum() == 8 and (strengths > 0).sum() == 4
    system = many_body.charged_particles(np.ones(1), sources.numpy(), strengths.numpy(), rivals.SOFTENING)
    place = np.array([0.4, -1.2])
    acceleration = system.field(np.array([*place, 0.0, 0.0]))[2:]
    found = rivals.true_force(torch.from_numpy(place)[None], sources, strengths)[0]
    np.testing.assert_allclose(found.numpy(), acceleration, rtol=1e-12)


@pytest.mark.parametrize("sources", [True, False])
def test_scenes_conserve_energy_and_belong_to_their_seed(sources):
    scenes = rivals.charges_in_field([4, 5], 3, sources)
    alone = rivals.charges_in_field([5], 3, sources)
    assert torch.equal(scenes.states[1], alone.states[0]) and not torch.equal(scenes.states[0], alone.states[0])
    hidden = (scenes.sources[0].double().numpy(), scenes.strengths[0].double().numpy()) if sources else (None, None)
    charges = scenes.charges[0].double().numpy()
    bodies = many_body.Bodies(np.ones_like(charges), "charge", charges, *hidden, rivals.SOFTENING)
    states = scenes.states[0].double()
    flat = torch.cat([states[..., :2].flatten(2), states[..., 2:].flatten(2)], -1).numpy()
    energy = bodies.energy(flat.swapaxes(0, 1))
    assert np.abs(energy - energy[0]).max() < 5e-3
    # velocities are the rates of the positions
    middle = (states[:, 2:, :, :2] - states[:, :-2, :, :2]) / (2 * rivals.INTERVAL)
    assert (middle - states[:, 1:-1, :, 2:]).abs().max() < 0.05


def test_gravity_scenes_each_have_their_own_sources():
    scenes = rivals.gravity_in_field([4], 3)
    first, rest = scenes.split(1)
    assert first.states.shape == (1, 1, rivals.FRAMES, 4, 4) and rest.sources.shape == (1, 2, 3, 2)
    assert (scenes.sources[0, 0] - scenes.sources[0, 1]).abs().min() > 0


def test_score_undoes_one_matrix_and_nothing_else():
    places = rivals.grid(21)
    draw = np.random.default_rng(1)
    truth = rivals.true_force(places, torch.from_numpy(draw.uniform(-4, 4, (6, 2))).float(), torch.ones(6))
    r_squared, cosine, matrix = rivals.score_field(truth @ (0.3 * Q.float()), truth)
    assert r_squared > 1 - 1e-6 and cosine > 1 - 1e-6
    torch.testing.assert_close(matrix, Q.T.float() / 0.3, rtol=1e-4, atol=1e-5)
    assert rivals.score_field(truth[torch.randperm(len(truth))], truth)[0] < 0.1
    assert rivals.score_field(truth + 1.0, truth)[0] < 0.95  # an offset is not forgiven
    seen = rivals.visited(places[[5, 5, 7]] + 0.01, 21, least=2)
    assert seen[5] and seen.sum() == 1


def test_a_seed_in_a_stack_trains_as_it_does_alone():
    scenes = rivals.charges_in_field([4, 5], 3)
    for dynamic in (False, True):
        together = aether.Aether([4, 5], 0.1, width=8, dynamic=dynamic)
        alone = aether.Aether([5], 0.1, width=8, dynamic=dynamic)
        start = alone.network.head.weights[0].clone()
        aether.train(together, scenes.states, scenes.charges, [4, 5], 2, batch=4, horizon=2)
        aether.train(alone, scenes.states[1:], scenes.charges[1:], [5], 2, batch=4, horizon=2)
        assert (alone.network.head.weights[0] - start).abs().max() > 1e-4
        for one, two in zip(alone.parameters(), together.parameters(), strict=True):
            torch.testing.assert_close(one[0], two[1], rtol=1e-4, atol=1e-5)
        moved = [parameter.grad.abs().max() > 0 for parameter in alone.field.parameters()]
        assert all(moved)


def test_training_finds_a_constant_force():
    states = torch.randn(1, 64, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    force = torch.tensor([0.6, -0.8])
    path = [states[:, :, 0]]
    for _ in range(4):
        places, velocities = path[-1].chunk(2, -1)
        path.append(torch.cat([places + 0.1 * velocities, velocities + 0.1 * force], -1))
    states, charges = torch.stack(path, 2), torch.ones(1, 64, 2)
    model = aether.Aether([0], 0.1, width=8)
    model = aether.train(model, states, charges, [0], 60, rate=2e-2, batch=16, horizon=1, observed=2)
    with torch.no_grad():
        error = (model(states[:, :, 0], charges) - states[:, :, 1]).square().mean()
        off = (model(states[:, :, 0], charges, aether.no_field) - states[:, :, 1]).square().mean()
    assert error < 0.4 * off


def test_bad_input_is_named():
    states, charges = scene()
    model = aether_model()
    forecast, train, score = unchecked(aether.forecast), unchecked(aether.train), unchecked(rivals.score_field)
    with pytest.raises(ValueError, match="states"):
        forecast(model, states * float("nan"), charges, 2)
    with pytest.raises(ValueError, match="charges"):
        forecast(model, states, charges[:, :, :2], 2)
    frames = states.unsqueeze(2).expand(-1, -1, 6, -1, -1)
    with pytest.raises(ValueError, match="states"):
        train(model, frames, charges, SEEDS, 1, horizon=6)
    with pytest.raises(ValueError, match="charges"):
        train(model, frames, charges[:1], SEEDS, 1)
    with pytest.raises(ValueError, match="interval"):
        aether.Aether(SEEDS, 0.0)
    with pytest.raises(ValueError, match="kind"):
        rivals.Fieldless(SEEDS, 0.1, "other")
    with pytest.raises(ValueError, match="learnt"):
        score(states[0, 0, :, :2], states[0, 0, :3, :2])
