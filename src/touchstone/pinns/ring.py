"""The ring of this part: problems, seeds, budgets and score. No method imports it, so that it can grow without making their records stale.

A problem's name stands for a run of ``BUDGET`` CPU seconds. With ``-short`` behind it, the run has a quarter of that, with
``-long`` four times as much; each is a run of its own, whose learning rate falls over that budget.
"""

from touchstone.arena import Ring
from touchstone.pinns.dsorp import dsorp
from touchstone.pinns.problems import SUITE

BUDGET = 15.0
SEEDS = (0, 1, 2)
ALL = {**SUITE, "dsorp": dsorp}
PROBLEMS = ALL
SHORT = tuple(ALL)  # problems that are also met with a quarter of the budget
HARDEST = (
    "pois-hf10",
    "pois-hf40",
    "pois-ms",
    "lorenz1",
)  # with four times the budget: the four with the largest median error of the plain network

_SHORT = {f"{name}-short": PROBLEMS[name] for name in SHORT}
_LONG = {f"{name}-long": PROBLEMS[name] for name in HARDEST}

RING = Ring(
    part="pinns",
    problems={**PROBLEMS, **_SHORT, **_LONG},
    seeds=list(SEEDS),
    budget_s=BUDGET,
    score=lambda solution, problem: {"rel_l2": solution.rel_l2, "steps": solution.steps},
    budgets=dict.fromkeys(_SHORT, BUDGET / 4) | dict.fromkeys(_LONG, BUDGET * 4),
)
