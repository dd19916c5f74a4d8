"""The ring of the part."""

from touchstone.arena import entrants
from touchstone.pinns.problems import SUITE
from touchstone.pinns.ring import ALL, BUDGET, HARDEST, PROBLEMS, RING, SHORT


def test_the_ring_takes_its_problems_from_the_suite():
    assert RING.part == "pinns" and set(ALL) == set(SUITE) | {"dsorp"} and set(PROBLEMS) <= set(ALL)
    assert len(RING.seeds) >= 2 and len(set(RING.seeds)) == len(RING.seeds)
    assert RING.problems["burgers"]().name == "burgers"


def test_every_problem_has_its_budget():
    assert len(RING.problems) == len(PROBLEMS) + len(SHORT) + len(HARDEST)
    expected = dict.fromkeys(PROBLEMS, BUDGET)
    expected |= {f"{name}-short": BUDGET / 4 for name in SHORT} | {f"{name}-long": 4 * BUDGET for name in HARDEST}
    assert {name: RING.budget(name) for name in RING.problems} == expected
    for name, make in PROBLEMS.items():
        assert RING.problems[name] is make


def test_house_baselines_and_methods_enter():
    assert {"plain", "plain-lbfgs", "gradient-norms", "causal-pinn", "r3-sampling"} <= set(entrants("pinns"))
