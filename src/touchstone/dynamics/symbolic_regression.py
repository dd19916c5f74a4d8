r"""Formulas from samples: a search over power laws of pairs, and a small genetic programming.

Both return a front of formulas, each more complex and more accurate than the one before, and :func:`select` takes the one where
:math:`-\Delta\log\mathrm{MAE}/\Delta\mathrm{complexity}` is largest (the rule of arXiv:2006.11287, as in Eureqa and PySR).

The power laws are sums of one or two terms

.. math:: m_i^am_j^bq_i^cq_j^d\,g(r)\,(\alpha\,\Delta x+\beta\,\Delta y),\qquad
          g\in\{r^{-3},r^{-2},r^{-1},1,r,(r-1)/r,\log r,e^{-r}\},

and a constant, with masses to the powers -1, -1/2, 0, 1/2, 1, charges to 0 or 1, and coefficients of least absolute error. The genetic
programming knows + - * /, powers and constants.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from touchstone.checks import finite, shaped

Variables = Mapping[str, np.ndarray]
Structure = tuple[tuple[tuple[float, float, float, float], str], ...]  # powers of mi, mj, qi, qj, and g, of each term

RADIAL = {
    "r^-3": lambda r: r**-3,
    "r^-2": lambda r: r**-2,
    "r^-1": lambda r: 1 / r,
    "1": np.ones_like,
    "r": lambda r: r,
    "(r-1)/r": lambda r: (r - 1) / r,
    "log r": np.log,
    "exp(-r)": lambda r: np.exp(-r),
}
# symbols and operators that each factor adds to a formula, rounded up to even: no formula wins by a drop over one symbol
LENGTH = {"r^-3": 4, "r^-2": 4, "r^-1": 2, "1": 0, "r": 2, "(r-1)/r": 6, "log r": 4, "exp(-r)": 4}
MASS, CHARGE, NAMES = (0.0, 1.0, -1.0, 0.5, -0.5), (0.0, 1.0), ("mi", "mj", "qi", "qj")


@runtime_checkable
class Scored(Protocol):
    """A formula with its size and its mean absolute error."""

    complexity: int
    error: float


Formula = TypeVar("Formula", bound=Scored)


def front(formulas: Sequence[Formula]) -> list[Formula]:
    """The formulas that no formula of the same or lower complexity equals in accuracy, simplest first."""
    kept: list[Formula] = []
    for formula in sorted(formulas, key=lambda f: (f.complexity, f.error)):
        if np.isfinite(formula.error) and (not kept or formula.error < kept[-1].error):
            kept.append(formula)
    return kept


def select(formulas: Sequence[Formula]) -> Formula:
    """The formula of a front with the largest drop of log error per added complexity; the simplest, where it is alone.

    Args:
        formulas: a front, simplest first.

    Raises:
        ValueError: if there are none.
    """
    if not formulas:
        raise ValueError("formulas is empty: give at least one")
    size = np.array([formula.complexity for formula in formulas])
    error = np.log(np.maximum([formula.error for formula in formulas], 1e-12))
    return formulas[0] if len(formulas) == 1 else formulas[1 + int(np.argmax(-np.diff(error) / np.diff(size)))]


def absolute_fit(
    columns: Float[np.ndarray, "candidates samples k"], target: Float[np.ndarray, " samples"], rounds: int = 15
) -> tuple[Float[np.ndarray, "candidates k"], Float[np.ndarray, " candidates"]]:
    """Coefficients of least absolute error of many regressions on one target, by reweighted least squares.

    Args:
        columns: regressors of each candidate.
        target: what they share.
        rounds: of reweighting.

    Returns:
        coefficients and mean absolute error of each candidate.
    """
    scale = np.abs(columns).mean(1, keepdims=True) + 1e-300
    columns = columns / scale
    weight = np.ones(columns.shape[:2])
    best, coefficients = np.full(len(columns), np.inf), np.zeros((len(columns), columns.shape[2]))
    for _ in range(rounds + 1):
        weighted = (columns * weight[..., None]).swapaxes(1, 2)
        normal = weighted @ columns
        # equal columns (one mass for all, say) share a coefficient
        ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(columns.shape[2]) + 1e-300
        found = np.linalg.solve(normal + ridge, weighted @ target[:, None])
        rest = np.abs((columns @ found)[..., 0] - target)
        error = rest.mean(1)
        better = error < best
        best, coefficients[better] = np.where(better, error, best), found[better, :, 0]
        weight = 1 / np.maximum(rest, 1e-3 * error[:, None] + 1e-300)
        weight = weight / weight.mean(1, keepdims=True)
    return coefficients / scale[:, 0], best


@functools.cache
def library() -> tuple[Structure, ...]:
    """All single terms."""
    powers = itertools.product(MASS, MASS, CHARGE, CHARGE)
    return tuple(((power, radial),) for power, radial in itertools.product(powers, RADIAL))


def complexity(structure: Structure) -> int:
    """Symbols and operators of a formula, constants included."""
    size = 1
    for powers, radial in structure:
        # alpha dx + beta dy and the sign before the constant, then a product for each variable and two for a power
        size += 8 + LENGTH[radial] + sum(0 if p == 0 else 2 if p == 1 else 4 for p in powers)
    return size


def terms(variables: Variables, structure: Structure) -> Float[np.ndarray, "samples columns"]:
    """What a formula's constants multiply: dx and dy of each term, then 1.

    Args:
        variables: dx, dy, r, mi, mj, qi and qj, one value a sample.
        structure: of the formula.
    """
    columns = []
    for powers, radial in structure:
        factor = RADIAL[radial](variables["r"])
        for name, power in zip(NAMES, powers, strict=True):
            if power:
                factor = factor * variables[name] ** power
        columns += [factor * variables["dx"], factor * variables["dy"]]
    return np.stack([*columns, np.ones_like(variables["dx"])], 1)


@dataclass(frozen=True)
class Law:
    """A power law with its constants.

    Attributes:
        structure: its terms.
        constants: two a term, then the offset.
        complexity: symbols and operators.
        error: mean absolute error on the samples it was fitted to.
    """

    structure: Structure
    constants: Float[np.ndarray, " columns"]
    complexity: int
    error: float

    def __call__(self, variables: Variables) -> Float[np.ndarray, " samples"]:
        """Values."""
        return terms(variables, self.structure) @ self.constants

    def __str__(self) -> str:
        parts = []
        for number, (powers, radial) in enumerate(self.structure):
            factors = [n if p == 1 else f"{n}^{p:g}" for n, p in zip(NAMES, powers, strict=True) if p]
            factors += [] if radial == "1" else [radial]
            alpha, beta = self.constants[2 * number : 2 * number + 2]
            parts.append(" ".join([*factors, f"({alpha:.3g} dx {beta:+.3g} dy)"]))
        return " + ".join([*parts, f"{self.constants[-1]:.2g}"])


def power_laws(
    target: Float[np.ndarray, " samples"], variables: Variables, screened: int = 400, leaders: int = 3
) -> list[Law]:
    """Front of power laws of one or two terms.

    All single terms are screened on a few samples, then pairs that contain one of the best; the best of each complexity
    are fitted to all samples.

    Args:
        target: what the formula should give.
        variables: dx, dy, r, mi, mj, qi and qj, one value a sample.
        screened: samples used for screening.
        leaders: single terms that are paired with all others.

    Returns:
        the front, simplest first.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape, or a mass or distance is not positive.
    """
    finite(target=target, **variables)
    for name in ("dx", "dy", "r", *NAMES):
        if name not in variables:
            raise ValueError(f"variables has no {name}: it needs dx, dy, r, mi, mj, qi and qj")
        shaped(name, variables[name], target.shape)
    if min(variables[name].min() for name in ("r", "mi", "mj")) <= 0:
        raise ValueError("variables holds a distance or mass that is not positive: powers need positive numbers")
    stride = max(1, len(target) // screened)
    few, goal = {name: values[::stride] for name, values in variables.items()}, target[::stride]

    def screen(structures: Sequence[Structure], rounds: int) -> np.ndarray:
        chunks = [structures[i : i + 200] for i in range(0, len(structures), 200)]
        return np.concatenate(
            [absolute_fit(np.stack([terms(few, s) for s in chunk]), goal, rounds)[1] for chunk in chunks]
        )

    singles = library()
    errors = screen(singles, 3)
    best = [singles[i] for i in np.argsort(errors)[:leaders]]
    doubles = list({tuple(sorted(a + b)) for a in best for b in singles if a != b})
    everything = [*singles, *doubles]
    errors = np.concatenate([errors, screen(doubles, 1)])
    sizes = np.array([complexity(structure) for structure in everything])
    chosen: list[int] = []
    for size in np.unique(sizes):
        these = np.flatnonzero(sizes == size)
        chosen += these[np.argsort(errors[these])[:3]].tolist()
    middle = float(np.median(target))
    laws = [Law((), np.array([middle]), 1, float(np.abs(target - middle).mean()))]
    for i in chosen:
        constants, error = absolute_fit(terms(variables, everything[i])[None], target)
        laws.append(Law(everything[i], constants[0], int(sizes[i]), float(error[0])))
    return front(laws)


# ---- genetic programming: a tree is a variable's name, a number, or (operator, left, right)

Tree = str | float | tuple
OPERATORS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "^": lambda a, b: np.power(np.abs(a), b),
}


def evaluate(tree: Tree, variables: Variables) -> np.ndarray | float:
    """Value of a tree; what is not defined comes out as NaN or infinite."""
    if isinstance(tree, str):
        return variables[tree]
    return tree if isinstance(tree, float) else OPERATORS[tree[0]](*(evaluate(t, variables) for t in tree[1:]))


def size(tree: Tree) -> int:
    """Number of variables, constants and operators."""
    return 1 + size(tree[1]) + size(tree[2]) if isinstance(tree, tuple) else 1


def written(tree: Tree) -> str:
    """The tree as text."""
    if isinstance(tree, tuple):
        return f"({written(tree[1])} {tree[0]} {written(tree[2])})"
    return tree if isinstance(tree, str) else f"{tree:.3g}"


@dataclass(frozen=True)
class Expression:
    """A tree f as the formula slope * f + offset.

    Attributes:
        tree: f.
        slope: multiplies it.
        offset: is added.
        complexity: nodes of the tree.
        error: mean absolute error on the samples it was fitted to.
    """

    tree: Tree
    slope: float
    offset: float
    complexity: int
    error: float

    def __call__(self, variables: Variables) -> np.ndarray:
        """Values, one a sample also where the tree is a constant."""
        samples = next(iter(variables.values())).shape
        with np.errstate(all="ignore"):
            return self.slope * np.broadcast_to(evaluate(self.tree, variables), samples) + self.offset

    def __str__(self) -> str:
        return f"{self.slope:.3g} {written(self.tree)} {self.offset:+.2g}"


def scaled(tree: Tree, variables: Variables, target: np.ndarray) -> Expression:
    """A tree with the slope and offset of about least absolute error."""
    with np.errstate(all="ignore"):
        values = np.broadcast_to(evaluate(tree, variables), target.shape)
        slope, offset, error, weight = 0.0, float(np.median(target)), np.inf, np.ones_like(target)
        if np.isfinite(values).all() and np.abs(values).max() < 1e12:
            for _ in range(4):
                total = weight.sum()
                centre, middle = weight @ values / total, weight @ target / total
                spread = weight @ (values - centre) ** 2
                rise = weight @ ((values - centre) * (target - middle)) / spread if spread > 1e-12 * total else 0.0
                rest = np.abs(target - middle - rise * (values - centre))
                if rest.mean() < error:
                    slope, offset, error = float(rise), float(middle - rise * centre), float(rest.mean())
                weight = 1 / np.maximum(rest, 1e-2 * rest.mean() + 1e-300)
    return Expression(tree, slope, offset, size(tree), error)


def evolve(
    target: Float[np.ndarray, " samples"],
    variables: Variables,
    generations: int = 60,
    population: int = 200,
    longest: int = 17,
    seed: int = 0,
    screened: int = 400,
) -> list[Expression]:
    """Front of formulas found by genetic programming.

    Tournaments of four pick parents by error with a light charge on size; children come from crossover, a new branch, a
    changed operator or variable, a scaled constant or a branch that takes the tree's place. The front seen so far breeds too.

    Args:
        target: what the formula should give.
        variables: by name, one value a sample each.
        generations: of the population.
        population: trees.
        longest: nodes of a tree at most.
        seed: of the random numbers.
        screened: samples on which trees are compared; the front is refitted to all.

    Returns:
        the front, simplest first.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape.
    """
    finite(target=target, **variables)
    for name, values in variables.items():
        shaped(name, values, target.shape)
    random, names = np.random.default_rng(seed), sorted(variables)
    stride = max(1, len(target) // screened)
    few, goal = {name: values[::stride] for name, values in variables.items()}, target[::stride]

    def leaf() -> Tree:
        if random.random() < 0.7:
            return names[random.integers(len(names))]
        return float(random.integers(-3, 4)) if random.random() < 0.6 else float(random.normal())

    def grow(depth: int) -> Tree:
        if depth == 0 or random.random() < 0.2:
            return leaf()
        return (list(OPERATORS)[random.integers(5)], grow(depth - 1), grow(depth - 1))

    def branches(tree: Tree, path: tuple[int, ...] = ()) -> list[tuple[tuple[int, ...], Tree]]:
        below = [b for i in (1, 2) for b in branches(tree[i], (*path, i))] if isinstance(tree, tuple) else []
        return [(path, tree), *below]

    def graft(tree: Tree, path: tuple[int, ...], new: Tree) -> Tree:
        if not path:
            return new
        return (*tree[: path[0]], graft(tree[path[0]], path[1:], new), *tree[path[0] + 1 :])

    def child(mother: Tree, father: Tree) -> Tree:
        every = branches(mother)
        path, branch = every[random.integers(len(every))]
        kind = random.random()
        if kind < 0.4:
            others = branches(father)
            return graft(mother, path, others[random.integers(len(others))][1])
        if kind < 0.5:
            return branch
        if kind < 0.65:  # wrap a branch: keep it and combine it with something new
            pair = (branch, leaf()) if random.random() < 0.5 else (leaf(), branch)
            return graft(mother, path, (list(OPERATORS)[random.integers(5)], *pair))
        if kind < 0.8 or not isinstance(branch, float | tuple):
            return graft(mother, path, grow(2) if isinstance(branch, tuple) else leaf())
        if isinstance(branch, float):
            return graft(mother, path, float(branch * np.exp(0.5 * random.normal())))
        return graft(mother, path, (list(OPERATORS)[random.integers(5)], *branch[1:]))

    seen: dict[Tree, Expression] = {}

    def score(tree: Tree) -> Expression:
        if tree not in seen:
            seen[tree] = scaled(tree, few, goal)
        return seen[tree]

    people = [score(grow(3)) for _ in range(population)]
    hall = front(people)
    for _ in range(generations):
        pool = people + 5 * hall

        def parent(pool: list[Expression] = pool) -> Tree:
            rivals = [pool[i] for i in random.integers(len(pool), size=4)]
            return min(rivals, key=lambda e: e.error * (1 + 0.01 * e.complexity)).tree

        trees = [child(parent(), parent()) for _ in range(population)]
        people = [score(tree) for tree in trees if size(tree) <= longest]
        hall = front([*hall, *people])
    return front([scaled(expression.tree, variables, target) for expression in hall])
