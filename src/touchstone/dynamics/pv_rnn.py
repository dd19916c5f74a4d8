r"""Variational recurrent network whose posterior is stored and not computed from inputs (PV-RNN).

.. math::

    h_t = (1 - 1/\tau) h_{t-1} + (W_d d_{t-1} + W_z z_t + b) / \tau, \qquad d_t = \tanh h_t,

    p(z_t) = N(\tanh W^p_\mu d_{t-1}, \exp W^p_\sigma d_{t-1}), \qquad
    q(z_t) = N(\tanh(W^q_\mu d_{t-1} + a^\mu_t), \exp(W^q_\sigma d_{t-1} + a^\sigma_t)).

The *adaptive vectors* :math:`a_t` are free parameters, one for each time step of each training sequence; observations enter
through the loss only. It is minus the log-likelihood plus :math:`w` times the divergence of q from p, and :math:`w`, the
*meta-prior*, decides how random the learned dynamics is. Layers with their own time constants are blocks of one
network: neighbours see each other's :math:`d`, every layer its own :math:`z`, and the lowest layer speaks.

Source: A. Ahmadi, J. Tani, 2018, arXiv:1811.01339 (Neural Computation 31, 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.recurrent import Stack, WindowNoise, clipped, outer_sum
from touchstone.metrics.attractors import Advance

FIXED = {"fixed": True}
LIMIT = 100.0  # largest norm of a gradient: an overflow stops its own model only


@dataclass
class Path:
    """Everything that one pass through time computed; h and d have the start in front."""

    h: Float[Tensor, "later models batch units"]
    d: Float[Tensor, "later models batch units"]
    heads: Float[Tensor, "time models batch fourfold"]  # prior mean and log scale, posterior mean and log scale
    mean: Float[Tensor, "time models batch latent"]
    scale: Float[Tensor, "time models batch latent"]
    z: Float[Tensor, "time models batch latent"]


@dataclass
class PVRNN(Stack):
    """Parameters of a stack of networks of the same shape.

    Args:
        Wd: recurrent weights; layers that are not neighbours have zeros.
        Wz: from the latent variables to the units of their layer.
        Wp: from the units to prior mean and log scale of their layer.
        Wq: the same for the posterior.
        b: bias of the units.
        Wx: from the lowest layer to the logits of the output.
        c: bias of the logits.
        rate: inverse time constants, not trained.
        mask_d: which entries of ``Wd`` exist, not trained.
        mask_z: which entries of ``Wz`` exist, and transposed and twice those of ``Wp`` and ``Wq``; not trained.
    """

    Wd: Float[Tensor, "models units units"]
    Wz: Float[Tensor, "models units latent"]
    Wp: Float[Tensor, "models twice units"]
    Wq: Float[Tensor, "models twice units"]
    b: Float[Tensor, "models units"]
    Wx: Float[Tensor, "models codes lowest"]
    c: Float[Tensor, "models codes"]
    rate: Float[Tensor, "models units"] = field(metadata=FIXED)
    mask_d: Float[Tensor, "models units units"] = field(metadata=FIXED)
    mask_z: Float[Tensor, "models units latent"] = field(metadata=FIXED)

    def unroll(
        self,
        a: Float[Tensor, "time models batch twice"],
        noise: Float[Tensor, "time models batch latent"],
        start: Float[Tensor, "models batch units"] | None = None,
    ) -> Path:
        """Run the posterior through time; no observation is needed.

        Args:
            a: adaptive vectors, those of the means first.
            noise: standard normal numbers that become samples of z; zeros give the means.
            start: potentials h before the first step; zeros if None.

        Returns:
            potentials, units, and the parameters and samples of z.

        Raises:
            ValueError: if an argument is empty, not finite or of the wrong shape.
        """
        models, units, latent = self.Wz.shape
        time, batch = a.shape[0], a.shape[2]
        finite(a=a, noise=noise)
        shaped("a", a, ("time", models, "batch", 2 * latent))
        shaped("noise", noise, (time, models, batch, latent))
        start = a.new_zeros(models, batch, units) if start is None else start
        shaped("start", start, (models, batch, units))
        rate = self.rate[:, None]
        into_heads = torch.cat([self.Wp, self.Wq], 1).mT.contiguous()
        into_d, into_h = (rate * self.Wd.mT).contiguous(), (rate * self.Wz.mT).contiguous()
        bias, keep = (
            (rate * value[:, None]).expand(-1, batch, -1).contiguous() for value in (self.b, 1 / self.rate - 1)
        )
        h, heads = a.new_empty(time + 1, models, batch, units), a.new_zeros(time, models, batch, 4 * latent)
        heads[..., 2 * latent :] = a
        path = Path(h, torch.empty_like(h), heads, *(torch.empty_like(noise) for _ in range(3)))
        h[0] = start
        torch.tanh(h[0], out=path.d[0])
        h, d, heads, eps = h.unbind(), path.d.unbind(), heads.unbind(), noise.unbind()
        raw_mean, raw_scale = path.heads[..., 2 * latent : 3 * latent].unbind(), path.heads[..., 3 * latent :].unbind()
        mean, scale, z = path.mean.unbind(), path.scale.unbind(), path.z.unbind()
        for t in range(time):
            heads[t].baddbmm_(d[t], into_heads)
            torch.tanh(raw_mean[t], out=mean[t])
            torch.exp(raw_scale[t], out=scale[t])
            torch.addcmul(mean[t], scale[t], eps[t], out=z[t])
            torch.addcmul(bias, keep, h[t], out=h[t + 1])
            h[t + 1].baddbmm_(d[t], into_d).baddbmm_(z[t], into_h)
            torch.tanh(h[t + 1], out=d[t + 1])
        return path

    def logits(self, d: Float[Tensor, "*time models batch units"]) -> Float[Tensor, "*time models batch codes"]:
        """Logits of the output, from the units of the lowest layer.

        Args:
            d: all units.

        Returns:
            one row a state.
        """
        return torch.matmul(d[..., : self.Wx.shape[2]], self.Wx.mT) + self.c[:, None]

    def prior(self) -> "PVRNN":
        """The same networks with the prior in place of the posterior: unrolled with zero vectors they generate."""
        return replace(self, Wq=self.Wp)

    def divergence(self, path: Path) -> Float[Tensor, "time models batch latent"]:
        """KL divergence of the posterior from the prior of every latent variable.

        Args:
            path: result of :meth:`unroll`.

        Returns:
            nats.
        """
        raw, log_p, _, log_q = path.heads.chunk(4, -1)
        offset = (path.mean - raw.tanh()) / log_p.exp()
        return log_p - log_q + ((2 * (log_q - log_p)).exp() + offset**2 - 1) / 2

    def objective(
        self,
        codes: Float[Tensor, "time models batch groups bins"],
        a: Float[Tensor, "time models batch twice"],
        noise: Float[Tensor, "time models batch latent"],
        w: Float[Tensor, "models"],
        start: Float[Tensor, "models batch units"] | None = None,
        weights: bool = True,
    ) -> tuple[Float[Tensor, "models"], Float[Tensor, "models"], list[Tensor], Tensor]:
        """Negative log-likelihood and divergence, and gradients of their weighted sum by written-out back-propagation.

        Args:
            codes: targets, a distribution over the bins for every observed quantity (group).
            a: adaptive vectors.
            noise: standard normal numbers.
            w: meta-prior of each model.
            start: potentials before the first step; zeros if None.
            weights: whether gradients of the weights are wanted.

        Returns:
            both terms in nats a sequence (sums over time, means over sequences), the gradients in the order of
            ``self.tensors()`` (or none), and those of the adaptive vectors. Models do not influence each other.

        Raises:
            ValueError: if an argument is empty, not finite or of the wrong shape.
        """
        models, units, latent = self.Wz.shape
        finite(codes=codes, w=w)
        shaped("codes", codes, (len(a), models, a.shape[2], "groups", "bins"))
        shaped("w", w, (models,))
        if codes.shape[3] * codes.shape[4] != self.Wx.shape[1]:
            raise ValueError(f"codes has {codes.shape[3]} x {codes.shape[4]} entries, the models {self.Wx.shape[1]}")
        path, batch = self.unroll(a, noise, start), a.shape[2]
        spoken = self.logits(path.d[1:]).unflatten(-1, codes.shape[3:]).log_softmax(-1)
        likelihood = -(codes * spoken).sum((0, 2, 3, 4)) / batch
        divergence = self.divergence(path).sum((0, 2, 3)) / batch

        raw, log_p, _, log_q = path.heads.chunk(4, -1)
        mean_p, scale_p = raw.tanh(), log_p.exp()
        offset, widths = (path.mean - mean_p) / scale_p, (2 * (log_q - log_p)).exp()
        slope = 1 - path.mean**2
        g_heads = (
            torch.cat(
                [-offset / scale_p * (1 - mean_p**2), 1 - widths - offset**2, offset / scale_p * slope, widths - 1], -1
            )
            * (w / batch)[:, None, None]
        )  # dL/dheads as far as the divergence goes
        g_logits = (spoken.exp() * codes.sum(-1, keepdim=True) - codes).flatten(-2) / batch
        g_d, g_h = torch.zeros_like(path.d), torch.empty_like(path.d[1:])
        g_d[1:, ..., : self.Wx.shape[2]] = torch.matmul(g_logits, self.Wx)
        through = torch.stack([slope, path.scale * noise], -2).unbind()  # dz by the posterior's raw mean and log scale
        posterior = g_heads[..., 2 * latent :].unflatten(-1, (2, latent)).unbind()
        steep, keep = (1 - path.d**2).unbind(), (1 - self.rate)[:, None].expand(-1, batch, -1).contiguous()
        both, out_d = torch.cat([self.Wp, self.Wq], 1), self.rate[..., None] * self.Wd
        out_z = self.rate[..., None] * self.Wz
        gh, gd, gs, later = g_h.unbind(), g_d.unbind(), g_heads.unbind(), torch.zeros_like(path.h[0])
        for t in range(len(a) - 1, -1, -1):
            torch.mul(keep, later, out=gh[t]).addcmul_(gd[t + 1], steep[t + 1])
            later = gh[t]
            posterior[t].addcmul_(through[t], torch.bmm(later, out_z)[..., None, :])
            gd[t].baddbmm_(later, out_d).baddbmm_(gs[t], both)
        gradients = []
        if weights:
            from_heads = outer_sum(g_heads, path.d[:-1]) * torch.cat([self.mask_z.mT] * 4, 1)
            gradients = [
                outer_sum(g_h, path.d[:-1]) * self.rate[..., None] * self.mask_d,
                outer_sum(g_h, path.z) * self.rate[..., None] * self.mask_z,
                from_heads[:, : 2 * latent],
                from_heads[:, 2 * latent :],
                g_h.sum((0, 2)) * self.rate,
                outer_sum(g_logits, path.d[1:, ..., : self.Wx.shape[2]]),
                g_logits.sum((0, 2)),
            ]
        return likelihood, divergence, gradients, g_heads[..., 2 * latent :].clone()

    def mean_dynamics(self, h: Float[Tensor, "models batch units"]) -> tuple[Tensor, Tensor]:
        """One step with every z at its prior mean, and the step's Jacobian.

        Args:
            h: potentials.

        Returns:
            next potentials, and their derivative (rows) by the present ones (columns).
        """
        d, latent, rate = h.tanh(), self.Wz.shape[2], self.rate[:, None]
        mean_weights = self.Wp[:, :latent]
        mean = torch.bmm(d, mean_weights.mT).tanh()
        pull = torch.bmm(d, self.Wd.mT) + torch.bmm(mean, self.Wz.mT) + self.b[:, None]
        inner = self.Wd[:, None] + (self.Wz[:, None] * (1 - mean**2)[:, :, None]) @ mean_weights[:, None]
        jacobian = rate[..., None] * inner * (1 - d**2)[:, :, None] + torch.diag_embed(1 - rate).expand_as(inner)
        return (1 - rate) * h + rate * pull, jacobian


def init_pv_rnn(
    seeds: Sequence[int], units: Sequence[int], latent: Sequence[int], constants: Sequence[float | int], codes: int
) -> PVRNN:
    """A stack of untrained networks; weights are normal with variance 1 over the number of inputs, biases zero.

    Args:
        seeds: one seed a model.
        units: number of deterministic units of each layer, the lowest first.
        latent: number of latent variables of each layer.
        constants: time constant of each layer, in steps.
        codes: number of logits.

    Returns:
        float32 parameters.

    Raises:
        ValueError: if the lists do not have one positive entry a layer, or a time constant is below one step.
    """
    if not len(units) == len(latent) == len(constants) > 0 or min(*units, *latent, codes) < 1 or min(constants) < 1:
        raise ValueError(
            f"units, latent, constants need one positive entry a layer (constants at least 1), got {units}, {latent}, {constants}"
        )
    layer = torch.repeat_interleave(torch.arange(len(units)), torch.tensor(units))
    layer_z = torch.repeat_interleave(torch.arange(len(units)), torch.tensor(latent))
    mask_d = ((layer[:, None] - layer).abs() <= 1).float()
    mask_z = (layer[:, None] == layer_z).float()
    masks = [mask_d, mask_z, mask_z.mT.repeat(2, 1), mask_z.mT.repeat(2, 1)]
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn.append(
            (
                *(
                    torch.randn(mask.shape, generator=generator) * mask / mask.sum(1, keepdim=True).sqrt()
                    for mask in masks
                ),
                torch.zeros(len(layer)),
                torch.randn(codes, units[0], generator=generator) / units[0] ** 0.5,
                torch.zeros(codes),
                1 / torch.tensor(constants, dtype=torch.float32)[layer],
                mask_d,
                mask_z,
            )
        )
    return PVRNN(*(torch.stack(values) for values in zip(*drawn, strict=True)))


class AdaptiveVectors(nn.Module):
    """The stored posterior: one free vector a time step, sequence and model, zero at first.

    Args:
        time: steps of a sequence.
        models: size of the stack.
        batch: number of sequences.
        latent: latent variables of a model.
    """

    def __init__(self, time: int, models: int, batch: int, latent: int):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(time, models, batch, 2 * latent))

    def forward(self) -> Tensor:
        return self.a


def fit(
    model: PVRNN,
    vectors: nn.Module,
    codes: Float[Tensor, "time models batch groups bins"],
    w: Float[Tensor, "models"],
    seeds: Sequence[int],
    epochs: int,
    rate: float = 5e-3,
    noise: float = 1.0,
) -> Float[Tensor, "epochs models"]:
    """Train weights and adaptive vectors together by Adam; an epoch is one update on all sequences.

    Args:
        model: stack of untrained networks, changed in place.
        vectors: gives the adaptive vectors when called, changed in place.
        codes: training sequences of each model.
        w: meta-prior of each model.
        seeds: one seed a model; models with the same seed sample the same noise.
        epochs: number of updates.
        rate: learning rate.
        noise: 1 to sample z, 0 to use its mean.

    Returns:
        the objective at every epoch.
    """
    draw, quiet = WindowNoise(seeds, noise), torch.zeros(*codes.shape[:3], model.Wz.shape[2])
    optimiser = torch.optim.Adam([*model.tensors(), *vectors.parameters()], lr=rate, fused=True)
    history = torch.empty(epochs, len(w))
    for epoch in range(epochs):
        optimiser.zero_grad()
        a = vectors()
        likelihood, divergence, gradients, g_a = model.objective(codes, a.detach(), draw(quiet), w)
        *gradients, g_a = clipped([*gradients, g_a.transpose(0, 1)], LIMIT)
        for tensor, gradient in zip(model.tensors(), gradients, strict=True):
            tensor.grad = gradient
        a.backward(g_a.transpose(0, 1))
        optimiser.step()
        history[epoch] = likelihood + w * divergence
    return history


def error_regression(
    model: PVRNN,
    codes: Float[Tensor, "time models batch groups bins"],
    w: Float[Tensor, "models"],
    generator: torch.Generator,
    window: int = 24,
    iterations: int = 30,
    rate: float = 0.1,
    samples: int = 8,
) -> Float[Tensor, "time models sampled units"]:
    """Recognise unseen sequences: at every step fit the adaptive vectors of the last steps, with frozen weights.

    The window slides by one step: its vectors are kept as the next start, the new step begins at zero, and what leaves the
    window is passed with its posterior mean.

    Args:
        model: trained stack.
        codes: sequences that arrive step by step.
        w: meta-prior of each model.
        generator: of the samples.
        window: steps that are fitted.
        iterations: Adam steps at every time.
        rate: learning rate of these.
        samples: draws of the fitted posterior.

    Returns:
        potentials after each step, from which the prior predicts; sequences times samples, samples last.

    Raises:
        ValueError: if a number is not positive, or the codes are not finite or have the wrong shape.
    """
    if min(window, iterations, samples) < 1:
        raise ValueError(f"window, iterations and samples must be positive, got {window}, {iterations}, {samples}")
    finite(codes=codes)
    shaped("codes", codes, ("time", len(w), "batch", "groups", "bins"))
    models, units, latent = model.Wz.shape
    batch, ends = codes.shape[2], []
    start, a = torch.zeros(models, batch, units), torch.empty(0, models, batch, 2 * latent)

    def drawn(time: int, many: int) -> Tensor:
        return torch.randn(time, models, many, latent, generator=generator)

    for t in range(len(codes)):
        if len(a) == window:
            start, a = model.unroll(a[:1], torch.zeros(1, models, batch, latent), start).h[1], a[1:]
        a = torch.cat([a, torch.zeros(1, models, batch, 2 * latent)])
        optimiser = torch.optim.Adam([a], lr=rate, fused=True)
        for _ in range(iterations):
            seen = codes[t + 1 - len(a) : t + 1]
            a.grad = model.objective(seen, a, drawn(len(a), batch), w, start, weights=False)[3]
            optimiser.step()
        a.grad = None
        repeated = (value.repeat_interleave(samples, -2) for value in (a, start))
        many, first = repeated
        ends.append(model.unroll(many, drawn(len(a), batch * samples), first).h[-1])
    return torch.stack(ends)


def predict(
    model: PVRNN,
    h: Float[Tensor, "models batch units"],
    steps: int,
    generator: torch.Generator,
) -> Path:
    """Run the prior from given potentials.

    Args:
        model: stack of networks.
        h: potentials at the present.
        steps: how far to run.
        generator: of the samples.

    Returns:
        the path; its units after the first are the future, ``heads`` holds the prior's parameters.
    """
    noise = torch.randn(steps, *h.shape[:2], model.Wz.shape[2], generator=generator)
    return model.prior().unroll(torch.zeros(*noise.shape[:3], 2 * noise.shape[3]), noise, h)


def tangent_map(model: PVRNN) -> Advance:
    """The mean dynamics of a stack with its tangent map, for :func:`touchstone.metrics.attractors.lyapunov_exponents`.

    Args:
        model: stack of networks.

    Returns:
        function of potentials (models times runs, the models first) and perturbations.
    """
    double = model.to(torch.float64)

    def advance(states: np.ndarray, tangents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h = torch.from_numpy(states).unflatten(0, (len(double.b), -1))
        following, jacobian = double.mean_dynamics(h)
        return following.flatten(0, 1).numpy(), jacobian.flatten(0, 1).numpy() @ tangents

    return advance


def passed_noise(model: PVRNN, path: Path) -> tuple[Float[Tensor, "models"], Float[Tensor, "models"]]:
    r"""Mean prior scale, and the noise that reaches the units, :math:`\nu=\langle\sum_i\sigma^p_i\|W_{z,i}\|\rangle`.

    Unlike the scale alone, :math:`\nu` stays the same when z is stretched and its weights shrink.

    Args:
        model: stack of networks.
        path: generated by :func:`predict`.

    Returns:
        both, one value a model.
    """
    latent = model.Wz.shape[2]
    scale = path.heads[..., latent : 2 * latent].exp().mean((0, 2))
    return scale.mean(1), (scale * model.Wz.norm(dim=1)).sum(1)
