"""The ring of this part: problems, seeds, budgets and score. No method imports it, so that it can grow without making their records stale.

A problem's name stands for a run of ``BUDGET`` CPU seconds. With ``-short`` behind it, the run has a quarter of that, with
``-long`` four times as much; each is a run of its own, whose learning rate falls over that budget.
"""

from touchstone.arena import Ring
from touchstone.pinns.dsorp import dsorp
from touchstone.pinns.problems import SUITE

BUDGET = 15.0
PROBLEMS = {**SUITE, "dsorp": dsorp}
HARDEST = ()  # the four problems with the largest median error of the plain network

_SHORT = {f"{name}-short": make for name, make in PROBLEMS.items()}
_LONG = {f"{name}-long": PROBLEMS[name] for name in HARDEST}

RING = Ring(
    part="pinns",
    problems={**PROBLEMS, **_SHORT, **_LONG},
    seeds=[0, 1, 2],
    budget_s=BUDGET,
    score=lambda solution, problem: {"rel_l2": solution.rel_l2, "steps": solution.steps},
    budgets=dict.fromkeys(_SHORT, BUDGET / 4) | dict.fromkeys(_LONG, BUDGET * 4),
)
