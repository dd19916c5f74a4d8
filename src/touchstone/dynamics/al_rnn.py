r"""Almost-linear recurrent network (AL-RNN): a latent map in which only :math:`P` of :math:`M` units are rectified.

.. math:: z_t = A z_{t-1} + W \Phi^*(z_{t-1}) + h, \qquad \hat x_t = (z_{1,t}, \dots, z_{N,t}),

with diagonal :math:`A`; :math:`\Phi^*` leaves the first :math:`M-P` units alone and replaces the last :math:`P` by
:math:`\max(0, z)`. The signs of these :math:`P` units divide the state space into :math:`2^P` regions, in each of which
the map is affine. The first :math:`N` units are the observations; the others start at :math:`L x` with a learned
:math:`L`. In training, the first :math:`N` units are replaced by data now and then (sparse teacher forcing), after they
have been compared with them. Regions, fixed points and cycles: :mod:`touchstone.dynamics.al_rnn_analysis`.

Source: M. Brenner, C. J. Hemmer, Z. Monfared, D. Durstewitz, 2024, arXiv:2410.14240.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.dynamics.recurrent import Stack, outer_sum


@dataclass
class AlmostLinearRNN(Stack):
    r"""Parameters of a stack of almost-linear networks; models may differ in the number of rectified units.

    Args:
        A: diagonal of the linear part.
        W: recurrent weights.
        h: bias.
        L: start of the units that are not observed, from the observations.
        floor: 0 for rectified units and minus infinity for linear ones, so that :math:`\Phi^*(z) = \max(z, floor)`.
    """

    A: Float[Tensor, "models latent"]
    W: Float[Tensor, "models latent latent"]
    h: Float[Tensor, "models latent"]
    L: Float[Tensor, "models unobserved dim"]
    floor: Float[Tensor, "models latent"] = field(metadata={"fixed": True})

    @property
    def rectified(self) -> list[int]:
        """Number of rectified units of each model."""
        return (self.floor == 0).sum(1).tolist()

    def start(self, observed: Float[Tensor, "models batch dim"]) -> Float[Tensor, "models batch latent"]:
        """Latent states from observations.

        Args:
            observed: standardised observations.

        Returns:
            the observations, and the learned guess of the other units.
        """
        finite(observed=observed)
        shaped("observed", observed, (len(self.L), "batch", self.L.shape[2]))
        return torch.cat([observed, torch.bmm(observed, self.L.mT)], -1)

    def step(self, states: Float[Tensor, "models batch latent"]) -> Float[Tensor, "models batch latent"]:
        """One step of the free-running map.

        Args:
            states: current latent states.

        Returns:
            next latent states.
        """
        linear = self.A[:, None] * states + self.h[:, None]
        return torch.baddbmm(linear, torch.maximum(states, self.floor[:, None]), self.W.mT)

    def jacobian(self, states: Float[Tensor, "models batch latent"]) -> Float[Tensor, "models batch latent latent"]:
        r"""Jacobian of :meth:`step`, :math:`A + W D_\Omega` with the ones and bits of the region on the diagonal of D.

        Args:
            states: points at which the map is linearised.

        Returns:
            one matrix a point.
        """
        gate = (states > self.floor[:, None]).to(states)
        return torch.diag_embed(self.A)[:, None] + self.W[:, None] * gate[:, :, None]

    def loss_and_gradients(
        self, windows: Float[Tensor, "points models batch dim"], alpha: Float[Tensor, "points models"]
    ) -> tuple[Float[Tensor, "models"], list[Tensor]]:
        r"""Mean squared error of all predictions, and its gradients by back-propagation through time, written out.

        A prediction is compared with the data before it is forced, :math:`\tilde z_t = z_t + \alpha_t (d_t - z_t)` in
        the first N units.

        Args:
            windows: data, time first; the state starts on the first point.
            alpha: forcing strength at every time; the first and the last row have no effect.

        Returns:
            the loss of each model, and gradients in the order of ``self.tensors()``. Models do not influence each other.

        Raises:
            ValueError: if an argument is empty, not finite, or has the wrong shape.
        """
        finite(windows=windows, alpha=alpha)
        shaped("windows", windows, ("points", len(self.L), "batch", self.L.shape[2]))
        shaped("alpha", alpha, windows.shape[:2])
        points, models, batch, dim = windows.shape
        latent = self.A.shape[1]
        pulled = set((alpha[1:-1] != 0).any(1).nonzero().add(1).flatten().tolist())

        def spread(value: Tensor) -> Tensor:
            """A value a unit, repeated over the batch in memory: faster than broadcasting at every step."""
            return value[:, None].expand(-1, batch, -1).contiguous()

        diagonal, bias, floor, read_in = spread(self.A), spread(self.h), spread(self.floor), self.W.mT.contiguous()
        states = windows.new_empty(points, models, batch, latent)  # forced at once, in place
        inputs = torch.empty_like(states[1:])  # the rectified states that W sees
        observed = states[..., :dim]
        seen = {}  # predictions that forcing overwrites
        z, phi = states.unbind(), inputs.unbind()
        z[0].copy_(self.start(windows[0]))
        torch.maximum(z[0], floor, out=phi[0])
        for time in range(1, points):
            torch.addcmul(bias, diagonal, z[time - 1], out=z[time])
            z[time].baddbmm_(phi[time - 1], read_in)
            if time in pulled:
                seen[time] = observed[time].clone()
                observed[time].lerp_(windows[time], alpha[time, :, None, None])
            if time < points - 1:
                torch.maximum(z[time], floor, out=phi[time])

        error = observed - windows
        for time, prediction in seen.items():
            error[time] = prediction - windows[time]
        loss = error[1:].square().mean((0, 2, 3))

        total = torch.zeros_like(states)  # becomes dL/dz_t before forcing
        total[1:, ..., :dim] = error[1:] * (2 / ((points - 1) * batch * dim))
        gate = (states[:-1] > floor).to(states)
        kept = dict.fromkeys(range(points - 1), diagonal)
        for time in pulled:  # what was replaced passes less of the gradient on, or none
            keep = torch.ones_like(diagonal)
            keep[..., :dim] -= alpha[time, :, None, None]
            gate[time] *= keep
            kept[time] = diagonal * keep
        g, open_, back = total.unbind(), gate.unbind(), torch.empty_like(diagonal)
        for time in range(points - 1, 0, -1):
            torch.bmm(g[time], self.W, out=back)
            g[time - 1].addcmul_(kept[time - 1], g[time]).addcmul_(open_[time - 1], back)

        return loss, [
            (total[1:] * states[:-1]).sum((0, 2)),
            outer_sum(total[1:], inputs),
            total[1:].sum((0, 2)),
            torch.bmm(total[0, ..., dim:].mT, windows[0]),
        ]


def init_al_rnn(seeds: Sequence[int], rectified: Sequence[int], dim: int, latent: int = 20) -> AlmostLinearRNN:
    """A stack of untrained networks; a seed gives the same weights whatever the number of rectified units is.

    Args:
        seeds: one seed a model.
        rectified: number of rectified units, P, of each model; they are the last ones.
        dim: number of observed units, N.
        latent: number of units, M.

    Returns:
        float32 parameters.

    Raises:
        ValueError: if the numbers of units do not fit each other.
    """
    if latent < dim:
        raise ValueError(f"latent is {latent}: give at least as many units as there are observations ({dim})")
    if len(rectified) != len(seeds) or not all(0 <= count <= latent for count in rectified):
        raise ValueError(
            f"rectified is {list(rectified)}: give one number from 0 to {latent} for each of {len(seeds)} seeds"
        )
    drawn = []
    for seed, count in zip(seeds, rectified, strict=True):
        generator = torch.Generator().manual_seed(seed)
        floor = torch.full((latent,), -torch.inf)
        floor[latent - count :] = 0.0
        drawn.append(
            (
                0.9 + 0.1 * torch.rand(latent, generator=generator),
                0.01 * torch.randn(latent, latent, generator=generator),
                torch.zeros(latent),
                dim**-0.5 * (2 * torch.rand(latent - dim, dim, generator=generator) - 1),
                floor,
            )
        )
    return AlmostLinearRNN(*(torch.stack(values) for values in zip(*drawn, strict=True)))
