"""Arenas: one ring a part, in which every method that can compete meets the others under one budget."""

import functools
import importlib
import json
import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from touchstone import provenance
from touchstone.catalogue import PARTS, TouchstoneError, _nearest, project_root
from touchstone.record import write_atomic


class Budget:
    """CPU seconds of this process that a contestant may spend, counted from creation.

    Args:
        seconds: CPU seconds, above zero.

    Raises:
        ValueError: when ``seconds`` is not above zero.
    """

    def __init__(self, seconds: float | int):
        if not seconds > 0:
            raise ValueError(f"seconds is {seconds}: a budget needs more than zero CPU seconds")
        self.seconds = float(seconds)
        self._start = time.process_time()

    def spent(self) -> float:
        """CPU seconds since creation."""
        return time.process_time() - self._start

    def fraction(self) -> float:
        """Share of the budget spent, at most 1."""
        return min(1.0, self.spent() / self.seconds)

    def exhausted(self) -> bool:
        """True once the budget is spent."""
        return self.spent() >= self.seconds


@dataclass(frozen=True)
class Ring:
    """What the contestants of a part meet: problems, seeds, a budget and a score.

    Attributes:
        part: the part.
        problems: for each name a function without arguments that makes the problem.
        seeds: seeds, the same for all.
        budget_s: CPU seconds a cell.
        score: ``score(solution, problem)`` returns the measured numbers, by name.
        budgets: CPU seconds of those problems that have a budget of their own, by name.

    Raises:
        ValueError: when ``budgets`` names a problem that is not there.
    """

    part: str
    problems: Mapping[str, Callable[[], Any]]
    seeds: Sequence[int]
    budget_s: float | int
    score: Callable[[Any, Any], dict[str, float]] = field(repr=False)
    budgets: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if unknown := sorted(set(self.budgets) - set(self.problems)):
            raise ValueError(f"budgets names {', '.join(unknown)}: not among the problems of ring {self.part!r}")

    def budget(self, problem: str) -> float:
        """CPU seconds of a cell with this problem."""
        return self.budgets.get(problem, self.budget_s)


_ENTRANTS: dict[str, dict[str, Callable]] = {}


def entrant(part: str, name: str) -> Callable[[Callable], Callable]:
    """Enter a function in a part's arena under a name (a method's id, or a house baseline's).

    Args:
        part: the part.
        name: the contestant's name.
    """
    if part not in PARTS:
        raise TouchstoneError(f"unknown part '{part}'{_nearest(part, PARTS)}")

    def enter(function: Callable) -> Callable:
        _ENTRANTS.setdefault(part, {})[name] = function
        return function

    return enter


def entrants(part: str) -> dict[str, Callable]:
    """All contestants of a part, by name; imports the part's modules."""
    package = _package(part)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_ENTRANTS.get(part, {}).items()))


def ring(part: str) -> Ring:
    """The part's ring.

    Raises:
        TouchstoneError: for an unknown part or one without an arena.
    """
    package = _package(part)
    try:
        return importlib.import_module(f"{package.__name__}.ring").RING
    except (ModuleNotFoundError, AttributeError):
        raise TouchstoneError(f"part '{part}' has no arena yet (no touchstone.{part}.ring.RING)") from None


def _package(part: str) -> Any:
    if part not in PARTS:
        raise TouchstoneError(f"unknown part '{part}'{_nearest(part, PARTS)}")
    try:
        return importlib.import_module(f"touchstone.{part}")
    except ModuleNotFoundError:
        raise TouchstoneError(f"part '{part}' has no arena yet (no package touchstone.{part})") from None


def cell_path(root: Path, part: str, method: str, problem: str, seed: int) -> Path:
    """Where a cell's result lies."""
    return root / "results" / "arena" / part / f"{method}--{problem}--{seed}.json"


def cell_hash(function: Callable, problem: Callable) -> str:
    """Hash of the code that decides a cell: the modules of the contestant and the problem, and what they import."""
    maker = getattr(problem, "func", problem)
    return provenance.code_hash({function.__module__, maker.__module__})


