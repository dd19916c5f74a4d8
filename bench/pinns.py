"""Adam step time of the plain physics-informed network against DeepXDE, same network, points and precision.

    pip install -r bench/requirements.txt
    DDE_BACKEND=pytorch python bench/pinns.py [--write results/bench/pinns.json]

Both train four hidden layers of 32 tanh units in float32 on 512 collocation points, 128 initial and 64 boundary points, on
one thread. DeepXDE trains one seed with fixed points; Touchstone trains three seeds as one stack and draws new points at
every step, once eagerly and once with its loss compiled by ``torch.compile``. Blocks of steps alternate between the
three, and the time of a step is that of one seed. Reported are CPU times, so that other work on the machine counts little.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("DDE_BACKEND", "pytorch")

import deepxde as dde
import numpy as np
import torch

from touchstone.nn.networks import generators
from touchstone.pinns.problems import Problem, burgers, helm14, ks
from touchstone.pinns.protocol import Recipe, State, default_network, edge_loss, train, uniform_points, weighted_sum
from touchstone.record import write_atomic

SEEDS = [0, 1, 2]


def deepxde_burgers():
    """Burgers' equation as DeepXDE's own demo writes it."""

    def residual(x, u):
        u_x, u_t = dde.grad.jacobian(u, x, i=0, j=0), dde.grad.jacobian(u, x, i=0, j=1)
        return u_t + u * u_x - 0.01 / np.pi * dde.grad.hessian(u, x, i=0, j=0)

    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))
    ends = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on: on)
    start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, on: on)
    return dde.data.TimePDE(domain, residual, [ends, start], num_domain=512, num_boundary=64, num_initial=128), None, 2


def deepxde_helm14():
    """The Helmholtz problem with modes (1, 4)."""

    def residual(x, u):
        wave = torch.sin(np.pi * x[:, :1]) * torch.sin(4 * np.pi * x[:, 1:])
        bend = dde.grad.hessian(u, x, i=0, j=0) + dde.grad.hessian(u, x, i=1, j=1)
        return bend + u - (1 - 17 * np.pi**2) * wave

    square = dde.geometry.Rectangle([-1, -1], [1, 1])
    walls = dde.icbc.DirichletBC(square, lambda x: 0, lambda _, on: on)
    return dde.data.PDE(square, residual, [walls], num_domain=512, num_boundary=64), None, 2


def deepxde_ks():
    """The fourth-order Kuramoto-Sivashinsky problem with exactly periodic features."""

    def residual(x, u):
        u_x, u_t = dde.grad.jacobian(u, x, i=0, j=0), dde.grad.jacobian(u, x, i=0, j=1)
        u_xx = dde.grad.hessian(u, x, i=0, j=0)
        return u_t + 5 * u * u_x + 0.5 * u_xx + 0.005 * dde.grad.hessian(u_xx, x, i=0, j=0)

    def features(x):
        return torch.cat([x[:, 1:], torch.cos(np.pi * x[:, :1]), torch.sin(np.pi * x[:, :1])], 1)

    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))
    start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, on: on)
    return dde.data.TimePDE(domain, residual, [start], num_domain=512, num_initial=128), features, 3


PROBLEMS = {"burgers": (burgers, deepxde_burgers), "helm14": (helm14, deepxde_helm14), "ks": (ks, deepxde_ks)}


def deepxde_stepper(make):
    """A function that takes steps with DeepXDE and returns their CPU seconds."""
    data, features, inputs = make()
    network = dde.nn.FNN([inputs] + [32] * 4 + [1], "tanh", "Glorot normal")
    if features is not None:
        network.apply_feature_transform(features)
    model = dde.Model(data, network)
    model.compile("adam", lr=1e-3, verbose=0)

    def steps(count):
        start = time.process_time()
        model.train(iterations=count, display_every=10**9, verbose=0)
        return time.process_time() - start

    return steps


def eager_stepper(problem: Problem):
    """A function that takes steps with the library's training loop and returns their CPU seconds, for one seed."""
    network = default_network(problem, SEEDS)

    def steps(count):
        start = time.process_time()
        train(problem, network, SEEDS, Recipe(steps=count))
        return (time.process_time() - start) / len(SEEDS)

    return steps


def compiled_stepper(problem: Problem):
    """The same training with loss and gradient compiled."""
    network, recipe = default_network(problem, SEEDS), Recipe()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    state = State(problem, network, recipe, generators(SEEDS, stream=1))

    @torch.compile(dynamic=False)
    def loss(points):
        terms = {"residual": problem.residual(network, points).square().sum(-1).mean(1)}
        return weighted_sum(terms | edge_loss(problem, network, recipe, len(SEEDS)), recipe).sum()

    def steps(count):
        start = time.process_time()
        for _ in range(count):
            with torch.no_grad():
                points = uniform_points(state)
            value = loss(points)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        return (time.process_time() - start) / len(SEEDS)

    return steps


def bench(name: str, blocks: int, count: int) -> dict:
    """Step times in milliseconds, block by block, and their ratios."""
    ours, theirs = PROBLEMS[name]
    steppers = {"deepxde": deepxde_stepper(theirs), "eager": eager_stepper(ours()), "compiled": compiled_stepper(ours())}
    for step in steppers.values():
        step(5)  # warms up, and compiles
    times = {kind: [] for kind in steppers}
    for block in range(blocks):
        for kind, step in list(steppers.items())[:: 1 if block % 2 else -1]:
            times[kind].append(1e3 * step(count) / count)
    ratios = {kind: [a / b for a, b in zip(times[kind], times["deepxde"], strict=True)] for kind in ("eager", "compiled")}
    return {"problem": name, "ms_per_step": times, "ratio_to_deepxde": ratios}


def main() -> None:
    """Run all problems and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [bench(name, arguments.blocks, arguments.steps) for name in PROBLEMS]
    print("problem   DeepXDE (ms)  eager (ms a seed)  compiled (ms a seed)  eager ratio         compiled ratio")
    for result in results:
        middle = {kind: np.median(values) for kind, values in result["ms_per_step"].items()}
        spans = [
            f"{np.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"
            for values in result["ratio_to_deepxde"].values()
        ]
        print(
            f"{result['problem']:9} {middle['deepxde']:12.2f} {middle['eager']:18.2f} {middle['compiled']:21.2f}  {spans[0]:19} {spans[1]}"
        )
    if arguments.write:
        versions = {"torch": torch.__version__, "deepxde": dde.__version__}
        write_atomic(arguments.write, json.dumps({"versions": versions, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
