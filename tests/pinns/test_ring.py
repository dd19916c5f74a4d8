"""The ring of the part."""

from touchstone.arena import entrants
from touchstone.pinns.problems import SUITE
from touchstone.pinns.ring import RING


def test_the_ring_takes_its_problems_from_the_suite():
    assert RING.part == "pinns" and set(RING.problems) <= set(SUITE)
    assert len(RING.seeds) >= 2 and len(set(RING.seeds)) == len(RING.seeds)
    assert RING.problems["burgers"]().name == "burgers"


def test_house_baselines_and_methods_enter():
    assert {"plain", "plain-lbfgs", "gradient-norms", "causal-pinn", "r3-sampling"} <= set(entrants("pinns"))
