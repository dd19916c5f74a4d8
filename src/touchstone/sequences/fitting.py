"""The part's function-approximation harness: small float64 networks fitted to known functions until nothing moves."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from touchstone.checks import finite, shaped


@dataclass(frozen=True)
class Target:
    """A function on the cube from -1 to 1 in every direction.

    Attributes:
        function: maps points to values.
        dim: number of inputs.
        formula: for tables and figures.
    """

    function: Callable[[Float[Tensor, "points dim"]], Float[Tensor, "points"]]
    dim: int
    formula: str

    def grid(self, side: int) -> Float[Tensor, "points dim"]:
        """The centres of equal cells, ``side`` of them along every direction."""
        line = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
        return torch.cartesian_prod(*[line] * self.dim).reshape(-1, self.dim)


TARGETS = {
    "f1": Target(lambda x: (-(x[:, 0] ** 2)).exp() * (5 * x[:, 0]).sin(), 1, r"$e^{-x^2}\sin 5x$"),
    "f2": Target(lambda x: (x[:, 0] * x[:, 1]).cos() + x[:, 0] ** 3, 2, r"$\cos(x_1x_2)+x_1^3$"),
    "f3": Target(lambda x: x[:, 0].abs() ** 2.5, 1, r"$|x|^{2.5}$"),
}


class GatedLayer(nn.Module):
    """A hidden layer with a SiLU gate: two affine maps, one of them gating the other."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.gate, self.up = nn.Linear(inputs, width), nn.Linear(inputs, width)

    def forward(self, x: Float[Tensor, "points inputs"]) -> Float[Tensor, "points width"]:
        """Apply the layer."""
        return nn.functional.silu(self.gate(x)) * self.up(x)


def network(
    dim: int, parameters: int, hidden_layers: int, activation: Callable[[], nn.Module] | None, seed: int
) -> nn.Sequential:
    """A fully connected float64 network with biases, as wide as a number of parameters allows.

    Args:
        dim: number of inputs.
        parameters: upper bound on the trainable numbers, those of the activations included.
        hidden_layers: number of hidden layers, all of one width.
        activation: makes the activation of one hidden layer; None for gated layers.
        seed: of the initial weights (PyTorch's default distribution).

    Returns:
        the network; it maps points to one value each.

    Raises:
        ValueError: if ``hidden_layers`` is below 1 or ``parameters`` do not allow a width of one.
    """
    if hidden_layers < 1:
        raise ValueError(f"hidden_layers is {hidden_layers}: give at least 1")

    def build(width: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs in [dim] + [width] * (hidden_layers - 1):
            layers += [GatedLayer(inputs, width)] if activation is None else [nn.Linear(inputs, width), activation()]
        return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))

    def count(width: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(width).parameters())

    width = 0
    while count(width + 1) <= parameters:
        width += 1
    if width == 0:
        raise ValueError(f"parameters is {parameters}: a width of one already needs {count(1)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(width).double()


def fit(
    model: nn.Module,
    points: Float[Tensor, "points dim"],
    values: Float[Tensor, "points"],
    adam_steps: int = 1000,
    lbfgs_steps: int = 2000,
    rate: float = 1e-2,
) -> int:
    """Least squares with Adam (cosine to zero), then with L-BFGS until its line search finds no more decrease.

    Both tolerances of L-BFGS are 1e-14, since a loss of 1e-8 is still far from what a smooth activation can reach.

    Args:
        model: trained in place; its parameters are float64.
        points: where the function is known.
        values: of the function there.
        adam_steps: full-batch steps of Adam.
        lbfgs_steps: most iterations of L-BFGS.
        rate: highest learning rate of Adam.

    Returns:
        iterations of L-BFGS taken.

    Raises:
        ValueError: if ``points`` or ``values`` is empty, not finite or of the wrong shape.
    """
    sizes = shaped("points", points, ("points", "dim"))
    shaped("values", values, (sizes["points"],))
    finite(points=points, values=values)
    weights = list(model.parameters())
    optimiser = torch.optim.Adam(weights, lr=rate, fused=True)
    for step in range(adam_steps):
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / adam_steps))
        optimiser.zero_grad()
        (model(points) - values).square().mean().backward()
        optimiser.step()

    def objective(vector):
        vector_to_parameters(torch.from_numpy(vector), weights)
        loss = (model(points) - values).square().mean()
        gradient = torch.autograd.grad(loss, weights)
        return loss.item(), parameters_to_vector(gradient).numpy()

    # A kink can make the line search give up; a fresh start without memory shows whether anything is left to gain.
    taken, best = 0, math.inf
    while taken < lbfgs_steps:
        start = parameters_to_vector(weights).detach().numpy().copy()
        options = {
            "maxiter": lbfgs_steps - taken,
            "maxfun": 3 * lbfgs_steps,
            "maxcor": 20,
            "ftol": 1e-14,
            "gtol": 1e-14,
        }
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        vector_to_parameters(torch.from_numpy(found.x.copy()), weights)
        taken += max(int(found.nit), 1)
        if found.fun > 0.999 * best:
            break
        best = found.fun
    return taken


@torch.no_grad()
def errors(
    model: nn.Module, points: Float[Tensor, "points dim"], values: Float[Tensor, "points"]
) -> tuple[float, float]:
    """Root mean square error and largest error on points that were not fitted.

    Raises:
        ValueError: if ``points`` or ``values`` is empty, not finite or of the wrong shape.
    """
    sizes = shaped("points", points, ("points", "dim"))
    shaped("values", values, (sizes["points"],))
    finite(points=points, values=values)
    difference = model(points) - values
    return difference.square().mean().sqrt().item(), difference.abs().max().item()
