r"""METALIC: a bandit that learns, while it solves, which conditions should join the networks of two subdomains.

Li, Penwarden, Xu, Tillinghast, Narayan, Kirby and Zhe, 2022 (arXiv:2210.12669). An *arm* is a subset
:math:`a\in\{0,1\}^9` of nine interface conditions. A *play* draws an equation's parameter :math:`\beta`, picks an arm,
trains two networks on :math:`20L_b+L_r+5\sum_ja_jL_j`, first with Adam, then with L-BFGS, and earns
:math:`R=-\log_{10}` of the relative error. A Gaussian process predicts the reward from :math:`(\beta,a)`.

Plays that do not depend on one another train side by side; a play is the same network alone or in company.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.nn.jets import Jet
from touchstone.nn.networks import MLP, generators, uniform
from touchstone.pinns.metalic_families import THIRD, Family, features
from touchstone.pinns.metalic_training import minimise, tanh

CONDITIONS = (
    "value",
    "average",
    "residual",
    "residual jump",
    "flux",
    "second 2",
    "residual slopes",
    "first 1",
    "second 1",
)
ARMS = np.stack([(np.arange(512) >> (8 - j)) & 1 for j in range(9)], 1).astype(float)  # all subsets
JITTER = 1e-8
DISCOUNT = 0.9  # of the second stage's reward, in the credit of the first


def interface_losses(
    left: Jet, right: Jet, points: Float[Tensor, "plays points 2"], beta: Float[Tensor, "plays 1 1"], family: Family
) -> Float[Tensor, "plays 9"]:
    """The nine conditions as mean squares over the interface, in the order of ``CONDITIONS``.

    Args:
        left: jet of the network of side 0 on the interface, three orders along four directions.
        right: the same of side 1.
        points: of the interface.
        beta: the equation's parameter.
        family: gives residual, its derivatives and the flux.

    Returns:
        one column a condition.
    """
    residuals = [family.residual(u, points, beta) for u in (left, right)]
    slopes = [slope for u in (left, right) for slope in family.slopes(u, points, beta)]
    middle = (left.value + right.value) / 2
    rows = [
        [left.value - right.value],
        [left.value - middle, right.value - middle],
        residuals,
        [residuals[0] - residuals[1]],
        [family.flux(left, beta) - family.flux(right, beta)],
        [left.d(1, 2) - right.d(1, 2)],
        slopes,
        [left.d(0) - right.d(0)],
        [left.d(0, 2) - right.d(0, 2)],
    ]
    return torch.stack([sum(gap.square().mean((1, 2)) for gap in row) for row in rows], -1)


class Plays:
    """Independent plays that train side by side: two networks of 2 x 20 units each, on points of their own.

    Args:
        family: the equations.
        parameters: one a play.
        seeds: one a play; draws the initial networks and the collocation points.
        points: collocation points of a play, half on either side.
        edge: points on the edge of a side.
        interface: points of the interface.

    Raises:
        ValueError: if parameters are missing or not finite, or there is not one seed for each.
    """

    width, nets = 20, 2

    def __init__(
        self,
        family: Family,
        parameters: Sequence[float],
        seeds: Sequence[int],
        points: int = 300,
        edge: int = 40,
        interface: int = 30,
    ):
        finite(parameters=np.asarray(parameters, dtype=float))
        if len(seeds) != len(parameters):
            raise ValueError(f"seeds has {len(seeds)} entries, parameters has {len(parameters)}: give one a play")
        self.family, self.parameters, self.count = family, [float(p) for p in parameters], len(seeds)
        self.beta = torch.tensor(self.parameters).view(-1, 1, 1)
        numbers = [2 * int(seed) + net for net in range(self.nets) for seed in seeds]
        low, high = torch.tensor(family.low), torch.tensor(family.high)
        if self.nets == 1:
            low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
        boxes = [box.repeat_interleave(self.count, 0)[:, None] for box in (low, high)]
        self.network = MLP(2, 1, numbers, self.width, 2, features(*boxes), tanh)
        unit = uniform(generators(seeds, stream=1), points, 2)
        halves = zip(family.sides, (unit[:, : points // 2], unit[:, points // 2 :]), strict=True)
        self.inside = torch.cat([side(part) for side, part in halves], 0 if self.nets == 2 else 1)
        known = torch.cat([place(edge) for place in family.edges]).view(self.nets, -1, 2)
        self.edge = known.repeat_interleave(self.count, 0)
        self.interface = family.interface(interface).expand(self.count, -1, -1)
        self.all_beta = self.beta.repeat(self.nets, 1, 1)

    def losses(self) -> tuple[Float[Tensor, " plays"], Float[Tensor, "plays 9"]]:
        """The loss without the interface, and the nine conditions."""
        u, family = self.network(self.inside, (2, 2)), self.family
        inner = family.residual(u, self.inside, self.all_beta).square().mean((1, 2))
        outer = self.network(self.edge, (0, 0)).value - family.edge_value(self.edge, self.all_beta)
        known = (20 * outer.square().mean((1, 2)) + inner).view(self.nets, -1).sum(0)
        if self.nets == 1:
            return known, known.new_zeros(self.count, 9)
        both = self.network(self.interface.repeat(2, 1, 1), THIRD)
        left, right = (Jet(streams, THIRD) for streams in both.streams.chunk(2))
        return known, interface_losses(left, right, self.interface, self.beta, family)

    def objective(self, arms: Float[np.ndarray, "plays 9"]) -> Callable[[], Tensor]:
        """The training loss under given subsets of conditions, one value a play."""
        shaped("arms", arms, (self.count, 9))
        weights = 5 * torch.as_tensor(arms, dtype=torch.float32)

        def loss() -> Tensor:
            known, joined = self.losses()
            return known + (weights * joined).sum(1)

        return loss

    def predict(self, points: Float[Tensor, "points 2"]) -> Float[Tensor, "plays points"]:
        """The solution: at every point the network of its side."""
        with torch.no_grad():
            values = self.network(points.expand(self.nets * self.count, -1, -1), (0, 0)).value
        if self.nets == 1:
            return values[..., 0]
        left, right = values.chunk(2)
        return torch.where(self.family.side_one(points), right, left)[..., 0]

    def errors(self) -> Float[np.ndarray, " plays"]:
        """Relative L2 errors against the reference solutions, at most 100 (also where training broke down)."""
        truth = [self.family.solve(parameter) for parameter in self.parameters]
        guess = self.predict(torch.as_tensor(truth[0][0], dtype=torch.float32)).double().numpy()
        exact = np.stack([values[:, 0] for _, values in truth])
        return np.nan_to_num(np.linalg.norm(guess - exact, axis=1) / np.linalg.norm(exact, axis=1), nan=100.0).clip(
            max=100
        )

    def rewards(self) -> Float[np.ndarray, " plays"]:
        r""":math:`-\log_{10}` of the errors."""
        return -np.log10(self.errors())

    def adam(self, arms: Float[np.ndarray, "plays 9"], steps: int = 100, rate: float = 2e-2) -> None:
        """First stage: ``steps`` of Adam."""
        loss, optimiser = self.objective(arms), torch.optim.Adam(self.network.parameters(), lr=rate, fused=True)
        for _ in range(steps):
            optimiser.zero_grad()
            loss().sum().backward()
            optimiser.step()

    def lbfgs(self, arms: Float[np.ndarray, "plays 9"], evaluations: int = 80) -> None:
        """Second stage: L-BFGS with ``evaluations`` gradients for every play."""
        minimise(list(self.network.parameters()), self.objective(arms), self.nets, self.count, evaluations)


class RewardProcess:
    r"""A Gaussian process over groups of inputs, :math:`k=\prod_ge^{-\|x_g-x_g'\|^2/\ell_g}\prod_he^{s_h\,\mathrm{overlap}(a_h,a_h')}`.

    The overlap of two subsets is the share of conditions on which they agree. Rewards are centred; lengths
    :math:`\ell`, strengths :math:`s` and the noise variance maximise the marginal likelihood.

    Args:
        kinds: for each group of inputs ``distance`` or ``overlap``.

    Raises:
        ValueError: for another kind.
    """

    def __init__(self, kinds: Sequence[str]):
        if not set(kinds) <= {"distance", "overlap"}:
            raise ValueError(f"kinds is {tuple(kinds)}: use 'distance' and 'overlap'")
        self.kinds = tuple(kinds)
        self.theta = np.log([1.0] * len(kinds) + [0.05])  # lengths and strengths, then the noise variance
        self.bounds = [np.log((0.01, 100) if kind == "distance" else (0.01, 20)) for kind in kinds] + [
            np.log((1e-4, 1))
        ]

    def _measures(self, left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> list[np.ndarray]:
        gaps = [a[:, None] - b[None] for a, b in zip(left, right, strict=True)]
        pairs = zip(self.kinds, gaps, strict=True)
        return [(gap**2).sum(-1) if kind == "distance" else (1 - np.abs(gap)).mean(-1) for kind, gap in pairs]

    def _exponents(self, measures: list[np.ndarray], theta: np.ndarray) -> list[np.ndarray]:
        pairs = zip(self.kinds, theta[:-1], measures, strict=True)
        return [-np.exp(-log) * m if kind == "distance" else np.exp(log) * m for kind, log, m in pairs]

    def kernel(self, left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> Float[np.ndarray, "left right"]:
        """The kernel without noise.

        Args:
            left: one array ``[left, features]`` a group.
            right: one array ``[right, features]`` a group.

        Returns:
            the matrix.
        """
        return np.exp(sum(self._exponents(self._measures(left, right), self.theta)))

    def likelihood(self, theta: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        """Negative log marginal likelihood of the centred rewards, and its gradient.

        Args:
            theta: logarithms of lengths or strengths, group by group, then of the noise variance.

        Returns:
            value and gradient.
        """
        parts = self._exponents(self.between, theta)
        kernel, noise = np.exp(sum(parts)), np.exp(theta[-1]) * np.eye(len(self.targets))
        factor = cho_factor(kernel + noise + JITTER * np.eye(len(noise)), lower=True)
        alpha = cho_solve(factor, self.targets)
        pull = np.outer(alpha, alpha) - cho_solve(factor, np.eye(len(alpha)))
        value = self.targets @ alpha / 2 + np.log(np.diag(factor[0])).sum() + len(alpha) / 2 * np.log(2 * np.pi)
        signs = [-1 if kind == "distance" else 1 for kind in self.kinds]  # of each exponent's slope along its logarithm
        slopes = [(pull * kernel * sign * part).sum() for sign, part in zip(signs, parts, strict=True)]
        return float(value), -0.5 * np.array([*slopes, (pull * noise).sum()])

    def fit(self, inputs: Sequence[np.ndarray], rewards: Float[np.ndarray, " n"], tune: bool = True) -> None:
        """Take in all plays so far.

        Args:
            inputs: one array ``[n, features]`` a group.
            rewards: one a play.
            tune: maximise the marginal likelihood, from the last optimum and from the start.

        Raises:
            ValueError: if groups are missing, or entries are missing or not finite.
        """
        if len(inputs) != len(self.kinds):
            raise ValueError(f"inputs has {len(inputs)} groups, the kernel has {len(self.kinds)}")
        finite(rewards=rewards, **{f"inputs[{k}]": group for k, group in enumerate(inputs)})
        self.inputs, self.mean = list(inputs), float(rewards.mean())
        self.between = self._measures(inputs, inputs)
        self.targets = rewards - self.mean
        if tune:
            starts = [self.theta, np.log([1.0] * len(self.kinds) + [0.05])]
            found = [
                minimize(self.likelihood, s, jac=True, method="L-BFGS-B", bounds=self.bounds, options={"maxiter": 60})
                for s in starts
            ]
            self.theta = min(found, key=lambda result: result.fun).x

    def posterior(self, inputs: Sequence[np.ndarray]) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Mean and variance of the noiseless rewards.

        Args:
            inputs: one array ``[m, features]`` a group.

        Returns:
            mean and variance.
        """
        noise = (np.exp(self.theta[-1]) + JITTER) * np.eye(len(self.targets))
        root = np.linalg.cholesky(self.kernel(self.inputs, self.inputs) + noise)
        half = solve_triangular(root, self.kernel(self.inputs, inputs), lower=True)
        mean = self.mean + half.T @ solve_triangular(root, self.targets, lower=True)
        prior = np.exp(
            sum(np.exp(log) for kind, log in zip(self.kinds, self.theta[:-1], strict=True) if kind == "overlap")
        )
        return mean, (prior - (half**2).sum(0)).clip(min=0)


