"""The ring of the part."""

from touchstone.arena import entrants
from touchstone.pinns.problems import SUITE
from touchstone.pinns.ring import BUDGET, HARDEST, PROBLEMS, RING


def test_the_ring_has_the_whole_suite_and_its_budgets():
    assert RING.part == "pinns" and set(PROBLEMS) == set(SUITE) | {"dsorp"}
    assert len(RING.seeds) >= 3 and len(set(RING.seeds)) == len(RING.seeds)
    for name, make in PROBLEMS.items():
        assert RING.problems[name] is make and RING.budget(name) == BUDGET
        assert RING.problems[f"{name}-short"] is make and RING.budget(f"{name}-short") == BUDGET / 4
    assert len(HARDEST) == 4
    for name in HARDEST:
        assert RING.problems[f"{name}-long"] is PROBLEMS[name] and RING.budget(f"{name}-long") == 4 * BUDGET
    assert RING.problems["burgers"]().name == "burgers"


def test_house_baselines_and_methods_enter():
    assert {"plain", "plain-lbfgs", "gradient-norms", "causal-pinn", "r3-sampling"} <= set(entrants("pinns"))
