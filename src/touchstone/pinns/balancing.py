r"""Known ways to balance the losses of a physics-informed network, and a training loop over one gradient a loss.

*Loss weights* are ``balance`` hooks of :func:`touchstone.pinns.protocol.train`: they return one factor a loss and seed.
*Gradient surgery* recombines the gradients of the losses and runs in :func:`descend`, which hands a rule the losses one
by one. Both treat every network of a stack by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget
from touchstone.checks import finite, shaped
from touchstone.nn.networks import generators
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Recipe, State, TrainingDiverged, edge_loss, uniform_points

Losses = Mapping[str, Callable[[], Tensor]]
Rule = Callable[[State, Losses], Tensor]


def gradient(loss: Float[Tensor, " seeds"], network: nn.Module) -> Float[Tensor, "seeds parameters"]:
    """Gradient of a loss with respect to all parameters, flattened, seed by seed; zero where the loss has no part in one.

    Args:
        loss: one value a seed, attached to the network's graph.
        network: stack of networks.

    Returns:
        one row a seed.
    """
    parameters = list(network.parameters())
    found = torch.autograd.grad(loss.sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten(1) for part in found], 1)


def move(network: nn.Module, step: Float[Tensor, "seeds parameters"]) -> None:
    """Subtract a flat step from the parameters of a stack, in place and in the order of :func:`gradient`.

    Args:
        network: stack of networks.
        step: one row a seed.
    """
    start = 0
    with torch.no_grad():
        for parameter in network.parameters():
            size = parameter[0].numel()
            parameter -= step[:, start : start + size].view_as(parameter)
            start += size


def descend(
    problem: Problem,
    network: nn.Module,
    seeds: Sequence[int],
    recipe: Recipe | None = None,
    rule: Rule | None = None,
    budget: Budget | None = None,
    watch: Callable[[State], bool | None] | None = None,
) -> State:
    """Train a stack of networks by a rule that sees every loss by itself.

    Points, networks and learning rates are those of :func:`touchstone.pinns.protocol.train`; the losses enter with no weight.

    Args:
        problem: the equation and its data.
        network: stack of networks with one network a seed; trained in place.
        seeds: the seeds, which draw the points.
        recipe: points, steps and rates; the head-to-head budget by default.
        rule: from the state and the losses (functions without arguments, so that a rule pays for those it calls) to a step
            ``[seeds, parameters]`` that is subtracted times the learning rate; Adam on the sum by default.
        budget: a time budget that replaces ``recipe.steps``.
        watch: called after every step; training ends early when it returns true.

    Returns:
        the last state; its ``terms`` are the losses that the last step looked at.

    Raises:
        TrainingDiverged: when a step is NaN or infinite; the network keeps its last finite parameters.
    """
    recipe, rule = recipe or Recipe(), rule or Surgery(plain_sum)
    state = State(problem, network, recipe, generators(seeds, stream=1))
    kind = next(network.parameters()).dtype
    edges = {condition.name: replace(problem, conditions=(condition,)) for condition in problem.conditions}

    def evaluate(name: str) -> Tensor:
        if name == "residual":
            residual = problem.residual(network, state.points)
            state.residual = residual.detach()
            term = residual.square().sum(-1).mean(1)
        else:
            term = edge_loss(edges[name], network, recipe, len(seeds))[name]
        state.terms[name] = term.detach()
        return term

    losses = {name: partial(evaluate, name) for name in ("residual", *edges)}
    while (progress := state.step / recipe.steps if budget is None else budget.fraction()) < 1:
        state.progress, state.terms, state.points = progress, {}, uniform_points(state).to(kind)
        step = rule(state, losses)
        if not torch.isfinite(step).all():
            broken = [int(seed) for seed, row in zip(seeds, step, strict=True) if not torch.isfinite(row).all()]
            raise TrainingDiverged(f"step {state.step} is NaN or infinite for seeds {broken}: lower the rate", state)
        move(network, recipe.rate(progress) * step)
        state.step += 1
        if watch is not None and watch(state):
            break
    return state


class Adam:
    """Adam's direction from a stream of gradients of any shape.

    Args:
        betas: decay of the first and the second moment.
        epsilon: added to the root of the second moment.
    """

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8):
        self.betas, self.epsilon, self.steps = betas, epsilon, 0

    def __call__(self, gradient: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Take one gradient in, and return the direction to subtract."""
        if self.steps == 0:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.steps += 1
        keep_first, keep_second = self.betas
        self.first = keep_first * self.first + (1 - keep_first) * gradient
        self.second = keep_second * self.second + (1 - keep_second) * gradient**2
        scale = (self.second / (1 - keep_second**self.steps)).sqrt() + self.epsilon
        return self.first / (1 - keep_first**self.steps) / scale