class Metalic:
    """The learner: picks arms for a context and learns from their rewards.

    Args:
        seed: of everything random.
        sequential: a second Gaussian process picks another arm for L-BFGS, given the reward after Adam; the first is then
            fitted to the mean of both rewards, the second one discounted.
        context: sees the equation's parameter.
        c: width of the upper confidence bound.
        warm_up: plays with random arms at the start.
    """

    def __init__(self, seed: int, sequential: bool = False, context: bool = True, c: float = 1.0, warm_up: int = 5):
        self.sequential, self.context, self.c, self.warm_up = sequential, context, c, warm_up
        self.draw, self.history = np.random.default_rng([seed, 20_222]), []
        seen = ["distance"] * context
        self.first = RewardProcess([*seen, "overlap"])
        self.second = RewardProcess([*seen, "distance", "overlap"]) if sequential else None

    def _inputs(self, context, arm, *rewards) -> list[np.ndarray]:
        seen = [context] * self.context + list(rewards)
        return [*(np.asarray(values, dtype=float).reshape(-1, 1) for values in seen), np.atleast_2d(arm)]

    def _choose(self, process: RewardProcess, candidates: list[np.ndarray], c: float | None) -> np.ndarray:
        if len(self.history) < self.warm_up:
            return ARMS[self.draw.integers(512)]
        mean, variance = process.posterior(candidates)
        return ARMS[(mean + (self.c if c is None else c) * np.sqrt(variance)).argmax()]

    def pick(self, context: float, c: float | None = None) -> Float[np.ndarray, " 9"]:
        """The arm for the whole training, or for its first stage.

        Args:
            context: standardised parameter.
            c: replaces the learner's own width; 0 takes the best posterior mean.

        Returns:
            the subset.
        """
        return self._choose(self.first, self._inputs(np.full(512, context), ARMS), c)

    def pick_next(
        self, context: float, arm: Float[np.ndarray, " 9"], reward: float, c: float | None = None
    ) -> Float[np.ndarray, " 9"]:
        """The arm for the second stage: another one only for a sequential learner.

        Args:
            context: standardised parameter.
            arm: of the first stage.
            reward: after the first stage.
            c: as in :meth:`pick`.

        Returns:
            the subset.
        """
        if not self.sequential:
            return arm
        return self._choose(self.second, self._inputs(np.full(512, context), ARMS, np.full(512, reward)), c)

    def learn(
        self,
        context: float,
        arm: Float[np.ndarray, " 9"],
        reward: float,
        next_arm: Float[np.ndarray, " 9"],
        last_reward: float,
    ) -> None:
        """Take in a play, and tune the kernels once the warm-up is over.

        Args:
            context: standardised parameter.
            arm: of the first stage.
            reward: after the first stage.
            next_arm: of the second stage.
            last_reward: at the end.

        Raises:
            ValueError: if the context or a reward is not finite.
        """
        finite(context=np.array(context), reward=np.array(reward), last_reward=np.array(last_reward))
        self.history.append((context, arm, reward, next_arm, last_reward))
        if len(self.history) < self.warm_up:
            return
        contexts, arms, rewards, next_arms, last = (np.array(column) for column in zip(*self.history, strict=True))
        self.first.fit(self._inputs(contexts, arms), (rewards + DISCOUNT * last) / 2 if self.sequential else last)
        if self.sequential:
            self.second.fit(self._inputs(contexts, next_arms, rewards), last)