def waiting_cells(part: str, root: Path | None = None) -> list[tuple[str, str, int]]:
    """Cells that are missing or were computed by other code: (method, problem, seed)."""
    root, the_ring = root or project_root(), ring(part)
    waiting = []
    for name, function in entrants(part).items():
        for problem, make in the_ring.problems.items():
            code = cell_hash(function, make)
            for seed in the_ring.seeds:
                try:
                    cell = json.loads(cell_path(root, part, name, problem, seed).read_text())
                except (FileNotFoundError, json.JSONDecodeError):
                    cell = {}
                if cell.get("code_hash") != code or cell.get("budget_s") != the_ring.budget(problem):
                    waiting.append((name, problem, seed))
    return waiting


def run_cell(part: str, method: str, problem: str, seed: int, root: Path | None = None) -> Path:
    """Run one cell and write its file, whole or not at all.

    A contestant that breaks down (an ``ArithmeticError``) gets a cell with its error in place of scores, so that it counts as
    a failure and is not hidden. One that declines (a ``ValueError``) gets a cell with its reason, which counts as neither.

    Raises:
        TouchstoneError: for an unknown contestant or problem.
    """
    root, the_ring, known = root or project_root(), ring(part), entrants(part)
    if method not in known:
        raise TouchstoneError(f"no entrant '{method}' in arena {part}{_nearest(method, known)}")
    if problem not in the_ring.problems:
        raise TouchstoneError(f"no problem '{problem}' in arena {part}{_nearest(problem, the_ring.problems)}")
    provenance.single_thread()
    task = the_ring.problems[problem]()
    _warm_up()
    budget, started = Budget(the_ring.budget(problem)), time.perf_counter()
    scores: dict[str, float] = {}
    error = declined = None
    try:
        solution = known[method](task, budget, seed)
        cpu_s, wall_s = budget.spent(), time.perf_counter() - started
        scores = {name: float(value) for name, value in the_ring.score(solution, task).items()}
    except ArithmeticError as failure:
        cpu_s, wall_s, error = budget.spent(), time.perf_counter() - started, f"{type(failure).__name__}: {failure}"
    except ValueError as reason:
        cpu_s, wall_s, declined = budget.spent(), time.perf_counter() - started, str(reason)
    cell = {
        "part": part,
        "method": method,
        "problem": problem,
        "seed": seed,
        "budget_s": the_ring.budget(problem),
        "scores": {k: v if v == v and abs(v) != float("inf") else None for k, v in scores.items()},
        "error": error,
        "declined": declined,
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "code_hash": cell_hash(known[method], the_ring.problems[problem]),
        "environment": provenance.environment("cpu"),
    }
    path = cell_path(root, part, method, problem, seed)
    write_atomic(path, json.dumps(cell, indent=1) + "\n")
    return path


@functools.cache
def _warm_up() -> None:
    """Take an optimiser's step, so that what PyTorch loads at the first one (a second or more) is charged to nobody's budget."""
    import torch

    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.Adam([weight], fused=True)
    weight.square().sum().backward()
    optimiser.step()


def cells_digest(part: str, root: Path | None = None) -> str:
    """Digest of all finished cells of an arena: their names and what is in them."""
    paths = sorted(((root or project_root()) / "results" / "arena" / part).glob("*.json"))
    return provenance.digest(*(f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in paths))


def read_cells(part: str, root: Path | None = None) -> pd.DataFrame:
    """All finished cells of an arena, tidy: method, problem, seed, the scores, cpu_s, wall_s, error, declined.

    Raises:
        TouchstoneError: naming a cell's file that is damaged.
    """
    rows = []
    for path in sorted(((root or project_root()) / "results" / "arena" / part).glob("*.json")):
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
            rows.append(
                {k: cell[k] for k in ("method", "problem", "seed")}
                | cell["scores"]
                | {k: cell[k] for k in ("cpu_s", "wall_s", "error", "declined")}
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TouchstoneError(
                f"{path}: damaged cell ({error}); delete it and run `touchstone arena {part}`"
            ) from None
    return pd.DataFrame(rows)