def plain_sum(products: Float[Tensor, "seeds losses losses"]) -> Float[Tensor, "seeds losses"]:
    """Factor 1 for every gradient: Adam on the sum of the losses."""
    return products.new_ones(products.shape[:2])


def gram(gradients: Float[Tensor, "losses seeds parameters"]) -> Float[Tensor, "seeds losses losses"]:
    """All products of the losses' gradients, seed by seed, in float64."""
    stacked = gradients.transpose(0, 1).double()
    return torch.bmm(stacked, stacked.mT)


class Surgery:
    """A rule for :func:`descend`: a combination of the losses' gradients, then Adam.

    Args:
        combine: from all products of the gradients, ``[seeds, losses, losses]`` in float64, to the factors of the
            combination, ``[seeds, losses]``.
        seen: called with the state, the products and the factors of every step.
    """

    def __init__(
        self,
        combine: Callable[[Tensor], Tensor],
        seen: Callable[[State, Tensor, Tensor], None] | None = None,
    ):
        self.combine, self.seen, self.adam = combine, seen, Adam()

    def __call__(self, state: State, losses: Losses) -> Tensor:
        """One step from one backward pass for each loss."""
        gradients = torch.stack([gradient(loss(), state.network) for loss in losses.values()])
        products = gram(gradients)
        factors = self.combine(products)
        if self.seen is not None:
            self.seen(state, products, factors)
        return self.adam(torch.einsum("sl,lsp->sp", factors.to(gradients.dtype), gradients))


class ProjectingConflicts:
    """PCGrad (Yu et al., 2020, arXiv:2001.06782): each gradient loses what opposes another one, in random order; then the sum.

    Args:
        seed: of the order.
    """

    def __init__(self, seed: int = 0):
        self.draw = torch.Generator().manual_seed(seed)

    def __call__(self, products: Float[Tensor, "seeds losses losses"]) -> Float[Tensor, "seeds losses"]:
        """Factors of the gradients in the sum of the projected ones."""
        shaped("products", products, ("seeds", "losses", "losses"))
        count = products.shape[1]
        factors = torch.eye(count, dtype=products.dtype).repeat(len(products), 1, 1)
        for mine in range(count):
            for other in torch.randperm(count, generator=self.draw).tolist():
                if other != mine:
                    product = (factors[:, mine] * products[:, other]).sum(-1)
                    length = products[:, other, other].clamp(min=torch.finfo(products.dtype).tiny)
                    factors[:, mine, other] -= product.clamp(max=0) / length
        return factors.sum(1)


def impartial(products: Float[Tensor, "seeds losses losses"]) -> Float[Tensor, "seeds losses"]:
    r"""IMTL-G (Liu et al., 2021, "Towards Impartial Multi-task Learning"): factors that sum to 1 and give equal projections on all unit gradients.

    Args:
        products: all products of the gradients.

    Returns:
        the factors, some of them possibly negative.

    Raises:
        ValueError: if the products are missing, not finite or not square.
    """
    shaped("products", products, ("seeds", "losses", "losses"))
    finite(products=products)
    lengths = products.diagonal(dim1=1, dim2=2).sqrt().clamp(min=torch.finfo(products.dtype).tiny)
    onto = products / lengths[:, :, None]  # row i: projection of every gradient on unit gradient i
    system = torch.cat([onto[:, :1] - onto[:, 1:], lengths.mean(1)[:, None, None].expand(-1, 1, products.shape[1])], 1)
    right = torch.zeros_like(lengths)
    right[:, -1] = lengths.mean(1)
    return (torch.linalg.pinv(system) @ right[..., None])[..., 0]


