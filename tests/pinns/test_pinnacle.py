"""PINNACLE: the kernel and its embedding, what is chosen and kept, pseudo-labels, and the choices it is compared with."""

import copy

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.arena import Budget
from touchstone.nn.jets import Jet
from touchstone.nn.networks import generators
from touchstone.pinns.pinnacle import (
    Pinnacle,
    Points,
    Run,
    Sites,
    candidates,
    embedding,
    jacobian,
    misfit,
    ranking,
    solve,
    train,
)
from touchstone.pinns.pinnacle_baselines import (
    WAYS,
    FixedShares,
    WithCoefficients,
    hammersley,
    inverse_network,
    kdv_inverse,
)
from touchstone.pinns.problems import burgers, conv, kdv, lorenz, wave
from touchstone.pinns.protocol import Recipe, TrainingDiverged, default_network, relative_error

SMALL = Pinnacle(total=30, fresh=12, inside=40, edge=12, further=5)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sites(seeds, count=40, every_time=2, most=5, shift=0.0):
    place = kdv().scale(torch.rand(count, 2, generator=torch.Generator().manual_seed(3)))
    return Sites(place, torch.cos(3 * place[:, 1]).expand(seeds, -1) + shift, every_time, most)


def start(problem, seeds=(0, 1), width=8, where=None):
    network = default_network(problem, seeds, width, 2) if problem.outputs == 1 else inverse_network(seeds)
    return Run(problem, network, Recipe(), generators(seeds, stream=1), sites=where,
               optimiser=torch.optim.Adam(network.parameters(), lr=1e-3))  # fmt: skip


def travelling(speed):
    """sin(x - speed t) with its first derivatives, as a network of one seed."""

    def network(points, orders):
        angle = points[..., 1:] - speed * points[..., :1]
        return Jet(torch.stack([angle.sin(), -speed * angle.cos(), angle.cos()], 1), tuple(orders))

    return network


def test_misfits_of_a_known_function():
    problem = conv(3.0)
    pool = candidates(
        problem, generators([0]), 20, 10, Sites(torch.tensor([[0.5, 1.0], [0.2, 2.0]]), torch.zeros(1, 2))
    )
    assert [pool.count(kind).item() for kind in range(3)] == [32, 10, 2]
    assert misfit(problem, travelling(3.0), pool)[pool.kinds < 2].abs().max() < 1e-6
    wrong = misfit(problem, travelling(5.0), pool)
    place, kind = pool.places[0], pool.kinds[0]
    assert torch.allclose(wrong[0, kind == 0], -2 * torch.cos(place[:, 1] - 5 * place[:, 0])[kind == 0], atol=1e-5)
    read = Points(pool.places, pool.kinds, torch.where(pool.kinds == 2, 0.25, 0.0))
    expected = torch.sin(place[:, 1] - 5 * place[:, 0])[kind == 2] - 0.25  # prediction minus reading
    assert torch.allclose(misfit(problem, travelling(5.0), read)[0, kind == 2], expected)


@pytest.mark.parametrize("make", [burgers, kdv_inverse])
def test_jacobian_equals_explicit_gradients_and_its_kernel_is_positive(make):
    problem = make()
    run = start(problem, where=sites(2) if make is kdv_inverse else None)
    network = run.network.double()
    pool = candidates(problem, run.draws, 3, 2, run.sites)
    pool = Points(pool.places.double(), pool.kinds, pool.readings.double())
    value, slope = jacobian(problem, network, pool)
    direct = misfit(problem, network, pool)
    assert torch.equal(value, direct.detach()) or (value - direct).abs().max() < 1e-12
    for seed in range(2):
        for n in range(pool.kinds.shape[1]):
            row = torch.autograd.grad(direct[seed, n], list(network.parameters()), retain_graph=True, allow_unused=True)
            row = [torch.zeros_like(w) if g is None else g for g, w in zip(row, network.parameters(), strict=True)]
            expected = torch.cat([g[seed].flatten() for g in row])
            assert (slope[seed, n] - expected).abs().max() < 1e-8 * (1 + expected.abs().max())
            assert all(g[1 - seed].abs().max() == 0 for g in row)
        kernel = slope[seed] @ slope[seed].T
        assert torch.linalg.eigvalsh(kernel).min() > -1e-10 * kernel.diagonal().sum()


