r"""PINNACLE: residual, initial, boundary and measurement points chosen together by one empirical tangent kernel.

An *augmented point* :math:`z=(x,\ell)` is a place and what is asked of the network there: the equation, one of the known
conditions, or a measurement. All kinds have one misfit :math:`R(z)` and one gradient :math:`J(z)=\nabla_\theta R(z)`, and so
one kernel :math:`\Theta(z,z')=J(z)\cdot J(z')`, which says how much a training step on :math:`z'` moves the misfit at :math:`z`.
New points are drawn among candidates by their embedding into the kernel's leading directions, weighted with their misfit.

Source: Lau, Hemachandra, Ng and Low (2024), arXiv:2404.07662. Two details are those of the authors' code: every kind that has
candidates gets a point in every selection, and measurements have a quota of their own.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from sklearn.cluster import kmeans_plusplus
from torch import Tensor, nn

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.nn.networks import generators, uniform
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Recipe, Solution, State, TrainingDiverged, default_network, hand_back

RESIDUAL = 0  # kinds: the residual, then the problem's conditions in their order, then measurements
EDGE_PLACES = 1024  # places on an edge from which its candidates are drawn
CUTOFF = 1e-8  # eigenvalues of the reference kernel below it are dropped


@dataclass(frozen=True)
class Points:
    """Augmented points of every seed.

    Attributes:
        places: coordinates.
        kinds: what is asked there: 0 the residual, 1, 2, ... the problem's conditions, one more a measurement.
        readings: what was measured, at measurements; zero elsewhere.
    """

    places: Float[Tensor, "seeds n dims"]
    kinds: Int[Tensor, "seeds n"]
    readings: Float[Tensor, "seeds n"]

    @staticmethod
    def of(kind: int, places: Float[Tensor, "seeds n dims"], readings: Tensor | None = None) -> "Points":
        """Points that are all of one kind."""
        blank = places.new_zeros(places.shape[:2])
        return Points(places, torch.full_like(blank, kind, dtype=torch.long), blank if readings is None else readings)

    def __add__(self, other: "Points") -> "Points":
        return Points(*(torch.cat(pair, 1) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))

    def take(self, numbers: Int[Tensor, "seeds k"]) -> "Points":
        """Some of the points, each seed its own."""
        places = self.places.gather(1, numbers[..., None].expand(-1, -1, self.places.shape[2]))
        return Points(places, self.kinds.gather(1, numbers), self.readings.gather(1, numbers))

    def count(self, kind: int) -> Int[Tensor, " seeds"]:
        """How many are of a kind."""
        return (self.kinds == kind).sum(1)


@dataclass(frozen=True)
class Sites:
    """Where measurements can be made, and what they would give.

    Attributes:
        places: the sites.
        readings: of the first component of the solution, each seed with its own noise; read only at sites that were chosen.
        every_time: measurements that are added at every selection.
        most: measurements in all.
    """

    places: Float[Tensor, "sites dims"]
    readings: Float[Tensor, "seeds sites"]
    every_time: int = 5
    most: int = 20

    def read(self, points: Points, kind: int) -> Points:
        """The points with the true readings at those of the given kind, which must lie on sites."""
        site = (points.places[:, :, None] == self.places).all(-1).int().argmax(-1)
        return replace(points, readings=torch.where(points.kinds == kind, self.readings.gather(1, site), 0.0))


def misfit(problem: Problem, network: Callable, points: Points) -> Float[Tensor, "seeds n"]:
    r"""The misfit :math:`R(z)` of augmented points: residual, misfit of a condition, or prediction minus reading.

    Args:
        problem: the equation and its conditions.
        network: stack of networks, one a seed; maps points and orders to a jet.
        points: augmented points.

    Returns:
        one number a point.

    Raises:
        ValueError: if points are empty or not finite, a kind does not exist, or a kind has more than one misfit.
    """
    finite(places=points.places, readings=points.readings)
    jet = problem.solution(network, points.places)  # one jet serves all kinds
    columns = [problem.equation(jet, points.places)]
    columns += [condition.misfit(jet, points.places) for condition in problem.conditions]
    columns.append(jet.value[..., :1] - points.readings[..., None])
    if any(column.shape[-1] != 1 for column in columns):
        raise ValueError(
            f"problem {problem.name!r} has a kind with several misfits a point: PINNACLE needs exactly one"
        )
    if not 0 <= int(points.kinds.min()) <= int(points.kinds.max()) < len(columns):
        raise ValueError(f"kinds must lie in 0..{len(columns) - 1}, the kinds of problem {problem.name!r}")
    return torch.cat(columns, -1).gather(-1, points.kinds[..., None])[..., 0]


def jacobian(problem: Problem, network: nn.Module, points: Points) -> tuple[Tensor, Float[Tensor, "seeds n weights"]]:
    r"""Misfits and their gradients :math:`J(z)=\nabla_\theta R(z)`, for all points and seeds in one backward pass.

    Every point gets its own copy of its seed's network, which is what a stack of networks is for.

    Args:
        problem: the equation and its conditions.
        network: stack of networks, one a seed.
        points: augmented points.

    Returns:
        misfits ``[seeds, n]`` and gradients, without graph.
    """
    seeds, n = points.kinds.shape
    copies = copy.deepcopy(network)
    for weight in copies.parameters():
        weight.data = weight.data.repeat_interleave(n, 0)
    alone = Points(points.places.flatten(0, 1)[:, None], points.kinds.reshape(-1, 1), points.readings.reshape(-1, 1))
    value = misfit(problem, copies, alone)
    slopes = torch.autograd.grad(value.sum(), list(copies.parameters()), allow_unused=True, materialize_grads=True)
    return value.detach().view(seeds, n), torch.cat([slope.reshape(seeds, n, -1) for slope in slopes], -1)


def embedding(
    reference: Float[Tensor, "r weights"], candidates: Float[Tensor, "n weights"], misfits: Float[Tensor, " n"]
) -> Float[Tensor, "n rank"]:
    r"""The candidates in the kernel's eigendirections, :math:`e(z)=\Lambda^{-1/2}Q^\top\Theta(Z_r,z)R(z)` (Nystrom).

    :math:`\Theta(Z_r,Z_r)=Q\Lambda Q^\top`. The length :math:`\|e(z)\|^2` is what the point contributes to the rate at which
    training reduces the loss, as far as the reference points resolve the kernel.

    Args:
        reference: gradients of the reference points.
        candidates: gradients of the candidates.
        misfits: of the candidates; ones for the kernel alone.

    Returns:
        one row a candidate, float64.

    Raises:
        ValueError: if an argument is empty, not finite, or of a shape that does not fit the others.
    """
    width = shaped("reference", reference, ("r", "weights"))["weights"]
    shaped("misfits", misfits, (shaped("candidates", candidates, ("n", width))["n"],))
    finite(reference=reference, candidates=candidates, misfits=misfits)
    reference, candidates = reference.double(), candidates.double()
    values, vectors = torch.linalg.eigh(reference @ reference.T)
    kept = values > CUTOFF
    return candidates @ reference.T @ (vectors[:, kept] / values[kept].sqrt()) * misfits.double()[:, None]


def ranking(rows: Float[Tensor, "n rank"], count: int, spread: bool, draw: torch.Generator) -> Int[Tensor, " count"]:
    r"""Candidates in the order in which they are chosen.

    Args:
        rows: their embeddings :math:`e(z)`.
        count: how many to rank; fewer come back when fewer have an embedding other than zero.
        spread: k-means++ seeding, which avoids points like those already chosen (PINNACLE-K); otherwise draws without
            replacement with probability proportional to :math:`\|e(z)\|^2` (PINNACLE-S).
        draw: random generator.

    Returns:
        numbers of candidates, best first.

    Raises:
        ValueError: if ``rows`` is empty or not finite, or ``count`` is below 1.
    """
    finite(rows=rows)
    if count < 1:
        raise ValueError(f"count is {count}: choose at least 1 point")
    score = rows.square().sum(1)
    usable = (score > 0).nonzero()[:, 0]
    count = min(count, len(usable))
    if count == 0:
        return usable
    if spread:
        seed = int(torch.randint(2**31 - 1, (1,), generator=draw))
        return usable[torch.as_tensor(kmeans_plusplus(rows[usable].numpy(), count, random_state=seed)[1]).long()]
    return usable[torch.multinomial(score[usable] / score.sum(), count, generator=draw)]


def candidates(
    problem: Problem, draws: Sequence[torch.Generator], inside: int, edge: int, sites: Sites | None = None
) -> Points:
    """Random points of every kind; the places on edges and the sites are offered as residual points too.

    Args:
        problem: the equation and its conditions.
        draws: one generator a seed.
        inside: residual points in the domain.
        edge: points of every other kind.
        sites: where measurements can be made; their readings are left out, a score must not see them.

    Returns:
        residual points first.
    """
    pool, others = Points.of(RESIDUAL, problem.scale(uniform(draws, inside, len(problem.low)))), []
    offered = [problem.scale(condition.place(EDGE_PLACES)) for condition in problem.conditions]
    for kind, places in enumerate([*offered, *([] if sites is None else [sites.places])], 1):
        numbers = torch.stack([torch.randperm(len(places), generator=draw)[:edge] for draw in draws])
        others.append(Points.of(kind, places[numbers]))
        pool = pool + Points.of(RESIDUAL, places[numbers])
    return sum(others, pool)


@dataclass
class Run(State):
    """A training run.

    Attributes:
        points: the augmented points of the last choice, ``None`` before the first.
        sites: where measurements can be made, if anywhere.
        optimiser: of the network.
        selection_s: CPU seconds spent on choosing points so far.
    """

    points: Points | None = None
    sites: Sites | None = None
    optimiser: torch.optim.Optimizer | None = None
    selection_s: float = 0.0

    def descend(self, points: Points, steps: int = 1) -> Float[Tensor, " seeds"]:
        """Take optimiser steps on some points and return the last loss; every kind is averaged over its own points."""
        share = 1 / points.kinds.new_zeros(len(self.draws), 2 + len(self.problem.conditions)).scatter_add(
            1, points.kinds, torch.ones_like(points.kinds)
        ).gather(1, points.kinds)
        for _ in range(steps):
            loss = (share * misfit(self.problem, self.network, points).square()).sum(1)
            self.optimiser.zero_grad()
            loss.sum().backward()
            self.optimiser.step()
        return loss.detach()

    def ahead(self, points: Points, steps: int) -> nn.Module:
        """The network as it will be after so many further steps on the points: its predictions are the pseudo-labels."""
        network, optimiser = copy.deepcopy((self.network, self.optimiser))
        replace(self, network=network, optimiser=optimiser).descend(points, steps)
        return network


@dataclass(frozen=True)
class Pinnacle:
    """The choice of the next training points.

    Args:
        total: most points in the training set, of all kinds.
        fresh: points chosen at every selection; the others are old ones, kept at random.
        spread: PINNACLE-K (k-means++ seeding) or PINNACLE-S (sampling).
        inside: candidates for the residual in the domain.
        edge: candidates of every other kind.
        further: steps of the pseudo-labels.
        kernel: use the tangent kernel; without it, the misfit alone is the embedding.
        misfits: use the misfits; without them, the kernel alone makes the embedding.

    Raises:
        ValueError: if more points are chosen than the set may hold, or fewer than one.
    """

    total: int = 240
    fresh: int = 80
    spread: bool = True
    inside: int = 300
    edge: int = 60
    further: int = 200
    kernel: bool = True
    misfits: bool = True

    def __post_init__(self):
        if not 1 <= self.fresh <= self.total:
            raise ValueError(f"fresh is {self.fresh}: choose at least 1 and at most total = {self.total} points")

    def __call__(self, run: Run) -> Points:
        """Score candidates of all kinds with one kernel, choose, and fill up with old points.

        Args:
            run: the training so far.

        Returns:
            the next training points.

        Raises:
            ValueError: when too few candidates have an embedding other than zero.
        """
        problem, network, measured = run.problem, run.network, 1 + len(run.problem.conditions)
        held = 0 if run.points is None else int(run.points.count(measured).max())
        quota = 0 if run.sites is None else min(run.sites.every_time, run.sites.most - held)
        sites = run.sites if quota else None
        reference = candidates(problem, run.draws, self.inside // 6, self.edge * 5 // 12, sites)
        pool = candidates(problem, run.draws, self.inside, self.edge, sites)
        if quota:
            known = reference.take((reference.kinds != measured).nonzero()[:, 1].view(len(run.draws), -1))
            later = run.ahead(known if run.points is None else run.points, self.further)
            with torch.no_grad():
                label = problem.solution(later, pool.places).value[..., 0]
            pool = replace(pool, readings=torch.where(pool.kinds == measured, label, pool.readings))
        (size, slope), (_, base) = jacobian(problem, network, pool), jacobian(problem, network, reference)
        numbers = []
        for s, draw in enumerate(run.draws):
            weight = size[s] if self.misfits else torch.ones_like(size[s])
            rows = embedding(base[s], slope[s], weight) if self.kernel else weight[:, None].double()
            numbers.append(self._pick(rows, pool.kinds[s], quota, measured, draw))
        chosen = pool.take(torch.stack(numbers))
        if quota:
            chosen = run.sites.read(chosen, measured)
        return chosen if run.points is None else chosen + self._remember(run, chosen.kinds.shape[1], measured)

    def _pick(self, rows: Tensor, kinds: Tensor, quota: int, measured: int, draw: torch.Generator) -> Tensor:
        """Numbers of the chosen candidates of one seed."""
        free = (kinds != measured).nonzero()[:, 0]
        order = free[ranking(rows[free], min(3 * self.fresh, len(free)), self.spread, draw)].tolist()
        length = torch.stack([rows.square().sum(1).masked_fill(kinds != kind, 0.0) for kind in range(measured)])
        best = [int(number) for number, most in zip(length.argmax(1), length.amax(1), strict=True) if most > 0]
        picked = list(dict.fromkeys([*best, *order]))[: self.fresh]  # the best of each kind, so that none dies out
        if quota:
            sites = (kinds == measured).nonzero()[:, 0]
            picked += sites[ranking(rows[sites], quota, self.spread, draw)].tolist()
        if len(picked) < self.fresh + quota:
            raise ValueError("too few candidates have a misfit other than zero: the network already solves the problem")
        return torch.tensor(picked)

    def _remember(self, run: Run, fresh: int, measured: int) -> Points:
        """All old measurements, and as many other old points, at random, as the total leaves room for."""
        old = run.points
        first = torch.stack([torch.rand(old.kinds.shape[1], generator=draw) for draw in run.draws])
        first = torch.where(old.kinds == measured, 2.0, first)
        return old.take(first.argsort(dim=1, descending=True)[:, : self.total - fresh])


def train(
    problem: Problem,
    network: nn.Module,
    seeds: Sequence[int],
    choose: Callable[[Run], Points],
    recipe: Recipe,
    every: int = 500,
    budget: Budget | None = None,
    sites: Sites | None = None,
    watch: Callable[[Run], None] | None = None,
) -> Run:
    """Train a stack of networks with Adam on points that are chosen anew every so many steps.

    Args:
        problem: the equation and its conditions.
        network: stack of networks, one a seed; trained in place.
        seeds: draw everything random.
        choose: returns the augmented points of the next ``every`` steps.
        recipe: steps and rates; its numbers of points and its weight are not used, all kinds weigh the same.
        every: steps between two choices.
        budget: a time budget that replaces the recipe's steps.
        sites: where measurements can be made.
        watch: called after every choice.

    Returns:
        the run, with its points and the CPU time of choosing them.

    Raises:
        TrainingDiverged: when a loss becomes NaN or infinite.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.first_rate, fused=True)
    run = Run(problem, network, recipe, generators(seeds, stream=1), sites=sites, optimiser=optimiser)
    while (progress := run.step / recipe.steps if budget is None else budget.fraction()) < 1:
        run.progress = progress
        optimiser.param_groups[0]["lr"] = recipe.rate(progress)
        if run.step % every == 0:
            if run.points is not None:
                with torch.no_grad():  # no kernel can be made of a network that has just left the finite numbers
                    _finite_loss(run, misfit(problem, network, run.points).square())
            start = time.process_time()
            run.points = choose(run)
            run.selection_s += time.process_time() - start
            if watch is not None:
                watch(run)
        _finite_loss(run, run.descend(run.points))
        run.step += 1
    return run


def _finite_loss(run: Run, loss: Tensor) -> None:
    """Stop a run whose loss is no longer a number."""
    broken = [
        seed for seed, finite_here in enumerate(torch.isfinite(loss).view(len(loss), -1).all(1)) if not finite_here
    ]
    if broken:
        raise TrainingDiverged(
            f"loss is NaN or infinite at step {run.step} (networks {broken} of the stack): lower the learning rate", run
        )


@entrant("pinns", "pinnacle")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with PINNACLE-K and 480 points; problems with several misfits a point are declined."""
    network, choose = default_network(problem, [seed]), Pinnacle(total=480, fresh=160)
    return hand_back(problem, train(problem, network, [seed], choose, Recipe(), budget=budget))