def weighted_residual(weight: float) -> Callable[[State, Mapping[str, Tensor]], dict[str, Tensor]]:
    """A fixed weight of the residual against all other losses, which have weight 1."""

    def balance(state: State, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.full_like(term, weight if name == "residual" else 1.0) for name, term in terms.items()}

    return balance


class LearningRateAnnealing:
    r"""LRA (Wang, Teng and Perdikaris, 2021, arXiv:2001.04536): :math:`\hat\lambda_i=\max|\nabla L_r|\,/\,\overline{|\nabla L_i|}`, smoothed; 1 for the residual.

    Args:
        every: steps between two updates.
        memory: share of the old weights that stays.
    """

    def __init__(self, every: int = 10, memory: float = 0.9):
        self.every, self.memory = every, memory
        self.weights: dict[str, Tensor] = {}

    def __call__(self, state: State, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this step."""
        if not self.weights:
            self.weights = {name: torch.ones_like(term) for name, term in terms.items()}
        if state.step % self.every == 0:
            largest = gradient(terms["residual"], state.network).abs().amax(1)
            for name in terms.keys() - {"residual"}:
                new = largest / gradient(terms[name], state.network).abs().mean(1).clamp(min=1e-12)
                self.weights[name] = self.memory * self.weights[name] + (1 - self.memory) * new
        return self.weights


class InverseDirichlet:
    r"""Inverse-Dirichlet weights (Maddu et al., 2021, arXiv:2107.00940): :math:`\hat\lambda_i=\max_j\operatorname{std}(\nabla L_j)\,/\,\operatorname{std}(\nabla L_i)`, smoothed.

    Args:
        every: steps between two updates.
        memory: share of the old weights that stays.
    """

    def __init__(self, every: int = 10, memory: float = 0.5):
        self.every, self.memory = every, memory
        self.weights: dict[str, Tensor] = {}

    def __call__(self, state: State, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this step."""
        if state.step % self.every == 0:
            spread = {name: gradient(term, state.network).std(1) for name, term in terms.items()}
            largest = torch.stack(list(spread.values())).amax(0)
            for name, width in spread.items():
                new = largest / width.clamp(min=1e-12)
                self.weights[name] = self.memory * self.weights.get(name, new) + (1 - self.memory) * new
        return self.weights


class NeuralTangentKernel:
    r"""NTK weights (Wang, Yu and Perdikaris, 2022, arXiv:2007.14527): :math:`\lambda_i=\sum_jt_j/t_i` with :math:`t_i` the mean diagonal of :math:`J_iJ_i^\top`.

    The mean belongs to losses that are means. It is estimated from random signs :math:`s`, as
    :math:`\lVert J^\top s\rVert^2/N`, which is unbiased and costs one backward pass a probe.

    Args:
        every: steps between two updates.
        probes: random signs for each loss and update.
    """

    def __init__(self, every: int = 100, probes: int = 16):
        self.every, self.probes = every, probes
        self.draw = torch.Generator().manual_seed(0)
        self.weights: dict[str, Tensor] = {}

    def mean_diagonal(
        self, misfit: Float[Tensor, "seeds points columns"], network: nn.Module
    ) -> Float[Tensor, " seeds"]:
        """Mean squared length of the gradient of the misfit at a point, all its columns together."""
        total = misfit.new_zeros(len(misfit))
        for _ in range(self.probes):
            signs = torch.randint(0, 2, misfit.shape[1:], generator=self.draw).to(misfit) * 2 - 1
            total += gradient((signs * misfit).sum((1, 2)), network).square().sum(1)
        return total / (self.probes * misfit.shape[1])

    def __call__(self, state: State, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this step."""
        if state.step % self.every == 0:
            problem, network, seeds = state.problem, state.network, len(state.points)
            diagonal = {"residual": self.mean_diagonal(problem.residual(network, state.points), network)}
            for condition in problem.conditions:
                place = problem.scale(condition.place(state.recipe.count(condition.name)).to(state.points))
                place = place.expand(seeds, -1, -1)
                misfit = condition.misfit(problem.solution(network, place, condition.orders), place)
                diagonal[condition.name] = self.mean_diagonal(misfit, network)
            total = sum(diagonal.values())
            self.weights = {name: total / value.clamp(min=1e-12) for name, value in diagonal.items()}
        return self.weights


class RelativeLosses:
    r"""ReLoBRaLo (Bischof and Kraus, 2021, arXiv:2110.09813): the loss that fell least since the last step gets most.

    With :math:`b(t,t')=m\operatorname{softmax}_i(L_i(t)/(\tau L_i(t')))`:
    :math:`\lambda\leftarrow\alpha(\rho\lambda+(1-\rho)b(t,0))+(1-\alpha)b(t,t-1)`, where :math:`\rho` is 1 but for a rare 0,
    a look back to the start.

    Args:
        temperature: :math:`\tau`.
        memory: :math:`\alpha`.
        look_back: the chance that :math:`\rho` is 0.
    """

    def __init__(self, temperature: float = 0.1, memory: float = 0.999, look_back: float = 1e-3):
        self.temperature, self.memory, self.look_back = temperature, memory, look_back
        self.draw = torch.Generator().manual_seed(0)

    def _share(self, now: Tensor, then: Tensor) -> Tensor:
        ratio = now / (self.temperature * then.clamp(min=torch.finfo(then.dtype).tiny))
        return len(now) * torch.softmax(ratio, 0)

    def __call__(self, state: State, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this step."""
        now = torch.stack([term.detach() for term in terms.values()])
        if state.step == 0:
            self.first, self.weights = now, torch.ones_like(now)
        else:
            back = torch.rand((), generator=self.draw) < self.look_back
            old = self._share(now, self.first) if back else self.weights
            self.weights = self.memory * old + (1 - self.memory) * self._share(now, self.last)
        self.last = now
        return dict(zip(terms, self.weights, strict=True))


class MinMax:
    r"""Weights that ascend the loss that the network descends (Liu and Wang, 2021, a dual-dimer method for PINNs).

    :math:`\lambda=m\operatorname{softmax}(w)`, so that they sum to the number of losses, and :math:`w` climbs
    :math:`\sum_i\lambda_iL_i` with Adam.

    Args:
        rate: learning rate of :math:`w`.
    """

    def __init__(self, rate: float = 1e-3):
        self.rate, self.adam = rate, Adam()

    def __call__(self, state: State, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this step."""
        now = torch.stack([term.detach() for term in terms.values()])
        if state.step == 0:
            self.height = torch.zeros_like(now)
        share = torch.softmax(self.height, 0)
        self.height = self.height + self.rate * self.adam(len(now) * share * (now - (share * now).sum(0)))
        return dict(zip(terms, len(now) * torch.softmax(self.height, 0), strict=True))


class Normalised:
    r"""Every loss divided by a running mean of itself, which makes all of them about 1.

    Args:
        memory: decay of the running mean, whose start is corrected as Adam's moments are.
    """

    def __init__(self, memory: float = 0.99):
        self.memory = memory

    def __call__(self, state: State, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this step."""
        now = torch.stack([term.detach() for term in terms.values()])
        before = torch.zeros_like(now) if state.step == 0 else self.mean
        self.mean = self.memory * before + (1 - self.memory) * now
        size = self.mean / (1 - self.memory ** (state.step + 1))
        return dict(zip(terms, 1 / size.clamp(min=torch.finfo(now.dtype).tiny), strict=True))