def test_a_reference_equal_to_the_candidates_gives_the_kernel_back():
    slope, size = numbers(12, 50), numbers(12, seed=1)
    rows = embedding(slope, slope, size)
    kernel = slope @ slope.T
    assert rows.shape == (12, 12)
    assert abs(rows.sum(0).square().sum() / (size @ kernel @ size) - 1) < 1e-6
    assert (rows.square().sum(1) / (kernel.diagonal() * size**2) - 1).abs().max() < 1e-6
    assert torch.allclose(rows @ rows.T, size[:, None] * kernel * size)


def test_embedding_sees_only_what_the_reference_spans_and_ignores_repeats():
    slope, size = numbers(9, 40), numbers(9, seed=1)
    few = embedding(slope[:4], slope, size)
    repeated = embedding(torch.cat([slope[:4], slope[:4]]), slope, size)
    assert repeated.shape == (9, 4)  # the vanishing eigenvalues were dropped
    assert torch.allclose(few @ few.T, repeated @ repeated.T)
    assert (few.square().sum(1) <= (slope.square().sum(1) * size**2) * (1 + 1e-9)).all()
    away = slope[4:] - slope[4:] @ torch.linalg.pinv(slope[:4]) @ slope[:4]
    assert embedding(slope[:4], away, size[4:]).abs().max() < 1e-8


@pytest.mark.parametrize("spread", [False, True])
def test_candidates_without_misfit_are_never_chosen(spread):
    rows = numbers(30, 5) * (torch.arange(30) % 3 == 0)[:, None]
    for seed in range(20):
        chosen = ranking(rows, 25, spread, torch.Generator().manual_seed(seed))
        assert len(chosen) == len(set(chosen.tolist())) == 10 and (chosen % 3 == 0).all()
    assert len(ranking(torch.zeros(4, 2), 3, spread, torch.Generator())) == 0


def test_sampling_follows_the_squared_length_and_spreading_avoids_neighbours():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    first = torch.stack([ranking(rows, 2, False, draw)[0] for _ in range(2000)])
    share = first.bincount(minlength=3) / 2000
    assert (share - torch.tensor([1, 4, 4]) / 9).abs().max() < 0.05
    crowd = torch.cat([torch.full((50, 1), 3.0), torch.full((1, 1), -3.0)]).double() + 1e-3 * numbers(51, 1)
    assert all(50 in ranking(crowd, 2, True, draw) for _ in range(20))
    assert sum(50 in ranking(crowd, 2, False, draw).tolist() for _ in range(20)) < 5


def test_bookkeeping_of_kinds_budget_and_measurements():
    problem, kept, counts = kdv_inverse(), [], []

    def watch(run):
        kept.append(run.points)
        counts.append([run.points.count(kind).tolist() for kind in range(3)])

    run = start(problem, where=sites(2))
    train(problem, run.network, [0, 1], SMALL, Recipe(steps=5), every=1, sites=run.sites, watch=watch)
    assert [p.kinds.shape[1] for p in kept] == [14, 28, 30, 30, 30]  # grows to the total, then stays there
    assert [c[2] for c in counts] == [[2, 2], [4, 4], [5, 5], [5, 5], [5, 5]]
    assert all(min(c[kind]) > 0 for c in counts for kind in range(2))
    for old, new in zip(kept[:-1], kept[1:], strict=True):
        for seed in range(2):
            old_set, new_set = ({tuple(z) for z in p.places[seed][p.kinds[seed] == 2].tolist()} for p in (old, new))
            assert old_set <= new_set
            olds, news = (
                list(zip(p.kinds[seed].tolist(), map(tuple, p.places[seed].tolist()), strict=True)) for p in (old, new)
            )
            fresh = 12 + int(new.count(2)[seed] - old.count(2)[seed])
            assert set(news[fresh:]) <= set(olds) and not set(news[:fresh]) <= set(olds)
    last = kept[-1]
    measured = last.kinds == 2
    assert torch.allclose(last.readings[measured], torch.cos(3 * last.places[..., 1])[measured])
    assert last.readings[~measured].abs().max() == 0
    problem.check(last.places)
    assert last.places[..., 0][last.kinds == 1].abs().max() == 0  # initial points lie at the first time


