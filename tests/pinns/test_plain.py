"""The baseline learns, and enters the ring."""

import torch

from touchstone.arena import Budget, entrants
from touchstone.pinns.plain import plain_pinn, solve
from touchstone.pinns.problems import conv
from touchstone.pinns.protocol import RING, Recipe, predictor, relative_error


def test_plain_network_learns_which_way_slow_convection_goes():
    problem = conv(0.5)
    state = plain_pinn(problem, [0, 1], Recipe(steps=150, collocation=64, initial=32, first_rate=1e-2))
    errors = relative_error(problem, state.network)
    backwards = conv(-0.5).error(predictor(problem, state.network))
    assert errors.shape == (2,) and errors.max() < 0.3
    assert (errors < 0.7 * backwards).all()


def test_plain_network_is_an_entrant():
    solution = solve(conv(10.0), Budget(0.4), 0)
    assert solution.steps > 1 and set(RING.score(solution, None)) == {"rel_l2", "steps"}
    assert solution.predict(torch.rand(3, 2)).shape == (3, 1)
    assert {"plain", "causal-pinn"} <= set(entrants("pinns"))
