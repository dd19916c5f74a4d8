"""Hard constraints: the solve against closed forms, its implicit gradient against differences, and the blocks."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.pinns import diffusion_sorption as ds
from touchstone.pinns.moe_hard_constraints import (
    HardConstrained,
    System,
    assemble,
    block_owner,
    block_points,
    hard_constraint,
    levenberg_marquardt,
    residual_norm,
)

SORPTION = System(ds.derivative_terms, ds.equation, ds.edge_rows)
TIGHT = {"iterations": 300, "tolerance": 1e-13}


def curved(terms):
    """A nonlinear equation of two terms whose residual does not vanish at the minimum."""
    u, slope = terms.unbind(-2)
    return slope + u**2 - 0.3 * u * slope - 0.5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(solves=2, points=25, basis=4, rows=3):
    return draw(solves, 2, points, basis), draw(solves, rows, basis, seed=1), draw(solves, rows, seed=2)


class Fixed(torch.nn.Module):
    """A backbone whose basis functions are its parameters, the same for every case."""

    def __init__(self, basis):
        super().__init__()
        self.basis = torch.nn.Parameter(basis)

    def forward(self, inputs):
        return self.basis.expand(len(inputs), *self.basis.shape)


def test_linear_equation_gives_the_ridge_closed_form():
    terms, edges, targets = problem()
    found = levenberg_marquardt(lambda v: 2 * v[:, 0] - 3 * v[:, 1] - 1, terms, edges, targets, ridge=0.1, **TIGHT)
    stacked = torch.cat([2 * terms[:, 0] - 3 * terms[:, 1], edges, 0.1 * torch.eye(4).double().expand(2, 4, 4)], 1)
    right = torch.cat([torch.ones(2, 25).double(), targets, torch.zeros(2, 4).double()], 1)
    closed = torch.linalg.lstsq(stacked, right[..., None]).solution[..., 0]
    assert (found.weights - closed).abs().max() < 1e-8


def test_nonlinear_solve_ends_where_the_gradient_vanishes_and_no_iteration_raises_the_cost():
    terms, edges, targets = problem()

    def cost(weights):
        values = torch.einsum("skpn,sn->skp", terms, weights)
        misfit = torch.einsum("srn,sn->sr", edges, weights) - targets
        return (curved(values).square().sum(1) + misfit.square().sum(1) + 1e-8 * weights.square().sum(1)) / 2

    costs = [cost(levenberg_marquardt(curved, terms, edges, targets, iterations=n).weights) for n in range(12)]
    assert (torch.stack(costs).diff(dim=0) <= 1e-10).all()
    assert (costs[-1] < 0.5 * costs[0]).all()
    weights = levenberg_marquardt(curved, terms, edges, targets, **TIGHT).weights.requires_grad_()
    (gradient,) = torch.autograd.grad(cost(weights).sum(), weights)
    assert gradient.abs().max() < 1e-6
    assert (cost(weights.detach()) > 0.1).all()  # the exact Hessian matters in the next test


@pytest.mark.parametrize("which", [0, 1, 2])
def test_implicit_gradient_equals_differences_through_the_converged_solver(which):
    arguments = [part.requires_grad_() for part in problem()]
    upstream = draw(2, 4, seed=3)

    def scalar(changed):
        inputs = [*arguments[:which], changed, *arguments[which + 1 :]]
        return (hard_constraint(curved, *inputs, ridge=0.05, **TIGHT).weights * upstream).sum()

    (gradient,) = torch.autograd.grad(scalar(arguments[which]), arguments[which])
    for seed in range(3):
        direction = draw(*gradient.shape, seed=10 + seed)
        with torch.no_grad():
            difference = (
                scalar(arguments[which] + 1e-5 * direction) - scalar(arguments[which] - 1e-5 * direction)
            ) / 2e-5
        assert abs((gradient * direction).sum() - difference) < 1e-4 * abs(difference)


def test_gradient_of_the_whole_layer_reaches_the_basis():
    start = torch.tensor([0.1], dtype=torch.float64)
    targets, scales = ds.edge_values(start, 6, 9)
    model = HardConstrained(Fixed(draw(3, 6, 9)), SORPTION, experts=3, points=None, ridge=0.05, **TIGHT)
    inputs = ds.network_inputs(start, 6, 9)

    def loss():
        return residual_norm(SORPTION, model(inputs, targets, scales)).sum()

    loss().backward()
    basis, direction = model.backbone.basis, draw(3, 6, 9, seed=5)
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            basis += sign * 1e-6 * direction
            ends.append(loss())
            basis -= sign * 1e-6 * direction
    difference = (ends[0] - ends[1]) / 2e-6
    assert abs((basis.grad * direction).sum() - difference) < 1e-4 * abs(difference)


@pytest.mark.parametrize("experts, axis", [(1, 1), (4, 1), (4, 0)])
def test_a_solution_in_the_span_is_found(experts, axis):
    start = torch.tensor([0.12], dtype=torch.float64)
    truth = ds.grid_solution(start, 21, 16)
    basis = torch.cat([truth, draw(3, 21, 16), torch.ones(1, 21, 16, dtype=torch.float64)])
    targets, scales = ds.edge_values(start, 21, 16)
    model = HardConstrained(Fixed(basis), SORPTION, experts, axis, points=80, iterations=50)
    found = model(ds.network_inputs(start, 21, 16), targets, scales)
    assert (found - truth)[:, 1:].abs().max() < 1e-3


def test_one_expert_is_the_global_constraint_and_permuted_experts_give_permuted_weights():
    basis = draw(2, 5, 9, 12)
    targets, scales = ds.edge_values(torch.tensor([0.1, 0.2], dtype=torch.float64), 9, 12)
    one, four = (HardConstrained(torch.nn.Identity(), SORPTION, experts, points=None) for experts in (1, 4))
    rows = (ds.edge_rows(basis).mT / scales[..., None], targets / scales)
    terms = ds.derivative_terms(basis).permute(0, 2, 3, 4, 1).flatten(2, 3)
    weights = levenberg_marquardt(ds.equation, terms, *rows).weights
    assert torch.equal(one(basis, targets, scales), torch.einsum("cn,cntx->ctx", weights, basis))
    parts, edges = four.problems(basis, scales)
    solved = [levenberg_marquardt(ds.equation, part, edges, rows[1]).weights for part in parts]
    order = [2, 0, 3, 1]
    shuffled = torch.stack([solved[k] for k in order], 1)
    field = assemble(basis, torch.stack(solved, 1))
    for place, expert in enumerate(order):
        mine, theirs = slice(3 * place, 3 * place + 3), slice(3 * expert, 3 * expert + 3)
        assert torch.equal(
            assemble(basis, shuffled)[..., mine], torch.einsum("cn,cntx->ctx", solved[expert], basis)[..., mine]
        )
        assert torch.equal(field[..., theirs], torch.einsum("cn,cntx->ctx", solved[expert], basis)[..., theirs])
    assert torch.equal(four(basis, targets, scales), field)


def test_experts_with_equal_weights_leave_no_seam():
    basis, weights = draw(1, 3, 8, 12), draw(1, 1, 3)
    whole = assemble(basis, weights)
    for axis in (0, 1):
        assert torch.equal(assemble(basis, weights.expand(1, 4, 3), axis), whole)
    # a jump between blocks is seen by the loss, in the two columns next to the border and nowhere else
    jump = block_owner(12, 2).double().expand(1, 8, 12)
    bend = ds.derivative_terms(jump)[:, 2].abs().sum((0, 1))
    assert bend.nonzero()[:, 0].tolist() == [4, 5]  # places 5 and 6 of 12: the border is between them


@pytest.mark.parametrize("axis", [0, 1])
def test_every_expert_draws_its_own_points_in_its_own_block(axis):
    t, x = torch.meshgrid(torch.arange(9.0).double(), torch.arange(12.0).double(), indexing="ij")
    basis = torch.stack([t, x])[None]
    model = HardConstrained(torch.nn.Identity(), SORPTION, 3, axis, points=30)
    terms, _ = model.problems(basis, torch.ones(1, 10 + 2 * 8).double(), torch.Generator().manual_seed(0))
    owner = block_owner((9, 12)[axis], 3)
    for expert, part in enumerate(terms):
        place = part[0, 0]  # values of the basis: the coordinates of the points
        assert part.shape == (1, 3, 10, 2)
        assert (owner[place[:, axis].long()] == expert).all()
        assert len(place.unique(dim=0)) == 10
        assert place[:, 0].min() >= 1  # no residual at the initial time nor at the ends
        assert 1 <= place[:, 1].min() <= place[:, 1].max() <= 10
    blocks = block_points(owner, (8, 10), axis)
    assert sorted(torch.cat(blocks).tolist()) == list(range(80))


def test_blocks_are_consecutive_and_nearly_equal():
    assert block_owner(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    for experts in (0, 8):
        with pytest.raises(ValueError, match=f"experts is {experts}"):
            block_owner(7, experts)


TERMS, EDGES, TARGETS = problem()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((TERMS * torch.nan, EDGES, TARGETS), "terms holds 400 NaN"),
        ((TERMS[0], EDGES, TARGETS), "terms has shape"),
        ((TERMS, EDGES[:, :, :3], TARGETS), "edges has shape"),
        ((TERMS, EDGES, TARGETS[:1]), "targets has shape"),
        ((TERMS[:, :, :0], EDGES, TARGETS), "terms is empty"),
    ],
)
def test_bad_problems_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        unchecked(levenberg_marquardt)(curved, *arguments)


def test_bad_layer_arguments_are_named():
    start = torch.tensor([0.1], dtype=torch.float64)
    inputs, (targets, scales) = ds.network_inputs(start, 9, 12), ds.edge_values(start, 9, 12)
    model = HardConstrained(torch.nn.Identity(), SORPTION, experts=4, points=200)
    forward = unchecked(HardConstrained.forward)
    for arguments, message in [
        ((inputs, targets, scales), "points is 200: each of 4 experts needs 1 to 16"),
        ((inputs[0], targets, scales), "inputs has shape"),
        ((inputs, targets * torch.inf, scales), "targets holds"),
        ((inputs, targets, scales[:, :5]), "scales has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            forward(model, *arguments)
