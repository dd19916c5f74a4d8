"""Trajectories against dysts, recurrent training against the plain loop, a neural ODE against torchdiffeq.

    python bench/dynamics.py [--write results/bench/dynamics.json]

Three comparisons on one thread, blocks alternating in one process, CPU times; a ratio above 1 is in Touchstone's favour.

- *trajectories*: 100 runs of Lorenz-63, 10,000 samples each, DOP853 at tolerance 1e-10 on both sides. The two get the same
  starts and the same sampling times; dysts integrates one run after the other, Touchstone all of them with shared steps.
- *al-rnn*: updates of five almost-linear networks (20 units, two rectified, windows of 65 points, batch 16). The plain loop
  writes the same stacked map in PyTorch and leaves the gradients to autograd.
- *neural-ode*: forward pass and adjoint gradient of a tanh field (width 50, batch 64) from time 0 to 1 by Dormand-Prince in
  float64, rtol = atol = 1e-6, against ``torchdiffeq.odeint_adjoint`` with the same field and tolerances.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchdiffeq
from torch import nn

from touchstone.data import dysts_systems, ode
from touchstone.dynamics.al_rnn import init_al_rnn
from touchstone.dynamics.neural_ode import odeint_adjoint
from touchstone.dynamics.odeint import Dopri5
from touchstone.dynamics.recurrent import sparse_forcing
from touchstone.record import write_atomic


def trajectories(runs: int = 100, samples: int = 10_000, dt: float = 0.01) -> dict[str, Callable[[], None]]:
    """The same runs by both packages."""
    start = ode.trajectories(ode.LORENZ63, 1.0, 1, runs)[:, 0]
    theirs = dysts_systems.model("Lorenz", sigma=10.0, rho=28.0, beta=8 / 3)
    theirs.dt = dt

    def ours() -> None:
        ode.integrate(ode.LORENZ63, start, dt * np.arange(samples))

    def dysts() -> None:
        for theirs.ic in start:
            theirs.make_trajectory(samples, resample=False, method="DOP853", rtol=1e-10, atol=1e-10)

    return {"touchstone": ours, "dysts": dysts}


def recurrent_updates(updates: int = 20) -> dict[str, Callable[[], None]]:
    """Loss and gradients of a stack, written out and by autograd."""
    seeds, points = range(5), 65
    draw = torch.Generator().manual_seed(0)
    windows = torch.randn(points, len(seeds), 16, 3, generator=draw)
    alpha, model = sparse_forcing(points, 16, len(seeds)), init_al_rnn(seeds, [2] * len(seeds), dim=3)
    parameters = model.tensors()

    def ours() -> None:
        for _ in range(updates):
            model.loss_and_gradients(windows, alpha)

    def plain() -> None:
        for tensor in parameters:
            tensor.requires_grad_(True)
        for _ in range(updates):
            state, losses = model.start(windows[0]), []
            for step in range(1, points):
                state = model.step(state)
                losses.append((state[..., :3] - windows[step]).square().mean((1, 2)))
                strength = alpha[step][:, None, None]
                forced = (1 - strength) * state[..., :3] + strength * windows[step]
                state = torch.cat([forced, state[..., 3:]], -1)
            torch.autograd.grad(torch.stack(losses).mean(0).sum(), parameters)
        for tensor in parameters:
            tensor.requires_grad_(False)

    return {"touchstone": ours, "plain loop": plain}


class Field(nn.Module):
    """A small network as a vector field; the time does not enter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 4)).double()

    def forward(self, _, state):
        """Time derivative."""
        return 3 * self.layers(state)


def neural_ode(repeats: int = 5, tolerance: float = 1e-6) -> dict[str, Callable[[], None]]:
    """Forward pass and adjoint gradient."""
    field, times = Field(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    start = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def run(solve: Callable) -> Callable[[], None]:
        def several() -> None:
            for _ in range(repeats):
                solve(start.clone().requires_grad_())[-1].square().sum().backward()

        return several

    return {
        "touchstone": run(lambda z: odeint_adjoint(field, z, times, Dopri5(tolerance, tolerance))),
        "torchdiffeq": run(
            lambda z: torchdiffeq.odeint_adjoint(field, z, times, rtol=tolerance, atol=tolerance, method="dopri5")
        ),
    }


BENCHES = {"trajectories": trajectories, "al-rnn": recurrent_updates, "neural-ode": neural_ode}


def bench(name: str, blocks: int) -> dict:
    """CPU seconds of both sides, block by block, and their ratio."""
    sides = BENCHES[name]()
    for side in sides.values():
        if name != "trajectories":
            side()  # what is loaded at the first use
    times: dict[str, list[float]] = {side: [] for side in sides}
    for block in range(blocks):
        for side, work in list(sides.items())[:: 1 if block % 2 else -1]:
            begin = time.process_time()
            work()
            times[side].append(time.process_time() - begin)
    theirs = next(side for side in sides if side != "touchstone")
    ratios = [b / a for a, b in zip(times["touchstone"], times[theirs], strict=True)]
    return {"bench": name, "against": theirs, "cpu_s": times, "ratio": ratios}


def main() -> None:
    """Run all three and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = [bench(name, 3 if name == "trajectories" else arguments.blocks) for name in BENCHES]
    print("bench         against      theirs over ours")
    for result in results:
        ratio = result["ratio"]
        print(
            f"{result['bench']:13} {result['against']:12} {np.median(ratio):.2f} [{min(ratio):.2f}, {max(ratio):.2f}]"
        )
    if arguments.write:
        versions = {"torch": torch.__version__, "torchdiffeq": torchdiffeq.__version__}
        write_atomic(arguments.write, json.dumps({"versions": versions, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
