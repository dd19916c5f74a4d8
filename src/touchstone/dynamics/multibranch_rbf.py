r"""Radial-basis network with one branch for each pair of measurements and an attention gate over its basis functions.

.. math::

    \phi_j(s_k) = (1 + \epsilon_j^2 \|s_k - c_j\|^2)^{-1/2}, \qquad
    \tilde\phi = C\, \mathrm{softmax}(W_a \phi + b_a) \odot \phi, \qquad
    \hat y = \text{dense}(\text{ReLU dense}[\text{ReLU dense}(\tilde\phi_1), \text{ReLU dense}(\tilde\phi_2), \dots]).

Every branch sees its own pair of features only, so that distances are computed in the plane and few centres cover it; what
the pairs have to do with each other is learned after they have been merged. C is the number of centres and keeps the scale:
with zero gate weights the gate does nothing. Inputs and outputs are standardised; stacks hold one model a seed.

Source: A. Sinha, 2024, arXiv:2404.00618.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped


def inverse_multiquadric(reduced: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The basis function of a squared distance in units of the width."""
    return (1 + reduced).rsqrt()


def gaussian(reduced: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The usual alternative; it falls off much faster."""
    return (-reduced).exp()


class BranchedRBF(nn.Module):
    """Stack of branched radial-basis networks of one shape.

    Args:
        centres: where the basis functions start, for instance from :func:`spread_centres`.
        seeds: one seed a model.
        hidden: units of each branch's dense layer.
        merged: units of the layer after merging.
        outputs: coordinates that are predicted.
        gate: whether the basis functions are gated.
        basis: function of the reduced squared distance.

    Raises:
        ValueError: if the centres are not finite or not one set a model.
    """

    def __init__(
        self,
        centres: Float[Tensor, "models branches centres dim"],
        seeds: Sequence[int],
        hidden: int = 32,
        merged: int = 64,
        outputs: int = 3,
        gate: bool = True,
        basis: Callable[[Tensor], Tensor] = inverse_multiquadric,
    ):
        super().__init__()
        finite(centres=centres)
        shaped("centres", centres, (len(seeds), "branches", "centres", "dim"))
        _, branches, count, _ = centres.shape
        apart = torch.cdist(centres, centres) + torch.diag(torch.full((count,), torch.inf)).to(centres)
        nearest = apart.amin(-1).mean(-1, keepdim=True).expand(-1, -1, count)
        drawn = [torch.Generator().manual_seed(seed) for seed in seeds]

        def dense(*shape: int) -> nn.Parameter:
            """Uniform weights of variance 1 over three times the number of inputs, as usual."""
            bound = shape[-2] ** -0.5
            return nn.Parameter(torch.stack([bound * (2 * torch.rand(shape, generator=g) - 1) for g in drawn]))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(len(seeds), *shape))

        self.basis = basis
        self.centres = nn.Parameter(centres.clone())
        self.raw_width = nn.Parameter((1 / nearest).expm1().log())  # softplus gives 1 over the distance to a neighbour
        if gate:
            self.gate, self.gate_bias = dense(branches, count, count), zeros(branches, 1, count)
        else:
            self.gate = self.gate_bias = None
        self.inner, self.inner_bias = dense(branches, count, hidden), zeros(branches, 1, hidden)
        self.merge, self.merge_bias = dense(branches * hidden, merged), zeros(1, merged)
        self.out, self.out_bias = dense(merged, outputs), zeros(1, outputs)

    def functions(self, features: Float[Tensor, "models batch branches dim"]) -> Tensor:
        """Values of the basis functions before the gate.

        Args:
            features: standardised measurements, those of each branch.

        Returns:
            (models, branches, batch, centres), between 0 and 1.
        """
        offset = features.transpose(1, 2)[:, :, :, None] - self.centres[:, :, None]
        return self.basis(nn.functional.softplus(self.raw_width)[:, :, None].square() * offset.square().sum(-1))

    def branches(self, features: Float[Tensor, "models batch branches dim"]) -> Tensor:
        """Outputs of the branches before they are merged.

        Args:
            features: standardised measurements, those of each branch.

        Returns:
            (models, branches, batch, hidden).
        """
        phi = self.functions(features)
        if self.gate is not None:
            phi = phi.shape[-1] * (phi @ self.gate + self.gate_bias).softmax(-1) * phi
        return (phi @ self.inner + self.inner_bias).relu()

    def forward(self, features: Float[Tensor, "models batch branches dim"]) -> Float[Tensor, "models batch outputs"]:
        """Predict from measurements.

        Args:
            features: standardised measurements, those of each branch.

        Returns:
            standardised predictions.

        Raises:
            ValueError: if there are not as many branches or measurements a branch as the model has.
        """
        models, branches, _, dim = self.centres.shape
        shaped("features", features, (models, "batch", branches, dim))
        merged = self.branches(features).transpose(1, 2).flatten(2)
        return (merged @ self.merge + self.merge_bias).relu() @ self.out + self.out_bias


def spread_centres(
    features: Float[Tensor, "models samples branches dim"], count: int, seeds: Sequence[int], sample: int = 4000
) -> Float[Tensor, "models branches centres dim"]:
    """Centres by k-means of the training features, branch by branch.

    Args:
        features: standardised training features.
        count: centres a branch.
        seeds: one seed a model.
        sample: how many of the features are clustered, evenly spaced.

    Returns:
        the centres.

    Raises:
        ValueError: if the features are not finite or fewer than the centres.
    """
    from sklearn.cluster import KMeans

    finite(features=features)
    if features.shape[1] < count:
        raise ValueError(f"features holds {features.shape[1]} samples, fewer than {count} centres")
    thin = features[:, torch.linspace(0, features.shape[1] - 1, min(sample, features.shape[1])).long()]
    return torch.stack(
        [
            torch.stack(
                [
                    torch.from_numpy(
                        KMeans(count, n_init=1, max_iter=50, random_state=seed).fit(branch).cluster_centers_
                    )
                    for branch in model.transpose(0, 1).numpy()
                ]
            )
            for model, seed in zip(thin, seeds, strict=True)
        ]
    ).to(features)


def train(
    model: nn.Module,
    inputs: Float[Tensor, "models samples *features"],
    targets: Float[Tensor, "models samples outputs"],
    held_out: tuple[Tensor, Tensor],
    seeds: Sequence[int],
    epochs: int,
    batch: int = 64,
    rate: float = 1e-3,
) -> Float[Tensor, "epochs models"]:
    """Minimise the squared error by Adam, and keep each model's weights of the epoch with its smallest validation error.

    Args:
        model: stack with the models along the first axis of every parameter, changed in place.
        inputs: training features.
        targets: what to predict.
        held_out: features and targets for validation.
        seeds: one seed a model; it orders the batches, equally for every kind of model.
        epochs: passes over the training set.
        batch: samples in an update.
        rate: learning rate.

    Returns:
        mean squared validation errors after each epoch.

    Raises:
        ValueError: if there are fewer samples than a batch, or data are not finite.
    """
    finite(inputs=inputs, targets=targets, held_out=held_out[0])
    samples = inputs.shape[1]
    if samples < batch:
        raise ValueError(f"inputs holds {samples} samples, fewer than a batch of {batch}")
    orders = [torch.Generator().manual_seed(1_000_003 + seed) for seed in seeds]
    parameters, which = list(model.parameters()), torch.arange(len(seeds))[:, None]
    optimiser = torch.optim.Adam(parameters, lr=rate, fused=True)
    best, kept = torch.full((len(seeds),), torch.inf), [value.detach().clone() for value in parameters]
    history = torch.empty(epochs, len(seeds))
    for epoch in range(epochs):
        order = torch.stack([torch.randperm(samples, generator=generator) for generator in orders])
        for chosen in order[:, : samples - samples % batch].split(batch, 1):
            optimiser.zero_grad()
            (model(inputs[which, chosen]) - targets[which, chosen]).square().mean((1, 2)).sum().backward()
            optimiser.step()
        with torch.no_grad():
            history[epoch] = (model(held_out[0]) - held_out[1]).square().mean((1, 2))
            better = history[epoch] < best
            best[better] = history[epoch, better]
            for old, value in zip(kept, parameters, strict=True):
                old[better] = value[better]
    with torch.no_grad():
        for old, value in zip(kept, parameters, strict=True):
            value.copy_(old)
    return history


@torch.no_grad()
def free_run(
    model: Callable[[Tensor], Tensor],
    readings: Float[Tensor, "models runs lags sensors 2"],
    sense: Callable[[Tensor], Tensor],
    arrange: Callable[[Tensor], Tensor],
    steps: int,
) -> Float[Tensor, "models runs steps 3"]:
    """Long-term forecast: every predicted position is turned into sensor readings, which are the next input.

    Args:
        model: from features to positions, a stack.
        readings: standardised readings at the start, the latest first.
        sense: standardised readings at predicted positions.
        arrange: features of the model from readings.
        steps: how many positions to predict.

    Returns:
        predicted positions.
    """
    orbit = []
    for _ in range(steps):
        position = model(arrange(readings))
        orbit.append(position)
        readings = torch.cat([sense(position)[:, :, None], readings[:, :, :-1]], 2)
    return torch.stack(orbit, 2)