def test_scores_never_see_the_readings_of_sites_that_were_not_chosen():
    chosen = [SMALL(start(kdv_inverse(), where=sites(2, shift=shift))) for shift in (0.0, 5.0)]
    assert torch.equal(chosen[0].places, chosen[1].places) and torch.equal(chosen[0].kinds, chosen[1].kinds)
    measured = chosen[0].kinds == 2
    assert torch.allclose(chosen[1].readings[measured] - chosen[0].readings[measured], torch.tensor(5.0))


def test_pseudo_labels_come_from_the_network_as_further_training_makes_it():
    run = start(burgers())
    points = candidates(run.problem, run.draws, 20, 5)
    run.descend(points, 3)  # so that the optimiser has moments to go on with
    before = [w.detach().clone() for w in run.network.parameters()]
    later = run.ahead(points, 4)
    assert all(torch.equal(a, b) for a, b in zip(before, run.network.parameters(), strict=True))
    run.descend(points, 4)
    assert all(torch.equal(a, b) for a, b in zip(later.parameters(), run.network.parameters(), strict=True))
    assert not torch.equal(before[0], next(run.network.parameters()))


def test_every_kind_is_averaged_over_its_own_points():
    run = start(burgers())
    points = candidates(run.problem, run.draws, 9, 4)
    size = misfit(run.problem, run.network, points).detach().square()
    expected = [sum(size[s][points.kinds[s] == kind].mean() for kind in range(3)) for s in range(2)]
    assert torch.allclose(run.descend(points), torch.stack(expected))


def test_ablations_leave_one_part_out():
    problem = conv(2.0)
    run = start(problem)
    run.points = candidates(problem, run.draws, 10, 5)
    for part in ({"kernel": False}, {"misfits": False}):
        plain, less = (Pinnacle(total=30, fresh=12, spread=False, **p)(copy.deepcopy(run)) for p in ({}, part))
        assert plain.kinds.shape == less.kinds.shape == (2, 30)
        assert not torch.equal(plain.places, less.places)


@pytest.mark.parametrize("way", WAYS)
def test_fixed_shares_are_kept(way):
    run, choose = start(burgers()), FixedShares(total=40, share=0.5, way=way)
    first = run.points = choose(run)
    assert first.kinds.shape == (2, 40)
    assert [first.count(kind).tolist() for kind in range(3)] == [[20, 20], [10, 10], [10, 10]]
    edge = first.places[first.kinds == 2]
    assert (edge[:, 1].abs() == 1).all() and 2 <= (edge[:, 1] == 1).sum() <= 18
    assert (first.places[first.kinds == 1][:, 0] == 0).all()
    assert torch.equal(choose(run).places, first.places) == (way == "Hammersley")
    run.problem.check(first.places)


def test_random_measurements_are_added_and_kept():
    run, choose = start(kdv_inverse(), where=sites(2)), FixedShares(total=30)
    counts, seen = [], []
    for _ in range(4):
        run.points = choose(run)
        assert run.points.kinds.shape[1] == 30
        counts.append(run.points.count(2).tolist())
        seen.append(run.points.places[run.points.kinds == 2].view(2, -1, 2))
    assert counts == [[2, 2], [4, 4], [5, 5], [5, 5]]
    assert torch.equal(seen[0], seen[1][:, :2]) and torch.equal(seen[2], seen[3])


def test_residual_adaptive_points_prefer_large_misfits():
    run = start(conv(1.0))
    uniform, adapted = (FixedShares(total=200, way=way)(run) for way in ("uniform", "RAD"))
    sizes = [misfit(run.problem, run.network, p)[p.kinds == 0].abs().mean() for p in (uniform, adapted)]
    assert sizes[1] > 1.05 * sizes[0]


def test_hammersley_set():
    points = hammersley(8, 2)
    assert torch.allclose(points[:, 0], (torch.arange(8) + 0.5) / 8)
    assert torch.allclose(points[:, 1], torch.tensor([0, 4, 2, 6, 1, 5, 3, 7]) / 8)
    assert hammersley(5, 1).shape == (5, 1)