def play(
    learners: Sequence[Metalic],
    plays: Plays,
    contexts: Sequence[float],
    steps: int,
    evaluations: int,
    c: float | None = None,
    learn: bool = True,
) -> dict[str, np.ndarray]:
    """One play of several learners, side by side: pick, train with Adam, pick again, train with L-BFGS, learn.

    Args:
        learners: one a play.
        plays: the equations, freshly made.
        contexts: standardised parameters, one a play.
        steps: of Adam.
        evaluations: of L-BFGS.
        c: as in :meth:`Metalic.pick`.
        learn: the learners take the rewards in.

    Returns:
        both arms ``[plays, 9]``, and both rewards ``[plays]``: ``first``, ``second``, ``middle`` and ``reward``.
    """
    first = np.stack([learner.pick(context, c) for learner, context in zip(learners, contexts, strict=True)])
    plays.adam(first, steps)
    middle = plays.rewards()
    second = np.stack([m.pick_next(*case, c=c) for m, *case in zip(learners, contexts, first, middle, strict=True)])
    plays.lbfgs(second, evaluations)
    reward = plays.rewards()
    if learn:
        for learner, *case in zip(learners, contexts, first, middle, second, reward, strict=True):
            learner.learn(*case)
    return {"first": first, "second": second, "middle": middle, "reward": reward}
