"""The ring of this part: problems, seeds, budget and score. No method imports it, so that it can grow without making their records stale."""

from touchstone.arena import Ring
from touchstone.pinns.problems import SUITE

PROBLEMS = ("conv10", "ac", "burgers")

RING = Ring(
    part="pinns",
    problems={name: SUITE[name] for name in PROBLEMS},
    seeds=[0, 1],
    budget_s=10.0,
    score=lambda solution, problem: {"rel_l2": solution.rel_l2, "steps": solution.steps},
)