def test_unknown_coefficients_travel_behind_the_solution():
    network, known = inverse_network([0, 1]), kdv()
    assert torch.allclose(network.coefficients, torch.tensor([0.5, 0.005]).expand(2, 2))
    points = known.scale(torch.rand(2, 9, 2))
    jet = network(points, known.orders)
    assert torch.allclose(jet.value[..., 1:], torch.tensor([0.5, 0.005]).expand(2, 9, 2))
    assert jet.d(0)[..., 1:].abs().max() == jet.d(1, 3)[..., 1:].abs().max() == 0
    truth = WithCoefficients(network.network, (1.0, 0.0025), (1.0, 0.01))
    expected = known.residual(network.network, points)
    assert torch.allclose(kdv_inverse().residual(truth, points), expected, atol=1e-5)
    assert not torch.allclose(kdv_inverse().residual(network, points), expected, atol=1e-2)


@pytest.mark.parametrize("choose", [SMALL, FixedShares(total=30)])
def test_training_repeats_bit_for_bit_and_lowers_the_error(choose):
    errors = []
    for _ in range(2):
        problem = conv(1.0)
        network = default_network(problem, [0], 16, 1)
        before = relative_error(problem, network)[0]
        run = train(problem, network, [0], choose, Recipe(steps=40, first_rate=1e-2, last_rate=5e-3), every=20)
        errors.append(relative_error(problem, network)[0])
    assert run.step == 40 and run.selection_s > 0
    assert errors[0] == errors[1] < 0.9 * before


@pytest.mark.parametrize(
    "choose", [SMALL, Pinnacle(total=30, fresh=12, spread=False), FixedShares(total=30, way="RAD")]
)
def test_a_seed_in_a_stack_chooses_and_trains_as_it_does_alone(choose):
    problem = burgers()
    networks = [default_network(problem, seeds, 8, 2) for seeds in ([0, 1], [1])]
    stack, alone = (
        train(problem, network, seeds, choose, Recipe(steps=4), every=2)
        for network, seeds in zip(networks, ([0, 1], [1]), strict=True)
    )
    assert torch.equal(stack.points.kinds[1], alone.points.kinds[0])
    assert torch.allclose(stack.points.places[1], alone.points.places[0])
    for together, single in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.allclose(together[1], single[0], atol=1e-5)


@pytest.mark.parametrize("every", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(every):
    problem = conv(1.0)
    network, recipe = default_network(problem, [0, 1], 8, 2), Recipe(steps=9, first_rate=1e30, last_rate=1e30)
    with pytest.raises(TrainingDiverged, match=r"step 1 \(networks \[0, 1\] of the stack\)"):
        train(problem, network, [0, 1], SMALL, recipe, every=every)


def test_solver_enters_the_ring_and_declines_what_it_cannot_do():
    solution = solve(conv(1.0), Budget(0.5), 0)
    assert solution.steps > 0 and np.isfinite(solution.rel_l2)
    for problem in (lorenz(0.1), wave()):
        with pytest.raises(ValueError, match=problem.name.split("(")[0]):
            solve(problem, Budget(0.5), 0)


def test_bad_arguments_are_named():
    rows, draw = numbers(6, 3), torch.Generator()
    with pytest.raises(ValueError, match="reference is empty"):
        unchecked(embedding)(rows[:0], rows, rows[:, 0])
    with pytest.raises(ValueError, match="candidates has shape"):
        unchecked(embedding)(rows, rows[:, :2], rows[:, 0])
    with pytest.raises(ValueError, match="misfits holds 6 NaN"):
        unchecked(embedding)(rows, rows, rows[:, 0] * torch.nan)
    with pytest.raises(ValueError, match="rows holds 18 NaN"):
        unchecked(ranking)(rows * torch.nan, 2, True, draw)
    with pytest.raises(ValueError, match="count is 0"):
        unchecked(ranking)(rows, 0, True, draw)
    with pytest.raises(ValueError, match="way is 'random'"):
        FixedShares(way="random")
    with pytest.raises(ValueError, match="share is 1"):
        FixedShares(share=1.0)
    with pytest.raises(ValueError, match="fresh is 300"):
        Pinnacle(fresh=300)
    problem = burgers()
    network = default_network(problem, [0])
    place = torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match="kinds must lie in 0..3"):
        misfit(problem, network, Points.of(4, place))
    with pytest.raises(ValueError, match="places holds 4 NaN"):
        misfit(problem, network, Points.of(0, place * torch.nan))
    with pytest.raises(ValueError, match="candidates have a misfit"):
        SMALL._pick(torch.zeros(20, 3), torch.arange(20) % 3, 0, 3, draw)
