r"""Physics as a hard constraint: small differentiable least-squares solves, one an expert, on basis functions of a network.

A network supplies basis functions :math:`b_1..b_N` on a grid. The solution is :math:`u=\sum_j w_jb_j`, and the weights are
not learned but solved for, so that the equation and its initial and boundary conditions hold as well as the basis allows.
With several experts the grid is cut into blocks; each expert sees the equation in its own block and the conditions
everywhere, solves for its own weights, and delivers its block. The gradient passes through the solution of each solve, not
through its iterations.

Source: Chalapathi, Du and Krishnapriyan (2024), arXiv:2402.13412, section 3 and algorithm 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from touchstone.checks import finite, shaped

Equation = Callable[[Tensor], Tensor]


class Solve(NamedTuple):
    """Weights ``[solves, basis]`` of a batch of least-squares problems, and the iterations that each took ``[solves]``."""

    weights: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class System:
    """A differential equation on a grid of times and places, linear in everything but one function of a few terms.

    Attributes:
        terms: finite differences of fields ``[..., times, places]`` that the equation needs, ``[..., terms, rows, columns]``,
            on the grid without ``border`` first times and ``border`` places at either end; linear in the field.
        equation: residual from terms, ``[..., terms, points]`` to ``[..., points]``, each point for itself.
        edges: what initial and boundary conditions are about, ``[..., rows]``; linear in the field.
        border: number of times and places without a residual.
    """

    terms: Callable[[Tensor], Tensor]
    equation: Equation
    edges: Callable[[Tensor], Tensor]
    border: int = 1


def residual_norm(system: System, field: Float[Tensor, "cases times places"]) -> Float[Tensor, " cases"]:
    """Euclidean norm of the equation's residual over the whole grid, differences across block borders included: the training loss."""
    return system.equation(system.terms(field).flatten(-2)).norm(dim=-1)


def _linearise(equation: Equation, values: Tensor) -> tuple[Tensor, Tensor]:
    """Residual of every point, and its slope with respect to each term."""
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        residual = equation(values)
        (slopes,) = torch.autograd.grad(residual.sum(), values)
    return residual.detach(), slopes


def _curvature(equation: Equation, values: Tensor) -> Tensor:
    """Second derivatives of half the squared residual of every point with respect to its terms, ``[solves, terms, terms, points]``."""
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        (pull,) = torch.autograd.grad(equation(values).square().sum() / 2, values, create_graph=True)
        rows = [torch.autograd.grad(part.sum(), values, retain_graph=True)[0] for part in pull.unbind(1)]
    return torch.stack(rows, 1)


def _combine(terms: Tensor, weights: Tensor) -> Tensor:
    """Terms of the recombined field, ``[solves, terms, points]``."""
    return torch.bmm(terms.flatten(1, 2), weights[..., None]).view(terms.shape[:3])


