r"""Shallow piecewise-linear recurrent networks (shPLRNN), stacked, with hand-written back-propagation in time.

The clipped shPLRNN is the map

.. math:: z_t = A z_{t-1} + W_1 [\phi(W_2 z_{t-1} + h_2) - \phi(W_2 z_{t-1})] + h_1, \qquad \phi = \max(0, \cdot),

with diagonal :math:`A`. The bracket lies between 0 and :math:`h_2`, so orbits stay bounded when :math:`|A_{ii}| < 1`.
The latent dimension is the observed one, and the data are the states :math:`d_t`, towards which the state is forced.
Stacks, forcing and training are those of :mod:`touchstone.dynamics.recurrent`.

Source: F. Hess, Z. Monfared, M. Brenner, D. Durstewitz, 2023, arXiv:2306.04406.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.dynamics.recurrent import Stack, outer_sum


@dataclass
class ShallowPLRNN(Stack):
    r"""Parameters of a stack of clipped shallow PLRNNs.

    Args:
        A: diagonal of the linear part.
        W1: read-out of the hidden layer.
        W2: read-in of the hidden layer.
        h1: bias of the state.
        h2: bias of the hidden layer.
    """

    A: Float[Tensor, "models dim"]
    W1: Float[Tensor, "models dim hidden"]
    W2: Float[Tensor, "models hidden dim"]
    h1: Float[Tensor, "models dim"]
    h2: Float[Tensor, "models hidden"]

    def step(self, states: Float[Tensor, "models batch dim"]) -> Float[Tensor, "models batch dim"]:
        """One step of the free-running map.

        Args:
            states: current states.

        Returns:
            next states.
        """
        drive = torch.bmm(states, self.W2.mT)
        bracket = torch.relu(drive + self.h2[:, None]) - torch.relu(drive)
        return self.A[:, None] * states + torch.bmm(bracket, self.W1.mT) + self.h1[:, None]

    def jacobian(self, states: Float[Tensor, "models batch dim"]) -> Float[Tensor, "models batch dim dim"]:
        r"""Jacobian of :meth:`step`, :math:`J = A + W_1\, \mathrm{diag}(1[W_2 z + h_2 > 0] - 1[W_2 z > 0])\, W_2`.

        Args:
            states: points at which the map is linearised.

        Returns:
            one matrix a point.
        """
        drive = torch.bmm(states, self.W2.mT)
        gate = (drive + self.h2[:, None] > 0).to(drive) - (drive > 0).to(drive)
        outer = self.W1[:, :, :, None] * self.W2[:, None]  # models, out, hidden, in
        flat = outer.transpose(1, 2).flatten(2)  # models, hidden, out * in
        products = torch.bmm(gate, flat).unflatten(-1, (states.shape[-1],) * 2)
        return products + torch.diag_embed(self.A)[:, None]

    def loss_and_gradients(
        self,
        windows: Float[Tensor, "points models batch dim"],
        alpha: Float[Tensor, "points models"],
    ) -> tuple[Float[Tensor, "models"], list[Tensor]]:
        r"""Mean squared error before forcing, and its gradients by back-propagation through time, written out.

        The state starts on the data, :math:`\tilde z_0 = d_0`; :math:`z_t` is compared with :math:`d_t` for every
        :math:`t \geq 1` and only then forced.

        Args:
            windows: data, time first.
            alpha: forcing strength at every time; the first and the last row have no effect.

        Returns:
            the loss of each model, and gradients in the order of ``self.tensors()``. Models do not influence each other.

        Raises:
            ValueError: if an argument is empty, not finite, or has the wrong shape.
        """
        finite(windows=windows, alpha=alpha)
        shaped("windows", windows, ("points", *self.A.shape[:1], "batch", self.A.shape[1]))
        shaped("alpha", alpha, windows.shape[:2])
        points, models, batch, dim = windows.shape
        hidden, strength = self.h2.shape[1], alpha[:, :, None, None]
        # relu(u + h) - relu(u) = sign(h) clamp(u, min(-h, 0), max(-h, 0)) + relu(h): one operation a step in place of three
        low, high = (-self.h2).clamp(max=0)[:, None], (-self.h2).clamp(min=0)[:, None]
        signed = (self.W1 * self.h2.sign()[:, None]).mT.contiguous()
        shift = (self.h1 + torch.einsum("smh,sh->sm", self.W1, self.h2.relu()))[:, None].expand(-1, batch, -1)
        read_in, diagonal = self.W2.mT.contiguous(), self.A[:, None].expand(-1, batch, -1)

        drive = windows.new_empty(points - 1, models, batch, hidden)
        forced, states = windows.clone(), torch.empty_like(windows)  # forced[0] stays on the data
        for time in range(1, points):
            torch.bmm(forced[time - 1], read_in, out=drive[time - 1])
            linear = torch.addcmul(shift, diagonal, forced[time - 1])
            torch.baddbmm(linear, drive[time - 1].clamp(low, high), signed, out=states[time])
            torch.lerp(states[time], windows[time], strength[time], out=forced[time])

        error = states[1:] - windows[1:]
        loss = error.square().mean((0, 2, 3))
        error *= 2 / ((points - 1) * batch * dim)
        opened = drive > -self.h2[:, None]
        gate = opened.to(drive) - (drive > 0).to(drive)
        back = torch.empty_like(drive)  # W1^T dL/dz_t
        total = error  # becomes dL/dz_t in place
        keep = 1 - strength
        for time in range(points - 2, -1, -1):
            torch.bmm(total[time], self.W1, out=back[time])
            if time:
                through = torch.addcmul(torch.bmm(back[time] * gate[time], self.W2), diagonal, total[time])
                total[time - 1].addcmul_(keep[time], through)

        bracket = (drive + self.h2[:, None]).relu_() - drive.relu()
        return loss, [
            (total * forced[:-1]).sum((0, 2)),
            outer_sum(total, bracket),
            outer_sum(back * gate, forced[:-1]),
            total.sum((0, 2)),
            (back * opened).sum((0, 2)),
        ]


def init_plrnn(seeds: Sequence[int], dim: int, hidden: int) -> ShallowPLRNN:
    """A stack of untrained networks, one for each seed; a seed gives the same network in every stack.

    Args:
        seeds: one seed a model.
        dim: number of states.
        hidden: number of hidden units.

    Returns:
        float32 parameters.
    """
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int, bound: float, generator: torch.Generator = generator) -> Tensor:
            return bound * (2 * torch.rand(*shape, generator=generator) - 1)

        drawn.append(
            (
                torch.full((dim,), 0.8),
                uniform(dim, hidden, bound=hidden**-0.5),
                uniform(hidden, dim, bound=dim**-0.5),
                torch.zeros(dim),
                uniform(hidden, bound=0.5),  # a zero bias would switch its clipped unit off
            )
        )
    return ShallowPLRNN(*(torch.stack(values) for values in zip(*drawn, strict=True)))
