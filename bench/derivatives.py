"""Forward jets against nested reverse-mode differentiation: time of residual and gradient on every problem of the suite.

    python bench/derivatives.py

Same stack of three 4x32 networks, same 512 points, one thread, float32, blocks alternating; CPU times.
"""

import time

import numpy as np
import torch

from touchstone.nn import jets
from touchstone.pinns.problems import SUITE
from touchstone.pinns.protocol import default_network

SEEDS = [0, 1, 2]


def stepper(problem, network):
    """A function that computes the residual loss and its gradient, and returns the CPU seconds it took."""
    points = problem.scale(torch.rand(len(SEEDS), 512, len(problem.low)))

    def step(count):
        start = time.process_time()
        for _ in range(count):
            problem.residual(network, points).square().mean().backward()
        return time.process_time() - start

    return step


def main() -> None:
    """Print one line a problem."""
    torch.set_num_threads(1)
    print("problem     jets (ms)  nested (ms)  jets over nested")
    for name, make in SUITE.items():
        problem = make()
        network = default_network(problem, SEEDS)

        def nested(points, orders, problem=problem, network=network):
            return jets.by_autograd(lambda p: network(p, (0,) * len(problem.low)).value, points, orders)

        pair = [stepper(problem, network), stepper(problem, nested)]
        for step in pair:
            step(2)
        times = np.array([[1e3 * step(5) / 5 for step in pair] for _ in range(7)])
        ratio = times[:, 0] / times[:, 1]
        print(f"{name:10} {np.median(times[:, 0]):10.2f} {np.median(times[:, 1]):12.2f}  {np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}]")


if __name__ == "__main__":
    main()
