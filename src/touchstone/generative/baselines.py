"""Baselines that several methods of the part are held against."""

import math

import torch
from torch import nn

from touchstone.generative.couplings import Couple, Streams
from touchstone.generative.fitting import fit


def variance_preserving_flow(
    model: nn.Module, couple: Couple, streams: Streams, steps: int, batch: int = 256
) -> nn.Module:
    r"""Diffusion with its probability-flow ODE, in the trigonometric variance-preserving form.

    Noise and data are mixed as :math:`X_t=\sin(\pi t/2)X_1+\cos(\pi t/2)X_0`; the velocity of the probability-flow ODE
    is the conditional mean of :math:`\dot X_t`, which is the "v-prediction" of Salimans and Ho (2022,
    arXiv:2202.00512) times :math:`\pi/2`. Unlike noise prediction it stays well conditioned in a single step.

    Args:
        model: the network to start from.
        couple: from a batch size to noise and data.
        streams: for the times.
        steps: number of training steps.
        batch: batch size.

    Returns:
        the velocity field, to be integrated from :math:`t=0` (noise) to 1 (data).
    """

    def loss(model: nn.Module) -> torch.Tensor:
        noise, data = couple(batch)
        time = streams.uniform(batch)
        sine, cosine = torch.sin(math.pi / 2 * time)[..., None], torch.cos(math.pi / 2 * time)[..., None]
        target = math.pi / 2 * (cosine * data - sine * noise)
        return (model(sine * data + cosine * noise, time) - target).square().sum(-1).mean(-1).sum()

    return fit(model, loss, steps)