def levenberg_marquardt(
    equation: Equation,
    terms: Float[Tensor, "solves terms points basis"],
    edges: Float[Tensor, "solves rows basis"],
    targets: Float[Tensor, "solves rows"],
    ridge: float = 1e-4,
    iterations: int = 15,
    tolerance: float = 1e-4,
) -> Solve:
    r"""Minimise :math:`\tfrac12\|f(Tw)\|^2+\tfrac12\|Aw-c\|^2+\tfrac12\rho^2\|w\|^2` from :math:`w=1`, a batch of problems at once.

    Args:
        equation: the :math:`f`, from terms to residuals.
        terms: the :math:`T`, terms of each basis function at the sampled points.
        edges: the :math:`A`, condition rows of each basis function.
        targets: the :math:`c`.
        ridge: the :math:`\rho`.
        iterations: most trial steps.
        tolerance: stop when an accepted step is that small, relative to the weights.

    Returns:
        weights and the number of iterations of each problem; no gradient passes.

    Raises:
        ValueError: if an argument is empty, not finite, or of a shape that does not fit the others.
    """
    sizes = shaped("terms", terms, ("solves", "terms", "points", "basis"))
    shaped("edges", edges, (sizes["solves"], "rows", sizes["basis"]))
    shaped("targets", targets, (sizes["solves"], edges.shape[1]))
    finite(terms=terms, edges=edges, targets=targets)
    with torch.no_grad():
        fixed = torch.bmm(edges.mT, edges) + ridge**2 * torch.eye(edges.shape[2], dtype=edges.dtype)
        pull = torch.bmm(edges.mT, targets[..., None])[..., 0]

        def quadratic(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            residual, slopes = _linearise(equation, _combine(terms, weights))
            jacobian = torch.einsum("skp,skpn->spn", slopes, terms)
            gram = torch.bmm(jacobian.mT, jacobian) + fixed
            gradient = torch.bmm(jacobian.mT, residual[..., None])[..., 0]
            gradient = gradient + torch.bmm(fixed, weights[..., None])[..., 0] - pull
            misfit = torch.bmm(edges, weights[..., None])[..., 0] - targets
            return sum(part.square().sum(-1) for part in (residual, misfit, ridge * weights)), gradient, gram

        weights = torch.ones_like(edges[:, 0])
        damping = torch.full_like(targets[:, 0], 1e-3)
        done, used = torch.zeros_like(damping, dtype=torch.bool), torch.zeros_like(damping, dtype=torch.long)
        cost, gradient, gram = quadratic(weights)
        for _ in range(iterations):
            scaled = torch.diag_embed(damping[:, None] * gram.diagonal(dim1=1, dim2=2))
            step = -torch.linalg.solve_ex(gram + scaled, gradient)[0]
            trial = quadratic(weights + step)
            # a cost equal up to rounding counts as accepted: the last digits of the weights do not show in it
            better = (trial[0] <= cost * (1 + 1e-12)) & ~done
            used += ~done
            weights = torch.where(better[:, None], weights + step, weights)
            cost, gradient = torch.where(better, trial[0], cost), torch.where(better[:, None], trial[1], gradient)
            gram = torch.where(better[:, None, None], trial[2], gram)
            damping = (damping * torch.where(better, 0.1, 10.0)).clamp(1e-12, 1e12)
            done |= better & (step.norm(dim=-1) <= tolerance * weights.norm(dim=-1))
            if bool(done.all()):
                break
    return Solve(weights, used)


class _Constraint(torch.autograd.Function):
    r"""The solve with its implicit gradient: :math:`g(w^\ast,\theta)=0` gives :math:`\bar\theta=-\lambda^\top\partial_\theta g`, :math:`H\lambda=\bar w`."""

    @staticmethod
    def forward(ctx, terms, edges, targets, equation, options):
        weights, used = levenberg_marquardt(equation, terms, edges, targets, **options)
        ctx.save_for_backward(terms, edges, targets, weights)
        ctx.equation, ctx.ridge = equation, options.get("ridge", 1e-4)
        ctx.mark_non_differentiable(used)
        return weights, used

    @staticmethod
    def backward(ctx, upstream, _):
        terms, edges, targets, weights = ctx.saved_tensors
        values = _combine(terms, weights)
        residual, slopes = _linearise(ctx.equation, values)
        curvature = _curvature(ctx.equation, values)
        bent = torch.einsum("sklp,slpn->skpn", curvature, terms).flatten(1, 2)
        hessian = torch.bmm(terms.flatten(1, 2).mT, bent) + torch.bmm(edges.mT, edges)
        values, vectors = torch.linalg.eigh(hessian + ctx.ridge**2 * torch.eye(weights.shape[1], dtype=weights.dtype))
        # at a minimum no eigenvalue is below the ridge's; where the iterations ran out, this keeps the solve stable
        dual = torch.bmm(vectors.mT, upstream[..., None]) / values.clamp(min=ctx.ridge**2)[..., None]
        dual = torch.bmm(vectors, dual)[..., 0]
        along = torch.einsum("sklp,slp->skp", curvature, _combine(terms, dual))
        direct = slopes * residual[:, None]
        terms_bar = direct[..., None] * dual[:, None, None] + along[..., None] * weights[:, None, None]
        misfit = torch.bmm(edges, weights[..., None])[..., 0] - targets
        pushed = torch.bmm(edges, dual[..., None])[..., 0]
        edges_bar = misfit[..., None] * dual[:, None] + pushed[..., None] * weights[:, None]
        return -terms_bar, -edges_bar, pushed, None, None


def hard_constraint(
    equation: Equation,
    terms: Float[Tensor, "solves terms points basis"],
    edges: Float[Tensor, "solves rows basis"],
    targets: Float[Tensor, "solves rows"],
    **options: int | float,
) -> Solve:
    r"""The solve as a differentiable layer, by the implicit function theorem (section 3.1).

    Args:
        equation: from terms to residuals.
        terms: terms of each basis function at the sampled points; gradients reach them.
        edges: condition rows of each basis function; gradients reach them.
        targets: what the rows should be; gradients reach them.
        **options: ``ridge``, ``iterations`` and ``tolerance`` of :func:`levenberg_marquardt`.

    Returns:
        weights and the number of iterations of each problem.

    Raises:
        ValueError: if an argument is empty, not finite, or of a shape that does not fit the others.
    """
    return Solve(*_Constraint.apply(terms, edges, targets, equation, options))


def block_owner(size: int, experts: int) -> Int[Tensor, " size"]:
    """The expert that owns each row or column of the grid: consecutive blocks as equal as possible.

    Args:
        size: rows or columns.
        experts: number of blocks.

    Returns:
        numbers from 0 to ``experts - 1``.

    Raises:
        ValueError: if there are fewer rows than experts, or no expert.
    """
    if not 1 <= experts <= size:
        raise ValueError(f"experts is {experts}: give a number from 1 to {size}, the size of the grid")
    return torch.arange(size) * experts // size


def block_points(owner: Int[Tensor, " size"], shape: Sequence[int], axis: int, border: int = 1) -> list[Tensor]:
    """For every expert the flat indices of the residual's points in its block.

    Args:
        owner: the expert of each row (``axis`` 0, time) or column (``axis`` 1, space) of the whole grid.
        shape: rows and columns on which the residual lives.
        axis: along which the grid is cut.
        border: rows or columns before the residual's first.

    Returns:
        one index tensor an expert.
    """
    line = owner[border : border + shape[axis]]
    labels = (line[:, None] if axis == 0 else line[None]).expand(*shape).reshape(-1)
    return [torch.nonzero(labels == expert)[:, 0] for expert in range(int(owner.max()) + 1)]


class HardConstrained(nn.Module):
    """An operator that supplies basis functions, and the experts that solve for their coefficients.

    Args:
        backbone: maps inputs ``[cases, channels, times, places]`` to basis functions ``[cases, basis, times, places]``.
        system: the discretised equation.
        experts: number of blocks; 1 is the global hard constraint.
        axis: cut the grid along time (0) or space (1).
        points: residual points of one case in all solves together, drawn anew at each call; ``None`` takes all.
        **options: ``ridge``, ``iterations`` and ``tolerance`` of the solves.
    """

    def __init__(
        self,
        backbone: nn.Module,
        system: System,
        experts: int = 1,
        axis: int = 1,
        points: int | None = 512,
        **options: int | float,
    ):
        super().__init__()
        self.backbone, self.system, self.experts, self.axis = backbone, system, experts, axis
        self.points, self.options = points, options

    def problems(
        self,
        basis: Float[Tensor, "cases basis times places"],
        scales: Float[Tensor, "cases rows"],
        generator: torch.Generator | None = None,
    ) -> tuple[list[Float[Tensor, "cases terms points basis"]], Float[Tensor, "cases rows basis"]]:
        """The least-squares problem of every expert.

        Args:
            basis: basis functions on the grid.
            scales: what the condition rows are divided by.
            generator: draws the points.

        Returns:
            the terms at every expert's points, and the condition rows that all experts share.
        """
        differences = self.system.terms(basis)
        owner = block_owner(basis.shape[2 + self.axis], self.experts)
        blocks = block_points(owner, differences.shape[-2:], self.axis, self.system.border)
        flat = rearrange(differences, "cases basis terms rows columns -> cases (rows columns) terms basis")
        share = None if self.points is None else self.points // self.experts
        terms = []
        for block in blocks:
            chosen = block.expand(len(basis), -1)
            if share is not None:
                if not 1 <= share <= len(block):
                    raise ValueError(f"points is {self.points}: each of {self.experts} experts needs 1 to {len(block)}")
                order = torch.rand(chosen.shape, generator=generator).argsort(1)[:, :share]
                chosen = chosen.gather(1, order)
            picked = flat[torch.arange(len(basis))[:, None], chosen]
            terms.append(rearrange(picked, "cases points terms basis -> cases terms points basis"))
        return terms, self.system.edges(basis).mT / scales[..., None]

    def forward(
        self,
        inputs: Float[Tensor, "cases channels times places"],
        targets: Float[Tensor, "cases rows"],
        scales: Float[Tensor, "cases rows"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "cases times places"]:
        """The constrained solution, put together block by block.

        Args:
            inputs: input channels of the backbone.
            targets: initial and boundary values of every case.
            scales: what their misfits are divided by.
            generator: draws the residual points.

        Returns:
            the field on the grid.

        Raises:
            ValueError: if an argument is empty or not finite, shapes do not fit, or a block has fewer points than its expert draws.
        """
        shaped("inputs", inputs, ("cases", "channels", "times", "places"))
        shaped("targets", targets, (len(inputs), "rows"))
        shaped("scales", scales, tuple(targets.shape))
        finite(inputs=inputs, targets=targets, scales=scales)
        basis = self.backbone(inputs)
        terms, edges = self.problems(basis, scales, generator)
        goal = targets / scales
        if self.points is None:  # blocks may differ in size
            weights = [
                hard_constraint(self.system.equation, part, edges, goal, **self.options).weights for part in terms
            ]
            weights = torch.stack(weights, 1)
        else:  # one batch of all cases and experts
            stacked = torch.stack(terms, 1).flatten(0, 1)
            repeated = [part.repeat_interleave(self.experts, 0) for part in (edges, goal)]
            solved = hard_constraint(self.system.equation, stacked, *repeated, **self.options)
            weights = solved.weights.unflatten(0, (len(basis), self.experts))
        return assemble(basis, weights, self.axis)


def assemble(
    basis: Float[Tensor, "cases basis times places"], weights: Float[Tensor, "cases experts basis"], axis: int = 1
) -> Float[Tensor, "cases times places"]:
    """Each expert's combination of the basis in its own block.

    Args:
        basis: basis functions on the grid.
        weights: coefficients of every expert.
        axis: the grid was cut along time (0) or space (1).

    Returns:
        the field on the grid.
    """
    owner = block_owner(basis.shape[2 + axis], weights.shape[1])
    line = "t" if axis == 0 else "x"
    return torch.einsum(f"cntx,c{line}n->ctx", basis, weights[:, owner])
