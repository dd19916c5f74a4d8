"""The ring of this part: challenges, seeds, budgets and score. No method imports it, so that it can grow without making their records stale."""

from touchstone.arena import Ring
from touchstone.dynamics.challenges import CHALLENGES, score

BUDGET = 20.0
LONG = 60.0
SEEDS = (0, 1, 2)
FIRST = ("lorenz-63", "roessler", "lorenz-96")  # also met with the long budget

PROBLEMS = {name: challenge.series for name, challenge in CHALLENGES.items()}
_LONG = {f"{name}-long": PROBLEMS[name] for name in FIRST}

RING = Ring(
    part="dynamics",
    problems={**PROBLEMS, **_LONG},
    seeds=list(SEEDS),
    budget_s=BUDGET,
    score=score,
    budgets=dict.fromkeys(_LONG, LONG),
)
